"""What compression hands on: integer symbols with the rule back to values, and what measuring learned.

The integers are the hand-off. Nothing later re-derives them from floats.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smidgen._core import ffi, lib
from smidgen.errors import WeightError

__all__ = ["Affine", "Code", "Elimination", "Rule", "Stats", "Table", "Trellis", "as_rows", "from_rows"]

SYMBOL_LIMIT = 256
"""A code has at most this many distinct levels, so that a symbol fits in one byte of the file."""


DAMPING = 0.003
"""Part of its mean that is added to the diagonal of a second moment: what few pictures show is not all there is."""

OUTPUT_DAMPING = 4000
"""The same for outputs, divided by the number of inputs seen: their correlations are slow to show."""

TRELLIS_LIMIT = 16383
"""The levels of a trellis are twice its symbols, and fit in 16 bits."""


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


@dataclass(frozen=True)
class Trellis:
    """The rule of dependent quantization: ``value = level * scale``, two grids of levels take turns.

    Grid 0 holds the even levels (symbol k means 2 k), grid 1 the odd ones and zero (2 k less the sign of k). Which one
    a weight has depends on the parities of the symbols above it: a state goes down axis 0, for every position in the
    other axes on its own.

    Args:
        scale: distance of two levels, positive.
        states: 64, or 8 as in files of older versions.

    Raises:
        WeightError: the scale is not a positive number that float32 holds, or there is no trellis of so many states.

    Source:
        Schwarz et al., "Hybrid video coding with trellis-coded quantization", DCC 2019, for the two grids and the
        idea of parity; the states are those of Ungerboeck's codes, "Channel coding with multilevel/phase signals",
        IEEE Transactions on Information Theory, 1982.

    Example:
        >>> Trellis(0.5).values(np.array([[1], [1], [-2]], np.int16)).ravel()
        array([ 1. ,  1. , -1.5], dtype=float32)
    """

    scale: float
    states: int = 64

    def __post_init__(self) -> None:
        if self.states not in (8, 64):
            raise WeightError(f"trellis rule: there are 8 or 64 states, not {self.states!r}")
        if not 0 < self.scale <= np.finfo(np.float32).max or float(np.float32(self.scale)) != self.scale:
            raise WeightError(f"trellis rule: the scale must be a positive float32, not {self.scale!r}")

    def levels(self, symbols: NDArray[np.int16]) -> tuple[NDArray[np.int16], NDArray[np.uint8]]:
        """The levels that ``symbols`` stand for, and the grids (0 or 1) that they are on, in the same shape.

        Args:
            symbols: of at least one axis, within -16383..16383.
        """
        rows = np.ascontiguousarray(symbols)
        levels, grids = np.empty_like(rows), np.empty(rows.shape, np.uint8)
        states = np.empty(rows.size // len(rows), np.uint8)
        signed = [ffi.from_buffer("int16_t[]", array) for array in (rows, levels)]
        unsigned = [ffi.from_buffer("uint8_t[]", array) for array in (grids, states)]
        lib.smidgen_trellis_levels(self.states, len(rows), states.size, *signed, *unsigned)
        return levels, grids

    def values(self, symbols: NDArray[np.int16]) -> NDArray[np.float32]:
        """The float32 weights that ``symbols`` stand for, in the same shape."""
        return self.levels(symbols)[0].astype(np.float32) * np.float32(self.scale)


Rule = Affine | Table | Trellis


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
        if isinstance(self.rule, Trellis):
            if self.symbols.ndim == 0 or first < -TRELLIS_LIMIT or int(self.symbols.max()) > TRELLIS_LIMIT:
                raise WeightError(f"a trellis needs an axis, and symbols within -{TRELLIS_LIMIT}..{TRELLIS_LIMIT}")
            return
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


class Elimination(NamedTuple):
    """How an error in one place is best answered in later ones, for a harm that is a quadratic form of all errors.

    Args:
        order: the places, in the order in which they are decided.
        feedback: None if places do not matter to each other, else float32; of an error at the i-th place,
            ``feedback[i, j]`` times as much is added to what the j-th aims at, j > i.
        remaining: what a squared error at each place then costs, in place of the diagonal of the form.

    Source:
        Frantar et al., "GPTQ", arXiv 2210.17323, as the factorisation form = U diag U^T of QuIP (arXiv 2307.13304,
        theorem 1), U with a unit diagonal and zeros below it.
    """

    order: NDArray[np.intp]
    feedback: NDArray[np.float32] | None
    remaining: NDArray[np.float64]

    @classmethod
    def of(cls, form: NDArray[np.float64], damping: float, order: NDArray[np.intp]) -> Elimination:
        """The elimination of ``form``, or of a diagonal, plus ``damping`` times its mean diagonal on the diagonal.

        Raises:
            WeightError: the form is not finite, symmetric and positive.

        Example:
            >>> found = Elimination.of(np.array([[2.0, 1.0], [1.0, 2.0]]), 0.0, np.arange(2))
            >>> found.feedback[0, 1], found.remaining
            (np.float32(0.5), array([1.5, 2. ]))
        """
        if form.ndim == 1:
            if not np.isfinite(form).all() or (form < 0).any():
                raise WeightError("statistics: a moment is not finite and positive")
            mean = float(form.mean())
            return cls(order, None, form[order] + (1.0 if mean == 0 else damping * mean))
        if not np.isfinite(form).all() or not np.allclose(form, form.T, atol=1e-6 * float(np.abs(form).max())):
            raise WeightError("statistics: a moment is not finite, symmetric and positive")
        mean = float(np.diagonal(form).mean())
        damped = form[np.ix_(order, order)] + (1.0 if mean == 0 else damping * mean) * np.eye(len(form))
        try:
            upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
        except np.linalg.LinAlgError:
            upper = np.full_like(form, np.nan)
        if not np.isfinite(upper).all():
            raise WeightError("statistics: a moment is not finite, symmetric and positive")
        root = np.diagonal(upper)
        return cls(order, np.ascontiguousarray(upper / root, np.float32), root**2)


@dataclass(frozen=True, eq=False)
class Stats:
    """What measuring learned about one weight tensor.

    Args:
        second_moment: float64 of shape (d, d), d being the weights of one output (in a convolution: input channels of a
            group times kernel positions): the mean of x x^T over the unfolded inputs x that the weight meets, or a
            weighted mean in which those inputs count most that the loss depends on. Of very many inputs only its
            diagonal, of shape (d,).
        sensitivity: mean squared gradient of the loss with respect to the layer's output, summed over its positions. An
            error e (one row for each output) in the weight costs sensitivity / 2 * trace(e second_moment e^T).
        samples: how many inputs were averaged.
        output_moment: float64 of shape (outputs, outputs): how much errors of two outputs harm together, up to a
            factor; None if it was not measured.
    """

    second_moment: NDArray[np.float64]
    sensitivity: float
    samples: int
    output_moment: NDArray[np.float64] | None = None

    @cached_property
    def input_elimination(self) -> Elimination:
        """How errors in the weights of one input can be made up for by those of another.

        Raises:
            WeightError: the second moment is not finite, symmetric and positive.
        """
        return Elimination.of(self.second_moment, DAMPING, np.argsort(-self.diagonal, kind="stable"))

    @property
    def diagonal(self) -> NDArray[np.float64]:
        """The mean square of each input: float64 of shape (d,)."""
        moment = self.second_moment
        return moment if moment.ndim == 1 else np.diagonal(moment)

    @cached_property
    def output_elimination(self) -> Elimination | None:
        """The same for outputs, in their own order; None if the output moment was not measured.

        Raises:
            WeightError: the output moment is not finite, symmetric and positive.
        """
        if self.output_moment is None:
            return None
        damping = OUTPUT_DAMPING / max(1, self.samples)
        return Elimination.of(self.output_moment, damping, np.arange(len(self.output_moment)))

    def harm(self, error: NDArray[np.floating[Any]]) -> float:
        """What an error of the weight is expected to cost: sensitivity / 2 trace(error second_moment error^T).

        Example:
            >>> Stats(np.eye(2), 1.0, 9).harm(np.array([[0.0, 2.0]]))
            2.0
        """
        rows = error.reshape(len(error), -1).astype(np.float64)
        moved = rows * self.diagonal if self.second_moment.ndim == 1 else rows @ self.second_moment
        return self.sensitivity / 2 * float((moved * rows).sum())

    def importance(self, weight: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much a squared error of each weight harms the output, up to a factor: the mean square of its input.

        Raises:
            WeightError: the statistics belong to another shape.
        """
        diagonal = self.diagonal
        if weight.size != weight.shape[0] * diagonal.size:
            raise WeightError(f"statistics of {diagonal.size} inputs do not fit a weight of shape {weight.shape}")
        return np.broadcast_to(diagonal, (weight.shape[0], diagonal.size)).reshape(weight.shape)


def _parameters(rule: Affine | Table) -> NDArray[np.float32]:
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
