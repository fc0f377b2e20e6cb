"""Circuits over the tokens seen, beside the full circuit with tied rows, which other tests hold against enumeration."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import (
    EM,
    HMM,
    Anemone,
    CircuitError,
    ContextualHMM,
    Evidence,
    Factorized,
    LatentCircuit,
    Posterior,
    Roles,
    Seen,
    beam_search,
    circuit_health,
    load_circuit,
    most_states,
    sample_completions,
    save_circuit,
)

from .strategies import SETTINGS
from .structures import CLOSE, STRUCTURES, make_circuit, make_scene

TRAINED = [name for name in STRUCTURES if name != "factorized"]
every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def tied(seen: Seen) -> LatentCircuit:
    """The circuit over all tokens whose unseen rows are the tail's, shared evenly."""
    kept, count = seen.vocabulary.token_ids, seen.vocab_size
    sizes = {**seen.base.config(), "vocab_size": count}
    full = type(seen.base)(**sizes).double().requires_grad_(False)
    for name, value in seen.base.state_dict().items():
        if name != "emission_logits":
            full.state_dict()[name].copy_(value)
    logits = seen.base.emission_logits.detach()
    full.emission_logits[:] = logits[:, -1:] - math.log(count - len(kept))
    full.emission_logits[:, kept] = logits[:, :-1]
    return full


def make_seen(structure: str, kept: list[int], vocab_size: int, num_states: int = 3, length: int = 4) -> Seen:
    return Seen(make_circuit(structure, num_states, len(kept) + 1, length, seed=vocab_size), vocab_size, kept)


@st.composite
def pairs(draw: st.DrawFn, structure: str) -> tuple[Seen, LatentCircuit, Evidence]:
    """A circuit over the tokens seen, the full one, and evidence for both: dense or truncated, with a tail or not."""
    vocab_size = draw(st.sampled_from([9, 5, 13]))
    kept = sorted(draw(st.sets(st.integers(0, vocab_size - 1), min_size=1, max_size=vocab_size - 1)))
    seen = make_seen(structure, kept, vocab_size)
    full = tied(seen)
    scene = make_scene(
        full,
        batch_size=3,
        length=draw(st.sampled_from([4, 3, 1])),
        seed=draw(st.integers(0, 10_000)),
        observed=draw(st.sampled_from([0.3, 0.0, 1.0])),
        absent=draw(st.sampled_from([0.3, 0.0])),
        top_k=draw(st.sampled_from([None, 1, 2, 3, 5, vocab_size])),
        potentials=draw(st.booleans()),
    )
    arguments: dict[str, Any] = {**scene.arguments, "tail": draw(st.booleans())}
    return seen, full, Evidence.from_logits(**arguments)


def conditioned(data: st.DataObject, posteriors: list[Posterior], vocab_size: int) -> None:
    """Makes the same tokens known in both; ones that the evidence allows."""
    shape = posteriors[0].evidence.tokens.shape
    for _ in range(data.draw(st.integers(0, 2))):
        row, position = (data.draw(st.integers(0, size - 1)) for size in shape)
        evidence = posteriors[0].evidence
        allowed = evidence.dense_weights()[row, position].nonzero().flatten().tolist() or [0]
        if evidence.observed[row, position]:
            continue
        token = data.draw(st.sampled_from(allowed))
        for posterior in posteriors:
            posterior.condition(row, position, token)


