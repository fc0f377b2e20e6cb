"""Randomness that belongs to the sample."""

import itertools

import torch

from codd_lightning.seeding import sample_generator, spawn


def test_the_same_sample_draws_the_same_and_any_other_something_else() -> None:
    keys = [*itertools.product((0, 1), (0, 1), (0, 1, 11), ("noise", "order"))]

    def draws() -> list[tuple[float, ...]]:
        return [tuple(torch.rand(4, generator=sample_generator(*key)).tolist()) for key in keys]

    assert draws() == draws()
    assert len(set(draws())) == len(keys)


def test_sample_generators_do_not_touch_the_default_one() -> None:
    before = torch.random.get_rng_state()
    torch.rand(3, generator=sample_generator(0, 0, 0, "noise"))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_spawned_generators_differ_and_are_set_by_their_source() -> None:
    def drawn(seed: int) -> list[float]:
        return [float(torch.rand((), generator=g)) for g in spawn(torch.Generator().manual_seed(seed), 5)]

    assert drawn(0) == drawn(0)
    assert len({*drawn(0), *drawn(1)}) == 10


def test_spawning_without_a_source_asks_the_default_generator() -> None:
    def drawn() -> list[float]:
        torch.manual_seed(4)
        return [float(torch.rand((), generator=g)) for g in spawn(None, 3)]

    assert drawn() == drawn()
