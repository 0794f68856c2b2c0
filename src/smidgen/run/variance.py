"""What the answers of an output differ by: the measure of errors in values, whatever unit and mean they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Apart", "Variance", "over_variance"]

SAME = 1e-13
"""Of a number's square: a variance below this is that of rounding to float32, and it is always the same."""

Array = NDArray[np.float64]


class Variance:
    """The variance of answers, added up batch by batch; memory does not grow with them.

    The mean answer has a number for each place of an answer; along an axis whose length is not the same for all
    answers, as of sequences, it has one for all places. Places along the axis of quantities have a variance of their
    own.

    Args:
        axis: of quantities, see ``smidgen.run.outputs.Output``; 0 if there is none.

    Source:
        Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance", equation 2.1, so that nothing
        cancels out, however far from zero answers are.

    Example:
        >>> answers = Variance(axis=1)
        >>> answers.add(np.array([[101.0, 7.0], [103.0, 9.0]]))
        >>> answers.found
        (2.0, 2.0)
    """

    def __init__(self, axis: int = 0) -> None:
        self._axis = axis
        self._count = 0
        self._mean = self._apart = np.zeros(())

    def add(self, answers: NDArray[Any]) -> None:
        """Adds a batch: answers of shape (n, ...)."""
        if not answers.size:
            return
        batch = answers.astype(np.float64)
        count, mean = len(batch), batch.mean(0)
        apart = np.square(batch - mean).sum(0)
        if not self._count:
            self._count, self._mean, self._apart = count, mean, apart
            return
        for axis in range(mean.ndim):
            if self._mean.shape[axis] != mean.shape[axis]:
                self._count, self._mean, self._apart = _joined(self._count, self._mean, self._apart, axis)
                count, mean, apart = _joined(count, mean, apart, axis)
        both, difference = self._count + count, mean - self._mean
        self._apart = self._apart + apart + np.square(difference) * (self._count * count / both)
        self._mean, self._count = self._mean + difference * (count / both), both

    @property
    def _real(self) -> Array:
        """Squared distances from the mean, without those of rounding."""
        return np.where(self._apart > SAME * self._count * np.square(self._mean), self._apart, 0.0)

    @property
    def found(self) -> tuple[float, ...]:
        """For each quantity, or for all together, the mean square of what answers differ by from their mean; where they
        do not, that of the answers; where they are all 0, that of all quantities; never 0.

        As if from all answers that there may be (Bessel's correction).
        """
        square, apart = np.square(self._mean), self._real / max(1, self._count - 1)
        found, instead = (_by_quantity(numbers, self._axis - 1).mean(1) for numbers in (apart, square))
        found = np.where(found > 0, found, instead)
        return tuple(np.where(found > 0, found, found.mean() or 1.0).tolist())


def _joined(count: int, mean: Array, apart: Array, axis: int) -> tuple[int, Array, Array]:
    """The same sums with one place for all along an axis."""
    middle = mean.mean(axis, keepdims=True)
    within = apart.sum(axis, keepdims=True) + count * np.square(mean - middle).sum(axis, keepdims=True)
    return count * mean.shape[axis], middle, within


def _by_quantity(numbers: Array, axis: int) -> Array:
    """Shape (quantities, numbers of each); all are one along a negative axis."""
    if axis < 0 or axis >= numbers.ndim:
        return numbers.reshape(1, -1)
    return np.moveaxis(numbers, axis, 0).reshape(numbers.shape[axis], -1)


class Apart:
    """Squared errors of answers, added up batch by batch, to be told in parts of a variance.

    Args:
        axis: of quantities, as for ``Variance``.

    Example:
        >>> apart = Apart(axis=1)
        >>> apart.add(np.array([[101.0, 7.0], [103.0, 9.0]]), np.array([[102.0, 7.0], [103.0, 9.0]]))
        >>> apart.over((2.0, 2.0))
        0.125
    """

    def __init__(self, axis: int = 0) -> None:
        self._axis = axis
        self._error = np.zeros(1)
        self._count = 0

    def add(self, answers: NDArray[Any], others: NDArray[Any]) -> None:
        """Adds a batch: answers of two networks, of shape (n, ...)."""
        if not answers.size:
            return
        error = np.square(answers.astype(np.float64) - others)
        each = _by_quantity(error, self._axis if self._axis > 0 else -1).sum(1)
        if self._count and len(each) != len(self._error):  # what differs in number are no quantities
            self._error, each = (numbers.sum(keepdims=True) for numbers in (self._error, each))
        self._error, self._count = self._error + each, self._count + error.size

    def over(self, variance: tuple[float, ...]) -> float:
        """The mean squared error in parts of the variance, of several quantities the mean: 1 less R squared."""
        if not self._count:
            return 0.0
        if len(variance) == len(self._error):
            return float((self._error / variance).sum()) / self._count
        return float(self._error.sum() / np.mean(variance)) / self._count


def over_variance(error: Any, variance: Any, axis: int) -> Any:
    """Squared errors (n, ...) in parts of the variance of each quantity along an axis: arrays of NumPy or tensors of
    PyTorch, the variance of the same kind and of one axis."""
    if axis > 0 and len(variance) == error.shape[axis]:
        return error / variance.reshape((-1,) + (1,) * (error.ndim - 1 - axis))
    return error / variance.mean()
