import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import (
    HMM,
    CircuitError,
    Evidence,
    Posterior,
    Tree,
    beam_search,
    best_completion,
    sample_completions,
)

from .enumeration import Array, log
from .strategies import SETTINGS
from .structures import (
    CLOSE,
    STRUCTURES,
    Scene,
    assert_frequencies,
    make_circuit,
    make_scene,
    scenes,
    tables_of,
    tuples,
)

every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def completions(scene: Scene) -> Tensor:
    return torch.from_numpy(tuples(scene.circuit.vocab_size, scene.shape[1]))


def log_completions(scene: Scene) -> Tensor:
    """`(B, S)`: `log p̂(x)` by enumeration; at absent positions only token 0 is any."""
    return torch.from_numpy(np.stack([log(scene.pairs(row).completions) for row in range(scene.shape[0])]))


def spread(posterior: Posterior, times: int) -> Posterior:
    return posterior.rows(torch.arange(posterior.evidence.batch_size).repeat_interleave(times))


@st.composite
def conditioned(draw: st.DrawFn, scene: Scene) -> tuple[Scene, Posterior]:
    """A posterior with some of the unknown tokens made known, possible ones, and the scene that it answers for."""
    posterior, known = scene.circuit.posterior(scene.evidence), {}
    if draw(st.booleans()):
        posterior.entropy()  # fills in messages that conditioning must undo
    for row, position in draw(st.permutations(scene.unknown))[: draw(st.integers(0, 3))]:
        known[row, position] = draw(st.integers(0, scene.circuit.vocab_size - 1))
        posterior.condition(row, position, known[row, position])
    return scene.known(known), posterior


# Max-product


def assert_mode(scene: Scene, posterior: Posterior) -> None:
    mode = posterior.mode()
    for row in range(scene.shape[0]):
        pairs = scene.pairs(row)
        assert mode.log_prob[row].item() == pytest.approx(math.log(pairs.mass.max()) - pairs.log_z, abs=1e-9)
        mass = pairs.best(mode.tokens[row].numpy(), mode.latents[row].numpy())
        assert mass == pytest.approx(pairs.mass.max(), rel=1e-9)  # also: no token but 0 where absent


def is_whole(scene: Scene) -> bool:
    """Whether every leaf of a tree is a position of the block."""
    return not isinstance(scene.circuit, Tree) or scene.shape[1] == 2**scene.circuit.depth


@every_structure
@SETTINGS
@given(data=st.data())
def test_the_mode_is_the_best_pair_of_all(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure).filter(is_whole))
    assert_mode(scene, scene.circuit.posterior(scene.evidence))


@every_structure
@SETTINGS
@given(data=st.data())
def test_the_mode_of_a_conditioned_posterior_knows_the_new_tokens(structure: str, data: st.DataObject) -> None:
    assert_mode(*data.draw(conditioned(data.draw(scenes(structure).filter(is_whole)))))


@pytest.mark.parametrize(("block_length", "length"), [(3, 3), (5, 5), (4, 3), (4, 1)])
def test_the_mode_of_a_tree_sums_out_what_is_beyond_the_block(block_length: int, length: int) -> None:
    for seed in range(5):
        scene = make_scene(make_circuit("tree", 2, 2, block_length, seed), length=length, observed=0.2, seed=seed)
        assert_mode(scene, scene.circuit.posterior(scene.evidence))


@every_structure
@pytest.mark.parametrize("top_k", [None, 1, 2, 5])
def test_the_mode_may_take_a_token_that_truncation_left_out(structure: str, top_k: int | None) -> None:
    circuit = make_circuit(structure, 2, 6, 2, seed=3)
    scene = make_scene(circuit, batch_size=8, observed=0.0, top_k=top_k, temperature=20.0)
    assert_mode(scene, circuit.posterior(scene.evidence))
    if top_k in (1, 2) and structure != "factorized":  # which has no preference against the evidence's
        tokens, kept = circuit.posterior(scene.evidence).mode().tokens, scene.evidence.token_ids
        assert kept is not None
        assert not (kept == tokens[..., None]).any(-1).all()


# Entropy


