"""Paths that forget are copied: what the circuit then says of a text that needs memory, and of one that needs none."""

import dataclasses
import itertools
import math

import pytest
import torch
from torch.testing import assert_close

from codd_lightning.circuits import (
    HMM,
    CircuitError,
    ContextualHMM,
    Evidence,
    Seen,
    SegmentedHMM,
    Traces,
    split_forgetful_states,
)
from codd_lightning.circuits.forgetting import first_direction

from .structures import CLOSE
from .test_contextual import make_evidence

COUNT, NUMBER, OF, RISES, GROWS, UNUSED = range(6)
LENGTH = 3
SPARE = 6


@torch.no_grad()
def blank(num_states: int, vocab_size: int, block_length: int) -> HMM:
    """Says nothing yet: all its logits are alike, and small beside those that follow."""
    circuit = HMM(num_states, vocab_size, block_length)
    for table in circuit.parameters():
        table.fill_(-20.0)
    return circuit


def twins(spare: int = SPARE) -> HMM:
    """Says "count of rises", "number of grows" and both mixtures: one state for each position, and spare ones."""
    states = 3 + spare
    circuit = blank(states, 6, LENGTH)
    with torch.no_grad():
        circuit.initial_logits[0] = 0.0
        for state in range(states):
            circuit.transition_logits[0, state, min(state + 1, 2) if state < 3 else 0] = 0.0
        for state, tokens in enumerate(((COUNT, NUMBER), (OF,), (RISES, GROWS))):
            circuit.emission_logits[0, list(tokens), state] = 0.0
        circuit.emission_logits[0, UNUSED, 3:] = 0.0
    return circuit


