import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import HMM, CircuitError, Evidence, draw

from .enumeration import token_marginals, tuples
from .oracles import circuit_of, evidence_of, oracle
from .strategies import SETTINGS, Case, cases, make_case, random_hmm

CLOSE = {"atol": 1e-9, "rtol": 1e-9}


def marginals_by_enumeration(case: Case) -> Tensor:
    batch_size, length = case.shape
    found = [token_marginals(case.table(row), case.hmm.vocab_size, length) for row in range(batch_size)]
    return torch.from_numpy(np.stack(found))


# Token marginals


@SETTINGS
@given(case=cases(potentials=False))
def test_token_marginals_are_those_of_enumeration(case: Case) -> None:
    assert_close(case.hmm.posterior(case.evidence).token_marginals(), marginals_by_enumeration(case), **CLOSE)


@SETTINGS
@given(case=cases(absent=False, truncated=False))
def test_token_marginals_are_those_of_enumeration_under_latent_potentials(case: Case) -> None:
    assert_close(case.hmm.posterior(case.evidence).token_marginals(), marginals_by_enumeration(case), **CLOSE)


@pytest.mark.parametrize("top_k", range(1, 6))
def test_token_marginals_are_those_of_enumeration_for_every_top_k(top_k: int) -> None:
    case = make_case(random_hmm(3, 5, 3), batch_size=3, observed=0.2, top_k=top_k)
    assert_close(case.hmm.posterior(case.evidence).token_marginals(), marginals_by_enumeration(case), **CLOSE)


@SETTINGS
@given(case=cases(), data=st.data())
def test_marginals_of_one_position_per_row_are_rows_of_all_marginals(case: Case, data: st.DataObject) -> None:
    batch_size, length = case.shape
    positions = torch.tensor([data.draw(st.integers(0, length - 1)) for _ in range(batch_size)])
    expected = case.hmm.posterior(case.evidence).token_marginals()[torch.arange(batch_size), positions]
    assert_close(case.hmm.posterior(case.evidence).token_marginals(positions), expected, **CLOSE)


def test_a_known_token_has_probability_one_and_an_absent_position_the_circuits_own_distribution() -> None:
    hmm = random_hmm(3, 4, 3)
    tokens, absent = torch.tensor([[2, 4, 1]]), torch.tensor([[False, True, True]])  # 1 stands where nothing is
    evidence = Evidence.from_logits(torch.randn(1, 3, 4), tokens, mask_token_id=4, absent=absent)
    marginals = hmm.posterior(evidence).token_marginals()[0].double()
    mass = hmm.log_prob(torch.from_numpy(tuples(4, 3))).exp().detach().reshape(4, 4, 4)[2]
    assert_close(marginals[0], torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64))
    assert_close(marginals[1], mass.sum(1) / mass.sum(), **CLOSE)
    assert_close(marginals[2], mass.sum(0) / mass.sum(), **CLOSE)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("hom_n16_v50_l8_ext", "jpc/hom_n16_v50_l8_ext"), ("inhom_n16_v50_l8_ext", "jpc/inhom_n16_v50_l8")],
)
def test_token_marginals_match_the_reference(name: str, parameters: str) -> None:
    hmm, values = circuit_of(oracle(parameters), block_length=8), oracle(name)
    found = hmm.posterior(evidence_of(values, values["mask"])).token_marginals()
    unknown = ~values["mask"]
    assert_close(found[unknown], values["ref64_conditional"][unknown], atol=1e-6, rtol=0.0)


@pytest.mark.parametrize("observed", [False, True])
def test_token_marginals_match_the_brute_force_reference(observed: bool) -> None:
    values = oracle("bruteforce_n3_v4_l4")
    hmm = circuit_of(values, block_length=4)
    evidence = evidence_of(values, values["mask"] if observed else None)
    expected = values["token_marginals_observed" if observed else "token_marginals"]
    assert_close(hmm.posterior(evidence).token_marginals(), expected, atol=1e-12, rtol=1e-12)


# Latent states


