"""Training on truncated evidence with the true token always kept, and without: the CLL on dense evidence after it.

    python benchmarks/truncated_training.py [--top-k 2 4 16] [--json FILE]

A circuit on the bundled backbone (vocabulary 141), one epoch; held-out gain over the factorized likelihood, nats per
masked token over all mask ratios, and the training loss, which without the true token may promise what is not there.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, Evidence
from codd_lightning.data import TaskDataModule
from codd_lightning.evaluation import evaluate_likelihood
from codd_lightning.modules import Noise, scored_blocks
from codd_lightning.tasks import WordedSums

STATES, LENGTH, BATCH, TRAINED_ON, TESTED_ON = 64, 32, 48, 4800, 256


def trained(backbone: Any, data: TaskDataModule, top_k: int | None, keep: bool) -> tuple[HMM, float]:
    """A circuit after one epoch, and the mean loss of its last ten steps, nats per block."""
    noise = Noise("mixed", LENGTH, 0.2, 0)
    hmm = HMM(STATES, backbone.vocab_size, LENGTH)
    hmm.reset_parameters(torch.Generator().manual_seed(0))
    optimizer = torch.optim.AdamW(hmm.parameters(), lr=0.05)
    dataset, losses = data.dataset("train"), []
    for start in range(0, TRAINED_ON, BATCH):
        batch = data.collate([dataset[i] for i in range(start, start + BATCH)])
        noised = noise(batch, backbone.mask_token_id, 0, "training noise")
        blocks = scored_blocks(backbone, batch, noised, LENGTH, None)
        evidence = blocks.evidence
        if top_k is not None:
            logits = evidence.dense_weights().log()
            canvas = torch.where(blocks.masked, backbone.mask_token_id, blocks.tokens)
            kept = blocks.tokens if keep else None
            evidence = Evidence.from_logits(logits, canvas, backbone.mask_token_id, top_k=top_k, keep=kept)
        loss = (hmm.log_partition(evidence) - hmm.log_joint(blocks.tokens, evidence)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return hmm, sum(losses[-10:]) / 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--top-k", type=int, nargs="+", default=[2, 4, 16])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    backbone = load_backbone("codd_tiny")
    data = TaskDataModule(
        WordedSums(2, 3), backbone.tokenizer, backbone.eos_token_ids[0], block_length=LENGTH, batch_size=BATCH,
        train_size=TRAINED_ON, validation_size=BATCH, test_size=TESTED_ON, max_prompt_tokens=64, max_response_tokens=64,
    )  # fmt: skip
    rows = []
    print("   K  true token  last losses  gain by mask ratio on dense evidence")
    for top_k, keep in [(None, True), *((k, keep) for k in args.top_k for keep in (True, False))]:
        hmm, loss = trained(backbone, data, top_k, keep)
        measured = evaluate_likelihood(
            backbone, data, Noise("uniform", LENGTH, 0.0, 0), circuit=hmm, examples=TESTED_ON, batch_size=64,
            split="test",
        )  # fmt: skip
        gains = [row["value"] for row in measured if row["name"] == "cll_gain"]
        rows.append({"top_k": top_k, "kept": keep, "loss": loss, "gains": gains})
        kind = "kept" if keep else "plain"
        print(f"{top_k or 'all'!s:>4s}  {kind:10s} {loss:11.3f}  " + "  ".join(f"{g:.3f}" for g in gains), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
