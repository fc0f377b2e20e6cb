"""Folders of finished runs, written by hand."""

import json
from pathlib import Path
from typing import Any

import yaml

from codd_lightning.evaluation import row

LABELS = {"remasking": "low_confidence", "eos": "any"}
HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def accuracy(decoder: str, steps: int, right: list[bool]) -> dict[str, Any]:
    share = sum(right) / len(right)
    costs = {"nfe": 1.5 * steps, "seconds_per_sample": 0.01 * steps, "tpf": 32 / steps}
    labels = {"decoder": decoder, **LABELS, "steps_per_block": steps, **costs}
    return row(
        "strict_accuracy", share, max(0, share - 0.1), min(1, share + 0.1), len(right), "fraction", "test", **labels
    )


def sample(index: int, decoder: str, steps: int, pieces: list[str], strict: bool) -> dict[str, Any]:
    return {
        "index": index,
        "decoder": decoder,
        **LABELS,
        "steps_per_block": steps,
        "prompt": f"problem number {index}",
        "target": "one two three",
        "response": " ".join(pieces[:-1]),
        "pieces": pieces,
        "tokens": len(pieces),
        "nfe": steps,
        "circuit_calls": 0,
        "seconds": 0.01,
        "ended": True,
        "strict": strict,
        "flexible": strict,
    }


def write_run(
    folder: Path, metrics: list[dict[str, Any]], samples: list[dict[str, Any]] | None = None, **config: Any
) -> Path:
    folder.mkdir(parents=True)
    results = {
        "schema": 1,
        "experiment": "demo",
        "status": "completed",
        "seconds": 12.5,
        "parameters": {"backbone": 10, "circuit": 5},
        "metrics": metrics,
    }
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "manifest.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"seed": 0, **config}))
    if samples is not None:
        (folder / "samples.jsonl").write_text("".join(json.dumps(record) + "\n" for record in samples))
    return folder


def two_decoders(better: int, problems: int = 40) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and samples of a factorized decoder that is never right and a coupled one that is on the first `better`."""
    factorized, coupled = [False] * problems, [i < better for i in range(problems)]
    samples = [sample(i, "factorized", 4, ["one", "two", "two", "<eos>"], factorized[i]) for i in range(problems)]
    samples += [sample(i, "any_order", 4, ["one", "two", "three", "<eos>"], coupled[i]) for i in range(problems)]
    return [accuracy("factorized", 4, factorized), accuracy("any_order", 4, coupled)], samples
