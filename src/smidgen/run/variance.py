"""What the answers of an output differ by: the measure of errors in values, whatever unit and mean they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Variance", "axis_of_quantities", "over_variance"]

QUANTITIES = 64
"""So many numbers of an answer, at most, are quantities of their own, each with a unit; more are one thing together."""
SAME = 1e-10
"""Of the mean square: a variance below this is that of rounding, and the answers are the same."""


class Variance:
    """The variance of answers, added up batch by batch; memory does not grow with them.

    The mean answer has a number for each place of an answer; along an axis whose length is not the same for all
    answers, as of sequences, it has one for all places. Along the axis of quantities each has a variance of its own.

    Example:
        >>> answers = Variance()
        >>> answers.add(np.array([[101.0, 7.0], [103.0, 9.0]]))
        >>> answers.found
        (2.0, 2.0)
    """

    def __init__(self) -> None:
        self._sum: NDArray[np.float64] | None = None
        self._square = self._error = np.zeros(1)
        self._count = self._numbers = self._examples = 0

    def add(self, answers: NDArray[Any], others: NDArray[Any] | None = None) -> None:
        """Adds a batch: answers of shape (n, ...), with at least one axis, and those of another network."""
        batch = answers.astype(np.float64)
        total, count, square = batch.sum(0), len(batch), _by_quantity(np.square(batch)).sum(1)
        error = np.zeros_like(square) if others is None else _by_quantity(np.square(batch - others)).mean(1) * count
        self._numbers, self._examples = self._numbers + batch.size, self._examples + count
        if self._sum is None:
            self._sum, self._count, self._square, self._error = total, count, square, error
            return
        for axis, (one, other) in enumerate(zip(self._sum.shape, total.shape, strict=True)):
            if one != other:
                if one != 1:
                    self._sum, self._count = self._sum.sum(axis, keepdims=True), self._count * one
                total, count = total.sum(axis, keepdims=True), count * other
        if len(square) != len(self._square):  # what differs in number are no quantities
            square, self._square = (each.sum(keepdims=True) for each in (square, self._square))
            error, self._error = (each.mean(keepdims=True) for each in (error, self._error))
        self._sum, self._count = self._sum + total, self._count + count
        self._square, self._error = self._square + square, self._error + error

    @property
    def found(self) -> tuple[float, ...]:
        """For each quantity, or for all together, the mean square of what answers differ by from their mean; where they
        do not, that of the answers; where they are all 0, that of all quantities; never 0.

        As if from all answers that there may be (Bessel's correction).
        """
        if self._sum is None or not self._numbers:
            return (1.0,)
        square = self._square * len(self._square) / self._numbers
        means = np.square(self._sum[None] / self._count)
        mean = _by_quantity(means).mean(1) if len(square) > 1 else means.mean(keepdims=True).reshape(1)
        apart = (square - mean) * self._count / max(1, self._count - 1)
        found = np.where(square - mean > SAME * square, apart, square)
        return tuple(np.where(found > 0, found, found.mean() or 1.0).tolist())

    @property
    def unexplained(self) -> float:
        """The part of the variance that the others do not tell: 1 less R squared, or less its mean over quantities."""
        return float((self._error / self.found).mean()) / max(1, self._examples)


def axis_of_quantities(shape: tuple[int, ...]) -> int | None:
    """The axis of an output of shape (n, ...) along which there are numbers of different meaning: the second of a
    vector or of pictures, the last of sequences; None if they are too many for that, or there is no such axis.

    Example:
        >>> axis_of_quantities((8, 4)), axis_of_quantities((8, 24, 3)), axis_of_quantities((8, 512))
        (1, 2, None)
    """
    axis = 2 if len(shape) == 3 else 1
    return axis if len(shape) > 1 and 0 < shape[axis] <= QUANTITIES else None


def over_variance(error: NDArray[np.float64], variance: tuple[float, ...]) -> NDArray[np.float64]:
    """For each input the mean of squared errors (n, ...) in parts of the variance of each quantity: shape (n,)."""
    axis = axis_of_quantities(error.shape)
    if len(variance) == 1 or axis is None:
        return np.asarray(error.reshape(len(error), -1).mean(1) / np.mean(variance))
    return np.asarray((np.moveaxis(error, axis, -1) / variance).reshape(len(error), -1).mean(1))


def _by_quantity(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shape (quantities, numbers of each)."""
    axis = axis_of_quantities(numbers.shape)
    return numbers.reshape(1, -1) if axis is None else np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)
