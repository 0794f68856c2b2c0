"""What the demo leaves behind: the table as JSON, a plot of size against fidelity, a contact sheet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from smidgen.run.answer import Answer

__all__ = ["Row", "write_contact_sheet", "write_plot", "write_table"]

CELL, LINE, COLUMNS = 260, 18, 3


@dataclass(frozen=True)
class Row:
    """One compressed file of the demo and what was measured of it.

    Args:
        name: of the file, without its ending.
        what: how it was made, in words.
        bytes: of the file, as the file system says.
        ratio: bytes of the float32 weights over bytes of the file.
        bits_per_weight: 8 times the bytes of the file over the number of weights.
        agreement: percent of the crops that the original and this one call the same.
        kl: mean KL divergence from the original, in nats.
        milliseconds: median time for one picture.
    """

    name: str
    what: str
    bytes: int
    ratio: float
    bits_per_weight: float
    agreement: float
    kl: float
    milliseconds: float

    @property
    def verdict(self) -> str:
        """What the agreement means for somebody who wants to use the file."""
        if self.agreement < 50:
            return "ruined without retraining"
        return "damaged" if self.agreement < 85 else "" if self.agreement < 98 else "as good as the original"


def write_table(path: Path, rows: Sequence[Row], crops: int) -> None:
    """The table as JSON."""
    table = {"crops": crops, "rows": [{**asdict(row), "verdict": row.verdict} for row in rows]}
    path.write_text(json.dumps(table, indent=2) + "\n")


def write_plot(path: Path, rows: Sequence[Row]) -> None:
    """Bytes of the file against agreement with the original, as PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 6), layout="constrained")
    for i, row in enumerate(rows):
        axes.plot(row.bytes / 1000, row.agreement, "o", color="tab:red" if row.agreement < 50 else "tab:blue")
        # names above and below in turn, since neighbours in the table often lie close together
        axes.annotate(
            row.name, (row.bytes / 1000, row.agreement), xytext=(6, 4 - 12 * (i % 2)), textcoords="offset points"
        )
    axes.set(
        xscale="log",
        xlim=(100, 9000),
        xlabel="size of the file, KB (logarithmic)",
        ylabel="agreement with the original, %",
        title="SqueezeNet 1.1: what each way of compressing costs",
    )
    axes.set_xticks(ticks := [100, 200, 500, 1000, 2000, 5000], [str(tick) for tick in ticks])
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def write_contact_sheet(
    path: Path,
    pictures: Mapping[str, NDArray[np.uint8]],
    answers: Sequence[tuple[str, Mapping[str, Answer]]],
) -> None:
    """Every picture with what each network says it is, as PNG.

    Args:
        path: where to.
        pictures: by name.
        answers: for each network, what to call it and its first answer for every picture.
    """
    height = CELL + LINE * len(answers) + 10
    rows = -(-len(pictures) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * (CELL + 10) + 10, rows * height + 10), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for i, (name, pixels) in enumerate(pictures.items()):
        left, top = 10 + i % COLUMNS * (CELL + 10), 10 + i // COLUMNS * height
        image = Image.fromarray(pixels)
        image.thumbnail((CELL, CELL))
        sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))
        for line, (network, found) in enumerate(answers):
            same = found[name].label == answers[0][1][name].label
            text = f"{network}: {found[name].label.name[:22]} {100 * found[name].score:.0f} %"
            draw.text((left, top + CELL + 2 + LINE * line), text, "black" if same else "firebrick", font)
    sheet.save(path)
