"""Who is told how long work goes: progress, and lines that say what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

__all__ = ["SILENT", "Progress", "Reporter", "small"]

Progress = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]


@contextmanager
def _silent(length: int, label: str) -> Iterator[Callable[[int], None]]:
    del length, label
    yield lambda done: None


@dataclass(frozen=True)
class Reporter:
    """Who is told how the work goes.

    Args:
        progress: shows how far a step has come; made of its length and a label.
        say: takes a line that tells what happens.
    """

    progress: Progress = _silent
    say: Callable[[str], None] = lambda line: None


SILENT = Reporter()


def small(number: float) -> str:
    """A divergence, or another number that may be very small, in words.

    Example:
        >>> small(0.0123), small(0.0000123), small(0.0)
        ('0.0123', '1.2e-05', '0.0000')
    """
    return f"{number:.4f}" if number >= 0.001 or number == 0 else f"{number:.2g}"
