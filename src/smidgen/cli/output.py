"""How results are shown: plain tables for people, one JSON object for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import click

__all__ = [
    "echo_json",
    "echo_table",
    "engine_option",
    "json_option",
    "milliseconds",
    "outputs_option",
    "preprocessing_option",
    "progress",
]


def _kinds(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        from smidgen.errors import InputError
        from smidgen.run.kinds import kinds_in

        try:
            kinds_in(value)
        except InputError as error:
            raise click.BadParameter(str(error)) from None
    return value


preprocessing_option = click.option(
    "--preprocessing",
    help="How pictures become the input, where the model does not say: imagenet, caffe, symmetric, unit or bytes, and "
    "a size where the model takes any: imagenet:224x224.",
)
outputs_option = click.option(
    "--outputs",
    callback=_kinds,
    metavar="[NAME=]KIND,...",
    help="What the first output is, or those that are named, where they are taken for something else: scores or "
    "probabilities of classes, chances of 0 to 1 each, or values.",
)
engine_option = click.option(
    "--engine",
    type=click.Choice(("native", "onnxruntime")),
    help="What computes: the file's own program in integers of 8 bits, or its graph in float32.",
)
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


def milliseconds(time: float) -> str:
    """A time in words: in more digits where it is short.

    Example:
        >>> milliseconds(12.345), milliseconds(0.01234)
        ('12.35', '0.0123')
    """
    return f"{time:.2f}" if time >= 0.1 else f"{time:.4f}"


@contextmanager
def progress(length: int, label: str) -> Iterator[Callable[[int], None]]:
    """A bar with the time left on standard error; the function that it gives takes how much is done."""
    with click.progressbar(length=length, label=label, file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)
