"""Samples and traces as Markdown tables, where whatever a model wrote is text and nothing else."""

from collections.abc import Sequence
from difflib import SequenceMatcher
from itertools import groupby

from codd_lightning.decoding import Cell, State
from codd_lightning.evaluation.rows import decoder_label
from codd_lightning.evaluation.samples import Sample

# Tags that TensorBoard leaves in: new tokens by the circuit, by the backbone alone.
STEP_TAGS = {State.BY_CIRCUIT: ("<strong>", "</strong>"), State.BY_BACKBONE: ("<code>", "</code>")}


def escape(text: str) -> str:
    """Text that Markdown and HTML both show as it is, on one line of a table.

    Every character that either may read is a numeric reference, which both leave alone; line ends become breaks, and
    what cannot be printed a replacement character.
    """
    return "".join(_escaped(character) for character in text)


def side_by_side(decoded: Sequence[Sequence[Sample]], number: int) -> str:
    """One problem: a row for each step budget, a column for each decoder, and what differs in bold.

    In the columns of other decoders the tokens that the first one's response lacks are marked, in the first column
    those that some other one lacks (by longest matching runs of tokens).

    Args:
        decoded: samples of each setting, in the order of the problems.
        number: of the problem.
    """
    samples = [setting[number] for setting in decoded]
    decoders = list(dict.fromkeys(decoder_label(sample.labels) for sample in samples))
    budgets = list(dict.fromkeys(sample.labels["steps_per_block"] for sample in samples))
    lines = [
        f"problem: {escape(samples[0].example.prompt)}",
        "",
        f"given: {escape(samples[0].example.response)}",
        "",
        f"| steps per block | {' | '.join(map(escape, decoders))} |",
        "|---" * (len(decoders) + 1) + "|",
    ]
    for budget in budgets:
        row = [sample for sample in samples if sample.labels["steps_per_block"] == budget]
        marks = differing([sample.pieces for sample in row])
        cells = [f"{'✓' if s.grade.strict else '✗'} {marked(s.pieces, m)}" for s, m in zip(row, marks, strict=True)]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differing(texts: Sequence[Sequence[str]]) -> list[list[bool]]:
    """Which tokens differ: in the first text from any of the others, in the others from the first."""
    first = texts[0]
    marks = [[False] * len(text) for text in texts]
    for text, mark in zip(texts[1:], marks[1:], strict=True):
        shared = SequenceMatcher(None, first, text, autojunk=False).get_opcodes()
        for operation, a, a_end, b, b_end in shared:
            if operation != "equal":
                marks[0][a:a_end] = [True] * (a_end - a)
                mark[b:b_end] = [True] * (b_end - b)
    return marks


def marked(pieces: Sequence[str], marks: Sequence[bool]) -> str:
    """Tokens as escaped text, runs of marked ones in bold; with spaces between them where no token has one itself."""
    between = "" if any(" " in piece for piece in pieces) else " "
    runs = groupby(zip(pieces, marks, strict=True), key=lambda pair: pair[1])
    texts = ((differs, escape(between.join(piece for piece, _ in run))) for differs, run in runs)
    return between.join(f"<strong>{text}</strong>" if differs else text for differs, text in texts)


def trace_table(steps: Sequence[Sequence[Cell]], title: str) -> str:
    """A denoising trace: a row for each step; new tokens bold where the circuit chose them, else as code."""
    lines = [escape(title), "", "| step | canvas |", "|---|---|"]
    for number, cells in enumerate(steps, 1):
        runs = groupby(cells, key=lambda cell: cell.state)
        texts = []
        for state, run in runs:
            opened, closed = STEP_TAGS.get(state, ("", ""))
            texts.append(f"{opened}{escape(' '.join(cell.text for cell in run))}{closed}")
        lines.append(f"| {number} | {' '.join(texts)} |")
    return "\n".join(lines)


def _escaped(character: str) -> str:
    if character.isalnum() or character == " ":
        return character
    if character == "\n":
        return "<br>"
    return f"&#{ord(character)};" if character.isprintable() else "\N{REPLACEMENT CHARACTER}"
