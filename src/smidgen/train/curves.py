"""Curves of a recipe as a picture."""

from __future__ import annotations

from pathlib import Path

from smidgen.file import replace_file
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
        above.axhline(outcome.start, color="grey", linestyle="--", label=f"before: {outcome.start:.2f} %")
    done = 0
    for result in outcome.results:
        count = sum(epoch.stage == result.stage for epoch in outcome.epochs)
        above.plot([done + count], [result.accuracy], "k*")
        above.annotate(f"{result.stage}\n{result.bytes:,} B", (done + count, result.accuracy), fontsize=8)
        done += count
        for axes in (above, below):
            axes.axvline(done + 0.5, color="grey", linewidth=0.5)
    if outcome.start is not None:
        above.legend(loc="lower right")
    below.set_xlabel("epochs")
    replace_file(path, lambda temporary: figure.savefig(temporary, format="png", dpi=120))
    return True
