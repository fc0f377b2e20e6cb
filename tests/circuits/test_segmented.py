"""The HMM that counts sentences: beside an enumeration of its paths, and beside the HMM that it starts as."""

import copy
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from codd_lightning.circuits import (
    HMM,
    CircuitError,
    Context,
    Evidence,
    EvidenceError,
    SegmentedHMM,
    load_circuit,
    save_circuit,
)

from .structures import CLOSE
from .test_contextual import completions, make_evidence

V, L, M, C, D, STOP = 4, 3, 3, 2, 6, 2
OPEN = 1  # of the two states that do not stop


def make(seed: int = 0, fresh: bool = False) -> SegmentedHMM:
    """In float64, with one state of three that stops; unless fresh, with heads that say something."""
    torch.manual_seed(seed)
    circuit = SegmentedHMM(
        M, V, L, D, STOP, OPEN, segments=C, stop_states=1, slots=2, slot_rank=3, latent_width=4, adapter_width=16
    ).double()
    if not fresh:
        with torch.no_grad():
            for name, parameter in circuit.named_parameters():
                if not name.endswith("_logits"):
                    parameter.normal_(0.0, 0.7)
    return circuit


def by_enumeration(circuit: SegmentedHMM, evidence: Evidence, row: int) -> Tensor:
    """`log p̂` of every completion: sums over the states of all positions, whose segment is a count of stops."""
    ready = circuit.prepare(evidence)
    assert ready.latent_potentials is not None
    assert ready.log_emission is not None
    potentials, said = ready.latent_potentials[row].exp(), ready.log_emission[row].exp().view(V, C, -1)
    initial, transition, static = circuit.probabilities()
    closed = static.T[:, None, said.shape[-1] :].expand(-1, C, -1)
    emission = torch.cat([said, closed], -1).flatten(1)
    weights = torch.where(
        evidence.observed[row, :, None], torch.eye(V, dtype=torch.float64)[evidence.tokens[row]], evidence.weights[row]
    )
    found = []
    for tokens in completions().tolist():
        total = torch.zeros((), dtype=torch.float64)
        for path in itertools.product(range(M), repeat=L):
            segment, product = 0, initial[path[0]]
            for i, state in enumerate(path):
                place = segment * M + state
                product = product * potentials[i, place] * emission[tokens[i], place] * weights[i, tokens[i]]
                if i + 1 < L:
                    product = product * transition[state, path[i + 1]]
                segment = min(segment + (state == M - 1), C - 1)
            total = total + product
        found.append(total)
    scores = torch.stack(found).log()
    return scores - scores.logsumexp(0)


def test_the_score_is_a_sum_over_all_paths() -> None:
    circuit, evidence = make(), make_evidence()
    everything = completions()
    for row in range(evidence.batch_size):
        rows = evidence.rows(torch.full((len(everything),), row))
        expected = by_enumeration(circuit, evidence, row)
        assert_close(circuit.log_conditional(everything, rows), expected, **CLOSE)
        assert_close(circuit.log_conditional(everything, evidence.rows(torch.tensor([row]))), expected, **CLOSE)


@pytest.mark.parametrize("gone", [[False, False, True], [False, True, False], [True, False, False]])
def test_positions_that_are_absent_leave_all_paths_through_them(gone: list[bool]) -> None:
    circuit, evidence = make(), make_evidence(known=0.0)
    evidence = dataclasses.replace(evidence, absent=torch.tensor(gone).expand(evidence.batch_size, -1))
    ready = circuit.prepare(evidence)
    assert ready.latent_potentials is not None
    assert ready.log_emission is not None
    initial, transition, static = circuit.probabilities()
    tokens = torch.tensor([[STOP, STOP, STOP], [STOP, 0, STOP], [0, 1, 3]])
    found = circuit.log_joint(tokens, evidence) - evidence.log_weight(tokens)
    for row in range(evidence.batch_size):
        said = ready.log_emission[row].exp().view(V, C, -1)
        emission = torch.cat([said, static.T[:, None, OPEN:].expand(-1, C, -1)], -1)  # (V, C, M)
        potentials = ready.latent_potentials[row].exp().view(L, C, M)
        total = torch.zeros((), dtype=torch.float64)
        for path in itertools.product(range(M), repeat=L):
            segment, product = 0, initial[path[0]]
            for i, state in enumerate(path):
                if not gone[i]:
                    product = product * potentials[i, segment, state] * emission[tokens[row, i], segment, state]
                if i + 1 < L:
                    product = product * transition[state, path[i + 1]]
                segment = min(segment + (state == M - 1), C - 1)
            total = total + product
        assert_close(found[row], total.log(), **CLOSE)


