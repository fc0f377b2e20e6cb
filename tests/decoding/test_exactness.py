"""Drawn tokens against the coupled distribution, listed completely over a tiny vocabulary."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from codd_lightning.circuits import HMM
from codd_lightning.decoding import REMASKING, DecodingConfig, generate

VOCABULARY, LENGTH, STATES = 4, 3, 3
DRAWS = 20_000
MASK_INSIDE, MASK_OUTSIDE = 2, 11


def backbone_logits(seed: int = 0) -> Tensor:
    return 1.5 * torch.randn(LENGTH, VOCABULARY, generator=torch.Generator().manual_seed(seed))


def backbone_table(logits: Tensor, mask_token_id: int) -> Tensor:
    """`(L, V)` probabilities of the backbone, none for the mask token."""
    weights = logits.double().exp()
    if mask_token_id < VOCABULARY:
        weights[:, mask_token_id] = 0.0
    return weights / weights.sum(-1, keepdim=True)


def latent_table(hmm: HMM) -> dict[tuple[int, ...], float]:
    """Probability of every sequence of latent states."""
    initial, transition, _ = (p.double() for p in hmm.probabilities())
    table = {}
    for states in itertools.product(range(STATES), repeat=LENGTH):
        steps = [float(transition[a, b]) for a, b in itertools.pairwise(states)]
        table[states] = float(initial[states[0]]) * math.prod(steps)
    return table


def emitted(hmm: HMM, states: tuple[int, ...]) -> Tensor:
    """`(L, V)`: what each state of a sequence emits."""
    return hmm.probabilities()[2].double()[list(states)]


def outer(rows: Tensor) -> Tensor:
    """`(V,) * L` table of independent positions."""
    return torch.einsum("a,b,c->abc", *rows)


def coupled_table(hmm: HMM, logits: Tensor, mask_token_id: int) -> Tensor:
    """`p̂(x) ∝ p_ω(x) Π p_θ(x_i)` for every x, `(V,) * L`."""
    table = torch.zeros([VOCABULARY] * LENGTH, dtype=torch.float64)
    for states, probability in latent_table(hmm).items():
        table += probability * outer(emitted(hmm, states))
    table *= outer(backbone_table(logits, mask_token_id))
    return table / table.sum()


def power(p: Tensor, tau: float) -> Tensor:
    sharp = torch.where(p > 0, p ** (1.0 / tau), 0.0)
    return sharp / sharp.sum(-1, keepdim=True)


def counted(sequences: list[list[int]]) -> Tensor:
    counts = torch.zeros([VOCABULARY] * LENGTH, dtype=torch.float64)
    cells = torch.tensor(sequences)[:, -LENGTH:]
    counts.index_put_(tuple(cells.T), torch.ones(len(cells), dtype=torch.float64), accumulate=True)
    return counts


def assert_drawn_from(expected: Tensor, counts: Tensor) -> None:
    """Chi-square test; cells with fewer than ten expected draws are taken together."""
    expected, counts = (expected * counts.sum()).flatten(), counts.flatten()
    assert counts[expected == 0].sum() == 0
    rare = expected < 10
    cells = torch.cat([expected[~rare], expected[rare].sum()[None]])
    found = torch.cat([counts[~rare], counts[rare].sum()[None]])
    found, cells = found[cells > 0], cells[cells > 0]
    statistic = float(((found - cells) ** 2 / cells).sum())
    freedom = len(cells) - 1
    z = 4.5  # exceeded by chance three times in a million (Wilson & Hilferty, 1931)
    limit = freedom * (1 - 2 / (9 * freedom) + z * math.sqrt(2 / (9 * freedom))) ** 3
    assert statistic < limit


def draw(backbone: Any, hmm: HMM | None, **options: Any) -> Tensor:
    """Counts of many rows of one batch, all with the same prompt."""
    config = DecodingConfig(**{"steps": 1, "max_new_tokens": LENGTH, "block_length": LENGTH, **options})
    written = generate(backbone, [[0]] * DRAWS, config, circuit=hmm, generator=torch.Generator().manual_seed(5))
    return counted(written.sequences)


def test_chi_square_oracle_tells_the_coupled_distribution_from_the_factorized_one(
    random_hmm: Callable[..., HMM],
) -> None:
    logits = backbone_logits()
    coupled = coupled_table(random_hmm(STATES, VOCABULARY, LENGTH), logits, MASK_OUTSIDE)
    marginals = torch.stack([coupled.sum((1, 2)), coupled.sum((0, 2)), coupled.sum((0, 1))])
    with pytest.raises(AssertionError):  # not even one with the right marginals passes
        assert_drawn_from(coupled, outer(marginals) * DRAWS)


@pytest.mark.parametrize("mask_token_id", [MASK_INSIDE, MASK_OUTSIDE], ids=["mask-inside", "mask-outside"])
@pytest.mark.parametrize("remasking", REMASKING)
def test_any_order_draws_from_the_coupled_distribution(
    remasking: str, mask_token_id: int, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits()
    counts = draw(fixed_logits(logits, mask_token_id), hmm, proposal="any_order", remasking=remasking, tau=1.0)
    assert_drawn_from(coupled_table(hmm, logits, mask_token_id), counts)


@pytest.mark.parametrize("homogeneous", [True, False])
@pytest.mark.parametrize("mask_token_id", [MASK_INSIDE, MASK_OUTSIDE], ids=["mask-inside", "mask-outside"])
def test_latent_draws_from_the_coupled_distribution(
    mask_token_id: int, homogeneous: bool, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits()
    if not homogeneous:  # the same distribution, stored position by position
        initial, transition, emission = hmm.probabilities()
        hmm = HMM.from_probabilities(
            initial, transition.expand(LENGTH - 1, -1, -1), emission.expand(LENGTH, -1, -1), LENGTH
        )
    counts = draw(fixed_logits(logits, mask_token_id), hmm, proposal="latent", tau=1.0)
    expected = coupled_table(random_hmm(STATES, VOCABULARY, LENGTH), logits, mask_token_id)
    assert_drawn_from(expected, counts)


@pytest.mark.parametrize("steps", [2, 3])
def test_any_order_stays_exact_over_steps_where_the_backbone_does_not_change_its_mind(
    steps: int, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH, seed=1), backbone_logits(1)
    counts = draw(fixed_logits(logits, MASK_OUTSIDE), hmm, proposal="any_order", tau=1.0, steps=steps)
    assert_drawn_from(coupled_table(hmm, logits, MASK_OUTSIDE), counts)


def test_any_order_sharpens_each_exact_conditional(
    random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits, tau = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits(), 0.6
    joint = coupled_table(hmm, logits, MASK_OUTSIDE)
    first, second = joint.sum((1, 2)), joint.sum(2)
    expected = (
        power(first, tau)[:, None, None]
        * power(second / first[:, None], tau)[:, :, None]
        * power(joint / second[:, :, None], tau)
    )
    backbone = fixed_logits(logits, MASK_OUTSIDE)
    counts = draw(backbone, hmm, proposal="any_order", remasking="left_to_right", tau=tau)
    assert_drawn_from(expected, counts)


def test_latent_sharpens_tokens_given_exact_latent_states(
    random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits, tau = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits(), 0.6
    weights = backbone_table(logits, MASK_OUTSIDE)
    expected = torch.zeros([VOCABULARY] * LENGTH, dtype=torch.float64)
    for states, probability in latent_table(hmm).items():
        given_states = emitted(hmm, states) * weights
        posterior = probability * given_states.sum(-1).prod()
        expected += posterior * outer(power(given_states / given_states.sum(-1, keepdim=True), tau))
    counts = draw(fixed_logits(logits, MASK_OUTSIDE), hmm, proposal="latent", tau=tau)
    assert_drawn_from(expected / expected.sum(), counts)


def test_latent_reference_tempers_the_evidence_and_keeps_the_emissions(
    random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits, tau = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits(), 0.6
    expected = coupled_table(hmm, logits / tau, MASK_OUTSIDE)  # p_ω(x) Π p_θ(x_i)^(1/tau), drawn exactly
    counts = draw(fixed_logits(logits, MASK_OUTSIDE), hmm, proposal="latent_reference", tau=tau)
    assert_drawn_from(expected, counts)


@pytest.mark.parametrize("remasking", REMASKING)
@pytest.mark.parametrize("proposal", ["any_order", "latent"])
def test_full_diffusion_draws_from_the_coupled_distribution(
    proposal: str, remasking: str, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits()
    backbone = fixed_logits(logits, MASK_OUTSIDE)
    counts = draw(backbone, hmm, paradigm="full", proposal=proposal, remasking=remasking, tau=1.0)
    assert_drawn_from(coupled_table(hmm, logits, MASK_OUTSIDE), counts)


def test_drawing_at_a_temperature_is_adding_gumbel_noise(fixed_logits: Callable[..., Any]) -> None:
    logits, temperature = backbone_logits(), 0.7
    counts = draw(fixed_logits(logits, MASK_OUTSIDE), None, temperature=temperature)
    uniforms = torch.rand(200_000, LENGTH, VOCABULARY, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    noisy = (logits.double().exp() / (-uniforms.log()) ** temperature).argmax(-1)  # LLaDA's add_gumbel_noise
    assert_drawn_from(counted(noisy.tolist()) / 200_000, counts)


@pytest.mark.parametrize("mask_token_id", [MASK_INSIDE, MASK_OUTSIDE], ids=["mask-inside", "mask-outside"])
def test_factorized_draws_every_position_by_itself(mask_token_id: int, fixed_logits: Callable[..., Any]) -> None:
    logits = backbone_logits()
    counts = draw(fixed_logits(logits, mask_token_id), None, temperature=1.0)
    assert_drawn_from(outer(backbone_table(logits, mask_token_id)), counts)


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.7}], ids=str)
def test_factorized_draws_from_the_likeliest_tokens_only(
    options: dict[str, Any], fixed_logits: Callable[..., Any]
) -> None:
    logits, temperature = backbone_logits(), 0.8
    rows = backbone_table(logits / temperature, MASK_OUTSIDE)
    for row in rows:
        before = 0.0
        for place, token in enumerate(row.argsort(descending=True).tolist()):
            probability = float(row[token])
            if place >= options.get("top_k", VOCABULARY) or before >= options.get("top_p", 1.0):
                row[token] = 0.0
            before += probability
    counts = draw(fixed_logits(logits, MASK_OUTSIDE), None, temperature=temperature, **options)
    assert_drawn_from(outer(rows / rows.sum(-1, keepdim=True)), counts)


def greedy_by_looking(joint: Tensor, remasking: str) -> list[int]:
    """Ranks positions by the exact conditionals of a table, takes the likeliest token, conditions, repeats."""
    score = {
        "low_confidence": lambda p: float(p.max()),
        "margin": lambda p: float(p.sort(descending=True).values[0] - p.sort(descending=True).values[1]),
        "entropy": lambda p: float(torch.special.xlogy(p, p).sum()),
        "left_to_right": lambda p: 0.0,
    }[remasking]
    tokens: dict[int, int] = {}
    while len(tokens) < LENGTH:
        place = tuple(slice(tokens[i], tokens[i] + 1) if i in tokens else slice(None) for i in range(LENGTH))
        marginals = {}
        for i in set(range(LENGTH)) - set(tokens):
            p = joint[place].sum([j for j in range(LENGTH) if j != i])
            marginals[i] = p / p.sum()
        position = max(sorted(marginals), key=lambda i: score(marginals[i]))
        tokens[position] = int(marginals[position].argmax())
    return [tokens[i] for i in range(LENGTH)]


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("remasking", ["low_confidence", "margin", "entropy", "left_to_right"])
def test_greedy_any_order_follows_the_exact_conditionals(
    remasking: str, steps: int, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    config = DecodingConfig(
        proposal="any_order", remasking=remasking, steps=steps, max_new_tokens=LENGTH, block_length=LENGTH
    )
    differs_from_factorized = 0
    for seed in range(20):
        hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH, seed), backbone_logits(seed)
        written = generate(fixed_logits(logits, MASK_INSIDE), [[]], config, circuit=hmm).sequences[0]
        joint = coupled_table(hmm, logits, MASK_INSIDE)
        assert written == greedy_by_looking(joint, remasking)
        differs_from_factorized += written != backbone_table(logits, MASK_INSIDE).argmax(-1).tolist()
    assert differs_from_factorized


@pytest.mark.parametrize("remasking", REMASKING)
def test_greedy_any_order_with_a_step_per_token_commits_one_token_a_step(
    remasking: str, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    config = DecodingConfig(steps=LENGTH, max_new_tokens=LENGTH, block_length=LENGTH, remasking=remasking, trace=True)
    hmm = random_hmm(STATES, VOCABULARY, LENGTH)
    written = generate(fixed_logits(backbone_logits(), MASK_OUTSIDE), [[0], [1]], config, circuit=hmm)
    assert written.trace is not None
    assert [step.committed.sum(-1).tolist() for step in written.trace] == [[1, 1]] * LENGTH
    assert written.circuit_calls == [LENGTH, LENGTH]


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_neutral_circuit_decodes_as_none_does(
    steps: int, neutral_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    config = DecodingConfig(steps=steps, max_new_tokens=5, block_length=5, trace=True)
    for seed in range(10):
        logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))
        coupled = generate(fixed_logits(logits, 7), [[1, 2]], config, circuit=neutral_hmm(3, 8, 5))
        factorized = generate(fixed_logits(logits, 7), [[1, 2]], config)
        assert coupled.sequences == factorized.sequences
        assert coupled.trace is not None
        assert factorized.trace is not None
        for one, other in zip(coupled.trace, factorized.trace, strict=True):
            assert torch.equal(one.committed, other.committed)


@pytest.mark.parametrize("seed", range(3))
def test_map_and_best_in_one_step_against_enumeration(
    seed: int, random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    """The best pair of latents and tokens; and the best tokens, which the candidates of `best` hold at this size."""
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH, seed), backbone_logits(seed)
    weights = outer(backbone_table(logits, MASK_OUTSIDE))
    pairs = torch.stack([p * outer(emitted(hmm, states)) * weights for states, p in latent_table(hmm).items()])
    expected = {"map": pairs.amax(0), "best": pairs.sum(0)}
    for proposal, mass in expected.items():
        config = DecodingConfig(proposal=proposal, steps=1, max_new_tokens=LENGTH, block_length=LENGTH)
        written = generate(fixed_logits(logits, MASK_OUTSIDE), [[0]], config, circuit=hmm)
        assert float(mass[tuple(written.sequences[0][1:])]) == pytest.approx(float(mass.max()))


def test_marginal_in_one_step_is_every_positions_own_mode(
    random_hmm: Callable[..., HMM], fixed_logits: Callable[..., Any]
) -> None:
    hmm, logits = random_hmm(STATES, VOCABULARY, LENGTH), backbone_logits()
    coupled = coupled_table(hmm, logits, MASK_OUTSIDE)
    config = DecodingConfig(proposal="marginal", steps=1, max_new_tokens=LENGTH, block_length=LENGTH)
    written = generate(fixed_logits(logits, MASK_OUTSIDE), [[0]], config, circuit=hmm)
    marginals = [coupled.sum((1, 2)), coupled.sum((0, 2)), coupled.sum((0, 1))]
    assert written.sequences[0][1:] == [int(marginal.argmax()) for marginal in marginals]
