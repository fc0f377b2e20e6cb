"""The one form of a measured number, from which tables, charts and pages are made."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

SCHEMA = 1
MEASURED = ("evaluation", "decoding", "tuning")  # groups that a later measurement of a run may set otherwise
Row = dict[str, Any]


@runtime_checkable
class TakesResults(Protocol):
    """A callback that is given what a run measured in the end."""

    def on_results(self, trainer: Any, rows: Sequence[Row], settings: Mapping[str, Any]) -> None:
        """Called once on every process, after the run's last number is measured.

        Args:
            trainer: of the run.
            rows: those of results.json.
            settings: what the command line (or the cell of a grid) set, by its dotted key.
        """


def row(name: str, value: float, low: float, high: float, n: int, unit: str, split: str, **labels: Any) -> Row:
    """One measured number with its interval, its sample size and what tells it from others."""
    return {"name": name, "value": value, "low": low, "high": high, "n": n, "unit": unit, "split": split, **labels}


def tag(measured: Row) -> str:
    """The TensorBoard tag of a row, by the labels that it has: `strict_accuracy/any_order/steps_4`."""
    parts = [measured["name"]]
    if measured.get("template") is not None:
        parts.append(str(measured["template"]))
    if "decoder" in measured:
        parts.append(decoder_label(measured))
    if "steps_per_block" in measured:
        parts.append(f"steps_{measured['steps_per_block']}")
    if "mask_ratio" in measured:
        low, high = measured["mask_ratio"]
        parts.append(f"{low:.2f}-{high:.2f}")
    return "/".join(parts)


def decoder_label(measured: Row) -> str:
    """A decoder's name; its order, EOS rule and commit rule only where they are not the default ones."""
    label = str(measured["decoder"])
    if measured.get("remasking", "low_confidence") != "low_confidence":
        label += f"_{measured['remasking']}"
    if measured.get("eos", "any") != "any":
        label += f"_eos_{measured['eos']}"
    if measured.get("commit") is not None:
        reads = "_circuit" if measured.get("commit_reads") == "circuit" else ""
        bound = f"_{measured['commit_bound']}" if "commit_bound" in measured else ""
        label += f"_{measured['commit']}{reads}{bound}"
    return label


def is_final(measured: Row, metric: str) -> bool:
    """Whether a row is a decoder's accuracy on the test split at a step budget: not of a choice on held-out data."""
    return (
        measured["name"] == metric and measured["split"] == "test" and {"decoder", "steps_per_block"} <= set(measured)
    )


def curve_label(measured: Row) -> str:
    """A decoder's label without the bound of its commit rule: what one curve is drawn of."""
    return series_label({label: value for label, value in measured.items() if label != "commit_bound"})


def series_label(measured: Row) -> str:
    """A decoder's label, with the prompt template where the row names one."""
    label = decoder_label(measured)
    if measured.get("template") is not None:
        label += f", {measured['template']}"
    return label


def write_results(
    path: Path, *, experiment: str, seconds: float, parameters: dict[str, int], metrics: Sequence[Row]
) -> None:
    """Writes results.json beside its place and moves it there."""
    results = {
        "schema": SCHEMA,
        "experiment": experiment,
        "status": "completed",
        "seconds": round(seconds, 3),
        "parameters": parameters,
        "metrics": list(metrics),
    }
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    beside.write_text(json.dumps(results, indent=1) + "\n")
    os.replace(beside, path)
