"""Error of truncated evidence against dense, on a backbone's predictions: log Z and conditional log-likelihood by K.

    python benchmarks/truncation.py BACKBONE CIRCUIT --texts FILE.jsonl [--prompt-field F --response-field F]

Blocks of the responses are masked uniformly (t ~ U(0, 1]). "kept" truncates with the true token always kept, as
training does; "plain" without. Errors are absolute, in nats: means, and the largest.
"""

import argparse
import json
from pathlib import Path

import torch

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import Evidence, load_circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.modules import Noise
from codd_lightning.tasks import FileTask

BATCH, BATCHES = 32, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backbone")
    parser.add_argument("circuit")
    parser.add_argument("--texts", required=True)
    parser.add_argument("--prompt-field", default="question")
    parser.add_argument("--response-field", default="answer")
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    backbone, circuit = load_backbone(args.backbone), load_circuit(args.circuit)
    length = circuit.block_length
    task = FileTask(
        train=args.texts, test=args.texts, prompt_field=args.prompt_field, response_field=args.response_field
    )
    data = TaskDataModule(
        task, backbone.tokenizer, backbone.eos_token_ids[0], block_length=length, batch_size=BATCH,
        train_size=None, validation_size=None, test_size=BATCH * BATCHES, max_prompt_tokens=160,
        max_response_tokens=192, response_padding="block",
    )  # fmt: skip
    dataset, noise = data.dataset("test"), Noise("uniform", length, 0.0, 0)
    found: dict[tuple[int, str], list[torch.Tensor]] = {}
    for start in range(0, BATCH * BATCHES, BATCH):
        batch = data.collate([dataset[i] for i in range(start, start + BATCH)])
        noised = noise(batch, backbone.mask_token_id, 0, "truncation")
        columns = torch.arange(batch.prompt_length, batch.input_ids.shape[1])
        with torch.no_grad():
            logits = backbone.predict(noised.canvas, columns, attention_mask=batch.attention_mask).logits
            logits = logits.reshape(-1, length, logits.shape[-1])
            tokens = batch.input_ids[:, batch.prompt_length :].reshape(-1, length)
            canvas = noised.canvas[:, batch.prompt_length :].reshape(-1, length)
            dense = Evidence.from_logits(logits, canvas, backbone.mask_token_id)
            log_z = circuit.log_partition(dense)
            cll = circuit.log_joint(tokens, dense) - log_z
            for top_k in args.top_k:
                for kind, keep in (("kept", tokens), ("plain", None)):
                    cut = Evidence.from_logits(logits, canvas, backbone.mask_token_id, top_k=top_k, keep=keep)
                    cut_z = circuit.log_partition(cut)
                    cut_cll = circuit.log_joint(tokens, cut) - cut_z
                    errors = torch.stack([(cut_z - log_z).abs() / length, (cut_cll - cll).abs() / length])
                    found.setdefault((top_k, kind), []).append(errors)
    rows = []
    print("    K  true token   log Z mean    max   CLL mean    max   (nats per position)")
    for (top_k, kind), parts in found.items():
        errors = torch.cat(parts, 1)
        mean, largest = errors.mean(1), errors.amax(1)
        rows.append({"top_k": top_k, "true_token": kind, "blocks": errors.shape[1],
                     "log_z_mean": float(mean[0]), "log_z_max": float(largest[0]),
                     "cll_mean": float(mean[1]), "cll_max": float(largest[1])})  # fmt: skip
        print(f"{top_k:5d}  {kind:10s} {mean[0]:10.2e} {largest[0]:8.1e} {mean[1]:10.2e} {largest[1]:8.1e}")
    if args.json:
        with args.json.open("w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
