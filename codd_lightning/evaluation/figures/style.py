"""How every figure looks and is written: the one place that knows matplotlib's settings."""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from io import StringIO
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from codd_lightning.evaluation.rows import Row

# Okabe & Ito's palette, told apart with any colour vision; its yellow is left out, being too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES = ("-", "--", "-.", ":")
SEQUENTIAL = "cividis"  # reads the same in grey
WIDTH = 5.2  # inches
SCREEN_DPI = 140

SETTINGS: Any = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "errorbar.capsize": 2.5,
    "savefig.dpi": 200,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "codd-lightning",  # the same figure is the same file
    "text.parse_math": False,  # labels are data: a $ in them is a $
}

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Runs a function under the settings of our figures, whatever the caller's are."""

    @wraps(function)
    def under_settings(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(), warnings.catch_warnings():
            # a script that our font has no letters for: boxes in the PNG, right in the SVG, whose text is text
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            matplotlib.rcdefaults()
            matplotlib.rcParams.update(SETTINGS)
            return function(*args, **kwargs)

    return under_settings


def new_axes(height: float = 3.4, width: float = WIDTH) -> tuple[Figure, Axes]:
    """An empty figure with one pair of axes, in inches; it belongs to no window and no global state."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def line_style(number: int) -> dict[str, Any]:
    """Colour, marker and line of the series of this number: told apart in grey as well."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
        "markeredgecolor": "white",
        "markeredgewidth": 0.6,
    }


def errors(rows: Sequence[Row], scale: float = 1.0) -> list[list[float]]:
    """How far each row's interval reaches below and above its value; rounding never makes it less than 0."""
    below = [max(0.0, scale * (row["value"] - row["low"])) for row in rows]
    above = [max(0.0, scale * (row["high"] - row["value"])) for row in rows]
    return [below, above]


def legend_below(figure: Figure, axes: Axes) -> None:
    """A legend under the axes, where it covers nothing; as many columns as the labels leave room for."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    longest = max(len(label) for label in labels)
    columns = max(1, min(len(labels), 66 // (longest + 8)))
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8)


def _settle(figure: Figure) -> None:
    """Lays a figure out once for all: the layout is a search, and would go on a little at every drawing."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


@styled
def svg(figure: Figure) -> str:
    """A figure as SVG; the same bytes for the same figure."""
    _settle(figure)
    text = StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()


@styled
def pixels(figure: Figure) -> np.ndarray:
    """A figure as `(H, W, 3)` bytes of red, green and blue."""
    figure.set_dpi(SCREEN_DPI)
    _settle(figure)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


@styled
def write_figure(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Writes `name.svg` and `name.png` into a folder; returns their paths."""
    vector, pixels = folder / f"{name}.svg", folder / f"{name}.png"
    vector.write_text(svg(figure), encoding="utf-8")
    figure.savefig(pixels, format="png", metadata={"Software": None})
    return [vector, pixels]