@every_structure
@SETTINGS
@given(data=st.data())
def test_entropy_is_that_of_all_pairs(structure: str, data: st.DataObject) -> None:
    scene, posterior = data.draw(conditioned(data.draw(scenes(structure).filter(is_whole))))
    assert_close(posterior.entropy(), scene.entropy(), **CLOSE)


@pytest.mark.parametrize(("block_length", "length"), [(3, 3), (5, 5), (4, 3), (4, 1)])
def test_the_entropy_of_a_tree_does_not_count_what_is_beyond_the_block(block_length: int, length: int) -> None:
    scene = make_scene(make_circuit("tree", 2, 2, block_length), length=length, observed=0.2, batch_size=3)
    assert_close(scene.circuit.posterior(scene.evidence).entropy(), scene.entropy(), **CLOSE)


def test_the_entropy_of_the_factorized_circuit_is_that_of_the_evidence() -> None:
    scene = make_scene(make_circuit("factorized", 1, 6, 4), absent=0.2, top_k=3)
    weights = torch.from_numpy(scene.weights)
    of_tokens = -torch.special.xlogy(weights, weights).sum(-1)
    expected = of_tokens.masked_fill(~scene.evidence.soft, 0.0).sum(-1)
    assert_close(scene.circuit.posterior(scene.evidence).entropy(), expected, **CLOSE)


# Expected counts


@every_structure
@SETTINGS
@given(data=st.data())
def test_expected_counts_are_those_of_enumeration(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure))
    batch_size = scene.shape[0]
    by_row = [scene.expected_counts(row) for row in range(batch_size)]
    found = scene.circuit.expected_counts(scene.evidence)
    weights = torch.rand(batch_size, dtype=torch.float64)
    weighted = scene.circuit.expected_counts(scene.evidence, weights)
    assert found.keys() == scene.circuit.tables.keys()
    for name, count in found.items():
        assert count.shape == scene.circuit.get_parameter(f"{name}_logits").shape
        expected = torch.stack([counts[name] for counts in by_row])
        assert_close(count, expected.sum(0), **CLOSE)
        assert_close(weighted[name], torch.einsum("b,b...->...", weights, expected), **CLOSE)


@every_structure
@pytest.mark.parametrize("top_k", [None, 2])
def test_expected_counts_are_derivatives_in_the_logs_of_entries(structure: str, top_k: int | None) -> None:
    scene = make_scene(make_circuit(structure, 2, 4, 3), batch_size=1, absent=0.2, top_k=top_k, potentials=True)
    counts, tables, epsilon = scene.circuit.expected_counts(scene.evidence), tables_of(scene.circuit), 1e-4
    for name, table in tables.items():
        for place in np.ndindex(table.shape):
            log_z = []
            for factor in (math.exp(epsilon), math.exp(-epsilon)):
                changed = table.copy()
                changed[place] *= factor  # the others stay: the table is no distribution any more
                log_z.append(scene.pairs(0, {**tables, name: changed}, beyond=True).log_z)
            expected = (log_z[0] - log_z[1]) / (2 * epsilon)
            assert counts[name][place].item() == pytest.approx(expected, abs=1e-7)


@every_structure
@SETTINGS
@given(data=st.data())
def test_gradients_of_logits_are_counts_less_their_share(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure))
    circuit = scene.circuit.requires_grad_()
    circuit.log_partition(scene.evidence).sum().backward()
    counts = circuit.expected_counts(scene.evidence)
    for name, dim in circuit.tables.items():
        logits = circuit.get_parameter(f"{name}_logits")
        expected = counts[name] - counts[name].sum(dim, keepdim=True) * logits.detach().softmax(dim)
        assert_close(torch.zeros_like(logits) if logits.grad is None else logits.grad, expected, **CLOSE)


# Exact scores, rows


@every_structure
@SETTINGS
@given(data=st.data())
def test_log_prob_is_that_of_enumeration_and_sums_to_one(structure: str, data: st.DataObject) -> None:
    scene, posterior = data.draw(conditioned(data.draw(scenes(structure))))
    tokens, (batch_size, _) = completions(scene), scene.shape
    found = spread(posterior, len(tokens)).log_prob(tokens.repeat(batch_size, 1)).view(batch_size, -1)
    for row, absent in enumerate(scene.absent):
        whole = (tokens[:, absent] == 0).all(-1)
        assert_close(found[row, whole], log_completions(scene)[row, whole], **CLOSE)
        assert found[row, whole].logsumexp(-1).item() == pytest.approx(0.0, abs=1e-9)


