"""`codd report`: runs of a folder as tables, figures and a page."""

import argparse
import os
import shutil
import sys
from pathlib import Path

from codd_lightning.errors import UserError
from codd_lightning.evaluation.report import collect, write_report

PARTS = {"report.md", "report.csv", "report.html", "figures"}


def report_command(args: argparse.Namespace) -> int:
    """Collects the runs below a folder and replaces its report.

    Raises:
        UserError: there is no such folder, no run in it, or its `report` is something else.
    """
    outputs = Path(args.outputs)
    if not outputs.is_dir():
        raise UserError(f"{outputs} is not a folder: give one that holds runs, such as outputs")
    folder = outputs / "report"
    _require_ours(folder)
    runs, warnings = collect(outputs, folder)
    for warning in warnings:
        print(f"codd: warning: {warning}", file=sys.stderr)
    if not runs:
        raise UserError(f"{outputs} holds no finished run (a folder with results.json, config.yaml and manifest.json)")
    beside, replaced = (outputs / f".report.{os.getpid()}.{what}" for what in ("partial", "replaced"))
    try:
        beside.mkdir()
        written = write_report(runs, beside, html=args.html)
        if folder.exists():
            os.replace(folder, replaced)
        os.replace(beside, folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from None
    finally:
        if replaced.exists() and not folder.exists():  # the new one did not get there
            os.replace(replaced, folder)
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    figures = sum(path.suffix == ".svg" for path in written)
    print(f"{len(runs)} run{'s' if len(runs) != 1 else ''}, {sum(len(run.rows) for run in runs)} numbers")
    for path in written:
        if path.parent == beside:
            print(f"  {folder / path.name}")
    if figures:
        print(f"  {folder / 'figures'}: {figures} figures, each as SVG and PNG")
    return 0


def _require_ours(folder: Path) -> None:
    """Only what a report wrote is replaced."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise UserError(f"{folder} is in the way of the report: move it")
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in PARTS) if folder.exists() else []
    if foreign:
        raise UserError(f"{folder} holds {foreign[0]}, which is of no report: move it")
