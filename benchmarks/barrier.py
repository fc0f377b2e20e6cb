"""Theory beside measurement on the list tasks: how often one step, and two, are right.

    python benchmarks/barrier.py [--items 4] [--draws 5000] [--json FILE]

The backbone is exact, and the circuits are built, not trained. A measured share stands beside its 95 % interval
(Wilson).
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from codd_lightning.backbones import exact_backbone
from codd_lightning.circuits import HMM, insertion_hmm, permutation_hmm, replacement_hmm
from codd_lightning.decoding import DecodingConfig, generate
from codd_lightning.evaluation import wilson
from codd_lightning.tasks import ListTask
from codd_lightning.tasks.lists import ITEMS, KINDS, MARKER

MOST_LISTED = 1000  # answers for which the chance of two steps in random order is summed


def closed_form(task: ListTask, backbone: Any, length: int) -> HMM | None:
    """The circuit that can be written down for a task."""
    ids = backbone.tokenizer.convert_tokens_to_ids
    items, eos, size = ids(list(ITEMS[: task.items])), backbone.eos_token_ids[0], (backbone.vocab_size, length)
    if task.kind == "permutation":
        return permutation_hmm(items, eos, *size)
    build = {"replace": replacement_hmm, "insert": insertion_hmm}.get(task.kind)
    return None if build is None else build(items, ids(MARKER), eos, *size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=4)
    parser.add_argument("--draws", type=int, default=5000)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    rows = []
    print("task         answers  lost nats  decoder                steps   theory  measured")
    for kind in KINDS:
        task = ListTask(kind, 3 if kind == "latin" else args.items)
        backbone = exact_backbone(task)
        prompt = task.example("test", 0, 0).prompt
        answers = task.answers(prompt)
        length = answers.length
        circuit = closed_form(task, backbone, length)
        settings: list[tuple[str, int, float | None]] = [("factorized", 1, answers.one_step_right)]
        if len(answers) <= MOST_LISTED and length <= 5:
            half = -(-length // 2)
            settings.append(("factorized", 2, answers.random_order_right([half, length - half])))
        if circuit is not None:
            settings += [(proposal, 1, 1.0) for proposal in ("latent", "any_order", "map", "best")]
        for proposal, steps, theory in settings:
            config = DecodingConfig(
                proposal=proposal, remasking="random", steps=steps, max_new_tokens=length, block_length=length,
                tau=1.0, temperature=1.0,
            )  # fmt: skip
            draws = args.draws if proposal in ("factorized", "latent", "any_order") else 100
            written = generate(
                backbone, [prompt] * draws, config, None if proposal == "factorized" else circuit,
                torch.Generator().manual_seed(0),
            )  # fmt: skip
            names = backbone.tokenizer.convert_ids_to_tokens
            right = sum(tuple(names(sequence[-length:])) in answers for sequence in written.sequences)
            low, high = wilson(right, draws)
            rows.append(
                {"task": kind, "answers": len(answers), "total_correlation_nats": answers.total_correlation,
                 "proposal": proposal, "steps": steps, "theory": theory, "measured": right / draws,
                 "low": low, "high": high, "n": draws}
            )  # fmt: skip
            print(
                f"{kind:12s} {len(answers):7d} {abs(answers.total_correlation):10.4f}  {proposal:20s} "
                f"{steps:7d} {theory:8.4f}  {right / draws:.4f} ({low:.4f}–{high:.4f})",
                flush=True,
            )
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
