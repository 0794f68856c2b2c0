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
        report: dict[str, object] = {"file": str(file), "bytes": total, "weights": weights, "sections": sections}
        report["tensors"] = [described(tensor, total) for tensor in tensors]
        report["running"] = running(data)
        if any(tensor.harm is not None for tensor in tensors):
            report["advice"] = advice(tensors)
        echo_json(report)
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
    others = [(name, size) for name, size in sections.items() if name != "payload"]
    rows += [(f"({name})", "", "", "", "", f"{n:,}", f"{100 * n / total:.1f} %", *blank) for name, n in others]
    bits = f"{8 * total / max(1, weights):.2f}"
    echo_table(
        ("layer", "shape", "kind and levels", "codec", "bits/weight", "bytes", "share", *(["KL alone"] * explained)),
        [*rows, ("whole file", f"{weights:,}", "", "", bits, f"{total:,}", "100.0 %", *blank)],
    )
    click.echo(running(data))
    if explained:
        click.echo(f"KL alone: nats of divergence when only this layer is squeezed. {advice(tensors)}")


def running(data: bytes) -> str:
    """One line on what the network of a file runs by, and if that is ONNX Runtime alone, why."""
    from smidgen.errors import ModelError
    from smidgen.file import outline, read
    from smidgen.lower import structure

    if outline(data).program:
        return "Runs by itself, in integers of 8 bits; ONNX Runtime runs it, too, in float32."
    try:
        structure(read(data))
    except ModelError as error:
        return f"Runs by ONNX Runtime only: {error}"
    return "Runs by ONNX Runtime only: what ranges activations have is not known; compress it with --data."


def described(tensor: TensorInfo, total: int) -> dict[str, object]:
    """One tensor for JSON, in a file of ``total`` bytes."""
    share = {"bits_per_weight": 8 * tensor.stored / max(1, tensor.elements), "share": tensor.stored / total}
    return {**asdict(tensor), **share}


def advice(tensors: Sequence[TensorInfo]) -> str:
    """Which layer does most harm, and which to give more bits first.

    One bit more for each weight divides the harm by about four, so what it brings for a byte is harm by weights; layers
    of less than a hundredth of all harm are not worth the trouble.
    """
    harm = {tensor.name: tensor.harm for tensor in tensors if tensor.harm is not None}
    sizes = {tensor.name: tensor.elements for tensor in tensors}
    total = sum(harm.values())
    worst = max(harm, key=lambda name: harm[name])
    first = max((name for name in harm if harm[name] >= total / 100), key=lambda name: harm[name] / sizes[name])
    return (
        f"Most harm alone: {worst}, {harm[worst]:.4f} of {total:.4f} nats. Spare first: {first}, where a byte more "
        "takes most harm away."
    )
