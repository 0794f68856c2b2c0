"""What the demo leaves behind: the table as JSON, and its section of the report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from smidgen.report.charts import Dot, trade_off
from smidgen.report.document import Chart, Column, Pictures, Section, Shot, Table, Text
from smidgen.report.sections import DIVERGENCE

__all__ = ["Row", "about_ways", "write_table"]


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


def about_ways(rows: Sequence[Row], crops: int, shots: Sequence[Shot]) -> Section:
    """Every way of compressing in one table, and what the original and the best file say of the photographs."""
    columns = [Column("File"), Column("How")]
    columns += [Column(title, "number") for title in ("Bytes", "Smaller", "Bits/weight", "Same answer", "Divergence")]
    cells = [
        [
            *(row.name, row.what, f"{row.bytes:,}", f"{row.ratio:.1f}", f"{row.bits_per_weight:.2f}"),
            *(f"{row.agreement:.1f} %", f"{row.kl:.3f}", row.verdict),
        ]
        for row in rows
    ]
    dots = [Dot(row.bytes, row.kl, row.name, row is rows[-1]) for row in rows if row.kl > 0]
    caption = "Every file by its bytes and its divergence from the original. None of them is trained again."
    return Section(
        "Every way of compressing",
        [
            Table(f"Files, judged on {crops} crops of photographs", [*columns, Column("Verdict")], cells),
            Chart(trade_off(dots, DIVERGENCE), caption),
            Text("What the original and the squeezed file say of the whole photographs:"),
            Pictures(shots),
        ],
    )
