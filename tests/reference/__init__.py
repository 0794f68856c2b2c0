"""A second, plain coder and decoder, laid out after docs/format.md: slow, short, and written to be read.

It shares no code with the C core, so that where the two agree the specification is what they agree on.
"""

from dataclasses import dataclass


class CorruptError(ValueError):
    """The bytes are not what docs/format.md allows."""


@dataclass(frozen=True)
class Plane:
    """Shape, levels and zero of a plane, as in section 3."""

    rows: int
    columns: int
    inner: int
    levels: int = 256
    zero: int = 256

    @property
    def count(self) -> int:
        return self.rows * self.columns * self.inner


def require(condition: bool, what: str) -> None:
    if not condition:
        raise CorruptError(what)


def length(x: int) -> int:
    return x.bit_length()
