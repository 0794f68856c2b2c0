"""The Pareto front, to look at and to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.disk import remove_torn, replace_file
from smidgen.tradeoff.points import Row, front

if TYPE_CHECKING:
    from smidgen.reporter import Reporter

__all__ = ["FRONT", "PLOT", "write_front"]

FRONT, PLOT = "pareto.json", "pareto.png"


def write_front(folder: Path, rows: Sequence[Row], reporter: Reporter) -> None:
    """Writes the front as JSON, and all points as a picture where matplotlib is there."""
    for name in (FRONT, PLOT):
        remove_torn(folder / name)
    text = json.dumps({"front": [asdict(row) for row in front(rows)]}, indent=1)
    replace_file(folder / FRONT, lambda temporary: temporary.write_text(text + "\n"))
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        reporter.say(f"{PLOT} is left out: it needs matplotlib, which pip install 'smidgen[plots]' brings")
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    _draw(figure.add_subplot(), rows)
    replace_file(folder / PLOT, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _draw(axes: Any, rows: Sequence[Row]) -> None:
    """Bytes against divergence: every point by its kind, the front as a line."""
    from matplotlib.ticker import LogLocator, NullFormatter

    judged = [row for row in rows if row.kl is not None]
    kinds = {
        "--size": [row for row in judged if row.size is not None],
        "--max-drop": [row for row in judged if row.max_drop is not None],
        "--plan": [row for row in judged if row.plan is not None],
    }
    axes.step(*_coordinates(front(rows)), color="0.6", where="post", label="Pareto front")
    for (label, found), marker in zip(kinds.items(), "osD", strict=True):
        if found:
            axes.plot(*_coordinates(found), marker, label=label)
    smallest = min([row.kl for row in judged if row.kl], default=1.0)
    axes.set_yscale("symlog", linthresh=smallest)  # logarithmic, but for files without loss
    axes.set(xscale="log", xlabel="size of the file, KB", ylabel="divergence from the original")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()


def _coordinates(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Kilobytes and divergence, of rows with a file."""
    return [(row.bytes or 0) / 1000 for row in rows], [row.kl or 0.0 for row in rows]
