import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from codd_lightning.circuits import EM, HMM, Anemone, Circuit, CircuitError, CountingOptimizer, Evidence, Mixture, Tree

from .oracles import oracle
from .strategies import random_hmm


def known(tokens: Tensor, vocab_size: int) -> Evidence:
    nowhere = torch.zeros(*tokens.shape, vocab_size, dtype=torch.float64)
    return Evidence(tokens, torch.ones_like(tokens, dtype=torch.bool), nowhere, vocab_size)


def soft(circuit: Circuit, rows: int, seed: int = 0) -> tuple[Tensor, Evidence]:
    """True tokens, and evidence that knows a third of them."""
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, circuit.block_length)
    tokens = torch.randint(circuit.vocab_size, shape, generator=generator)
    logits = torch.randn(*shape, circuit.vocab_size, generator=generator, dtype=torch.float64)
    masked = torch.rand(shape, generator=generator) > 1 / 3
    return tokens, Evidence.from_logits(logits, tokens.masked_fill(masked, circuit.vocab_size), circuit.vocab_size)


CIRCUITS: dict[str, Callable[[], Circuit]] = {
    "homogeneous": lambda: random_hmm(3, 5, 4),
    "inhomogeneous": lambda: random_hmm(3, 5, 4, homogeneous=False),
    "mixture": lambda: Mixture(3, 5, 4).double(),
    "tree": lambda: Tree(3, 5, 3).double(),
}


@pytest.fixture(params=CIRCUITS)
def circuit(request: pytest.FixtureRequest) -> Circuit:
    torch.manual_seed(0)
    return CIRCUITS[request.param]()


def test_anemone_takes_the_steps_of_the_reference() -> None:
    values = oracle("anemone_cat")
    initial, transition, emission = (values[f"{name}0"].double() for name in ("initial", "transition", "emission"))
    hmm = HMM.from_probabilities(initial, transition, emission, block_length=8)
    optimizer = Anemone(
        hmm,
        lr=values["step_size"].item(),
        momentum=values["momentum"].item(),
        pseudocount=values["pseudocount"].item(),
    )
    every = int(values["niters_per_update"].item())
    for batch, tokens in enumerate(values["x"]):
        assert_close(hmm.log_prob(tokens), values["ll"][batch].double(), atol=2e-5, rtol=0.0)
        optimizer.accumulate(hmm.expected_counts(known(tokens, 50)), len(tokens))
        if (batch + 1) % every == 0:
            optimizer.step()
        for name, found in zip(("initial", "transition", "emission"), hmm.probabilities(), strict=True):
            assert_close(found, values[name][batch].double(), atol=1e-6, rtol=0.0)


def test_full_batch_em_never_lowers_the_likelihood(circuit: Circuit) -> None:
    tokens = torch.randint(5, (30, circuit.block_length), generator=torch.Generator().manual_seed(1))
    optimizer = EM(circuit, lr=1.0, pseudocount=0.0)
    before = -math.inf
    for _ in range(15):
        likelihood = circuit.log_prob(tokens).sum().item()
        assert likelihood >= before - 1e-9
        before = likelihood
        optimizer.accumulate(circuit.expected_counts(known(tokens, 5)), len(tokens))
        optimizer.step()


def test_one_step_of_em_on_known_latents_is_counting() -> None:
    """With one state there is nothing latent: the emission becomes the tokens' frequencies."""
    hmm = random_hmm(1, 4, 3)
    tokens = torch.tensor([[0, 1, 1], [3, 1, 0]])
    optimizer = EM(hmm, lr=1.0, pseudocount=0.0)
    optimizer.accumulate(hmm.expected_counts(known(tokens, 4)), 2)
    optimizer.step()
    expected = torch.tensor([[2, 3, 0, 1]], dtype=torch.float64) / 6
    assert_close(hmm.probabilities()[2], expected)


def test_a_partial_step_mixes_old_and_new_and_pseudocounts_smooth() -> None:
    hmm = random_hmm(1, 4, 3)
    old = hmm.probabilities()[2].detach().clone()
    optimizer = EM(hmm, lr=0.3, pseudocount=2.0)
    optimizer.accumulate(hmm.expected_counts(known(torch.tensor([[0, 1, 1]]), 4)), 1)
    optimizer.step()
    target = (torch.tensor([[1.0, 2.0, 0.0, 0.0]], dtype=torch.float64) + 0.5) / 5
    assert_close(hmm.probabilities()[2], 0.7 * old + 0.3 * target)


def conditional_log_likelihood(circuit: Circuit, tokens: Tensor, evidence: Evidence) -> Tensor:
    return circuit.log_joint(tokens, evidence) - circuit.log_partition(evidence)


@pytest.mark.parametrize("make", [lambda c: EM(c, 0.5), lambda c: Anemone(c, 0.3, momentum=0.5)], ids=["em", "anemone"])
def test_both_raise_the_conditional_likelihood_of_their_batch(circuit: Circuit, make: object) -> None:
    tokens, evidence = soft(circuit, rows=16)
    optimizer: CountingOptimizer = make(circuit)  # type: ignore[operator]
    everywhere = torch.ones_like(tokens, dtype=torch.bool)
    before = conditional_log_likelihood(circuit, tokens, evidence).sum().item()
    for _ in range(20):
        counts = circuit.expected_counts(evidence.clamp(tokens, everywhere))
        optimizer.accumulate(counts, len(tokens), against=circuit.expected_counts(evidence))
        optimizer.step()
    assert conditional_log_likelihood(circuit, tokens, evidence).sum().item() > before + 1.0


