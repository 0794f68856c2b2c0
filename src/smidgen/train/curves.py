"""Curves of a recipe as a picture."""

from __future__ import annotations

from pathlib import Path

from smidgen.disk import replace_file
from smidgen.train.run import Outcome

__all__ = ["draw"]


def draw(outcome: Outcome, path: Path) -> bool:
    """Draws accuracy and loss against epochs, stage after stage; False if matplotlib is not there."""
    try:
        import matplotlib as mpl
    except ModuleNotFoundError:
        return False
    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    places = range(1, len(outcome.epochs) + 1)
    for axes, values, label in (
        (above, [epoch.accuracy for epoch in outcome.epochs], f"accuracy, % of {outcome.pictures:,}"),
        (below, [epoch.loss for epoch in outcome.epochs], "loss"),
    ):
        axes.plot(places, values, marker=".")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    if outcome.start is not None:
        above.axhline(outcome.start, color="grey", linestyle="--")
        beside = {"transform": above.get_yaxis_transform(), "va": "bottom", "fontsize": 8}
        above.text(0.01, outcome.start, f"before: {outcome.start:.2f} %", **beside)
    done = 0
    for result in outcome.results:
        count = sum(epoch.stage == result.stage for epoch in outcome.epochs)
        above.plot([done + count], [result.accuracy], "k*")
        done += count
        along = {"transform": above.get_xaxis_transform(), "rotation": 90, "ha": "right", "va": "bottom", "fontsize": 8}
        above.text(done + 0.45, 0.02, f"{result.stage}, {result.bytes:,} bytes", **along)
        for axes in (above, below):
            axes.axvline(done + 0.5, color="grey", linewidth=0.5)
    below.set_xlabel("epochs")
    below.xaxis.get_major_locator().set_params(integer=True)
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return True
