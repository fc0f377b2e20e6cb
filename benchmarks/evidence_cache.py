"""The evidence cache: what a token costs on disk, how fast training goes from it, and what its rounding costs.

    python benchmarks/evidence_cache.py [--backbone PATH --train FILE.jsonl] [--json FILE]

On the bundled backbone and worded sums, on a backbone and a file of your own if given, and on random weights of a size
whose call takes most of a step. Throughput is of the circuit's training steps, the same ones from the cache and on the
fly. CLL is that of a circuit trained for an epoch on dense float32 evidence, nats per masked token, on the evidence as
it was stored.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from codd_lightning.backbones import Backbone, load_backbone
from codd_lightning.circuits import HMM
from codd_lightning.data import Blocks, CachedDataModule, CacheFolder, TaskDataModule
from codd_lightning.modules import Noise, conditional_log_likelihood, scored_blocks, write_evidence
from codd_lightning.tasks import FileTask, WordedSums

LENGTH, STATES, STEPS = 32, 64, 8
KEPT = (8, 16, 32, 64)


def data_of(task: Any, backbone: Any, examples: int, batch_size: int, response: int) -> TaskDataModule:
    return TaskDataModule(
        task, backbone.tokenizer, backbone.eos_token_ids[0], block_length=LENGTH, batch_size=batch_size,
        train_size=examples, validation_size=batch_size, test_size=batch_size, max_prompt_tokens=160,
        max_response_tokens=response,
    )  # fmt: skip


def random_backbone() -> Backbone:
    """80 million parameters that have learnt nothing, over the bundled tokenizer and 32,000 tokens."""
    tokens = load_backbone("codd_tiny")
    config = LlamaConfig(
        vocab_size=32000, hidden_size=512, num_hidden_layers=14, num_attention_heads=8, intermediate_size=1536,
        tie_word_embeddings=False, use_cache=False, pad_token_id=None, bos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    config.is_causal = False
    torch.manual_seed(0)
    return Backbone(LlamaForCausalLM(config), tokens.mask_token_id, tokens.eos_token_ids, tokens.tokenizer).eval()


def cached(path: Path, backbone: Any, data: TaskDataModule, noise: Noise, top_k: int | None, dtype: str) -> CacheFolder:
    """One epoch of evidence."""
    sizes = {"train": len(data.dataset("train"))}
    writing = {"data.batch_size": data.batch_size, "cache.shard_batches": 1000}
    folder = CacheFolder(path, {}, writing, sizes, {"train": 1}, "")
    folder.start()
    write_evidence(folder, backbone, data, noise, top_k=top_k, dtype=dtype)
    assert folder.finish()
    return folder


def step(hmm: HMM, optimizer: torch.optim.Optimizer, blocks: Blocks) -> None:
    loss = -conditional_log_likelihood(hmm, blocks).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def hmm_of(vocab_size: int) -> tuple[HMM, torch.optim.Optimizer]:
    hmm = HMM(STATES, vocab_size, LENGTH)
    hmm.reset_parameters(torch.Generator().manual_seed(0))
    return hmm, torch.optim.AdamW(hmm.parameters(), lr=0.05)


@torch.no_grad()
def likelihood(hmm: HMM, folder: CacheFolder, batch_size: int) -> tuple[float, float]:
    """Coupled and factorized, nats per counted token."""
    coupled = factorized = tokens = 0.0
    for blocks in CachedDataModule(folder, batch_size).train_dataloader():
        coupled += float(conditional_log_likelihood(hmm, blocks, blocks.counted).sum())
        factorized += float(blocks.evidence.log_weight(blocks.tokens, blocks.counted).sum())
        tokens += float(blocks.counted.sum())
    return coupled / tokens, factorized / tokens


def throughput(
    backbone: Any, data: TaskDataModule, noise: Noise, folder: CacheFolder, top_k: int | None
) -> list[float]:
    """Examples a second: on the fly, from the cache."""
    rates = []
    for source in ("fly", "cache"):
        hmm, optimizer = hmm_of(backbone.vocab_size)
        loader = (
            data.train_dataloader() if source == "fly" else CachedDataModule(folder, data.batch_size).train_dataloader()
        )
        started, done = 0.0, 0
        for number, batch in enumerate(loader):
            if number == 1:  # the first warms up
                started, done = time.perf_counter(), 0
            if source == "fly":
                noised = noise(batch, backbone.mask_token_id, 0, "training noise")
                batch = scored_blocks(backbone, batch, noised, LENGTH, top_k)
            step(hmm, optimizer, batch)
            done += data.batch_size
            if number == STEPS:
                break
        rates.append(done / (time.perf_counter() - started))
    return rates


def measure(name: str, backbone: Any, data: TaskDataModule, rounding: bool) -> list[dict[str, Any]]:
    """Rows of one backbone, printed as they come."""
    noise = Noise("mixed", LENGTH, 0.2, 0)
    parameters, rows = sum(p.numel() for p in backbone.parameters()), []
    print(f"\n{name}: {parameters / 1e6:.1f} M parameters, vocabulary {backbone.vocab_size:,}")
    print("   K  dtype     bytes/masked token  of dense 2·V  examples/s fly  cache       CLL  difference")
    with tempfile.TemporaryDirectory() as path:
        exact: float | None = None
        hmm, optimizer = hmm_of(backbone.vocab_size)
        settings = [(None, d) for d in ("float32", "float16", "bfloat16")] if rounding else []
        for top_k, dtype in [*settings, *((k, "float16") for k in KEPT)]:
            folder = cached(Path(path) / f"{top_k}-{dtype}", backbone, data, noise, top_k, dtype)
            masked = sum(int(b.masked.sum()) for b in CachedDataModule(folder, data.batch_size).train_dataloader())
            # the loader leaves out a last batch that is not full: sizes are of whole batches here
            size = sum(shard["bytes"] for shard in folder.index().values()) / masked
            row: dict[str, Any] = {"backbone": name, "top_k": top_k, "dtype": dtype, "bytes_per_token": size}
            row["share_of_dense"] = size / (2 * backbone.vocab_size)
            if rounding:
                if exact is None:
                    for blocks in CachedDataModule(folder, data.batch_size).train_dataloader():
                        step(hmm, optimizer, blocks)
                row["cll"], row["factorized"] = likelihood(hmm, folder, data.batch_size)
                exact = row["cll"] if exact is None else exact
                row["difference"] = row["cll"] - exact
            if dtype == "float16":
                row["fly"], row["cache"] = throughput(backbone, data, noise, folder, top_k)
            speeds = f"{row['fly']:14.1f}  {row['cache']:5.0f}" if "fly" in row else " " * 21
            quality = f"{row['cll']:8.5f}  {row['difference']:+.6f}" if rounding else ""
            share = f"{100 * row['share_of_dense']:11.1f} %"
            print(f"{top_k or 'all'!s:>4s}  {dtype:8s}  {size:18.0f}  {share}  {speeds}  {quality}", flush=True)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="folder of a further backbone")
    parser.add_argument("--train", help="its data: JSON lines with question and answer")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    tiny, large = load_backbone("codd_tiny"), random_backbone()
    rows = measure("codd_tiny", tiny, data_of(WordedSums(2, 3), tiny, 48 * 20, 48, 64), rounding=True)
    if args.backbone:
        other = load_backbone(args.backbone)
        task = FileTask(args.train, None, args.train, prompt_field="question", response_field="answer")
        rows += measure(args.backbone, other, data_of(task, other, 16 * 20, 16, 192), rounding=True)
    rows += measure("random", large, data_of(WordedSums(2, 3), large, 8 * 9, 8, 64), rounding=False)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