@SETTINGS
@given(case=cases(absent=False, potentials=False))
def test_token_distributions_are_those_of_enumeration_given_the_states(case: Case) -> None:
    length, sequences = case.evidence.length, tuples(case.hmm.vocab_size, case.evidence.length)
    for which, path in enumerate(tuples(case.hmm.num_states, length)):
        latents = torch.from_numpy(path).expand(case.shape)
        found = case.hmm.posterior(case.evidence).token_distribution(latents)
        for row in range(case.evidence.batch_size):
            mass = case.table(row)[:, which]
            expected = [[mass[sequences[:, i] == v].sum() for v in range(case.hmm.vocab_size)] for i in range(length)]
            assert_close(found[row], torch.from_numpy(np.array(expected) / mass.sum()), **CLOSE)


@pytest.mark.parametrize("kind", ["plain", "latent potentials", "absent positions", "truncated", "by position"])
def test_latent_states_are_drawn_from_the_exact_posterior_over_paths(kind: str) -> None:
    draws = 20_000
    case = make_case(
        random_hmm(3, 4, 3, homogeneous=kind != "by position", seed=4),
        batch_size=1,
        seed=1,
        absent=0.5 if kind == "absent positions" else 0.0,
        top_k=2 if kind == "truncated" else None,
        potentials=kind == "latent potentials",
    )
    mass = case.table(0).sum(0)
    evidence = case.evidence.rows(torch.zeros(draws, dtype=torch.long))
    latents = case.hmm.posterior(evidence).sample_latents(torch.Generator().manual_seed(0))
    index = (latents * torch.tensor([9, 3, 1])).sum(-1)
    assert_frequencies(index.bincount(minlength=27), torch.from_numpy(mass / mass.sum()), draws)


def assert_frequencies(counts: Tensor, probabilities: Tensor, draws: int) -> None:
    """Counts within five standard deviations of what is expected (of one draw, where hardly any is)."""
    sigma = (draws * probabilities * (1 - probabilities)).clamp_min(1.0).sqrt()
    assert ((counts - draws * probabilities).abs() / sigma).max() < 5


def test_latent_states_are_drawn_from_the_reference_posterior() -> None:
    draws = 20_000
    values = oracle("sampling_hom_n16_v50_l8_ext_row2")
    hmm = circuit_of(oracle("jpc/hom_n16_v50_l8_ext"), block_length=8)
    one = {key: values[key][None] for key in ("x", "logw", "mask")}
    evidence = evidence_of(one, one["mask"]).rows(torch.zeros(draws, dtype=torch.long))
    latents = hmm.posterior(evidence).sample_latents(torch.Generator().manual_seed(0))
    states = torch.nn.functional.one_hot(latents, 16).double()  # (draws, L, N)
    assert_frequencies(states.sum(0), values["gamma"], draws)
    pairs = torch.einsum("bin,bim->inm", states[:, :-1], states[:, 1:])
    assert_frequencies(pairs, values["xi"], draws)


