"""Speed of the HMM's recursion beside the matrix products that it cannot avoid.

    python benchmarks/circuits.py [--json FILE]

For each size: the log normaliser, and its value with the gradient, as multiples of L bare (B, N) × (N, N)
products on the same machine, one thread, float32; medians.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch

from codd_lightning.circuits.chain import Chain, log_normalizer

SIZES = ((16, 256, 32), (4, 1024, 32))
REPEATS = 25


def median_seconds(run: Callable[[], object]) -> float:
    """Median over repeats, after one warm-up."""
    run()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def measure(batch_size: int, num_states: int, length: int) -> dict[str, float]:
    """Times of one size."""
    generator = torch.Generator().manual_seed(0)
    initial = torch.rand(num_states, generator=generator).softmax(-1).requires_grad_()
    transition = torch.rand(1, num_states, num_states, generator=generator).softmax(-1).requires_grad_()
    scores = torch.rand(batch_size, length, num_states, generator=generator).requires_grad_()
    chain = Chain(initial, transition, scores)
    message = torch.rand(batch_size, num_states, generator=generator)

    def bare() -> None:
        with torch.no_grad():
            for _ in range(length):
                torch.mm(message, transition[0])

    def value() -> None:
        with torch.no_grad():
            log_normalizer(chain)

    def value_and_gradient() -> None:
        log_normalizer(chain).sum().backward()

    products = median_seconds(bare)
    return {
        "batch_size": batch_size,
        "num_states": num_states,
        "length": length,
        "products_ms": 1000 * products,
        "value_ratio": median_seconds(value) / products,
        "value_and_gradient_ratio": median_seconds(value_and_gradient) / products,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [measure(*size) for size in SIZES]
    print("   B     N    L   products ms   value ×   value and gradient ×")
    for row in rows:
        print(
            f"{row['batch_size']:4.0f} {row['num_states']:5.0f} {row['length']:4.0f} {row['products_ms']:13.2f} "
            f"{row['value_ratio']:9.2f} {row['value_and_gradient_ratio']:22.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