def test_conditionals_multiply_to_the_conditional_likelihood() -> None:
    circuit, evidence = make(), make_evidence()
    everything = completions()
    rows = evidence.rows(torch.zeros(len(everything), dtype=torch.long))
    expected = circuit.log_conditional(everything, rows)
    posterior = circuit.posterior(rows)
    chain = torch.zeros(len(everything), dtype=torch.float64)
    for position in (2, 0, 1):
        where = torch.full((len(everything),), position)
        token = everything[:, position]
        chain += posterior.token_marginals(where).gather(-1, token[:, None]).squeeze(-1).log()
        possible = (chain > -torch.inf).nonzero().squeeze(-1)
        posterior.condition(possible, where[possible], token[possible])
    assert_close(chain, expected, **CLOSE)


def test_marginals_entropy_and_mode_are_those_of_the_paths() -> None:
    circuit, evidence = make(), make_evidence(known=0.0)
    posterior = circuit.posterior(evidence)
    everything = completions()
    for row in range(evidence.batch_size):
        chances = by_enumeration(circuit, evidence, row).exp()
        expected = torch.stack([chances @ (everything == v).double() for v in range(V)], -1)  # (L, V)
        assert_close(posterior.token_marginals()[row], expected, **CLOSE)
        assert_close(posterior.rows(torch.tensor([row])).token_marginals()[0], expected, **CLOSE)
    mode = posterior.mode()
    # the joint of states and tokens has as much entropy as a chain of its conditionals
    states = posterior.state_marginals()
    assert states.shape == (3, L, C * M)
    draws = posterior.sample_latents(uniforms=torch.rand(3, posterior.num_draws, dtype=torch.float64))
    assert_close(posterior.token_distribution(draws).sum(-1), torch.ones(3, L, dtype=torch.float64), **CLOSE)
    assert (posterior.entropy() >= -(mode.log_prob.exp() * mode.log_prob)).all()
    assert (circuit.log_conditional(mode.tokens, evidence) >= mode.log_prob - 1e-9).all()


def test_copies_are_told_apart_by_stops_alone() -> None:
    circuit = make()
    known = torch.tensor([[STOP, 0, STOP], [0, 1, 3], [0, STOP, 1]])
    evidence = make_evidence()
    posterior = circuit.posterior(dataclasses.replace(evidence, tokens=known, observed=torch.ones(3, L).bool()))
    of_second = posterior.state_marginals().unflatten(-1, (C, M))[:, :, 1].sum(-1)
    assert_close(of_second, torch.tensor([[0.0, 1, 1], [0, 0, 0], [0, 0, 1]]).double(), **CLOSE)


def test_at_the_start_it_is_the_hmm_of_one_copy() -> None:
    circuit, evidence = make(fresh=True), make_evidence()
    static = HMM(M, V, L).double()
    with torch.no_grad():
        static.initial_logits.copy_(circuit.initial_logits)
        static.transition_logits.copy_(circuit.transition_logits)
        static.emission_logits.copy_(circuit._logits("emission"))
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    bare = dataclasses.replace(evidence, context=None)
    assert_close(circuit.log_conditional(tokens, evidence), static.log_conditional(tokens, bare), **CLOSE)
    assert_close(circuit.log_conditional(tokens, bare), static.log_conditional(tokens, bare), **CLOSE)
    assert_close(circuit.log_prob(tokens), static.log_prob(tokens), **CLOSE)
    for name, count in circuit.expected_counts(evidence).items():
        assert_close(count, static.expected_counts(bare)[name], **CLOSE)
    moved = make()
    assert (moved.log_conditional(tokens, evidence) - moved.log_conditional(tokens, bare)).abs().max() > 0.01