def test_the_same_generator_draws_the_same_states() -> None:
    case = make_case(random_hmm(4, 5, 6), batch_size=3)
    posterior = case.hmm.posterior(case.evidence)
    first, second, third = (posterior.sample_latents(torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_row_drawn_with_its_own_uniforms_does_not_depend_on_its_batch() -> None:
    case = make_case(random_hmm(4, 5, 6), batch_size=5, absent=0.2, potentials=True)
    uniforms = torch.rand(5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = case.hmm.posterior(case.evidence).sample_latents(uniforms=uniforms)
    for row in range(5):
        alone = case.hmm.posterior(case.evidence.rows(torch.tensor([row])))
        assert torch.equal(alone.sample_latents(uniforms=uniforms[row : row + 1])[0], together[row])


def test_states_without_mass_are_never_drawn() -> None:
    hmm = HMM.from_probabilities(
        initial=torch.tensor([0.0, 1.0, 0.0]),
        transition=torch.tensor([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]]),  # never the same again
        emission=torch.full((3, 2), 0.5),
        block_length=4,
    )
    evidence = Evidence.from_logits(torch.zeros(500, 4, 2), torch.full((500, 4), 2), mask_token_id=2)
    uniforms = torch.rand(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    uniforms[:100], uniforms[100:200] = 0.0, 1.0 - 2**-53  # which rounds to 1 in float32
    latents = hmm.posterior(evidence).sample_latents(uniforms=uniforms)
    assert (latents[:, 0] == 1).all()
    assert (latents.diff(dim=1) != 0).all()


@pytest.mark.parametrize(("uniform", "index"), [(0.0, 1), (0.24, 1), (0.26, 3), (0.9999999, 3), (1.0 - 2**-53, 3)])
def test_draws_invert_the_cumulative_distribution(uniform: float, index: int) -> None:
    weights = torch.tensor([[0.0, 0.5, 0.0, 1.5, 0.0]])
    assert draw(weights, torch.tensor([uniform], dtype=torch.float64)).item() == index


def test_draws_have_the_frequencies_of_their_weights() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0, 4.0])
    uniforms = (torch.arange(8000) + 0.5) / 8000
    assert draw(weights.expand(8000, 4), uniforms).bincount(minlength=4).tolist() == [1000, 0, 3000, 4000]


# Conditioning


def conditioned(case: Case, known: dict[tuple[int, int], int]) -> Case:
    """The case with further tokens known, made afresh."""
    tokens, weights = case.arguments["tokens"].clone(), case.weights.copy()
    for (row, position), token in known.items():
        tokens[row, position] = token
        weights[row, position] = np.eye(case.hmm.vocab_size)[token]
    arguments = {**case.arguments, "tokens": tokens}
    return Case(case.hmm, case.model, arguments, Evidence.from_logits(**arguments), weights, case.potentials, case.seed)


@SETTINGS
@given(case=cases(absent=False, potentials=False), data=st.data())
def test_conditioning_is_enumeration_with_those_tokens_known(case: Case, data: st.DataObject) -> None:
    batch_size, length = case.shape
    posterior, known = case.hmm.posterior(case.evidence), {}
    unknown = [tuple(place) for place in (~case.evidence.observed).nonzero().tolist()]
    for row, position in data.draw(st.permutations(unknown)):
        token = data.draw(st.integers(0, case.hmm.vocab_size - 1))
        posterior.condition(row, position, token)
        known[row, position] = token
        if data.draw(st.booleans()):  # queries fill in messages that later conditioning must undo
            asked = torch.tensor([data.draw(st.integers(0, length - 1)) for _ in range(batch_size)])
            expected = marginals_by_enumeration(conditioned(case, known))[torch.arange(batch_size), asked]
            assert_close(posterior.token_marginals(asked), expected, **CLOSE)
        elif data.draw(st.booleans()):
            posterior.sample_latents(torch.Generator().manual_seed(0))
    assert_close(posterior.token_marginals(), marginals_by_enumeration(conditioned(case, known)), **CLOSE)


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("potentials", [True, False])
def test_conditioning_in_batches_is_a_fresh_posterior_with_those_tokens_known(
    potentials: bool, top_k: int | None, homogeneous: bool
) -> None:
    hmm = random_hmm(6, 20, 9, homogeneous)
    case = make_case(hmm, batch_size=4, observed=0.2, absent=0.1, top_k=top_k, potentials=potentials)
    posterior, known = case.hmm.posterior(case.evidence), {}
    places = case.evidence.soft.nonzero()
    places = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(2))]
    tokens = case.random_tokens()
    uniforms = torch.rand(4, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for step, some in enumerate(places.split(3)):  # several tokens a time, of one row or of several
        row, position = some.unbind(-1)
        posterior.condition(row, position, tokens[row, position])
        known |= {(r, p): int(tokens[r, p]) for r, p in some.tolist()}
        fresh = hmm.posterior(conditioned(case, known).evidence)
        if step % 3 == 0:
            assert_close(posterior.token_marginals(), fresh.token_marginals(), **CLOSE)
        elif step % 3 == 1:
            asked = torch.tensor([step, 8 - step, 0, 8]) % 9
            assert_close(posterior.token_marginals(asked), fresh.token_marginals(asked), **CLOSE)
        else:
            latents = fresh.sample_latents(uniforms=uniforms)
            assert torch.equal(posterior.sample_latents(uniforms=uniforms), latents)
            assert_close(posterior.token_distribution(latents), fresh.token_distribution(latents), **CLOSE)
    assert_close(posterior.token_marginals(), fresh.token_marginals(), **CLOSE)
    assert len(known) > 15


def test_conditioning_on_every_token_multiplies_to_the_conditional_likelihood() -> None:
    case = make_case(random_hmm(3, 5, 6), batch_size=3, observed=0.3)
    tokens = torch.where(case.evidence.observed, case.evidence.tokens, case.random_tokens())
    posterior, total, rows = case.hmm.posterior(case.evidence), torch.zeros(3, dtype=torch.float64), torch.arange(3)
    orders = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(row)) for row in range(3)])
    for positions in orders.unbind(1):  # a different position in each row
        token = tokens[rows, positions]
        total += posterior.token_marginals(positions)[rows, token].log()
        posterior.condition(rows, positions, token)
    cll = case.hmm.log_joint(tokens, case.evidence) - case.hmm.log_partition(case.evidence)
    assert_close(total, cll, **CLOSE)


