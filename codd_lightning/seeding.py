"""Randomness that belongs to the sample, not to the process."""

import hashlib
import random
from typing import Any, cast

import numpy as np
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


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's default generators, as tensors and plain values."""
    kind, keys, *rest = cast("tuple[Any, ...]", np.random.get_state(legacy=True))
    return {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Puts back what `random_states` gave."""
    random.setstate(states["python"])
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"])
    for device, state in enumerate(states["cuda"]):
        torch.cuda.set_rng_state(state, device)