def text(mixed: bool = False, size: int = 400) -> torch.Tensor:
    """As many of each; mixed or not."""
    sentences = [[COUNT, OF, RISES], [NUMBER, OF, GROWS], [COUNT, OF, GROWS], [NUMBER, OF, RISES]]
    kinds = torch.tensor(sentences[: 4 if mixed else 2])
    return kinds.repeat(size // len(kinds), 1)


def traces_of(circuit: HMM | Seen, tokens: torch.Tensor) -> Traces:
    nothing = Evidence.nothing_known(len(tokens), tokens.shape[1], circuit.vocab_size)
    batches = [(part, nothing.rows(torch.arange(len(part)))) for part in tokens.split(150)]
    return Traces.of(circuit, batches, torch.Generator().manual_seed(0))


@torch.no_grad()
def said_by(circuit: HMM | Seen, tokens: torch.Tensor) -> torch.Tensor:
    return circuit.log_prob(tokens)


def test_what_a_state_lets_expect_is_what_paths_through_it_say() -> None:
    torch.manual_seed(0)
    circuit = HMM(3, 4, LENGTH).double()
    logits = torch.randn(1, LENGTH, 4, dtype=torch.float64)
    evidence = Evidence.from_logits(logits, torch.full((1, LENGTH), 4), mask_token_id=4)
    weights = logits.softmax(-1)
    initial, transition, emission = circuit.probabilities()
    latents = torch.tensor([[2, 1, 0]])
    of_states, of_tokens = circuit.expected_after(evidence, latents)
    for position in range(LENGTH):
        expected, expected_states = (torch.zeros(size, dtype=torch.float64) for size in (4, 3))
        for path in itertools.product(range(3), repeat=LENGTH):
            if position and path[position - 1] != latents[0, position - 1]:
                continue
            for tokens in itertools.product(range(4), repeat=LENGTH):
                # what is before the position is a factor of all its tokens alike, given the state there
                here = initial[path[0]] if not position else 1.0
                for i in range(LENGTH - 1):
                    here = here * transition[path[i], path[i + 1]]
                for i in range(LENGTH):
                    here = here * emission[path[i], tokens[i]] * weights[0, i, tokens[i]]
                expected[tokens[position]] += here
                expected_states[path[position]] += here
        assert_close(of_tokens[0, position], expected / expected.sum(), **CLOSE)
        assert_close(of_states[0, position], expected_states / expected_states.sum(), **CLOSE)


@pytest.mark.parametrize("knows", [True, False])
def test_traces_of_a_bank_are_of_its_states_whether_evidence_has_a_context_or_not(knows: bool) -> None:
    torch.manual_seed(0)
    circuit = ContextualHMM(4, 4, 3, 6, latent="none", roles=0, adapter_width=0, transition_bank=3).double()
    with torch.no_grad():  # each state says a token of its own
        circuit.emission_logits[0].copy_(30.0 * torch.eye(4))
    evidence = make_evidence(known=0.0, batch_size=8)
    if not knows:
        evidence = dataclasses.replace(evidence, context=None)
    tokens = torch.arange(24).view(8, 3) % 4
    traces = Traces.of(circuit, [(tokens, evidence)], torch.Generator().manual_seed(0))
    assert torch.equal(traces.states, tokens)


def test_what_a_path_forgot_it_remembers_by_copies() -> None:
    circuit, tokens = twins(), text()
    before = said_by(circuit, tokens)
    assert_close(before, torch.full_like(before, -2 * math.log(2)), atol=0.01, rtol=0.0)
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 3  # of all three states
    after = said_by(circuit, tokens)
    assert_close(after, torch.full_like(after, -math.log(2)), atol=0.05, rtol=0.0)
    assert bool((said_by(circuit, text(mixed=True)[2:4]) < -3.5).all())


def test_what_a_path_forgot_it_remembers_where_only_states_tell() -> None:
    """Two states say the same token, and only what they lead to differs: the state before them forgets which it is."""
    count, number, of, five, rises, grows, unused = range(7)
    circuit = blank(11, 7, 4)
    with torch.no_grad():
        circuit.initial_logits[0] = 0.0
        for state, tokens in enumerate(((count, number), (of,), (five,), (five,), (rises,), (grows,))):
            circuit.emission_logits[0, list(tokens), state] = 0.0
        for state, following in ((0, 1), (1, 2), (1, 3), (2, 4), (3, 5), (4, 4), (5, 5)):
            circuit.transition_logits[0, state, following] = 0.0
        circuit.transition_logits[0, 6:, 0] = 0.0
        circuit.emission_logits[0, unused, 6:] = 0.0
    tokens = torch.tensor([[count, of, five, rises], [number, of, five, grows]]).repeat(200, 1)
    mixed = torch.tensor([[count, of, five, grows]])
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 2  # of the first two states
    assert_close(said_by(circuit, tokens), torch.full((400,), -math.log(2)), atol=0.05, rtol=0.0)
    assert float(said_by(circuit, mixed)) < -3.5


def test_what_is_forgotten_by_the_state_that_says_it_takes_one_copy() -> None:
    """Two states tell what came first, and lead to one that says the token of either after both."""
    gets, makes, has, equals, five, unused = range(6)
    circuit = blank(9, 6, LENGTH)
    with torch.no_grad():
        circuit.initial_logits[:2] = 0.0
        for state, tokens in enumerate(((gets,), (makes,), (has, equals), (five,))):
            circuit.emission_logits[0, list(tokens), state] = 0.0
        for state, following in ((0, 2), (1, 2), (2, 3), (3, 3)):
            circuit.transition_logits[0, state, following] = 0.0
        circuit.transition_logits[0, 4:, 0] = 0.0
        circuit.emission_logits[0, unused, 4:] = 0.0
    tokens = torch.tensor([[gets, has, five], [makes, equals, five]]).repeat(200, 1)
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 1
    assert_close(said_by(circuit, tokens), torch.full((400,), -math.log(2)), atol=0.05, rtol=0.0)
    assert float(said_by(circuit, torch.tensor([[gets, equals, five]]))) < -3.5


def test_what_chance_gives_is_nothing_that_is_forgotten() -> None:
    """Tokens of which none depends on another: the best of many divisions gains, but no more than others would."""
    circuit = blank(31, 24, LENGTH)
    with torch.no_grad():
        circuit.initial_logits[0] = 0.0
        circuit.transition_logits[0, :, 0] = 0.0
        circuit.emission_logits[0] = 0.0
    for seed in range(5):
        tokens = torch.randint(24, (1500, LENGTH), generator=torch.Generator().manual_seed(seed))
        assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 0


def test_chance_gives_little_to_few_tokens_before_and_much_to_many_after() -> None:
    """Two tokens, then one of a hundred, then two again, all independent: nothing is forgotten."""
    circuit = blank(8, 103, LENGTH)
    with torch.no_grad():
        circuit.initial_logits[0] = 0.0
        for state, following in ((0, 1), (1, 2), (2, 2)):
            circuit.transition_logits[0, state, following] = 0.0
        circuit.emission_logits[0, :2, 0] = 0.0
        circuit.emission_logits[0, 2:102, 1] = 0.0
        circuit.emission_logits[0, :2, 2] = 0.0
        circuit.emission_logits[0, 102, 3:] = 0.0
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        columns = [torch.randint(*bounds, (2000,), generator=generator) for bounds in ((0, 2), (2, 102), (0, 2))]
        assert split_forgetful_states(circuit, traces_of(circuit, torch.stack(columns, 1))) == 0


def test_where_nothing_can_follow_nothing_is_expected() -> None:
    """The state stays what it is, and the evidence excludes its token at the second position."""
    circuit = HMM.from_probabilities(torch.tensor([0.5, 0.5]), torch.eye(2), torch.eye(2), block_length=2)
    logits = torch.tensor([[[0.0, 0.0], [-math.inf, 0.0]]])
    evidence = Evidence.from_logits(logits, torch.full((1, 2), 2), mask_token_id=2)
    for expected in circuit.expected_after(evidence, torch.zeros(1, 2, dtype=torch.long)):
        assert torch.equal(expected[0, 1], torch.zeros(2))


def test_nothing_changes_where_nothing_is_forgotten() -> None:
    circuit, tokens = twins(), text(mixed=True)
    before = {name: table.clone() for name, table in circuit.state_dict().items()}
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 0
    assert all(torch.equal(table, before[name]) for name, table in circuit.state_dict().items())


@pytest.mark.parametrize("spare", [0, 4])
def test_where_states_are_not_free_for_the_whole_path_it_stays(spare: int) -> None:
    circuit, tokens = twins(spare), text()
    before = said_by(circuit, tokens)
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 0
    assert torch.equal(said_by(circuit, tokens), before)


def test_the_group_whose_path_takes_fewer_copies_is_led_through_them() -> None:
    """One free state: enough for what always leads here, not for what comes by a state that leads elsewhere too."""
    than, comma, number, word, is_, less, other, unused = range(8)
    circuit = blank(9, 8, LENGTH)  # the first seven states say a token each
    with torch.no_grad():
        circuit.emission_logits[0, range(7), range(7)] = 0.0
        circuit.emission_logits[0, unused, 7:] = 0.0
        circuit.initial_logits[[than, comma]] = torch.tensor([200.0, 60.0]).log()
        for state, following in ((than, number), (comma, number), (comma, word), (word, other), (other, other)):
            circuit.transition_logits[0, state, following] = 0.0
        circuit.transition_logits[0, number, [is_, less]] = torch.tensor([200.0, 30.0]).log()
        circuit.transition_logits[0, [is_, less, 7, 8], other] = 0.0
    kinds = torch.tensor([[than, number, is_], [comma, number, less], [comma, word, other]])
    tokens = kinds.repeat_interleave(torch.tensor([800, 120, 120]), 0)
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 1
    expected = torch.tensor([200 / 260, 30 / 260, 30 / 260]).log()
    assert_close(said_by(circuit, kinds), expected, atol=0.15, rtol=0.0)


def test_what_evidence_knows_is_not_forgotten() -> None:
    circuit, tokens = twins(), text()
    known = Evidence.nothing_known(len(tokens), LENGTH, 6).clamp(tokens, torch.ones_like(tokens, dtype=torch.bool))
    traces = Traces.of(circuit, [(tokens, known)], torch.Generator().manual_seed(0))
    assert split_forgetful_states(circuit, traces) == 0


def test_a_core_with_a_vocabulary_of_its_own_is_split_by_that() -> None:
    tokens = text()
    circuit = Seen(twins(), 8, [3, 4, 5, 6, 7])
    outer = tokens + 3
    before = said_by(circuit, outer)
    core = circuit.core
    assert isinstance(core, HMM)
    assert split_forgetful_states(core, traces_of(circuit, outer)) == 3
    assert_close(said_by(circuit, outer), before + math.log(2), atol=0.05, rtol=0.0)


@pytest.mark.parametrize("kind", ["hmm", "linear", "mlp", "bank", "segmented"])
def test_the_parameters_by_state_are_all_that_belong_to_states(kind: str) -> None:
    """Renaming states by them, and the columns of the transitions, changes nothing that the circuit says."""
    torch.manual_seed(0)
    circuit: HMM
    if kind == "hmm":
        circuit = HMM(4, 4, 3)
    elif kind == "segmented":
        circuit = SegmentedHMM(4, 4, 3, 6, 2, 3, segments=2, stop_states=1, slots=2, slot_rank=3, latent_width=4)
    elif kind == "bank":
        circuit = ContextualHMM(4, 4, 3, 6, latent="linear", roles=0, adapter_width=0, transition_bank=2)
    else:
        circuit = ContextualHMM(4, 4, 3, 6, latent=kind, roles=0, adapter_width=0)
    circuit = circuit.double()
    with torch.no_grad():
        for parameter in circuit.parameters():
            parameter.normal_()
    evidence = make_evidence()
    if kind == "hmm":
        evidence = Evidence.nothing_known(2, 3, 4, dtype=torch.float64)
    before = circuit.log_partition(evidence).detach()
    order = torch.tensor([2, 0, 1, 3])
    with torch.no_grad():
        circuit.take_states(order)
    assert_close(circuit.log_partition(evidence).detach(), before, **CLOSE)


def test_states_that_stop_are_copied_among_themselves() -> None:
    torch.manual_seed(0)
    circuit = SegmentedHMM(12, 6, LENGTH, 6, OF, 10, segments=2, stop_states=2, slots=2, latent_width=4)
    plain = twins(spare=9)
    order = torch.tensor([0, *range(2, 11), 1, 11])  # the state that says "of" is one that stops
    with torch.no_grad():
        circuit.initial_logits.copy_(plain.initial_logits[order])
        circuit.transition_logits.copy_(plain.transition_logits[:, order][:, :, order])
        circuit.emission_logits.copy_(plain.emission_logits[:, :, order])
    tokens = text()
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 3
    emission = circuit.probabilities()[2]
    assert_close(emission[:, OF], torch.tensor([0.0] * 10 + [1.0] * 2))
    after = said_by(circuit, tokens)
    assert_close(after, torch.full_like(after, -math.log(2)), atol=0.05, rtol=0.0)


def test_once_states_are_split_those_are_open_that_say_the_most() -> None:
    torch.manual_seed(0)
    circuit = SegmentedHMM(12, 6, LENGTH, 6, OF, 2, segments=2, stop_states=1, slots=2, latent_width=4)
    plain = twins(spare=9)
    order = torch.tensor([*range(3, 12), 0, 2, 1])  # those that say two things each are closed
    with torch.no_grad():
        circuit.initial_logits.copy_(plain.initial_logits[order])
        circuit.transition_logits.copy_(plain.transition_logits[:, order][:, :, order])
        circuit.emission_logits.copy_(plain.emission_logits[:, :, order])
    tokens = text(mixed=True)
    before = said_by(circuit, tokens)
    assert split_forgetful_states(circuit, traces_of(circuit, tokens)) == 0
    assert_close(said_by(circuit, tokens), before)
    says = circuit.probabilities()[2]
    half = torch.tensor(0.5)
    assert_close(torch.stack([says[0, COUNT], says[0, NUMBER], says[1, RISES], says[1, GROWS]]), half.expand(4))


def test_states_that_differ_by_position_are_refused() -> None:
    circuit = HMM(4, 6, LENGTH, homogeneous=False)
    with pytest.raises(CircuitError, match="use homogeneous=true"):
        split_forgetful_states(circuit, traces_of(twins(), text()))


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_the_direction_of_the_largest_eigenvalue_is_that_of_float64(scale: float) -> None:
    residual = torch.randn(20, 9, 30) * scale
    gram = residual.mT @ residual
    exact = torch.linalg.eigh(gram.double())
    apart = exact.eigenvalues[:, -2] < 0.98 * exact.eigenvalues[:, -1]
    assert apart.sum() > 10
    found = first_direction(gram)
    found = found / found.norm(dim=-1, keepdim=True)
    cosine = (found.double() * exact.eigenvectors[..., -1]).sum(-1).abs()[apart]
    assert_close(cosine, torch.ones_like(cosine), rtol=0, atol=1e-5)


def test_where_nothing_is_left_over_there_is_no_direction() -> None:
    assert first_direction(torch.zeros(2, 3, 3)).abs().max() == 0.0
