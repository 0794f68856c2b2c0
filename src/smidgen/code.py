"""What compression hands on: integer symbols with the rule back to values, and what measuring learned.

The integers are the hand-off. Nothing later re-derives them from floats.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import WeightError

__all__ = ["Affine", "Code", "Rule", "Stats", "Table", "as_rows", "from_rows"]

SYMBOL_LIMIT = 256
"""A code has at most this many distinct levels, so that a symbol fits in one byte of the file."""


@dataclass(frozen=True, eq=False)
class Affine:
    """The rule ``value = (symbol - zero) * scale``.

    Args:
        scale: float32 of shape (n, groups): one row per index of ``axis``, or n = 1 without an axis.
            The weights of a row, in memory order, are cut into ``groups`` runs of equal length
            (the last may be shorter), and each run has its own scale.
        zero: int16 of the same shape; the symbol that means 0.0.
        axis: the axis of the weight that the rows of ``scale`` belong to, or None for the whole tensor.

    Raises:
        WeightError: the parameters do not fit together.

    Example:
        >>> rule = Affine.per_tensor(0.5)
        >>> rule.values(np.array([[-2, 0, 3]], np.int16))
        array([[-1. ,  0. ,  1.5]], dtype=float32)
    """

    scale: NDArray[np.float32]
    zero: NDArray[np.int16]
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.scale.ndim != 2 or self.scale.shape != self.zero.shape or self.scale.size == 0:
            raise WeightError(
                f"affine rule: scale {self.scale.shape} and zero {self.zero.shape} must have the same (n, groups) shape"
            )
        if self.axis is None and self.scale.shape[0] != 1:
            raise WeightError(f"affine rule: {self.scale.shape[0]} rows of scales need an axis")

    @classmethod
    def per_tensor(cls, scale: float, zero: int = 0) -> Affine:
        """One scale and zero for a whole tensor."""
        return cls(np.full((1, 1), scale, np.float32), np.full((1, 1), zero, np.int16))

    def values(self, symbols: NDArray[np.int16]) -> NDArray[np.float32]:
        """The float32 weights that ``symbols`` stand for, in the same shape."""
        rows = as_rows(symbols, self.axis)
        run = -(-rows.shape[1] // self.scale.shape[1])
        scale = np.repeat(self.scale, run, axis=1)[:, : rows.shape[1]]
        zero = np.repeat(self.zero, run, axis=1)[:, : rows.shape[1]]
        values = (rows.astype(np.float32) - zero.astype(np.float32)) * scale
        return from_rows(values, symbols.shape, self.axis)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Affine)
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero, other.zero)
        )


@dataclass(frozen=True, eq=False)
class Table:
    """The rule ``value = levels[row, symbol]``: a codebook, shared by the tensor or one per index of ``axis``.

    Args:
        levels: float32 of shape (n, K), K at most 256; n = 1 without an axis.
        axis: the axis of the weight that the rows of ``levels`` belong to, or None for the whole tensor.

    Raises:
        WeightError: the parameters do not fit together.

    Example:
        >>> rule = Table(np.array([[-0.5, 0.0, 0.25]], np.float32))
        >>> rule.values(np.array([[2, 0]], np.int16))
        array([[ 0.25, -0.5 ]], dtype=float32)
    """

    levels: NDArray[np.float32]
    axis: int | None = None

    def __post_init__(self) -> None:
        if self.levels.ndim != 2 or not 1 <= self.levels.shape[1] <= SYMBOL_LIMIT or self.levels.shape[0] == 0:
            raise WeightError(f"table rule: levels must be (n, 1..{SYMBOL_LIMIT}), not {self.levels.shape}")
        if self.axis is None and self.levels.shape[0] != 1:
            raise WeightError(f"table rule: {self.levels.shape[0]} rows of levels need an axis")

    def values(self, symbols: NDArray[np.int16]) -> NDArray[np.float32]:
        """The float32 weights that ``symbols`` stand for, in the same shape."""
        rows = as_rows(symbols, self.axis)
        values = np.take_along_axis(self.levels, rows.astype(np.intp), axis=1)
        return from_rows(values, symbols.shape, self.axis)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Table) and self.axis == other.axis and np.array_equal(self.levels, other.levels)


Rule = Affine | Table


@dataclass(frozen=True, eq=False)
class Code:
    """Integer symbols and the rule back to values: what every method that ends a chain returns.

    Args:
        symbols: int16 in the shape of the weight, at most 256 levels from the smallest to the largest.
        rule: how a symbol becomes a value.

    Raises:
        WeightError: more than 256 levels, a symbol outside the table, or a rule that does not fit the shape.

    Example:
        >>> code = Code(np.array([[1, -1]], np.int16), Affine.per_tensor(0.5))
        >>> code.values()
        array([[ 0.5, -0.5]], dtype=float32)
        >>> code.alphabet
        (-1, 2, 2)
    """

    symbols: NDArray[np.int16]
    rule: Rule

    def __post_init__(self) -> None:
        if self.symbols.dtype != np.int16 or self.symbols.size == 0:
            raise WeightError(f"a code needs int16 symbols and at least one, not {self.symbols.dtype}")
        first, _, count = self.alphabet
        if count > SYMBOL_LIMIT:
            raise WeightError(f"a code has at most {SYMBOL_LIMIT} levels, not {count}")
        axis, rows = self.rule.axis, _parameters(self.rule).shape[0]
        if axis is not None and not (0 <= axis < self.symbols.ndim and self.symbols.shape[axis] == rows):
            raise WeightError(f"a rule with {rows} rows on axis {axis} does not fit symbols of shape {self.shape}")
        if isinstance(self.rule, Affine) and self.rule.scale.shape[1] > self.symbols.size // rows:
            raise WeightError(f"{self.rule.scale.shape[1]} groups for {self.symbols.size // rows} weights in a row")
        if isinstance(self.rule, Table) and (first < 0 or int(self.symbols.max()) >= self.rule.levels.shape[1]):
            raise WeightError(f"a symbol lies outside the table of {self.rule.levels.shape[1]} levels")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return self.symbols.shape

    @property
    def alphabet(self) -> tuple[int, int, int]:
        """``(first, step, levels)``: every symbol is ``first + step * index`` with index below ``levels``.

        The step is the greatest that fits, so that the signs -1 and +1 are two levels and not three.
        """
        first, last = int(self.symbols.min()), int(self.symbols.max())
        if first == last:
            return first, 1, 1
        step = int(np.gcd.reduce(np.unique(self.symbols).astype(np.int64) - first))
        return first, step, (last - first) // step + 1

    def values(self) -> NDArray[np.float32]:
        """The float32 weights."""
        return self.rule.values(self.symbols)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Code) and np.array_equal(self.symbols, other.symbols) and self.rule == other.rule


@dataclass(frozen=True, eq=False)
class Stats:
    """What measuring learned about one weight tensor.

    Args:
        second_moment: float64 of shape (d, d): the mean of x x^T over the unfolded inputs x that the weight meets,
            d being the weights of one output (in a convolution: input channels of a group times kernel positions).
        sensitivity: mean squared gradient of the loss with respect to the layer's output.
        samples: how many inputs were averaged.
    """

    second_moment: NDArray[np.float64]
    sensitivity: float
    samples: int

    def importance(self, weight: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much a squared error of each weight harms the output, up to a factor: the mean square of its input.

        Raises:
            WeightError: the statistics belong to another shape.
        """
        diagonal = np.diagonal(self.second_moment)
        if weight.size != weight.shape[0] * diagonal.size:
            raise WeightError(f"statistics of {diagonal.size} inputs do not fit a weight of shape {weight.shape}")
        return np.broadcast_to(diagonal, (weight.shape[0], diagonal.size)).reshape(weight.shape)


def _parameters(rule: Rule) -> NDArray[np.float32]:
    return rule.scale if isinstance(rule, Affine) else rule.levels


def as_rows(array: NDArray, axis: int | None) -> NDArray:  # type: ignore[type-arg]
    """A view or copy of ``array`` as (n, rest), ``axis`` first; without an axis n = 1."""
    if axis is None:
        return array.reshape(1, -1)
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def from_rows(rows: NDArray, shape: tuple[int, ...], axis: int | None) -> NDArray:  # type: ignore[type-arg]
    """The inverse of ``as_rows``, for the shape that it was given."""
    if axis is None:
        return rows.reshape(shape)
    moved = (shape[axis], *shape[:axis], *shape[axis + 1 :])
    return np.ascontiguousarray(np.moveaxis(rows.reshape(moved), 0, axis))