@every_structure
@SETTINGS
@given(data=st.data())
def test_rows_go_their_own_ways(structure: str, data: st.DataObject) -> None:
    scene, whole = data.draw(conditioned(data.draw(scenes(structure))))
    (batch_size, length), last = scene.shape, scene.circuit.vocab_size - 1
    index = torch.tensor([0, batch_size - 1, 0])
    copies, position = whole.rows(index), data.draw(st.integers(0, length - 1))
    places = [(row, i) for row, i in scene.unknown if i == position]
    for row, _ in places:
        for copy in (index == row).nonzero().flatten().tolist():
            copies.condition(copy, position, min(copy, last))
    expected = [scene.known({(r, i): min(copy, last) for r, i in places}).token_marginals() for copy in range(3)]
    assert_close(copies.token_marginals(), torch.stack([expected[k][index[k]] for k in range(3)]), **CLOSE)
    assert_close(whole.token_marginals(), scene.token_marginals(), **CLOSE)

    copies = whole.rows(index)
    for row, i in places:
        whole.condition(row, i, last)
    assert_close(copies.token_marginals(), scene.token_marginals()[index], **CLOSE)
    assert_close(copies.entropy(), scene.circuit.posterior(scene.evidence).entropy()[index], **CLOSE)


# Search


def beam_by_enumeration(mass: Array, sequences: Array, width: int) -> list[float]:
    """Log probabilities of what a beam keeps that ranks prefixes by their mass."""
    kept: list[tuple[int, ...]] = [()]
    for length in range(1, sequences.shape[1] + 1):
        prefixes: dict[tuple[int, ...], float] = {}
        for sequence, p in zip(sequences[:, :length].tolist(), mass, strict=True):
            if tuple(sequence[:-1]) in kept and p > 0:
                prefixes[tuple(sequence)] = prefixes.get(tuple(sequence), 0.0) + p
        kept = sorted(prefixes, key=prefixes.__getitem__, reverse=True)[:width]
    return [math.log(prefixes[prefix]) for prefix in kept]


@every_structure
@SETTINGS
@given(data=st.data())
def test_a_wide_beam_finds_every_completion_in_order(structure: str, data: st.DataObject) -> None:
    scene, posterior = data.draw(conditioned(data.draw(scenes(structure, max_length=3))))
    everything = log_completions(scene)
    width = everything.shape[1] + 1
    found = beam_search(posterior, width)
    assert_close(found.log_prob[:, :-1], everything.sort(-1, descending=True).values, **CLOSE)
    assert (found.log_prob[:, -1] == -math.inf).all()
    for row in range(scene.shape[0]):
        possible = found.log_prob[row].isfinite()
        tokens = found.tokens[row, possible]
        assert len(tokens.unique(dim=0)) == len(tokens)
        places = scene.circuit.vocab_size ** np.arange(scene.shape[1])[::-1].copy()
        which = (tokens * torch.from_numpy(places)).sum(-1)
        assert_close(found.log_prob[row, possible], everything[row, which], **CLOSE)


@every_structure
@pytest.mark.parametrize("width", [1, 3])
@SETTINGS
@given(data=st.data())
def test_a_beam_ranks_prefixes_by_their_exact_probability(structure: str, width: int, data: st.DataObject) -> None:
    scene, posterior = data.draw(conditioned(data.draw(scenes(structure))))
    before = posterior.token_marginals()
    found = beam_search(posterior, width)
    assert found.tokens.shape == (scene.shape[0], width, scene.shape[1])
    assert (found.log_prob.diff(dim=-1).nan_to_num(0.0) <= 0).all()
    possible = found.log_prob.isfinite()
    assert not found.tokens[possible[..., None] & torch.from_numpy(scene.absent)[:, None]].any()
    exact = spread(posterior, width).log_prob(found.tokens.flatten(0, 1)).view_as(found.log_prob)
    assert_close(found.log_prob[possible], exact[possible], **CLOSE)
    for row in range(scene.shape[0]):
        pairs, alive = scene.pairs(row), int(possible[row].sum())
        assert len(found.tokens[row, :alive].unique(dim=0)) == alive
        expected = beam_by_enumeration(pairs.completions, pairs.sequences, width)
        assert_close(found.log_prob[row, :alive], torch.tensor(expected, dtype=torch.float64), **CLOSE)
    if width == 1 and not scene.absent[:, 0].any():
        first = before[:, 0].gather(-1, found.tokens[:, 0, :1]).squeeze(-1)
        assert_close(first, before[:, 0].amax(-1), **CLOSE)  # of two as probable either may come first
    assert_close(posterior.token_marginals(), before, **CLOSE)


