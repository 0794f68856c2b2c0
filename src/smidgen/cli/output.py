"""How results are shown: plain tables for people, one JSON object for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence

import click

__all__ = ["echo_json", "echo_table", "json_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def echo_json(value: object) -> None:
    """Prints ``value`` as one JSON object."""
    click.echo(json.dumps(value, indent=2))


def echo_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints rows under a header: the first column to the left, the others to the right.

    Example:
        >>> echo_table(("file", "bytes"), [("a", "1"), ("long", "23")])
        file  bytes
        a         1
        long     23
    """
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    for row in [header, *rows]:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        click.echo("  ".join(cells).rstrip())
