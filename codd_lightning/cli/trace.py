"""A denoising trace drawn in the terminal: one line a step, new tokens coloured by who chose them."""

from rich.table import Table
from rich.text import Text

from codd_lightning.backbones import Backbone
from codd_lightning.decoding import Generation, State, steps_of

STYLES = {
    State.BY_CIRCUIT: "bold green",
    State.BY_BACKBONE: "bold yellow",
    State.KEPT: "default",
    State.MASKED: "dim",
}


def draw_trace(generation: Generation, row: int, backbone: Backbone, title: str) -> Table:
    """The steps of one row: what each committed (green by the circuit, yellow by the backbone alone).

    Args:
        generation: with its trace.
        row: whose steps are drawn.
        backbone: names the tokens.
        title: of the table.
    """
    table = Table(title=Text(title), title_justify="left")
    table.add_column("step", justify="right")
    table.add_column("canvas", overflow="fold")
    for number, cells in enumerate(steps_of(generation, row, backbone), 1):
        line = Text()
        for cell in cells:
            line.append(f"{cell.text} ", style=STYLES[cell.state])
        table.add_row(str(number), line)
    return table