@every_structure
def test_beams_without_a_completion_have_no_token_where_absent_either(structure: str) -> None:
    scene = make_scene(make_circuit(structure, 2, 3, 3), observed=0.0, absent=0.6, batch_size=4, seed=2)
    found = beam_search(scene.circuit.posterior(scene.evidence), 12)
    assert found.log_prob.isneginf().any()
    assert not found.tokens[torch.from_numpy(scene.absent)[:, None].expand_as(found.tokens)].any()


@every_structure
@pytest.mark.parametrize("kind", ["absent", "truncated", "potentials"])
@pytest.mark.parametrize(("block_length", "length"), [(3, 3), (5, 2), (5, 5)])
def test_completions_are_drawn_from_the_exact_joint(structure: str, kind: str, block_length: int, length: int) -> None:
    draws, circuit = 20_000, make_circuit(structure, 2, 3 if length < 5 else 2, block_length, seed=2)
    scene = make_scene(
        circuit,
        batch_size=1,
        length=length,
        seed=5,
        absent=0.4 if kind == "absent" else 0.0,
        top_k=1 if kind == "truncated" else None,
        potentials=kind == "potentials",
    )
    tokens = sample_completions(
        spread(circuit.posterior(scene.evidence), draws), generator=torch.Generator().manual_seed(0)
    )
    place = torch.tensor([circuit.vocab_size**i for i in reversed(range(length))])
    expected = scene.pairs(0).completions
    assert_frequencies((tokens * place).sum(-1).bincount(minlength=len(expected)), expected, draws)


@every_structure
def test_completions_drawn_with_own_uniforms_do_not_depend_on_the_batch(structure: str) -> None:
    scene = make_scene(make_circuit(structure, 3, 5, 5), batch_size=4, absent=0.2)
    posterior = scene.circuit.posterior(scene.evidence)
    uniforms = torch.rand(4, posterior.num_draws + 5)
    tokens = sample_completions(posterior, uniforms=uniforms)
    for row in range(4):
        alone = sample_completions(posterior.rows(torch.tensor([row])), uniforms=uniforms[row : row + 1])
        assert torch.equal(alone[0], tokens[row])


@every_structure
@SETTINGS
@given(data=st.data())
def test_the_best_completion_has_the_largest_exact_score(structure: str, data: st.DataObject) -> None:
    scene, posterior = data.draw(conditioned(data.draw(scenes(structure))))
    some = torch.from_numpy(
        np.random.default_rng(scene.shape[1]).integers(len(completions(scene)), size=(scene.shape[0], 4))
    )
    candidates = completions(scene)[some].masked_fill(torch.from_numpy(scene.absent)[:, None], 0)
    places = torch.tensor([scene.circuit.vocab_size**i for i in reversed(range(scene.shape[1]))])
    scores = log_completions(scene).gather(-1, (candidates * places).sum(-1))
    tokens, score = best_completion(posterior, candidates)
    assert_close(score, scores.max(-1).values, **CLOSE)
    assert_close(log_completions(scene).gather(-1, (tokens * places).sum(-1)[:, None])[:, 0], score, **CLOSE)
    assert (candidates == tokens[:, None]).all(-1).any(-1).all()


# Bad arguments