@every_structure
@SETTINGS
@given(data=st.data())
def test_scores_are_those_of_tied_rows(structure: str, data: st.DataObject) -> None:
    seen, full, evidence = data.draw(pairs(structure))
    tokens = torch.randint(seen.vocab_size, evidence.tokens.shape, generator=torch.Generator().manual_seed(0))
    where = torch.rand(tokens.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    assert_close(seen.log_prob(tokens), full.log_prob(tokens), **CLOSE)
    assert_close(seen.log_partition(evidence), full.log_partition(evidence), **CLOSE)
    assert torch.equal(seen.is_possible(evidence), full.is_possible(evidence))
    for some in (None, where):
        assert_close(seen.log_joint(tokens, evidence, some), full.log_joint(tokens, evidence, some), **CLOSE)
        assert_close(
            seen.log_conditional(tokens, evidence, some), full.log_conditional(tokens, evidence, some), **CLOSE
        )


@every_structure
@SETTINGS
@given(data=st.data())
def test_posteriors_are_those_of_tied_rows(structure: str, data: st.DataObject) -> None:
    seen, full, evidence = data.draw(pairs(structure))
    found, expected = seen.posterior(evidence), full.posterior(evidence)
    conditioned(data, [found, expected], seen.vocab_size)
    if data.draw(st.booleans()):
        index = torch.tensor([2, 0, 2])
        found, expected = found.rows(index), expected.rows(index)
    positions = torch.tensor([data.draw(st.integers(0, evidence.length - 1)) for _ in range(3)])
    uniforms = torch.rand(3, found.num_draws + evidence.length, generator=torch.Generator().manual_seed(0)).double()
    latents = expected.sample_latents(uniforms=uniforms[:, : found.num_draws])
    assert torch.equal(found.sample_latents(uniforms=uniforms[:, : found.num_draws]), latents)
    assert_close(found.token_distribution(latents), expected.token_distribution(latents), **CLOSE)
    assert_close(found.token_marginals(), expected.token_marginals(), **CLOSE)
    assert_close(found.token_marginals(positions), expected.token_marginals(positions), **CLOSE)
    soft, rows = found.evidence.soft, torch.arange(3)
    assert torch.equal(soft, expected.evidence.soft)
    among = found.candidate_distribution(latents), expected.candidate_distribution(latents)
    assert_close(among[0][soft], among[1][soft], **CLOSE)
    among = found.candidate_marginals(), expected.candidate_marginals()
    assert_close(among[0][soft], among[1][soft], **CLOSE)
    among, at = (found.candidate_marginals(positions), expected.candidate_marginals(positions)), soft[rows, positions]
    assert_close(among[0][at], among[1][at], **CLOSE)
    assert_close(found.entropy(), expected.entropy(), **CLOSE)
    tokens = sample_completions(found, uniforms=uniforms)
    assert torch.equal(tokens, sample_completions(expected, uniforms=uniforms))
    assert_close(found.log_prob(tokens), expected.log_prob(tokens), **CLOSE)
    assert_close(beam_search(found, 2).log_prob, beam_search(expected, 2).log_prob, **CLOSE)
    mode, best = found.mode(), expected.mode()
    assert_close(mode.log_prob, best.log_prob, **CLOSE)
    absent = found.evidence.absent
    assert absent is None or not mode.tokens[absent].any()
    weighs = [_log_pair(full, found.evidence, pair.latents, pair.tokens) for pair in (mode, best)]
    assert_close(weighs[0], weighs[1], **CLOSE)


def _log_pair(full: LatentCircuit, evidence: Evidence, latents: Tensor, tokens: Tensor) -> Tensor:
    """What a pair of latents and tokens weighs, by evidence that allows nothing else."""
    only = torch.full((*latents.shape, full.num_states), -torch.inf).double()
    only.scatter_(-1, latents[..., None], 0.0)
    potentials = evidence.latent_potentials
    hinted = dataclasses.replace(evidence, latent_potentials=only if potentials is None else potentials + only)
    return full.log_joint(tokens, hinted)


@pytest.mark.parametrize("structure", TRAINED)
@pytest.mark.parametrize("top_k", [None, 3])
def test_gradients_and_counts_are_those_of_tied_rows(structure: str, top_k: int | None) -> None:
    kept = [1, 2, 6, 7]
    seen = make_seen(structure, kept, 10).requires_grad_()
    full = tied(seen)
    evidence = make_scene(full, batch_size=4, absent=0.2, top_k=top_k).evidence
    seen.log_partition(evidence).sum().backward()
    full.requires_grad_().log_partition(evidence).sum().backward()
    weights = torch.rand(4, dtype=torch.float64)
    counts, expected = seen.expected_counts(evidence, weights), full.expected_counts(evidence, weights)
    others = [token for token in range(10) if token not in kept]
    for name in counts:
        for found, whole in (
            (counts[name], expected[name]),
            (seen.base.get_parameter(f"{name}_logits").grad, full.get_parameter(f"{name}_logits").grad),
        ):
            assert found is not None
            assert whole is not None
            if name == "emission":
                whole = torch.cat([whole[:, kept], whole[:, others].sum(1, keepdim=True)], 1)
            assert_close(found, whole, **CLOSE)


@pytest.mark.parametrize("rule", [EM, Anemone])
def test_em_raises_the_likelihood_of_tokens(rule: Any) -> None:
    seen = make_seen("hmm", [0, 3, 5], 40)
    tokens = torch.tensor([0, 3, 5, 17])[torch.randint(4, (64, 4), generator=torch.Generator().manual_seed(0))]
    nothing = Evidence.nothing_known(64, 4, 40, dtype=torch.float64)
    optimizer, scores = rule(seen, lr=0.5), []
    for _ in range(5):
        scores.append(seen.log_prob(tokens).sum().item())
        counts = seen.expected_counts(nothing.clamp(tokens, torch.ones_like(tokens, dtype=torch.bool)))
        optimizer.accumulate(counts, 64.0)
        optimizer.step()
    assert scores == sorted(scores)
    assert scores[-1] > scores[0] + 10


def test_a_circuit_starts_with_unseen_tokens_about_as_likely_as_seen_ones() -> None:
    seen = Seen(HMM(64, 21, 2), 1000, list(range(20)))
    seen.reset_parameters(torch.Generator().manual_seed(0))
    nothing = Evidence.nothing_known(1, 2, 1000)
    marginals = seen.posterior(nothing).token_marginals()[0, 0]
    assert 0.3 < float(marginals[20:].mean() / marginals[:20].mean()) < 2
    seen.forget_tokens()
    assert_close(seen.posterior(nothing).token_marginals(), torch.full((1, 2, 1000), 1e-3))
    uniform = Seen(Factorized(21, 2), 1000, list(range(20)))
    assert_close(uniform.log_prob(torch.tensor([[3, 700]])), torch.tensor([-2 * math.log(1000)]))


def test_a_circuit_comes_back_from_its_folder(tmp_path: Path) -> None:
    seen = make_seen("hmm", [2, 3, 11], 12).float()
    save_circuit(seen, tmp_path)
    again = load_circuit(tmp_path)
    tokens = torch.randint(12, (5, 4))
    assert isinstance(again, Seen)
    assert torch.equal(again.log_prob(tokens), seen.log_prob(tokens))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "token_ids": [2, 3, 12]}))
    with pytest.raises(CircuitError, match=r"token_ids must lie in \[0, 12\), not in \[2, 12\]"):
        load_circuit(tmp_path)