def test_padding_before_a_block_says_nothing_and_the_order_of_what_is_there_does() -> None:
    circuit, evidence = make(), make_evidence()
    context = evidence.context
    assert context is not None
    assert context.before is not None
    assert context.present is not None
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    expected = circuit.log_conditional(tokens, evidence)
    wider = Context(
        context.hidden,
        torch.cat([torch.full_like(context.before[:, :2], 50.0), context.before], 1),
        torch.cat([torch.zeros_like(context.present[:, :2]), context.present], 1),
    )
    padded = dataclasses.replace(evidence, context=wider)
    assert_close(circuit.log_conditional(tokens, padded), expected, **CLOSE)
    turned = torch.where(context.present[..., None], context.before, 0.0).flip(1)
    everywhere = Context(context.hidden, turned, context.present.flip(1))
    found = circuit.log_conditional(tokens, dataclasses.replace(evidence, context=everywhere))
    assert (found - expected).abs().max() > 1e-4


def test_every_parameter_has_the_gradient_of_finite_differences() -> None:
    circuit, evidence = make(), make_evidence(batch_size=2)
    tokens = torch.where(evidence.observed, evidence.tokens, 1)

    def score(*_: Tensor) -> Tensor:  # gradcheck changes parameters in place
        circuit._cache = None
        return circuit.log_conditional(tokens, evidence)

    assert gradcheck(score, tuple(circuit.parameters()), fast_mode=True)


def test_copies_that_known_tokens_rule_out_do_not_swamp_the_others() -> None:
    torch.manual_seed(0)
    length, segments = 32, 4
    circuit = SegmentedHMM(6, V, length, D, STOP, segments=segments, stop_states=1)
    with torch.no_grad():  # e^192 in favour of sentences that no stop has led to
        circuit.latent_potentials[2].bias.view(segments, 6)[1:] += 6.0
    hidden = torch.randn(2, length, D)
    context = Context(hidden, torch.randn(2, 3, D), torch.ones(2, 3, dtype=torch.bool))
    masked = torch.full((2, length), V)
    evidence = Evidence.from_logits(torch.zeros(2, length, V), masked, V, context=context)
    tokens = torch.zeros_like(masked)
    (-circuit.log_conditional(tokens, evidence).sum()).backward()
    narrow = {name: p.grad for name, p in circuit.named_parameters()}
    wide = copy.deepcopy(circuit).double()
    wide.zero_grad()
    exact = dataclasses.replace(
        evidence,
        weights=evidence.weights.double(),
        context=Context(hidden.double(), context.before.double(), context.present),  # type: ignore[union-attr]
    )
    (-wide.log_conditional(tokens, exact).sum()).backward()
    for name, parameter in wide.named_parameters():
        assert parameter.grad is not None
        assert_close(narrow[name].double(), parameter.grad, rtol=1e-3, atol=1e-3 * float(parameter.grad.abs().max()))
    known = torch.ones(2, length, dtype=torch.bool)
    states = circuit.posterior(circuit.prepare(evidence).clamp(tokens, known)).state_marginals()
    expected = wide.posterior(wide.prepare(exact).clamp(tokens, known)).state_marginals()
    assert_close(states.double(), expected, rtol=1e-3, atol=1e-5)


def test_counts_of_prepared_evidence_are_those_of_the_static_part() -> None:
    circuit, evidence = make(), make_evidence()
    plain = circuit.expected_counts(evidence)
    for name, count in circuit.expected_counts(circuit.prepare(evidence)).items():
        assert_close(count, plain[name], **CLOSE)