@every_structure
def test_bad_arguments_are_refused(structure: str) -> None:
    scene = make_scene(make_circuit(structure, 2, 4, 3))
    posterior = scene.circuit.posterior(scene.evidence)
    draws = posterior.num_draws
    with pytest.raises(CircuitError, match="width must be at least 1, not 0"):
        beam_search(posterior, 0)
    for shape in ((2, draws), (2, draws + 4), (3, draws + 3)):
        with pytest.raises(CircuitError, match="uniforms must have shape"):
            sample_completions(posterior, uniforms=torch.zeros(shape))
    for shape in ((2, draws + 1), (1, draws)):
        with pytest.raises(CircuitError, match="uniforms must have shape"):
            posterior.sample_latents(uniforms=torch.zeros(shape))
    for position in (-1, 3):
        with pytest.raises(CircuitError, match=r"positions must lie in \[0, 3\)"):
            posterior.token_marginals(torch.tensor([0, position]))
        with pytest.raises(CircuitError, match=r"positions must lie in \[0, 3\)"):
            posterior.condition(0, position, 1)
    with pytest.raises(CircuitError, match="rows must lie"):
        posterior.condition(2, 0, 1)
    with pytest.raises(CircuitError, match="tokens must lie"):
        posterior.condition(0, 0, 4)
    with pytest.raises(CircuitError, match="token ids must lie"):
        posterior.log_prob(torch.full((2, 3), 4))
    with pytest.raises(CircuitError, match="do not fit"):
        posterior.log_prob(torch.zeros(2, 2, dtype=torch.long))


# Probabilities of zero


def with_zeros(structure: str) -> Scene:
    """A circuit of 2 states where much is impossible, and evidence that leaves something possible in every row."""
    if structure == "hmm":
        circuit: HMM = HMM.from_probabilities(
            initial=torch.tensor([0.0, 1.0], dtype=torch.float64),
            transition=torch.tensor([[0.5, 0.5], [1.0, 0.0]], dtype=torch.float64),
            emission=torch.tensor([[0.0, 0.3, 0.7, 0.0], [0.6, 0.4, 0.0, 0.0]], dtype=torch.float64),
            block_length=4,
        )
    else:
        circuit = make_circuit(structure, 2, 4, 4)  # type: ignore[assignment]
        with torch.no_grad():
            circuit.emission_logits[:, 3] = -torch.inf
            circuit.emission_logits[:, 0, 0] = -torch.inf
            circuit.emission_logits[:, 2, -1] = -torch.inf
    scene = make_scene(circuit, batch_size=6, observed=0.0, absent=0.2, seed=1)
    known = {(1, 1): 1, (2, 0): 0, (3, 3): 2} if structure == "hmm" else {(1, 1): 1, (2, 0): 0, (3, 3): 0}
    return scene.known(known)


@pytest.mark.parametrize("structure", ["hmm", "mixture", "tree"])
@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_zeros_leave_no_nan(structure: str, top_k: int | None) -> None:
    scene = with_zeros(structure)
    scene = Scene(scene.circuit, {**scene.arguments, "top_k": top_k})
    posterior = scene.circuit.posterior(scene.evidence)
    assert_mode(scene, posterior)
    assert_close(posterior.entropy(), scene.entropy(), **CLOSE)
    assert_close(posterior.token_marginals(), scene.token_marginals(), **CLOSE)
    for name, count in scene.circuit.expected_counts(scene.evidence).items():
        assert_close(count, torch.stack([scene.expected_counts(row)[name] for row in range(6)]).sum(0), **CLOSE)
    found = beam_search(posterior, 300).log_prob
    assert_close(found[:, :256], log_completions(scene).sort(-1, descending=True).values, **CLOSE)
    assert (found[:, 256:] == -math.inf).all()


def test_where_nothing_is_possible_scores_are_minus_infinity_never_nan() -> None:
    eye = torch.eye(2, dtype=torch.float64)
    hmm = HMM.from_probabilities(torch.full_like(eye[0], 0.5), eye, eye, block_length=2)  # the same token twice
    unknown = Evidence.from_logits(torch.zeros(1, 2, 2).double(), torch.full((1, 2), 2), mask_token_id=2)
    posterior, tokens = hmm.posterior(unknown), torch.tensor([[0, 1]])
    assert posterior.log_prob(tokens).item() == -math.inf
    posterior.condition(torch.tensor([0, 0]), torch.tensor([0, 1]), tokens[0])
    assert hmm.log_partition(posterior.evidence).item() == -math.inf
    assert posterior.log_prob(tokens).item() == -math.inf
    assert posterior.mode().log_prob.item() == -math.inf
