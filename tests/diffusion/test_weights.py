"""Weights of the loss, from the noise alone."""

import torch

from codd_lightning.diffusion import WEIGHTS, Noised, corrupt

NOISED = Noised(
    canvas=torch.zeros(3, 4, dtype=torch.long),
    masked=torch.ones(3, 4, dtype=torch.bool),
    scored=torch.tensor([[True, True, False, False], [True, True, True, True], [False] * 4]),
    candidates=torch.tensor([4, 4, 2]),
    t=torch.tensor([0.5, 1.0, 0.2]),
)


def test_inverse_t_is_one_over_t_for_each_candidate() -> None:
    expected = torch.tensor([1 / (0.5 * 4), 1 / (1.0 * 4), 1 / (0.2 * 2)])
    torch.testing.assert_close(WEIGHTS["inverse_t"](NOISED.level), expected)


def test_per_token_is_the_mean_over_scored_tokens() -> None:
    assert WEIGHTS["per_token"](NOISED.level).tolist() == [1 / 2, 1 / 4, 1.0]


def test_flat_is_the_same_for_every_candidate() -> None:
    assert WEIGHTS["flat"](NOISED.level).tolist() == [1 / 4, 1 / 4, 1 / 2]


def test_inverse_t_weighs_every_token_once_on_average() -> None:
    """`E[Σ_masked w] = 1` at every noise level: the bound of paper Eq. 7, per token."""
    rows, length = 4000, 10
    clean = torch.zeros(rows, length, dtype=torch.long)
    sources = [torch.Generator().manual_seed(seed) for seed in range(rows)]
    for t in (0.2, 0.7):
        levels = torch.full((rows,), t)
        noised = corrupt(clean, torch.ones_like(clean, dtype=torch.bool), 1, sources, t=levels)
        mean = float((WEIGHTS["inverse_t"](noised.level) * noised.scored.sum(-1)).mean())
        assert abs(mean - 1.0) < 4.5 * ((1 - t) / (t * length * rows)) ** 0.5
