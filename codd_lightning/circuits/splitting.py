"""Dead states put to use: each becomes half of a busy one."""

import torch
from torch import Tensor
from torch.nn import functional as F

from codd_lightning.circuits.errors import CircuitError
from codd_lightning.circuits.hmm import HMM
from codd_lightning.circuits.scaling import entropy_of

DEAD = 100  # a state of a usage below 1 / (DEAD · N) is dead
NOISE = 0.3  # standard deviation between the logits of the halves, so that they can grow apart
SHARES = 3.0  # of the logits by which the halves share what leads to them: few sources lead to both alike


@torch.no_grad()
def split_dead_states(circuit: HMM, usage: Tensor, generator: torch.Generator) -> int:
    """Makes each dead state a copy of a busy one, which it shares incoming transitions with; in place.

    The busiest by `usage · (H(transition) + H(emission))` are split first, each at most once and by dead states of its
    own group, so that the circuit's distribution changes by the noise between the halves alone. It is how an HMM that
    left states behind early gets the use of them (state splitting: Ostendorf & Singer, 1997).

    Args:
        circuit: homogeneous.
        usage: `(N,)`, expected share of positions that each state emits.
        generator: of the noise, on the CPU.

    Returns:
        How many were split.

    Raises:
        CircuitError: the circuit has emissions of its own for each position.
    """
    if not circuit.homogeneous:
        raise CircuitError("states that differ by position are not split: use homogeneous=true")
    emission, transition = circuit.emission_logits.detach()[0], circuit.transition_logits.detach()[0]
    initial = circuit.initial_logits.detach()
    spread = entropy_of(transition.softmax(-1)) + entropy_of(emission.T.softmax(-1))  # (N,)
    score = usage.to(spread) / usage.sum() * spread
    dead = usage < usage.sum() / (DEAD * circuit.num_states)
    split = 0
    for group in circuit.state_groups:
        group = group.to(usage.device)
        gone, busy = group[dead[group]], group[~dead[group]]
        busy = busy[score[busy].argsort(descending=True)][: len(gone)]
        gone = gone[: len(busy)]
        if not len(gone):
            continue

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator).to(emission)

        share = SHARES * draw(circuit.num_states + 1, len(gone))  # the last is that of the initial distribution
        stays, goes = F.logsigmoid(share), F.logsigmoid(-share)
        emission[:, gone] = emission[:, busy] + NOISE * draw(circuit.vocab_size, len(gone))
        transition[:, gone] = transition[:, busy] + goes[:-1]
        transition[:, busy] += stays[:-1]
        transition[gone] = transition[busy] + NOISE * draw(len(gone), circuit.num_states)
        initial[gone] = initial[busy] + goes[-1]
        initial[busy] += stays[-1]
        split += len(gone)
    return split
