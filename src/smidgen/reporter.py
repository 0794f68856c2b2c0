"""Who is told how long work goes: progress, and lines that say what happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

__all__ = ["SILENT", "Progress", "Reporter"]

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
