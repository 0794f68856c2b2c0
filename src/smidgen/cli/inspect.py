"""``smidgen inspect``: what a file holds, and where its bytes go."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from smidgen.cli.output import echo_json, echo_table, json_option

__all__ = ["inspect"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Shows every layer of FILE: shape, method, bits per weight, bytes, share of the file."""
    from smidgen.archive import read_bytes
    from smidgen.file import inspect as inspect_bytes
    from smidgen.file import section_sizes

    data = read_bytes(file)
    tensors, sections = inspect_bytes(data, str(file)), section_sizes(data)
    total, weights = len(data), sum(tensor.elements for tensor in tensors)
    if as_json:
        listed = [{**asdict(t), "bits_per_weight": 8 * t.stored / max(1, t.elements)} for t in tensors]
        echo_json({"file": str(file), "bytes": total, "weights": weights, "sections": sections, "tensors": listed})
        return
    rows = [
        (
            t.name,
            "x".join(map(str, t.shape)) or "scalar",
            f"{t.kind} {t.levels}" if t.levels else t.kind,
            t.codec,
            f"{8 * t.stored / max(1, t.elements):.2f}",
            f"{t.stored:,}",
            f"{100 * t.stored / total:.1f} %",
        )
        for t in tensors
    ]
    rows += [(f"({name})", "", "", "", "", f"{n:,}", f"{100 * n / total:.1f} %") for name, n in sections.items()][:-1]
    bits = f"{8 * total / max(1, weights):.2f}"
    echo_table(
        ("layer", "shape", "kind and levels", "codec", "bits/weight", "bytes", "share"),
        [*rows, ("whole file", f"{weights:,}", "", "", bits, f"{total:,}", "100.0 %")],
    )
