import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from codd_lightning.circuits import CIRCUITS, Evidence, load_circuit, save_circuit

from .enumeration import log
from .strategies import SETTINGS
from .structures import (
    CLOSE,
    STRUCTURES,
    Scene,
    assert_frequencies,
    circuits,
    make_circuit,
    make_scene,
    scenes,
    tuples,
)

every_structure = pytest.mark.parametrize("structure", STRUCTURES)


def completions(scene: Scene) -> Tensor:
    return torch.from_numpy(tuples(scene.circuit.vocab_size, scene.shape[1]))


def repeated(scene: Scene, row: int, times: int) -> Evidence:
    return scene.evidence.rows(torch.full((times,), row))


# Sums over all completions


@every_structure
@SETTINGS
@given(data=st.data())
def test_log_prob_is_the_sum_over_all_latents(structure: str, data: st.DataObject) -> None:
    circuit = data.draw(circuits(structure))
    for length in range(1, circuit.block_length + 1):
        bare = make_scene(circuit, batch_size=1, length=length, observed=0.0)
        bare.weights[...] = 1.0
        found = circuit.log_prob(completions(bare))
        assert_close(found, torch.from_numpy(log(bare.pairs(0).mass.sum(1))), **CLOSE)
        assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)


@every_structure
@SETTINGS
@given(data=st.data())
def test_log_partition_is_the_sum_over_all_completions(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure))
    assert_close(scene.circuit.log_partition(scene.evidence), scene.log_partition(), **CLOSE)


@every_structure
@pytest.mark.parametrize("top_k", range(1, 6))
def test_log_partition_is_the_sum_over_all_completions_for_every_top_k(structure: str, top_k: int) -> None:
    scene = make_scene(make_circuit(structure, 3, 5, 3, seed=top_k), observed=0.2, absent=0.2, top_k=top_k)
    assert_close(scene.circuit.log_partition(scene.evidence), scene.log_partition(), **CLOSE)


@every_structure
@SETTINGS
@given(data=st.data())
def test_log_joint_is_the_mass_of_the_completion_and_sums_to_the_partition_function(
    structure: str, data: st.DataObject
) -> None:
    scene = data.draw(scenes(structure))
    tokens, log_z = completions(scene), scene.circuit.log_partition(scene.evidence)
    for row, absent in enumerate(scene.absent):
        found = scene.circuit.log_joint(tokens, repeated(scene, row, len(tokens)))
        whole = (tokens[:, absent] == 0).all(-1)  # one of those that differ only where nothing is
        assert_close(found[whole], torch.from_numpy(log(scene.pairs(row).mass.sum(1)))[whole], **CLOSE)
        assert found[whole].logsumexp(0).item() == pytest.approx(log_z[row].item(), abs=1e-9)


@every_structure
@pytest.mark.parametrize("block_length", [1, 3, 5])
def test_log_partition_has_the_gradient_of_finite_differences(structure: str, block_length: int) -> None:
    circuit = make_circuit(structure, 2, 3, block_length).requires_grad_()
    scene = make_scene(circuit, observed=0.3, absent=0.2, top_k=2, potentials=True, seed=1)
    logits = scene.arguments["logits"].clone().requires_grad_()

    def log_partition(logits: Tensor, *parameters: Tensor) -> Tensor:  # gradcheck changes parameters in place
        return circuit.log_partition(Evidence.from_logits(**{**scene.arguments, "logits": logits}))

    assert gradcheck(log_partition, (logits, *(p for p in circuit.parameters() if p.numel())))


# Marginals and conditioning


@every_structure
@SETTINGS
@given(data=st.data())
def test_token_marginals_are_those_of_enumeration(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure))
    expected, (batch_size, length) = scene.token_marginals(), scene.shape
    assert_close(scene.circuit.posterior(scene.evidence).token_marginals(), expected, **CLOSE)
    for shift in range(length):
        positions = (torch.arange(batch_size) + shift) % length
        found = scene.circuit.posterior(scene.evidence).token_marginals(positions)
        assert_close(found, expected[torch.arange(batch_size), positions], **CLOSE)


@every_structure
@SETTINGS
@given(data=st.data())
def test_conditioning_is_enumeration_with_those_tokens_known(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure))
    batch_size, length = scene.shape
    posterior, known = scene.circuit.posterior(scene.evidence), {}
    if data.draw(st.booleans()):
        posterior.token_marginals()
    places = data.draw(st.permutations(scene.unknown))
    while places:
        some = [places.pop() for _ in range(min(len(places), data.draw(st.integers(1, 3))))]
        tokens = [data.draw(st.integers(0, scene.circuit.vocab_size - 1)) for _ in some]
        rows, positions = zip(*some, strict=True)
        posterior.condition(torch.tensor(rows), torch.tensor(positions), torch.tensor(tokens))
        known |= dict(zip(some, tokens, strict=True))
        if data.draw(st.booleans()):  # queries fill in messages that later conditioning must undo
            asked = torch.tensor([data.draw(st.integers(0, length - 1)) for _ in range(batch_size)])
            expected = scene.known(known).token_marginals()[torch.arange(batch_size), asked]
            assert_close(posterior.token_marginals(asked), expected, **CLOSE)
        elif data.draw(st.booleans()):
            posterior.sample_latents()
    after = scene.known(known)
    assert_close(posterior.token_marginals(), after.token_marginals(), **CLOSE)
    for fresh in (after.evidence, posterior.evidence):
        assert_close(scene.circuit.posterior(fresh).token_marginals(), after.token_marginals(), **CLOSE)
    assert_close(scene.circuit.log_partition(posterior.evidence), after.log_partition(), **CLOSE)