def test_health_and_sizes_count_the_base() -> None:
    seen = make_seen("hmm", [1, 2], 50)
    nothing = Evidence.nothing_known(2, 4, 50, dtype=torch.float64)
    found, expected = circuit_health(seen, nothing), circuit_health(tied(seen), nothing)
    assert found is not None
    assert expected is not None
    assert found.effective_states == pytest.approx(expected.effective_states)
    assert found.transition_entropy == pytest.approx(expected.transition_entropy)
    assert most_states(lambda states: Seen(HMM(states, 3, 4), 10**6, [1, 2]), 4 * 4 + 4 + 3 * 4) == 4


def test_what_does_not_fit_is_said() -> None:
    def refused(match: str, base: Any, vocab_size: int, ids: list[int]) -> None:
        with pytest.raises(CircuitError, match=match):
            Seen(base, vocab_size, ids)

    hmm = HMM(2, 3, 4)
    refused("a base over 3 entries does not fit 3 tokens and the others", hmm, 9, [1, 2, 3])
    refused("ascending order", hmm, 9, [2, 1])
    refused("all 2 tokens are seen: use vocabulary=all", hmm, 2, [0, 1])
    contextual = ContextualHMM(2, 3, 4, hidden_size=8, roles=2, adapter_width=0)
    refused("reads hidden states, and needs vocabulary=all", contextual, 9, [1, 2])
    seen = Seen(hmm, 9, [1, 2])
    evidence = make_scene(make_circuit("hmm", 2, 9, 4)).evidence
    read = Roles(torch.ones(2, 4, 2, 9), None, torch.zeros(2, 4, 2))
    with pytest.raises(CircuitError, match="roles weigh each token"):
        seen.log_partition(dataclasses.replace(evidence, roles=read))
    with pytest.raises(CircuitError, match=r"tokens must lie in \[0, 9\)"):
        seen.posterior(evidence).condition(0, 0, 9)
