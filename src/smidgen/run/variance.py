"""What the answers of an output differ by: the measure of errors in values, whatever unit and mean they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Variance"]

SAME = 1e-10
"""Of the mean square: a variance below this is that of rounding, and the answers are the same."""


class Variance:
    """The variance of answers, added up batch by batch; memory does not grow with them.

    The mean answer has a number for each place of an answer; along an axis whose length is not the same for all
    answers, as of sequences, it has one for all places.

    Example:
        >>> answers = Variance()
        >>> answers.add(np.array([[101.0, 7.0], [103.0, 7.0]]))
        >>> answers.found
        1.0
    """

    def __init__(self) -> None:
        self._sum: NDArray[np.float64] | None = None
        self._count = self._numbers = 0
        self._square = 0.0

    def add(self, answers: NDArray[Any]) -> None:
        """Adds a batch: answers of shape (n, ...)."""
        batch = answers.astype(np.float64)
        self._numbers += batch.size
        self._square += float(np.square(batch).sum())
        total, count = batch.sum(0), len(batch)
        if self._sum is None:
            self._sum, self._count = total, count
            return
        for axis, (one, other) in enumerate(zip(self._sum.shape, total.shape, strict=True)):
            if one != other:
                if one != 1:
                    self._sum, self._count = self._sum.sum(axis, keepdims=True), self._count * one
                total, count = total.sum(axis, keepdims=True), count * other
        self._sum, self._count = self._sum + total, self._count + count

    @property
    def found(self) -> float:
        """The mean square of what answers differ by from their mean, or, if they do not, that of the answers; never 0.

        As if from all answers that there may be (Bessel's correction).
        """
        if self._sum is None or not self._numbers:
            return 1.0
        square = self._square / self._numbers
        apart = square - float(np.square(self._sum).mean()) / self._count**2
        return apart * self._count / (self._count - 1) if apart > SAME * square else square or 1.0