def test_conditioning_leaves_the_evidence_and_other_posteriors_as_they_were() -> None:
    case = make_case(random_hmm(3, 4, 3), batch_size=2, observed=0.0)
    before, tokens = marginals_by_enumeration(case), case.evidence.tokens.clone()
    case.hmm.posterior(case.evidence).condition(torch.tensor([0, 1]), torch.tensor([1, 2]), torch.tensor([3, 0]))
    assert not case.evidence.observed.any()
    assert torch.equal(case.evidence.tokens, tokens)
    assert_close(case.hmm.posterior(case.evidence).token_marginals(), before, **CLOSE)


def test_conditioning_on_nothing_changes_nothing() -> None:
    case = make_case(random_hmm(3, 4, 3), batch_size=2)
    posterior, nothing = case.hmm.posterior(case.evidence), torch.zeros(0, dtype=torch.long)
    posterior.condition(nothing, nothing, nothing)
    assert_close(posterior.token_marginals(), marginals_by_enumeration(case), **CLOSE)


@pytest.mark.parametrize("position", [-1, 3])
def test_positions_outside_the_block_are_refused(position: int) -> None:
    case = make_case(random_hmm(2, 4, 3), batch_size=1)
    posterior = case.hmm.posterior(case.evidence)
    with pytest.raises(CircuitError, match=rf"positions must lie in \[0, 3\).*{position}"):
        posterior.condition(0, position, 1)
    with pytest.raises(CircuitError, match=rf"positions must lie in \[0, 3\).*{position}"):
        posterior.token_marginals(torch.tensor([position]))


@pytest.mark.parametrize("token", [-1, 4])
def test_conditioning_on_tokens_outside_the_vocabulary_is_refused(token: int) -> None:
    case = make_case(random_hmm(2, 4, 3), batch_size=1)
    with pytest.raises(CircuitError, match=str(token)):
        case.hmm.posterior(case.evidence).condition(0, 1, token)


@pytest.mark.parametrize("row", [-1, 2])
def test_conditioning_rows_outside_the_batch_is_refused(row: int) -> None:
    case = make_case(random_hmm(2, 4, 3), batch_size=2)
    with pytest.raises(CircuitError, match=str(row)):
        case.hmm.posterior(case.evidence).condition(row, 1, 1)


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (6,)])
def test_uniforms_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    case = make_case(random_hmm(2, 4, 3), batch_size=2)
    with pytest.raises(CircuitError, match="uniforms"):
        case.hmm.posterior(case.evidence).sample_latents(uniforms=torch.zeros(shape))


# Precision


def test_posteriors_in_float32_stay_distributions_where_states_are_almost_impossible() -> None:
    tiny = 1e-30
    hmm = HMM.from_probabilities(
        initial=torch.tensor([1.0, 0.0]),
        transition=torch.tensor([[1.0, tiny], [0.0, 1.0]]),
        emission=torch.tensor([[1.0 - 1e-6, 1e-6], [tiny, 1.0]]),
        block_length=6,
    )
    tokens = torch.tensor([[0, 2, 0, 2, 1, 2]])
    evidence = Evidence.from_logits(torch.zeros(1, 6, 2), tokens, mask_token_id=2)
    marginals = hmm.posterior(evidence).token_marginals()
    assert_close(marginals.sum(-1), torch.ones(1, 6))


def test_posteriors_of_a_trainable_circuit_carry_no_gradient() -> None:
    case = make_case(random_hmm(3, 4, 3))
    assert next(case.hmm.parameters()).requires_grad
    posterior = case.hmm.posterior(case.evidence)
    assert not posterior.token_marginals().requires_grad
    assert not posterior.token_distribution(posterior.sample_latents()).requires_grad


def test_under_sharp_evidence_the_marginals_are_the_backbones_choice() -> None:
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]])
    evidence = Evidence.from_logits(logits, torch.full((1, 2), 3), mask_token_id=3, temperature=0.01)
    marginals = random_hmm(2, 3, 2, seed=1).posterior(evidence).token_marginals()
    assert_close(marginals, torch.tensor([[[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64), **CLOSE)
