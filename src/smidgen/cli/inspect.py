"""``smidgen inspect``: what a file holds, and where its bytes go."""

from __future__ import annotations

from pathlib import Path

import click

from smidgen.cli.output import echo_json, echo_table, json_option

__all__ = ["inspect"]

WIDEST = 60
"""Characters of a name in a table."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Shows every layer of FILE: shape, method, bits per weight, bytes, share of the file."""
    from smidgen.container import read_bytes
    from smidgen.facts import advice, facts_of
    from smidgen.file import inspect as inspect_bytes
    from smidgen.reporter import small

    data = read_bytes(file)
    facts = facts_of(data, str(file))
    if as_json:
        echo_json(facts)
        return
    tensors, sections = inspect_bytes(data, str(file)), facts["sections"]
    total, weights = facts["bytes"], facts["weights"]
    explained = any(tensor.harm is not None for tensor in tensors)
    rows = [
        (
            _short(t.name),
            "x".join(map(str, t.shape)) or "scalar",
            f"{t.kind} {t.levels}" if t.levels else t.kind,
            t.codec,
            f"{8 * t.stored / max(1, t.elements):.2f}",
            f"{t.stored:,}",
            f"{100 * t.stored / total:.1f} %",
            *(["" if t.harm is None else small(t.harm)] if explained else []),
        )
        for t in tensors
    ]
    blank = [""] * explained
    others = [(name, size) for name, size in sections.items() if name != "payload"]
    rows += [(f"({name})", "", "", "", "", f"{n:,}", f"{100 * n / total:.1f} %", *blank) for name, n in others]
    bits = f"{8 * total / max(1, weights):.2f}"
    echo_table(
        ("layer", "shape", "kind and levels", "codec", "bits/weight", "bytes", "share", *(["harm alone"] * explained)),
        [*rows, ("whole file", f"{weights:,}", "", "", bits, f"{total:,}", "100.0 %", *blank)],
    )
    parts = [tensor for tensor in facts["tensors"] if tensor["part_of"]]
    if parts:
        name, whole = _short(parts[0]["name"]), _short(parts[0]["part_of"])
        click.echo(
            f"Second codes, of weights that one of 255 levels is too coarse for: {len(parts)}, as {name} of {whole}."
        )
    click.echo(facts["running"])
    if explained:
        click.echo(
            f"Harm alone: the divergence (of classes KL in nats) when only this layer is squeezed. {advice(tensors)}"
        )


def _short(name: str) -> str:
    """A name that leaves room for a table; some converters join those of all that they merge. JSON has it whole.

    Example:
        >>> _short("layer1.0.conv1.weight"), len(_short("model/conv/" * 20))
        ('layer1.0.conv1.weight', 60)
    """
    return name if len(name) <= WIDEST else f"{name[: WIDEST // 2 - 1]}…{name[-WIDEST // 2 :]}"
