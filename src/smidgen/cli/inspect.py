"""``smidgen inspect``: what a file holds, and where its bytes go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import echo_json, echo_table, json_option

if TYPE_CHECKING:
    from smidgen.file import TensorInfo

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
        spare = advice(tensors) if any(tensor.harm is not None for tensor in tensors) else None
        listed = [{**t, "share": t["stored"] / total} for t in listed]
        echo_json(
            {
                "file": str(file),
                "advice": spare,
                "bytes": total,
                "weights": weights,
                "sections": sections,
                "tensors": listed,
            }
        )
        return
    explained = any(tensor.harm is not None for tensor in tensors)
    rows = [
        (
            t.name,
            "x".join(map(str, t.shape)) or "scalar",
            f"{t.kind} {t.levels}" if t.levels else t.kind,
            t.codec,
            f"{8 * t.stored / max(1, t.elements):.2f}",
            f"{t.stored:,}",
            f"{100 * t.stored / total:.1f} %",
            *(["" if t.harm is None else f"{t.harm:.6f}"] if explained else []),
        )
        for t in tensors
    ]
    blank = [""] * explained
    others = list(sections.items())[:-1]
    rows += [(f"({name})", "", "", "", "", f"{n:,}", f"{100 * n / total:.1f} %", *blank) for name, n in others]
    bits = f"{8 * total / max(1, weights):.2f}"
    echo_table(
        ("layer", "shape", "kind and levels", "codec", "bits/weight", "bytes", "share", *(["KL alone"] * explained)),
        [*rows, ("whole file", f"{weights:,}", "", "", bits, f"{total:,}", "100.0 %", *blank)],
    )
    if explained:
        click.echo(f"KL alone: nats of divergence when only this layer is squeezed. {advice(tensors)}")


def advice(tensors: Sequence[TensorInfo]) -> str:
    """Which layer to give more bits first: the one whose harm falls most for each byte more.

    One bit more a weight divides the harm by about four.
    """
    known = [t for t in tensors if t.harm is not None and t.elements]
    first = max(known, key=lambda t: (t.harm or 0) / t.elements)
    worst = max(known, key=lambda t: t.harm or 0)
    return f"Most harm: {worst.name}. Spare first: {first.name}, whose harm per weight is greatest."
