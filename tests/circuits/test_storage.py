"""A circuit stored in bfloat16 answers as the float32 circuit of the same parameters, up to its rounding."""

import copy

import pytest
import torch

from codd_lightning.circuits import Circuit, Evidence, load_circuit, save_circuit
from codd_lightning.circuits import tables as tables_module

from .structures import STRUCTURES

LENGTH, VOCAB, MASK = 6, 40, 39
ROUNDING = 2**-8  # of one number in bfloat16


@pytest.fixture(params=STRUCTURES)
def stored(request: pytest.FixtureRequest) -> Circuit:
    torch.manual_seed(3)
    return STRUCTURES[request.param](5, VOCAB, LENGTH).to(torch.bfloat16).requires_grad_(False)


@pytest.fixture(params=[None, 8], ids=["dense", "top_k"])
def evidence(request: pytest.FixtureRequest) -> Evidence:
    generator = torch.Generator().manual_seed(4)
    tokens = torch.full((3, LENGTH), MASK)
    tokens[:, 1] = 7
    logits = 2 * torch.randn(3, LENGTH, VOCAB, generator=generator)
    return Evidence.from_logits(logits, tokens, MASK, top_k=request.param)


def test_sums_are_taken_in_float32(stored: Circuit, evidence: Evidence, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables_module, "CHUNK", 64)  # several parts even here
    exact = copy.deepcopy(stored).float()
    tokens = torch.randint(0, VOCAB - 1, (3, LENGTH), generator=torch.Generator().manual_seed(5))
    tokens[:, 1] = 7
    tolerance = ROUNDING * LENGTH
    for found, expected in (
        (stored.log_partition(evidence), exact.log_partition(evidence)),
        (stored.log_joint(tokens, evidence), exact.log_joint(tokens, evidence)),
        (stored.log_prob(tokens), exact.log_prob(tokens)),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=0)
    here, there = stored.posterior(evidence), exact.posterior(evidence)
    torch.testing.assert_close(here.token_marginals(), there.token_marginals(), atol=tolerance, rtol=0)
    torch.testing.assert_close(here.entropy(), there.entropy(), atol=2 * tolerance, rtol=0)
    torch.testing.assert_close(here.mode().log_prob, there.mode().log_prob, atol=tolerance, rtol=0)
    here.condition(0, 2, 3)
    there.condition(0, 2, 3)
    positions = torch.tensor([3, 0, 5])
    torch.testing.assert_close(
        here.token_marginals(positions), there.token_marginals(positions), atol=tolerance, rtol=0
    )


def test_counts_and_gradients_are_those_of_float32(stored: Circuit, evidence: Evidence) -> None:
    exact = copy.deepcopy(stored).float()
    for name, count in stored.expected_counts(evidence).items():
        torch.testing.assert_close(count, exact.expected_counts(evidence)[name], atol=1e-5, rtol=1e-5)
    for circuit in (stored, exact):
        circuit.requires_grad_()
        circuit.log_partition(evidence).sum().backward()
    for one, other in zip(stored.parameters(), exact.parameters(), strict=True):
        if other.grad is not None and one.grad is not None:
            torch.testing.assert_close(one.grad.float(), other.grad, atol=1e-6, rtol=2 * ROUNDING)


def test_files_keep_the_storage_type(stored: Circuit, tmp_path) -> None:
    save_circuit(stored, tmp_path)
    assert {p.dtype for p in load_circuit(tmp_path).parameters()} <= {torch.bfloat16}
