"""Error of truncated evidence against dense: log Z and conditional log-likelihood by K.

    python benchmarks/truncation.py backbone BACKBONE CIRCUIT --texts FILE.jsonl [--prompt-field F --response-field F]
    python benchmarks/truncation.py synthetic --vocab-size 126464 --entropy 3.2

The first takes a backbone's predictions for blocks of real responses, masked uniformly (t ~ U(0, 1]), and prints
their mean entropy. The second takes random predictions of that entropy over a large vocabulary, an HMM with random
parameters, and fully masked blocks of tokens drawn from the predictions. "kept" truncates with the true token always
kept, as training does; "plain" without. Errors are absolute, in nats per position: means, and the largest.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from codd_lightning.backbones import load_backbone
from codd_lightning.circuits import HMM, Circuit, Evidence, load_circuit
from codd_lightning.data import TaskDataModule
from codd_lightning.modules import Noise
from codd_lightning.tasks import FileTask

BATCH, BATCHES = 32, 4
SYNTHETIC_STATES, SYNTHETIC_LENGTH, SYNTHETIC_BLOCKS = 256, 32, 16

Case = tuple[Tensor, Tensor, Tensor, int]  # logits (M, L, V), true tokens (M, L), canvas (M, L), mask token


def of_backbone(args: argparse.Namespace, length: int) -> Iterator[Case]:
    """A backbone's predictions for blocks of real responses."""
    backbone = load_backbone(args.backbone)
    task = FileTask(
        train=args.texts, test=args.texts, prompt_field=args.prompt_field, response_field=args.response_field
    )
    data = TaskDataModule(
        task, backbone.tokenizer, backbone.eos_token_ids[0], block_length=length, batch_size=BATCH,
        train_size=None, validation_size=None, test_size=BATCH * BATCHES, max_prompt_tokens=160,
        max_response_tokens=192, response_padding="block",
    )  # fmt: skip
    dataset, noise = data.dataset("test"), Noise("uniform", length, 0.0, 0)
    for start in range(0, BATCH * BATCHES, BATCH):
        batch = data.collate([dataset[i] for i in range(start, start + BATCH)])
        noised = noise(batch, backbone.mask_token_id, 0, "truncation")
        columns = torch.arange(batch.prompt_length, batch.input_ids.shape[1])
        logits = backbone.predict(noised.canvas, columns, attention_mask=batch.attention_mask).logits
        tokens = batch.input_ids[:, batch.prompt_length :].reshape(-1, length)
        canvas = noised.canvas[:, batch.prompt_length :].reshape(-1, length)
        yield logits.reshape(-1, length, logits.shape[-1]), tokens, canvas, backbone.mask_token_id


def synthetic(vocab_size: int, entropy: float) -> Iterator[Case]:
    """Random predictions of a mean entropy, over a vocabulary."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, 2 * SYNTHETIC_LENGTH, vocab_size, generator=generator)
    low, high = 0.1, 100.0  # standard deviations of the logits: the entropy falls with them
    for _ in range(40):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if mean_entropy(middle * noise) > entropy else (low, middle)
    for _ in range(SYNTHETIC_BLOCKS):
        logits = low * torch.randn(1, SYNTHETIC_LENGTH, vocab_size, generator=generator)
        tokens = logits[0].softmax(-1).multinomial(1, generator=generator).T
        yield logits, tokens, torch.full_like(tokens, vocab_size), vocab_size


def mean_entropy(logits: Tensor) -> float:
    """Nats per position."""
    return float(torch.special.entr(logits.softmax(-1)).sum(-1).mean())


def errors(circuit: Circuit, case: Case, top_k: list[int]) -> dict[tuple[int, str], Tensor]:
    """`(2, M)` errors of log Z and CLL, by K and whether the true token is kept."""
    logits, tokens, canvas, mask = case
    length = tokens.shape[1]
    dense = Evidence.from_logits(logits, canvas, mask)
    log_z = circuit.log_partition(dense)
    cll = circuit.log_joint(tokens, dense) - log_z
    found = {}
    for kept in top_k:
        for kind, keep in (("kept", tokens), ("plain", None)):
            cut = Evidence.from_logits(logits, canvas, mask, top_k=kept, keep=keep)
            cut_z = circuit.log_partition(cut)
            cut_cll = circuit.log_joint(tokens, cut) - cut_z
            found[kept, kind] = torch.stack([(cut_z - log_z).abs() / length, (cut_cll - cll).abs() / length])
    return found


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(dest="kind", required=True)
    real = kinds.add_parser("backbone")
    real.add_argument("backbone")
    real.add_argument("circuit")
    real.add_argument("--texts", required=True)
    real.add_argument("--prompt-field", default="question")
    real.add_argument("--response-field", default="answer")
    random = kinds.add_parser("synthetic")
    random.add_argument("--vocab-size", type=int, default=126_464)
    random.add_argument("--entropy", type=float, required=True, help="mean, nats per position")
    for kind in (real, random):
        kind.add_argument("--top-k", type=int, nargs="+", default=[1, 4, 16, 64, 256, 1024])
        kind.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    if args.kind == "backbone":
        circuit = load_circuit(args.circuit)
        cases = of_backbone(args, circuit.block_length)
    else:
        torch.manual_seed(0)
        circuit = HMM(SYNTHETIC_STATES, args.vocab_size, SYNTHETIC_LENGTH)
        cases = synthetic(args.vocab_size, args.entropy)
    found: dict[tuple[int, str], list[Tensor]] = {}
    entropies = []
    for case in cases:
        masked = case[2] == case[3]
        entropies.append(mean_entropy(case[0][masked][None]))
        for key, value in errors(circuit, case, args.top_k).items():
            found.setdefault(key, []).append(value)
    print(f"mean entropy of the predictions at masked positions: {sum(entropies) / len(entropies):.2f} nats")
    print("    K  true token   log Z mean    max   CLL mean    max   (nats per position)")
    rows = []
    for (top_k, kind), parts in found.items():
        both = torch.cat(parts, 1)
        mean, largest = both.mean(1), both.amax(1)
        rows.append({"top_k": top_k, "true_token": kind, "blocks": both.shape[1],
                     "log_z_mean": float(mean[0]), "log_z_max": float(largest[0]),
                     "cll_mean": float(mean[1]), "cll_max": float(largest[1])})  # fmt: skip
        print(f"{top_k:5d}  {kind:10s} {mean[0]:10.2e} {largest[0]:8.1e} {mean[1]:10.2e} {largest[1]:8.1e}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
