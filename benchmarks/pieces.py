"""Memory of each rank while a backbone is created: read whole, or in pieces by FSDP2 and ZeRO-3.

    python benchmarks/pieces.py [--ranks 2] [--mebibytes 200]

A Llama of random float32 weights is written to a temporary folder; the ranks meet over gloo on the CPU. "peak" is the
growth of a rank's largest resident set (VmHWM, which counts mapped pages of the file too), "kept" that of its own
memory (RssAnon) once the backbone is there. Linux only.
"""

import argparse
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from codd_lightning.backbones import Backbone, load_backbone, new_backbone, save_backbone
from codd_lightning.strategies import DeepSpeedZero
from codd_lightning.strategies.fully_sharded import layers_of
from codd_lightning.strategies.pieces import fill, local_rows

CPU = torch.device("cpu")
HIDDEN = 512
PER_LAYER = 4 * HIDDEN * HIDDEN + 3 * HIDDEN * 4 * HIDDEN


def whole(folder: Path) -> Backbone:
    return load_backbone(folder)


def fsdp2(folder: Path) -> Backbone:
    backbone = load_backbone(folder, device="meta")
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*layers_of(backbone), backbone):
        fully_shard(part, mesh=mesh)
    fill(backbone, partial(local_rows, device=CPU))
    return backbone


def zero3(folder: Path) -> Backbone:
    from codd_lightning.strategies.zero import Partition

    backbone = load_backbone(folder, device="meta")
    fill(backbone, Partition(DeepSpeedZero(stage=3).config("cpu"), CPU))
    return backbone


WAYS = {"whole (ddp)": whole, "zero3": zero3, "fsdp2": fsdp2}


def memory(name: str) -> float:
    """A line of /proc/self/status, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def measured(rank: int, ranks: int, way: str, folder: Path, meeting: str, results: Any) -> None:
    os.environ["LOCAL_RANK"] = str(rank)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meeting}", rank=rank, world_size=ranks)
    load_backbone("codd_tiny")  # what is imported and allocated once
    if way == "zero3":
        from codd_lightning.strategies.zero import use_cpu

        use_cpu()
        import deepspeed

        deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, own = memory("VmHWM"), memory("RssAnon")
    backbone = WAYS[way](folder)
    results.put((rank, memory("VmHWM") - before, memory("RssAnon") - own))
    dist.barrier()
    del backbone
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--mebibytes", type=int, default=200)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        backbone = new_backbone(
            ["one two three"], tokenizer="words", vocab_size=100, hidden_size=HIDDEN,
            num_layers=max(1, args.mebibytes * 2**18 // PER_LAYER), num_heads=8, intermediate_size=4 * HIDDEN,
            max_positions=512, rope_theta=10000.0, weight_spread=0.02, attention="sdpa", seed=0,
        )  # fmt: skip
        folder = Path(place) / "backbone"
        save_backbone(backbone, folder)
        size = sum(p.numel() * p.element_size() for p in backbone.parameters()) / 2**20
        del backbone
        print(f"{size:.0f} MiB of weights, {args.ranks} ranks")
        for number, way in enumerate(WAYS):
            results = mp.get_context("spawn").SimpleQueue()
            mp.spawn(measured, (args.ranks, way, folder, f"{place}/meeting{number}", results), args.ranks)
            for rank, peak, kept in sorted(results.get() for _ in range(args.ranks)):
                print(f"{way:12} rank {rank}: peak {peak:5.0f} MiB, kept {kept:5.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
