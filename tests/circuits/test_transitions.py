"""Products with transitions: the packed kernel against plain matrix products."""

import pytest
import torch

from codd_lightning.circuits import HMM, Evidence
from codd_lightning.circuits import transitions as module
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