@pytest.mark.parametrize("make", [EM, Anemone])
def test_summed_counts_of_two_halves_take_the_step_of_the_whole(make: type[EM] | type[Anemone]) -> None:
    whole, halves = random_hmm(3, 5, 4), random_hmm(3, 5, 4)
    tokens, evidence = soft(whole, rows=6)
    everywhere = torch.ones_like(tokens, dtype=torch.bool)

    def counts(hmm: HMM, rows: slice) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        part = evidence.rows(torch.arange(6)[rows])
        return hmm.expected_counts(part.clamp(tokens[rows], everywhere[rows])), hmm.expected_counts(part)

    optimizers = make(whole), make(halves)
    for _ in range(3):
        up, down = counts(whole, slice(None))
        optimizers[0].accumulate(up, 6.0, down)
        for rows in (slice(0, 2), slice(2, 6)):
            up, down = counts(halves, rows)
            optimizers[1].accumulate(up, float(len(range(6)[rows])), down)
        for optimizer in optimizers:
            optimizer.step()
    for one, other in zip(whole.parameters(), halves.parameters(), strict=True):
        assert_close(one, other, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("make", [EM, Anemone])
def test_a_saved_optimizer_goes_on_as_if_it_had_not_stopped(make: type[EM] | type[Anemone]) -> None:
    straight, resumed = random_hmm(3, 5, 4), random_hmm(3, 5, 4)
    tokens, _ = soft(straight, rows=6)

    def take_step(hmm: HMM, optimizer: CountingOptimizer) -> None:
        optimizer.accumulate(hmm.expected_counts(known(tokens, 5)), len(tokens))
        optimizer.step()

    one, first = make(straight), make(resumed)
    take_step(straight, one)
    take_step(resumed, first)
    second = make(resumed)
    second.load_state_dict(first.state_dict())
    take_step(straight, one)
    take_step(resumed, second)
    for expected, found in zip(straight.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(expected, found)


def test_zero_probabilities_stay_zero_without_pseudocounts() -> None:
    initial = torch.tensor([1.0, 0.0], dtype=torch.float64)
    transition = torch.tensor([[0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    emission = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]], dtype=torch.float64)
    hmm = HMM.from_probabilities(initial, transition, emission, block_length=3)
    optimizer = EM(hmm, lr=0.5, pseudocount=0.0)
    optimizer.accumulate(hmm.expected_counts(known(torch.tensor([[0, 1, 2]]), 3)), 1)
    optimizer.step()
    for before, after in zip((initial, transition, emission), hmm.probabilities(), strict=True):
        assert torch.isfinite(after).all()
        assert torch.equal(after == 0, before == 0)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"lr": 0.0}, "lr=0.0"), ({"lr": 1.5}, "lr=1.5"), ({"pseudocount": -1.0}, "pseudocount=-1.0")],
)
def test_what_is_out_of_range_is_named(options: dict[str, float], named: str) -> None:
    with pytest.raises(CircuitError, match=named):
        EM(random_hmm(2, 3, 2), **options)
    with pytest.raises(CircuitError, match="momentum=1"):
        Anemone(random_hmm(2, 3, 2), momentum=1.0)


@pytest.mark.parametrize("make", [EM, Anemone])
def test_a_distribution_that_a_batch_rules_out_stays_as_it_was(
    make: type[EM] | type[Anemone], circuit: Circuit
) -> None:
    """Without pseudocounts, a state whose every use the evidence expects and the tokens deny has no new table."""
    optimizer = make(circuit, lr=0.9, pseudocount=0.0)
    counts = circuit.expected_counts(soft(circuit, rows=4)[1])
    optimizer.accumulate({name: torch.zeros_like(count) for name, count in counts.items()}, 4, against=counts)
    optimizer.step()
    assert all(not parameter.isnan().any() for parameter in circuit.parameters())


def test_full_steps_on_a_conditional_likelihood_rule_nothing_out() -> None:
    torch.manual_seed(0)
    circuit = HMM(3, 5, 3)
    optimizer = EM(circuit, lr=1.0, pseudocount=0.0)
    tokens = torch.tensor([[0, 1, 2], [2, 1, 0]])
    evidence = Evidence.from_logits(torch.zeros(2, 3, 5), torch.full((2, 3), 5), 5)
    for _ in range(60):
        known = circuit.expected_counts(evidence.clamp(tokens, torch.ones(2, 3, dtype=torch.bool)))
        optimizer.accumulate(known, 2.0, circuit.expected_counts(evidence))
        optimizer.step()
    for parameter in circuit.parameters():
        assert parameter.isfinite().all()
    other = torch.tensor([[3, 4, 3], [4, 4, 4]])
    assert circuit.log_joint(other, evidence).isfinite().all()
