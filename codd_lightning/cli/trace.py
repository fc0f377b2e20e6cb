"""A denoising trace drawn in the terminal: one line a step, new tokens coloured by who chose them."""

from rich.table import Table
from rich.text import Text

from codd_lightning.backbones import Backbone
from codd_lightning.decoding import Generation

NEW_COUPLED, NEW_FACTORIZED, OLD, MASKED = "bold green", "bold yellow", "default", "dim"


def draw_trace(generation: Generation, row: int, backbone: Backbone, title: str) -> Table:
    """The steps of one row: what each committed (green by the circuit, yellow by the backbone alone).

    Args:
        generation: with its trace.
        row: whose steps are drawn.
        backbone: names the tokens.
        title: of the table.
    """
    assert generation.trace is not None, "asked for with a trace only"
    assert backbone.tokenizer is not None, "prompts were text"
    table = Table(title=Text(title), title_justify="left")
    table.add_column("step", justify="right")
    table.add_column("canvas", overflow="fold")
    first = min(int(step.columns.min()) for step in generation.trace)  # of the response
    step_number = 0
    for step in generation.trace:
        windows = (step.rows == row).nonzero().squeeze(-1).tolist()
        if not windows:
            continue
        step_number += 1
        canvas = step.canvas[windows[0]].tolist()
        style = [OLD if token != backbone.mask_token_id else MASKED for token in canvas]
        for window in windows:
            chosen = step.columns[window][step.committed[window]].tolist()
            for column in chosen:
                style[column] = NEW_COUPLED if bool(step.coupled[window]) else NEW_FACTORIZED
        line = Text()
        for column in range(first, len(canvas)):
            masked = canvas[column] == backbone.mask_token_id
            word = "·" if masked else str(backbone.tokenizer.convert_ids_to_tokens(canvas[column]))
            line.append(word.replace("Ġ", "").replace("▁", "") + " ", style=style[column])
        table.add_row(str(step_number), line)
    return table
