"""The sampler head: normalised in every order, equal to the backbone at the start, and what it cannot answer."""

import itertools

import pytest
import torch

from codd_lightning.circuits import (
    CircuitError,
    Context,
    Evidence,
    EvidenceError,
    SamplerHead,
    load_circuit,
    save_circuit,
)

B, L, V, D = 2, 3, 4, 8
MASK = V


def head(trained: bool = True) -> SamplerHead:
    torch.manual_seed(0)
    made = SamplerHead(V, L, D, width=16, rank=4)
    if trained:
        torch.nn.init.normal_(made.emission.role.weight, std=2.0)
    return made


def evidence(known: bool = False, top_k: int | None = None, absent: bool = False) -> Evidence:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.full((B, L), MASK)
    if known:
        tokens[0, 1] = 2
    context = Context(
        torch.randn(B, L, D, generator=generator),
        torch.randn(B, 5, D, generator=generator),
        torch.tensor([[True] * 5, [False, False, True, True, True]]),
    )
    gone = torch.zeros(B, L, dtype=torch.bool)
    gone[1, -1] = absent
    logits = torch.randn(B, L, V, generator=generator)
    return Evidence.from_logits(logits, tokens, MASK, top_k=top_k, absent=gone if absent else None, context=context)


def completions() -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(V), repeat=L)))


@pytest.mark.parametrize("given", [{}, {"known": True}, {"top_k": 2}])
def test_it_sums_to_one_over_all_completions(given: dict) -> None:
    sampler, one = head(), evidence(**given)
    total = torch.stack([sampler.log_conditional(row.expand(B, -1), one) for row in completions()]).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros(B), atol=1e-5, rtol=0)


def test_absent_positions_do_not_count() -> None:
    sampler, one = head(), evidence(absent=True)
    log_q = torch.stack([sampler.log_conditional(row.expand(B, -1), one) for row in completions()])
    of_pairs = log_q[:, 1].view(V, V, V)
    assert torch.equal(of_pairs, of_pairs[..., :1].expand_as(of_pairs))
    torch.testing.assert_close(of_pairs[..., 0].logsumexp((0, 1)), torch.zeros(()), atol=1e-5, rtol=0)


def test_at_the_start_it_says_what_the_backbone_says() -> None:
    one, tokens = evidence(), torch.tensor([[0, 3, 1], [2, 2, 0]])
    torch.testing.assert_close(head(trained=False).log_conditional(tokens, one), one.log_weight(tokens))


def test_its_chain_is_that_of_conditioning_on_token_after_token() -> None:
    sampler, one, tokens = head(), evidence(known=True), torch.tensor([[0, 2, 1], [2, 2, 0]])
    posterior, rows, total = sampler.posterior(one), torch.arange(B), torch.zeros(B)
    for position in range(L):
        distribution = posterior.candidate_marginals(torch.full((B,), position))
        total += distribution[rows, tokens[:, position]].log()
        posterior.condition(rows, torch.full((B,), position), tokens[:, position])
    torch.testing.assert_close(sampler.log_conditional(tokens, one), total.detach(), atol=1e-5, rtol=0)
    first = sampler.log_conditional(tokens, one, torch.tensor([[True, False, False]] * B))
    assert bool((first > total).all())  # of one token, the others drawn after it


def test_what_was_drawn_changes_what_follows() -> None:
    sampler = head()
    posterior = sampler.posterior(evidence())
    before = posterior.token_marginals()
    posterior.rows(torch.tensor([0])).condition(0, 0, 3)
    assert torch.equal(posterior.token_marginals(), before)  # another's rows are its own
    posterior.condition(0, 0, 3)
    after = posterior.token_marginals()
    assert bool((after[0, 1:] - before[0, 1:]).abs().max() > 0.01)
    assert after[0, 0].tolist() == [0.0, 0.0, 0.0, 1.0]
    assert torch.equal(after[1], before[1])


def test_the_estimate_is_the_mean_over_orders() -> None:
    sampler, one, tokens = head(), evidence(known=True), torch.tensor([[0, 2, 1], [2, 2, 0]])
    exact = torch.zeros(B)
    orders = list(itertools.permutations(range(L)))
    for order in orders:
        given = one
        for position in order:
            here = torch.zeros(B, L, dtype=torch.bool)
            here[:, position] = True
            exact += sampler.next_tokens(given).log_weight(tokens, here & given.soft).detach() / len(orders)
            given = given.clamp(tokens, here)
    generator, times = torch.Generator().manual_seed(3), 4000
    with torch.no_grad():
        found = torch.stack([sampler.log_conditional_estimate(tokens, one, generator) for _ in range(times)])
    assert bool(((found.mean(0) - exact).abs() < 4 * found.std(0) / times**0.5).all())


def test_it_is_kept_whole(tmp_path: pytest.TempPathFactory) -> None:
    sampler, one, tokens = head(), evidence(), torch.tensor([[0, 3, 1], [2, 2, 0]])
    save_circuit(sampler, tmp_path / "head")
    again = load_circuit(tmp_path / "head")
    assert torch.equal(again.log_conditional(tokens, one), sampler.log_conditional(tokens, one))


def test_what_it_cannot_answer_is_refused() -> None:
    sampler, one = head(), evidence()
    posterior = sampler.posterior(one)
    for ask in (posterior.mode, posterior.sample_latents, posterior.entropy):
        with pytest.raises(CircuitError, match="any_order"):
            ask()
    with pytest.raises(CircuitError, match="log_conditional"):
        sampler.log_prob(torch.zeros(1, L, dtype=torch.long))
    with pytest.raises(CircuitError, match="adamw"):
        sampler.expected_counts(one)
    with pytest.raises(EvidenceError, match="there are none"):
        sampler.next_tokens(Evidence.nothing_known(1, L, V))
    with pytest.raises(CircuitError, match=r"circuit\.width=20"):
        SamplerHead(V, L, D, width=20)


def test_one_row_of_evidence_serves_any_number_of_completions() -> None:
    sampler, one, everything = head(), evidence(known=True), completions()
    row = torch.zeros(len(everything), dtype=torch.long)
    expected = sampler.log_conditional(everything, one.rows(row))
    torch.testing.assert_close(sampler.log_conditional(everything, one.rows(row[:1])), expected)
