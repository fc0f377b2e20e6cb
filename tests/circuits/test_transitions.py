"""Products with transitions: the packed kernel against plain matrix products."""

import pytest
import torch

from codd_lightning.circuits import HMM, Evidence
from codd_lightning.circuits import transitions as module
from codd_lightning.circuits.bank import BankTransitions
from codd_lightning.circuits.segments import SegmentTransitions
from codd_lightning.circuits.transitions import Transitions


@pytest.mark.parametrize("num_states", [7, 256, 300])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_both_directions_are_matrix_products(num_states: int, batch_size: int) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(1, num_states, num_states, generator=generator).softmax(-1)
    messages = torch.rand(batch_size, num_states, generator=generator)
    transitions = Transitions(table)
    exact = table[0].double()
    forward, backward = transitions.forward(messages, 3), transitions.backward(messages, 3)
    torch.testing.assert_close(forward.double(), messages.double() @ exact, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(backward.double(), messages.double() @ exact.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(transitions.log_incoming(0), table[0].log().T)


@pytest.mark.parametrize("num_states", [7, 256])
@pytest.mark.parametrize("kind", ["segments", "bank"])
def test_transitions_of_many_states_are_products_with_the_dense_table_that_they_stand_for(
    kind: str, num_states: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    table = torch.rand(1 if kind == "segments" else 3, num_states, num_states, generator=generator).softmax(-1)
    transitions = SegmentTransitions(table, 3, 2) if kind == "segments" else BankTransitions(table)
    messages, outgoing = torch.rand(2, 2, 5, 3 * num_states, generator=generator)
    dense = transitions.step(0)
    torch.testing.assert_close(transitions.forward(messages[0], 0), messages[0] @ dense, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(transitions.backward(messages[0], 0), messages[0] @ dense.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(transitions.incoming(1), dense.T)
    leaf = table.clone().requires_grad_()
    used = SegmentTransitions(leaf, 3, 2) if kind == "segments" else BankTransitions(leaf)
    (torch.einsum("sbi,ij,sbj->", messages, used.step(0), outgoing)).backward()
    total = torch.zeros_like(table)
    transitions.add_gradient(total, messages, outgoing, slice(0, 2))
    torch.testing.assert_close(total, leaf.grad, atol=1e-4, rtol=1e-4)


def test_an_hmm_answers_alike_by_either_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    hmm = HMM(256, 30, 9)
    logits = torch.randn(4, 9, 30)
    evidence = Evidence.from_logits(logits, torch.full((4, 9), 30), 30)

    def answers() -> tuple[torch.Tensor, ...]:
        hmm.zero_grad()
        log_z = hmm.log_partition(evidence)
        log_z.sum().backward()
        gradients = [p.grad.clone() for p in hmm.parameters() if p.grad is not None]
        return (log_z.detach(), hmm.posterior(evidence).token_marginals(), *gradients)

    packed = answers()
    monkeypatch.setattr(module, "STATES_WORTH_PACKING", 10**9)
    hmm._cache = None
    for one, other in zip(packed, answers(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-4)
