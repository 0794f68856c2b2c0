"""Training as such: weights stay floats."""

from __future__ import annotations

from dataclasses import dataclass

from smidgen.train.family import Family

__all__ = ["Train"]


@dataclass(frozen=True)
class Train(Family):
    """Trains the network as it is.

    Example:
        >>> Train()
        Train(match=('*',), keep=())
    """
