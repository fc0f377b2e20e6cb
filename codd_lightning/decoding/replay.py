"""A denoising trace, step by step, as what to show of it."""

from dataclasses import dataclass
from enum import Enum

from codd_lightning.backbones import AnyBackbone
from codd_lightning.decoding.generation import Generation


class State(Enum):
    """Of a token of the canvas, after a step."""

    MASKED = "masked"
    KEPT = "kept"
    BY_CIRCUIT = "by circuit"
    BY_BACKBONE = "by backbone"


@dataclass(frozen=True)
class Cell:
    """One token of the canvas after a step; masked ones are a dot."""

    text: str
    state: State


def steps_of(generation: Generation, row: int, backbone: AnyBackbone) -> list[list[Cell]]:
    """The response after each step of one row, and who committed what is new.

    Args:
        generation: with its trace.
        row: whose steps are shown.
        backbone: names the tokens; with a tokenizer.
    """
    assert generation.trace is not None, "asked for with a trace only"
    assert backbone.tokenizer is not None, "prompts were text"
    first = min((int(step.columns.min()) for step in generation.trace), default=0)  # of the response
    steps = []
    for step in generation.trace:
        windows = (step.rows == row).nonzero().squeeze(-1).tolist()
        if not windows:
            continue
        canvas = step.canvas[windows[0]].tolist()
        states = [State.MASKED if token == backbone.mask_token_id else State.KEPT for token in canvas]
        for window in windows:
            chosen = State.BY_CIRCUIT if bool(step.coupled[window]) else State.BY_BACKBONE
            for column in step.columns[window][step.committed[window]].tolist():
                states[column] = chosen
        words = [
            "·" if token == backbone.mask_token_id else str(backbone.tokenizer.convert_ids_to_tokens(token))
            for token in canvas[first:]
        ]
        words = [word.replace("Ġ", "").replace("▁", "") for word in words]
        steps.append([Cell(word, state) for word, state in zip(words, states[first:], strict=True)])
    return steps
