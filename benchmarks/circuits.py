"""Speed, growth and memory of the HMM's recursion, beside the matrix products that it cannot avoid and beside peers.

    pip install -c constraints.txt -e '.[bench]'       # the peers; those that are missing are skipped
    python benchmarks/circuits.py [--threads 1 2] [--json FILE]

For each size: the log normaliser, and its value with the gradient, as multiples of L bare (B, N) × (N, N)
products in the same process; float32, medians. A process for each number of threads, kept to as many
processors. Growth is the exponent of a size that the time of value and gradient grows with; memory is the most
that the gradient added to the process, in multiples of the (B, L, N) messages, without the gradient itself.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import PEERS

from codd_lightning.circuits.chain import Chain, log_normalizer
from codd_lightning.circuits.transitions import Transitions

SIZES = ((16, 256, 32), (4, 1024, 32))
REPEATS, SECONDS = 25, 3.0
GROWTH = {
    "B": ((16, 512, 32), (64, 512, 32)),
    "L": ((16, 512, 32), (16, 512, 128)),
    "N": ((16, 512, 32), (16, 2048, 32)),
}
MEMORY_SIZE = (64, 256, 512)
PARTS = ("speed", "growth", "memory")


def median_seconds(run: Callable[[], object]) -> float:
    """Median over repeats, after one warm-up; fewer repeats of what is slow."""
    run()
    seconds: list[float] = []
    while len(seconds) < REPEATS and (len(seconds) < 3 or sum(seconds) < SECONDS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def inputs(batch_size: int, num_states: int, length: int) -> tuple[Any, Any, Any]:
    """Initial and transition probabilities and scores, as float32 arrays."""
    random = np.random.default_rng(0)
    initial = random.dirichlet(np.ones(num_states)).astype(np.float32)
    transition = random.dirichlet(np.ones(num_states), num_states).astype(np.float32)
    return initial, transition, random.random((batch_size, length, num_states)).astype(np.float32)


def ours(initial: Any, transition: Any, scores: Any) -> tuple[Callable[[], object], Callable[[], object]]:
    """Value, and value with gradient."""
    start, step, given = (torch.from_numpy(x).requires_grad_() for x in (initial, transition[None], scores))

    def run() -> torch.Tensor:  # packing the transition is part of it, as in training
        return log_normalizer(Chain(start, Transitions(step), given))

    def value() -> object:
        with torch.no_grad():
            return run()

    return value, lambda: run().sum().backward()


def speed() -> list[dict[str, Any]]:
    """Times of ours and of each peer at each size."""
    rows = []
    for size in SIZES:
        arrays = inputs(*size)
        message, transition = torch.from_numpy(arrays[2][:, 0].copy()), torch.from_numpy(arrays[1])

        def products(message: torch.Tensor = message, transition: torch.Tensor = transition, n: int = size[2]) -> None:
            for _ in range(n):
                torch.mm(message, transition)

        unit = median_seconds(products)
        rows.append({"size": size, "by": "bare products", "value_ms": 1000 * unit})
        for name, peer in {"codd-lightning": ours, **PEERS}.items():
            try:
                value, gradient = peer(*arrays)
                seconds = median_seconds(value), median_seconds(gradient)
            except ImportError as error:
                rows.append({"size": size, "by": name, "skipped": f"not installed ({error.name})"})
                continue
            except Exception as error:
                rows.append({"size": size, "by": name, "skipped": f"failed: {type(error).__name__}: {error}"[:120]})
                continue
            rows.append(
                {
                    "size": size, "by": name, "value_ms": 1000 * seconds[0], "gradient_ms": 1000 * seconds[1],
                    "value_ratio": seconds[0] / unit, "gradient_ratio": seconds[1] / unit,
                }
            )  # fmt: skip
    return rows


def growth() -> dict[str, float]:
    """Exponents of B, L and N."""
    found = {}
    for name, (small, large) in GROWTH.items():
        seconds = [median_seconds(ours(*inputs(*size))[1]) for size in (small, large)]
        axis = "BNL".index(name)
        found[name] = float(np.log(seconds[1] / seconds[0]) / np.log(large[axis] / small[axis]))
    return found


def memory() -> float:
    """Most memory that value and gradient add, without the gradient of the scores, in multiples of the messages."""
    arrays = inputs(*MEMORY_SIZE)
    ours(*inputs(1, 8, 4))[1]()  # what the first call loads is not of the size
    gradient = ours(*arrays)[1]
    before = _resident()
    _reset_peak()
    gradient()
    return (_peak() - before) / arrays[2].nbytes - 1.0


def _status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return 1024 * int(line.split()[1])


def _resident() -> int:
    return _status("VmRSS")


def _peak() -> int:
    return _status("VmHWM")


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run_part(part: str, threads: int) -> Any:
    """A part in a process of its own, kept to as many processors as threads."""
    command = [sys.executable, "-W", "ignore", __file__, "--part", part, "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def show(rows: list[dict[str, Any]], threads: int) -> None:
    """The speed of one number of threads."""
    for size in SIZES:
        print(f"\nB={size[0]} N={size[1]} L={size[2]}, {threads} thread(s)       value ms     ×   gradient ms     ×")
        for row in (row for row in rows if tuple(row["size"]) == size):
            if "skipped" in row:
                print(f"  {row['by']:32s} {row['skipped']}")
            elif "value_ratio" in row:
                print(
                    f"  {row['by']:32s} {row['value_ms']:9.2f} {row['value_ratio']:6.2f} "
                    f"{row['gradient_ms']:12.2f} {row['gradient_ratio']:6.2f}"
                )
            else:
                print(f"  {row['by']:32s} {row['value_ms']:9.2f}   1.00")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        warnings.simplefilter("ignore")
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads[0]])
        torch.set_num_threads(args.threads[0])
        print(json.dumps({"speed": speed, "growth": growth, "memory": memory}[args.part]()))
        return
    found: dict[str, Any] = {"speed": {}}
    for threads in args.threads:
        found["speed"][threads] = run_part("speed", threads)
        show(found["speed"][threads], threads)
    found["growth"], found["memory"] = run_part("growth", 1), run_part("memory", 1)
    print("\ntime of value and gradient grows with", ", ".join(f"{k}^{v:.2f}" for k, v in found["growth"].items()))
    print(f"the gradient adds {found['memory']:.2f} × the messages to the memory, besides itself")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
