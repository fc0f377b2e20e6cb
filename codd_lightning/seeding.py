"""Randomness that belongs to the sample, not to the process."""

import hashlib

import torch
from torch import Tensor


def sample_generator(seed: int, epoch: int, index: int, purpose: str) -> torch.Generator:
    """A CPU generator for one purpose, of one sample, in one epoch.

    Resuming, worker counts, world sizes and batch order change nothing of what it draws.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{index}/{purpose}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def spawn(generator: torch.Generator | None, count: int) -> list[torch.Generator]:
    """One generator for each of `count` rows, seeded by draws from another (the default one if None)."""
    seeds: Tensor = torch.randint(2**62, (count,), generator=generator)
    return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
