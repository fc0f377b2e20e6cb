"""What roles and adapter cost at the sizes of LLaDA-8B and Qwen3-0.6B; a process for each, random weights.

    python benchmarks/contextual.py [--threads T]

For blocks of 32 with 256 columns before, batch 4, evidence of 64 tokens a position: parameters (multiply-adds are one a
parameter and position but for embeddings), seconds and the peak memory of the whole process, of the static HMM and
of what knows the context. Then the error of truncation to K tokens against the dense form, in nats per position, for
heads of random weights.
"""

import argparse
import json
import resource
import subprocess
import sys
import time

import torch
from torch import Tensor

from codd_lightning.circuits import HMM, Context, ContextualHMM, Evidence

NUM_STATES, LENGTH, BEFORE, BATCH_SIZE, TOP_K = 1024, 32, 256, 4, 64
SHARPNESS = 8.0  # standard deviation of the logits
SHAPES = {"llada_8b": (126_464, 4096, 256), "qwen3_06b": (151_936, 1024, 128)}  # V, D, width of the adapter
KINDS = ("static", "roles", "roles_adapter")
REPEATS = 3
HEAD_SPREAD = 0.1  # standard deviation of the last layer of roles, whose scores then have one of about 0.4


def evidence(
    vocab_size: int, hidden_size: int, top_k: int | None, batch_size: int = BATCH_SIZE
) -> tuple[Evidence, Tensor]:
    """Evidence for fully masked blocks, and its most probable tokens."""
    generator = torch.Generator().manual_seed(0)
    logits = SHARPNESS * torch.randn(batch_size, LENGTH, vocab_size, generator=generator)
    tokens = logits.argmax(-1)
    context = Context(
        torch.randn(batch_size, LENGTH, hidden_size, generator=generator),
        torch.randn(batch_size, BEFORE, hidden_size, generator=generator),
        torch.ones(batch_size, BEFORE, dtype=torch.bool),
    )
    masked = torch.full_like(tokens, vocab_size)
    return Evidence.from_logits(logits, masked, vocab_size, top_k=top_k, keep=tokens, context=context), tokens


def make(kind: str, vocab_size: int, hidden_size: int, width: int) -> HMM:
    if kind == "static":
        return HMM(NUM_STATES, vocab_size, LENGTH)
    adapter = width if kind == "roles_adapter" else 0
    circuit = ContextualHMM(NUM_STATES, vocab_size, LENGTH, hidden_size, roles=8, adapter_width=adapter)
    torch.nn.init.normal_(circuit.get_parameter("emission_roles.role.weight"), std=HEAD_SPREAD)
    return circuit


def run(shape: str, kind: str) -> dict[str, float | str]:
    """Size, time and memory of one circuit."""
    vocab_size, hidden_size, width = SHAPES[shape]
    given, tokens = evidence(vocab_size, hidden_size, TOP_K)
    torch.manual_seed(0)
    circuit = make(kind, vocab_size, hidden_size, width)
    found: dict[str, float | str] = {"shape": shape, "kind": kind}
    found["parameters"] = sum(p.numel() for p in circuit.parameters())
    found["of_context"] = sum(p.numel() for n, p in circuit.named_parameters() if not n.endswith("_logits"))
    with torch.no_grad():
        circuit.log_partition(given)  # tables are made once
        for name, ask in (
            ("prepare_s", lambda: circuit.prepare(given)),
            ("log_z_s", lambda: circuit.log_partition(given)),
            ("mode_s", lambda: circuit.posterior(given).mode()),
        ):
            found[name] = _median(ask)
    optimizer = torch.optim.AdamW(circuit.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        (-circuit.log_conditional(tokens, given).mean()).backward()
        optimizer.step()

    found["training_step_s"] = _median(step)
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    return found


def truncation(vocab_size: int = 32_768, hidden_size: int = 256) -> dict[str, float]:
    """Mean absolute error of the CLL against dense evidence by K, nats per position."""
    torch.manual_seed(0)
    circuit = ContextualHMM(64, vocab_size, LENGTH, hidden_size, roles=8, adapter_width=0)
    torch.nn.init.normal_(circuit.get_parameter("emission_roles.role.weight"), std=HEAD_SPREAD)
    with torch.no_grad():
        dense, tokens = evidence(vocab_size, hidden_size, None, 2)
        expected = circuit.log_conditional(tokens, dense)
        errors = {}
        for top_k in (16, 64, 256, 1024):
            found = circuit.log_conditional(tokens, evidence(vocab_size, hidden_size, top_k, 2)[0])
            errors[str(top_k)] = float((found - expected).abs().mean()) / LENGTH
    return errors


def _median(ask) -> float:  # type: ignore[no-untyped-def]  # whatever it returns
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        ask()
        seconds.append(time.perf_counter() - started)
    return round(sorted(seconds)[REPEATS // 2], 4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--part", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.part:
        print(json.dumps(run(*args.part)))
        return
    for shape in SHAPES:
        for kind in KINDS:
            command = [sys.executable, __file__, "--threads", str(args.threads), "--part", shape, kind]
            print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip(), flush=True)
    print(json.dumps({"truncation_error_by_k": truncation()}))


if __name__ == "__main__":
    main()