@every_structure
def test_a_conditioned_posterior_draws_what_a_fresh_one_draws(structure: str) -> None:
    scene = make_scene(make_circuit(structure, 4, 6, 7), batch_size=4, absent=0.1, top_k=3, potentials=True)
    posterior, known = scene.circuit.posterior(scene.evidence), {}
    uniforms = torch.rand(4, posterior.num_draws, dtype=torch.float64)
    for row, position in scene.unknown[::2]:
        known[row, position] = (row + position) % 6
        posterior.condition(row, position, known[row, position])
        fresh = scene.circuit.posterior(scene.known(known).evidence)
        latents = fresh.sample_latents(uniforms=uniforms)
        assert torch.equal(posterior.sample_latents(uniforms=uniforms), latents)
        assert_close(posterior.token_distribution(latents), fresh.token_distribution(latents), **CLOSE)
    assert len(known) > 8


# Latent states


@every_structure
def test_a_row_drawn_with_its_own_uniforms_does_not_depend_on_its_batch(structure: str) -> None:
    scene = make_scene(make_circuit(structure, 4, 5, 6), batch_size=5, absent=0.2, potentials=True)
    posterior = scene.circuit.posterior(scene.evidence)
    uniforms = torch.rand(5, posterior.num_draws, dtype=torch.float64)
    together = posterior.sample_latents(uniforms=uniforms)
    assert together.shape == (5, 6)
    assert torch.equal(posterior.sample_latents(uniforms=uniforms), together)
    for row in range(5):
        alone = scene.circuit.posterior(repeated(scene, row, 1)).sample_latents(uniforms=uniforms[row : row + 1])
        assert torch.equal(alone[0], together[row])
    seeded = [posterior.sample_latents(torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*seeded)


@every_structure
@pytest.mark.parametrize("kind", ["absent", "truncated", "potentials"])
@pytest.mark.parametrize(("block_length", "length"), [(1, 1), (3, 3), (4, 2), (5, 5)])
def test_latent_states_are_drawn_from_their_exact_posterior(
    structure: str, kind: str, block_length: int, length: int
) -> None:
    draws, circuit = 20_000, make_circuit(structure, 2, 3 if length < 5 else 2, block_length, seed=4)
    scene = make_scene(
        circuit,
        batch_size=1,
        length=length,
        seed=1,
        absent=0.5 if kind == "absent" else 0.0,
        top_k=1 if kind == "truncated" else None,
        potentials=kind == "potentials",
    )
    pairs, place = scene.pairs(0), circuit.num_states ** np.arange(length)
    expected = np.bincount(pairs.latents @ place, pairs.mass.sum(0) / pairs.mass.sum(), circuit.num_states**length)
    posterior = circuit.posterior(scene.evidence).rows(torch.zeros(draws, dtype=torch.long))
    latents = posterior.sample_latents(torch.Generator().manual_seed(0))
    counts = (latents * torch.from_numpy(place)).sum(-1).bincount(minlength=len(expected))
    assert_frequencies(counts, expected, draws)


@every_structure
@SETTINGS
@given(data=st.data())
def test_token_distributions_are_those_of_enumeration_given_the_states(structure: str, data: st.DataObject) -> None:
    scene = data.draw(scenes(structure, max_length=3))
    posterior, vocab_size = scene.circuit.posterior(scene.evidence), scene.circuit.vocab_size
    found = {}
    for row in range(scene.shape[0]):
        pairs = scene.pairs(row, absent_tokens=True)
        for path in np.unique(pairs.latents, axis=0):
            mass = pairs.mass[:, (pairs.latents == path).all(1)].sum(1)
            expected = (np.eye(vocab_size)[pairs.sequences] * mass[:, None, None]).sum(0) / mass.sum()
            key = tuple(path)
            if key not in found:
                found[key] = posterior.token_distribution(torch.from_numpy(path).expand(scene.shape))
            assert_close(found[key][row], torch.from_numpy(expected), **CLOSE)


# The circuit that knows nothing


@SETTINGS
@given(data=st.data())
def test_the_factorized_circuit_leaves_the_evidence_as_it_is(data: st.DataObject) -> None:
    scene = dataclasses.replace(data.draw(scenes("factorized")), roles=None)
    circuit, soft = scene.circuit, scene.evidence.soft
    marginals = circuit.posterior(scene.evidence).token_marginals()
    assert_close(marginals[soft], torch.from_numpy(scene.weights)[soft], atol=1e-14, rtol=1e-12)
    tokens = completions(scene)
    for row in range(scene.shape[0]):
        evidence = repeated(scene, row, len(tokens))
        found = circuit.log_joint(tokens, evidence) - circuit.log_partition(evidence)
        assert_close(found, evidence.log_weight(tokens), **CLOSE)


def test_nothing_of_the_factorized_circuit_is_trained() -> None:
    assert not any(p.requires_grad for p in make_circuit("factorized", 1, 4, 3).parameters())


# Files


@every_structure
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_length", [1, 5])
def test_a_saved_circuit_comes_back(tmp_path: Path, structure: str, dtype: torch.dtype, block_length: int) -> None:
    circuit = make_circuit(structure, 3, 4, block_length).to(dtype)
    save_circuit(circuit, tmp_path)
    again = load_circuit(tmp_path)
    assert type(again) is type(circuit) is CIRCUITS[circuit.structure]
    assert again.config() == circuit.config()
    assert {p.dtype for p in again.parameters()} == {dtype}
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in circuit.parameters()]
    tokens = torch.from_numpy(tuples(4, block_length))
    assert torch.equal(again.log_prob(tokens), circuit.log_prob(tokens))
