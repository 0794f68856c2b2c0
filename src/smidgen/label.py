"""The classes that a network tells apart, and the text that they are in a file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

from smidgen.container import text_of
from smidgen.errors import FormatError, InputError

__all__ = ["Label", "parse_labels", "text_of_labels"]


class _Label(NamedTuple):
    id: str
    name: str


class Label(_Label):
    """One class: the id that folders are matched by (for ImageNet ``n01440764``) and the name people read.

    Raises:
        InputError: the id or the name holds a tab or a line break.
    """

    __slots__ = ()

    def __new__(cls, id: str, name: str) -> Self:
        """A label of which a line of text can be made."""
        if any(c in id + name for c in "\t\n"):
            raise InputError(f"label {id!r}: neither id nor name may hold a tab or a line break")
        return super().__new__(cls, id, name)

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        return cls(*iterable)


def text_of_labels(labels: Iterable[Label]) -> str:
    r"""The text of some classes: for each its id, a tab, its name and a line break.

    Example:
        >>> text_of_labels([Label("n01440764", "tench")])
        'n01440764\ttench\n'
    """
    return "".join(f"{label.id}\t{label.name}\n" for label in labels)


def parse_labels(data: bytes) -> tuple[Label, ...]:
    r"""The classes of the labels section.

    Raises:
        FormatError: a line is not an id, a tab and a name.

    Example:
        >>> parse_labels(b"n01440764\ttench\n")
        (Label(id='n01440764', name='tench'),)
    """
    lines = text_of(data, "the list of labels").split("\n")
    if lines.pop() or any(line.count("\t") != 1 for line in lines):
        raise FormatError("invalid: a label is not an id, a tab and a name")
    return tuple(Label(*line.split("\t")) for line in lines)
