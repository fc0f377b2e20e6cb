"""Memory and time at the paper's scale: 1,024 states, LLaDA's vocabulary, blocks of 32; a process for each part.

    python benchmarks/paper_scale.py [--vocab-size V] [--json FILE]

Evidence has the sharpness of a trained backbone: most of a position's mass on a few tokens.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor

from codd_lightning.circuits import HMM, Evidence

NUM_STATES, LENGTH, BATCH_SIZE, TOP_K = 1024, 32, 4, 64
SHARPNESS = 8.0  # standard deviation of the logits
PARTS = (
    *("inference_dense", "inference_top_k", "posterior_top_k", "training_top_k"),
    *("inference_dense_bfloat16", "inference_top_k_bfloat16", "posterior_top_k_bfloat16"),
)
REPEATS = 3


def evidence(vocab_size: int, top_k: int | None) -> tuple[Evidence, Tensor]:
    """Evidence for fully masked blocks, and tokens drawn from it."""
    generator = torch.Generator().manual_seed(0)
    logits = SHARPNESS * torch.randn(BATCH_SIZE, LENGTH, vocab_size, generator=generator)
    tokens = logits.argmax(-1)
    masked = torch.full_like(tokens, vocab_size)
    return Evidence.from_logits(logits, masked, vocab_size, top_k=top_k, keep=tokens), tokens


def run(part: str, vocab_size: int) -> dict[str, float | str]:
    """Time of one part, and the most memory that its process held."""
    kind = part.partition("_")[0]
    given, tokens = evidence(vocab_size, TOP_K if "top_k" in part else None)
    before = _peak_gib()
    # a circuit that is only read comes in the type that it is stored in
    torch.set_default_dtype(torch.bfloat16 if part.endswith("bfloat16") else torch.float32)
    hmm = HMM(NUM_STATES, vocab_size, LENGTH)
    torch.set_default_dtype(torch.float32)
    optimizer = torch.optim.AdamW(hmm.parameters(), lr=1e-2) if kind == "training" else None
    seconds = []
    for _ in range(REPEATS + 1):
        started = time.perf_counter()
        if optimizer is not None:
            loss = hmm.log_partition(given).mean() - hmm.log_joint(tokens, given).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        else:
            with torch.no_grad():
                if kind == "posterior":
                    hmm.posterior(given).mode()
                else:
                    hmm.log_partition(given)
        seconds.append(time.perf_counter() - started)
    return {
        "part": part,
        "first_s": round(seconds[0], 3),
        "then_s": round(sorted(seconds[1:])[REPEATS // 2], 3),
        "peak_gib": round(_peak_gib(), 2),
        "evidence_gib": round(before, 2),
    }


def _peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab-size", type=int, default=126_464, help="LLaDA's; Dream's is 152064")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        print(json.dumps(run(args.part, args.vocab_size)))
        return
    rows = []
    for part in PARTS:
        command = [sys.executable, __file__, "--part", part, "--vocab-size", str(args.vocab_size)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