def test_those_states_are_open_that_say_the_most_nats() -> None:
    torch.manual_seed(0)
    circuit = SegmentedHMM(5, V, L, D, STOP, 2, segments=C, stop_states=1, slots=2, slot_rank=3, latent_width=4)
    with torch.no_grad():
        for parameter in circuit.parameters():
            parameter.normal_()
    before, shares = circuit.probabilities(), circuit.shares.detach().clone()
    said = torch.tensor([[90, 1, 0, 0], [5, 5, 0, 5], [0, 0, 0, 0], [40, 0, 0, 39], [0, 0, 99, 0]]).float()
    order = torch.tensor([3, 1, 0, 2, 4])  # 79 ln 2, 15 ln 3, 91 tokens of hardly any entropy, none, and the stop
    assert torch.equal(circuit.arranged(said), order)
    with torch.no_grad():
        circuit.take_states(order)
    initial, transition, emission = circuit.probabilities()
    assert_close(initial, before[0][order])
    assert_close(transition, before[1][order][:, order])
    assert_close(emission, before[2][order])
    nothing = torch.zeros(2)
    assert_close(circuit.shares.detach(), torch.stack([nothing, shares[1], shares[0], nothing]))


def test_a_state_that_opens_says_what_it_said() -> None:
    circuit, evidence = make(), make_evidence()
    static = circuit.probabilities()[2].T[:, 1]  # of the state that is closed
    with torch.no_grad():
        circuit.take_states(torch.tensor([1, 0, 2]))
    said = circuit.prepare(evidence).log_emission
    assert said is not None
    assert_close(said.detach().exp().view(len(said), V, C), static.view(1, V, 1).expand(len(said), V, C))


def test_before_heads_say_anything_every_state_keeps_its_random_share() -> None:
    circuit = make(fresh=True)
    shares = circuit.shares.detach().clone()
    with torch.no_grad():
        circuit.take_states(torch.tensor([1, 0, 2]))
    assert_close(circuit.shares.detach(), shares[[1, 0]])
    assert (shares != 0).all()


def test_where_all_are_open_they_stay_in_their_places() -> None:
    circuit = SegmentedHMM(5, V, L, D, STOP, segments=C, stop_states=1, slots=2, slot_rank=3, latent_width=4)
    before = copy.deepcopy(circuit.state_dict())
    with torch.no_grad():
        circuit.take_states(circuit.arranged(torch.rand(5, V)))
    assert_close(circuit.state_dict(), before, rtol=0.0, atol=0.0)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    circuit, evidence = make().float(), make_evidence()
    save_circuit(circuit, tmp_path / "circuit")
    again = load_circuit(tmp_path / "circuit")
    assert isinstance(again, SegmentedHMM)
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    context = evidence.context
    assert context is not None
    narrow = Context(context.hidden.float(), context.before.float(), context.present)  # type: ignore[union-attr]
    single = dataclasses.replace(evidence, weights=evidence.weights.float(), context=narrow)
    assert torch.equal(again.log_conditional(tokens, single), circuit.log_conditional(tokens, single))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"segments": 0}, "segments must be a whole number of at least 1, not 0"),
        ({"stop_states": 2.5}, r"stop_states must be a whole number of at least 1, not 2\.5"),
        ({"stop_token": True}, "stop_token must be a whole number of at least 0, not True"),
        ({"stop_states": 3}, "stop_states=3 must be fewer than num_states=3"),
        ({"open_states": 3}, "open_states=3 and stop_states=1 are more than num_states=3 together"),
        ({"stop_token": 4}, "stop_token=4 lies outside the vocabulary of 4"),
        ({"adapter_width": 20}, "adapter_width=20 must be a multiple of 16"),
    ],
)
def test_sizes_out_of_range_are_named(options: dict[str, Any], said: str) -> None:
    sizes = {
        "num_states": M,
        "vocab_size": V,
        "block_length": L,
        "hidden_size": D,
        "stop_token": STOP,
        "stop_states": 1,
    }
    with pytest.raises(CircuitError, match=said):
        SegmentedHMM(**{**sizes, **options})


def test_evidence_that_does_not_fit_is_named() -> None:
    circuit = make()
    with pytest.raises(EvidenceError, match="reads whole distributions: leave out top_k"):
        circuit.prepare(make_evidence(top_k=2))
