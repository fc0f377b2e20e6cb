"""Circuits that know the context, by enumeration and beside the circuit that knows none."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.testing import assert_close

from codd_lightning.circuits import (
    HMM,
    CircuitError,
    Context,
    ContextualHMM,
    Evidence,
    EvidenceError,
    Reads,
    load_circuit,
    save_circuit,
)

from .structures import CLOSE

V, L, N, D, S = 4, 3, 4, 6, 5
VARIANTS = {
    "linear": {"latent": "linear", "roles": 0, "adapter_width": 0},
    "low_rank": {"latent": "low_rank", "latent_width": 2, "roles": 0, "adapter_width": 0},
    "mlp": {"latent": "mlp", "roles": 0, "adapter_width": 0},
    "roles": {"latent": "none", "roles": 2, "role_rank": 3, "adapter_width": 0},
    "bank": {"latent": "none", "roles": 0, "adapter_width": 0, "transition_bank": 3, "transition_rank": 2},
    "roles and bank": {"latent": "linear", "roles": 2, "adapter_width": 0, "transition_bank": 2, "transition_rank": 1},
    "everything": {"latent": "mlp", "roles": 4, "role_rank": 3, "adapter_width": 16, "adapter_layers": 2},
}
every_variant = pytest.mark.parametrize("variant", VARIANTS)


def make_contextual(variant: str, seed: int = 0, fresh: bool = False) -> ContextualHMM:
    """A circuit in float64; unless fresh, with heads that say something."""
    torch.manual_seed(seed)
    circuit = ContextualHMM(N, V, L, D, **VARIANTS[variant]).double()  # type: ignore[arg-type]
    if not fresh:
        with torch.no_grad():
            for name, parameter in circuit.named_parameters():
                if not name.endswith("_logits"):
                    parameter.normal_(0.0, 0.7)
    return circuit


def make_evidence(top_k: int | None = None, known: float = 0.3, batch_size: int = 3, seed: int = 0) -> Evidence:
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    tokens = torch.randint(V, (batch_size, L), generator=generator)
    tokens = tokens.masked_fill(torch.rand(batch_size, L, generator=generator) >= known, V)
    present = torch.arange(S) >= torch.tensor([0, 2, 4] * batch_size)[:batch_size, None]
    context = Context(randn(batch_size, L, D), randn(batch_size, S, D), present)
    return Evidence.from_logits(2 * randn(batch_size, L, V), tokens, V, top_k=top_k, context=context)


def completions() -> Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=L)))


@every_variant
@pytest.mark.parametrize("top_k", [None, 2])
def test_conditionals_multiply_to_the_conditional_likelihood_which_sums_to_one(variant: str, top_k: int | None) -> None:
    circuit, evidence = make_contextual(variant), make_evidence(top_k)
    everything = completions()
    for row in range(evidence.batch_size):
        rows = evidence.rows(torch.full((len(everything),), row))
        found = circuit.log_conditional(everything, rows)
        assert_close(found, circuit.log_joint(everything, rows) - circuit.log_partition(rows), **CLOSE)
        assert found.logsumexp(0).item() == pytest.approx(0.0, abs=1e-9)
        chain = torch.zeros(len(everything), dtype=torch.float64)
        posterior = circuit.posterior(rows)
        for position in (2, 0, 1):
            where = torch.full((len(everything),), position)
            token = everything[:, position]
            chain += posterior.token_marginals(where).gather(-1, token[:, None]).squeeze(-1).log()
            possible = (chain > -torch.inf).nonzero().squeeze(-1)
            posterior.condition(possible, where[possible], token[possible])
        assert_close(chain, found, **CLOSE)
        assert_close(circuit.posterior(rows).log_prob(everything), found, **CLOSE)


@every_variant
def test_at_the_start_a_circuit_is_its_static_part(variant: str) -> None:
    circuit, evidence = make_contextual(variant, fresh=True), make_evidence()
    static = HMM(N, V, L).double()
    static.load_state_dict({name: value for name, value in circuit.state_dict().items() if name.endswith("_logits")})
    bare = dataclasses.replace(evidence, context=None)
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    assert_close(circuit.log_conditional(tokens, evidence), static.log_conditional(tokens, bare), **CLOSE)
    assert_close(circuit.log_prob(tokens), static.log_prob(tokens), **CLOSE)
    moved = make_contextual(variant)
    moved.load_state_dict({k: v for k, v in circuit.state_dict().items() if k.endswith("_logits")}, strict=False)
    assert (moved.log_conditional(tokens, evidence) - circuit.log_conditional(tokens, evidence)).abs().max() > 0.01
    assert_close(moved.log_conditional(tokens, bare), static.log_conditional(tokens, bare), **CLOSE)


def test_roles_are_softmax_of_the_evidence_and_a_product_of_low_rank() -> None:
    circuit = make_contextual("roles")
    for evidence in (make_evidence(), make_evidence(top_k=2)):
        assert circuit.emission_roles is not None
        assert evidence.context is not None
        ratio = evidence.soft.double().mean(-1)
        hidden = evidence.context.hidden
        features = (hidden - hidden.mean(-1, keepdim=True)) / (
            hidden.var(-1, unbiased=False, keepdim=True) + 1e-5
        ).sqrt()
        features = features * circuit.features.norm.weight + circuit.features.norm.bias
        features = torch.cat([features, ratio[:, None, None].expand(*features.shape[:2], 1)], -1)
        head = circuit.emission_roles
        roles = circuit.prepare(evidence).roles
        assert roles is not None
        for row, position in evidence.soft.nonzero().tolist():
            word = (head.role.weight @ features[row, position] + head.role.bias).view(2, 3)
            scores = (word @ head.tokens.T).detach().numpy()  # (R, V)
            dense = evidence.dense_weights()[row, position].numpy()
            if evidence.token_ids is not None:
                left_out = [v for v in range(V) if v not in evidence.token_ids[row, position].tolist()]
                kept = [v for v in range(V) if v not in left_out and dense[v] > 0]
                scores[:, [*left_out, min(kept, key=lambda v: dense[v])]] = 0.0
            expected = dense * np.exp(scores)
            expected = expected / expected.sum(-1, keepdims=True)
            for role in range(2):
                found = circuit.prepare(evidence).read_by(role).dense_weights()[row, position]
                assert_close(found, torch.from_numpy(expected[role]), **CLOSE)


def test_roles_are_told_nothing_by_a_true_token_that_is_kept_though_it_is_not_among_the_largest() -> None:
    circuit = make_contextual("roles")
    logits = torch.tensor([[[2.0, 1.0, 0.0, -1.0]] * L], dtype=torch.float64)
    masked = torch.full((1, L), V)
    context = Context(torch.randn(1, L, D, dtype=torch.float64))
    for true in (2, 3):
        keep = torch.full((1, L), true)
        evidence = Evidence.from_logits(logits, masked, V, top_k=2, keep=keep, context=context)
        assert evidence.tail is not None
        roles = circuit.prepare(evidence).roles
        assert roles is not None
        assert roles.tail is not None
        place = (evidence.token_ids == true).nonzero()[0, -1]
        gain = roles.weights[..., place] / evidence.weights[:, :, None, place]
        assert_close(gain, roles.tail / evidence.tail[:, :, None], **CLOSE)  # as of a token that was left out


def test_a_bank_is_a_mixture_of_tables_for_each_position() -> None:
    """By listing all paths of an HMM whose transitions differ by position, in every query that reads them."""
    circuit, evidence = make_contextual("bank"), make_evidence()
    assert evidence.context is not None
    assert circuit.mixes is not None
    ratio = evidence.soft.double().mean(-1)
    weights = circuit.mixes(circuit.features(evidence.context, ratio)).softmax(-1)  # (B, L, K)
    changes = torch.einsum("nkr,mkr->knm", circuit.bank_from, circuit.bank_to)
    tables = (circuit.transition_logits + changes).softmax(-1)
    posterior = circuit.posterior(evidence)
    marginals = torch.arange(N * 3) // 3, posterior.state_marginals()
    for row in range(evidence.batch_size):
        alone = evidence.rows(torch.tensor([row]))
        steps = torch.einsum("lk,knm->lnm", weights[row, : L - 1], tables)
        initial, _, emission = circuit.probabilities()
        by_position = HMM.from_probabilities(initial, steps, emission.expand(L, -1, -1), L)
        plain = dataclasses.replace(alone, context=None)
        assert_close(circuit.log_partition(alone), by_position.log_partition(plain), **CLOSE)
        assert_close(
            circuit.posterior(alone).token_marginals(), by_position.posterior(plain).token_marginals(), **CLOSE
        )
        collapsed = torch.zeros(L, N, dtype=torch.float64).index_add_(1, marginals[0], marginals[1][row])
        assert_close(collapsed, by_position.posterior(plain).state_marginals()[0], **CLOSE)
        tokens = torch.where(alone.observed, alone.tokens, 2)
        assert_close(circuit.log_conditional(tokens, alone), by_position.log_conditional(tokens, plain), **CLOSE)


@every_variant
def test_truncation_that_keeps_everything_changes_nothing(variant: str) -> None:
    circuit = make_contextual(variant)
    tokens = torch.randint(V, (3, L))
    dense, whole = make_evidence(), make_evidence(top_k=V)
    index = torch.arange(V).expand(3, L, V)
    whole = dataclasses.replace(whole, token_ids=index, tail=torch.zeros(3, L, dtype=torch.float64))
    tokens = torch.where(dense.observed, dense.tokens, tokens)
    assert_close(circuit.log_conditional(tokens, whole), circuit.log_conditional(tokens, dense), **CLOSE)


@every_variant
def test_every_parameter_has_the_gradient_of_finite_differences(variant: str) -> None:
    circuit, evidence = make_contextual(variant), make_evidence(top_k=2, batch_size=2)
    tokens = torch.where(evidence.observed, evidence.tokens, 1)

    def score(*_: Tensor) -> Tensor:  # gradcheck changes parameters in place
        return circuit.log_conditional(tokens, evidence)

    parameters = [p for name, p in circuit.named_parameters() if "positions" not in name and "layers.1" not in name]
    assert gradcheck(score, tuple(parameters), fast_mode=True)
    score().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in circuit.parameters())


def test_padding_before_a_block_says_nothing() -> None:
    circuit, evidence = make_contextual("everything"), make_evidence()
    context = evidence.context
    assert context is not None
    assert context.before is not None
    assert context.present is not None
    noise = torch.where(context.present[..., None], context.before, 100.0)
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    expected = circuit.log_conditional(tokens, evidence)
    padded = dataclasses.replace(evidence, context=dataclasses.replace(context, before=noise))
    assert_close(circuit.log_conditional(tokens, padded), expected, **CLOSE)
    read = dataclasses.replace(
        evidence, context=dataclasses.replace(context, before=context.before + 1.0 * noise.flip(-1))
    )
    assert (circuit.log_conditional(tokens, read) - expected).abs().max() > 1e-4


@every_variant
def test_a_saved_circuit_is_read_back(variant: str, tmp_path: Path) -> None:
    circuit, evidence = make_contextual(variant), make_evidence()
    save_circuit(circuit, tmp_path / "circuit")
    loaded = load_circuit(tmp_path / "circuit")
    tokens = torch.where(evidence.observed, evidence.tokens, 1)
    assert_close(loaded.log_conditional(tokens, evidence), circuit.log_conditional(tokens, evidence), **CLOSE)
    assert loaded.reads == (Reads.EVERYTHING_BEFORE if variant == "everything" else Reads.BLOCK)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latent": "cubic"}, "latent=cubic is not one of none, linear, low_rank, mlp"),
        ({"roles": 3}, "roles=3 must divide num_states=4"),
        ({"adapter_width": 17}, "adapter_width=17 must be a multiple of 16"),
        ({"latent": "none", "roles": 0}, "nothing would depend on the context"),
        ({"transition_bank": 1}, "transition_bank=1 must be at least 2"),
        ({"transition_bank": 2, "transition_rank": 0}, "transition_rank must be at least 1, not 0"),
        ({"hidden_size": 0}, "hidden_size must be at least 1, not 0"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options: dict, said: str) -> None:
    with pytest.raises(CircuitError, match=said.replace("(", r"\(")):
        ContextualHMM(**{"num_states": N, "vocab_size": V, "block_length": L, "hidden_size": D, "roles": 2, **options})


def test_a_context_that_does_not_fit_is_refused() -> None:
    circuit, evidence = make_contextual("everything"), make_evidence()
    context = evidence.context
    assert context is not None
    with pytest.raises(EvidenceError, match="adapter reads what lies before the block"):
        circuit.log_partition(dataclasses.replace(evidence, context=Context(context.hidden)))
    with pytest.raises(EvidenceError, match=r"hidden states of shape \(3, 3, 5\) do not fit"):
        circuit.log_partition(dataclasses.replace(evidence, context=Context(context.hidden[..., 1:])))


def test_heads_that_say_too_much_give_finite_scores_and_gradients() -> None:
    circuit = make_contextual("everything").float()
    with torch.no_grad():
        for name, parameter in circuit.named_parameters():
            if not name.endswith("_logits"):
                parameter.mul_(100.0)
    evidence = make_evidence()
    context = evidence.context
    assert context is not None
    evidence = Evidence.from_logits(
        evidence.weights.log().float(), evidence.tokens.masked_fill(~evidence.observed, V), V, context=context
    )
    scores = circuit.log_conditional(torch.where(evidence.observed, evidence.tokens, 1), evidence)
    assert bool(scores.isfinite().all())
    scores.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in circuit.parameters())
