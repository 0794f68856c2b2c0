"""Uniform quantization: floats to integers of 8 bits and fewer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Affine, Code, Stats, as_rows, from_rows
from smidgen.methods.base import (
    FloatArray,
    Method,
    check_choice,
    check_flag,
    check_int,
    check_number,
    checked,
    importance_of,
    refusal,
)
from smidgen.methods.rounding import squant

__all__ = ["Quantize"]

SMALLEST_STEP = float(np.finfo(np.float32).tiny)
COARSE = np.geomspace(1.0, 0.05, 32)[1:]
"""Clipping factors of the first search; the range that clips nothing is where it starts."""
FINE = (COARSE[1] / COARSE[0]) ** np.array([-0.8, -0.6, -0.4, -0.2, 0.2, 0.4, 0.6, 0.8])
"""Factors between a coarse one and its two neighbours."""
POLISH = 3


class _Grid(NamedTuple):
    """Steps and zero points, one per run, with the range that they came from and the squared error that they cause."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    scale: NDArray[np.float32]
    zero: NDArray[np.int16]
    error: NDArray[np.float64]


@dataclass(frozen=True)
class Quantize(Method):
    """Integers at equal steps, zero always among the levels.

    Forward: ``(clip(round(w / scale) + zero, first, last) - zero) * scale``, rounding half to even. Symmetric:
    ``zero = 0``, symbols -(2^(b-1) - 1) .. 2^(b-1) - 1, ``scale = max |w| / last``. Asymmetric: symbols 0 .. 2^b - 1,
    ``scale = (max(w, 0) - min(w, 0)) / last``, ``zero = round(-min(w, 0) / scale)``. Jacob et al., arXiv 1712.05877,
    section 2.1 and equation 13; the survey by Gholami et al., arXiv 2103.13630, equations 2 to 5.
    A run of zeros has scale 1. A step below the smallest normal float32, 1.2e-38, is raised to it.

    Args:
        bits: 2..8.
        symmetric: see above.
        granularity: what shares one scale: the "tensor"; each index of an "axis"; or each "group" of weights along
            the flattened rest of each filter. A 1-D tensor is one row: a scale for each
            weight would save nothing.
        axis: which axis, with granularity "axis".
        group: the most weights of a group, with granularity "group". A filter of r weights is cut into
            ``ceil(r / group)`` runs of equal length (the last may be shorter), as ``Affine`` says.
        range: "minmax" clips nothing; "mse" searches the clipping range of each run with the least squared error,
            weighted by importance when there are statistics. It is never worse than "minmax".
        step: the step as a multiple of the standard deviation of the tensor, in place of a range: entropy-constrained
            uniform scalar quantization (Gish and Pierce, "Asymptotically efficient quantizing", 1968), which is what
            an entropy coder likes best. Symmetric per tensor; what ``bits`` cannot count is clipped. A constant tensor,
            which has no deviation, is ranged by minmax.
        rounding: "nearest", or "squant": so that the errors of each kernel and filter nearly cancel, which halves the
            KL divergence of SqueezeNet at the same bytes, without data (``smidgen.methods.rounding``).

    Raises:
        PlanError: a field or a combination of fields is not allowed.

    Example:
        >>> code = Quantize(bits=3, granularity="axis")(np.array([[0.3, -0.1], [3, 2]], np.float32))
        >>> code.symbols
        array([[ 3, -1], [ 3,  2]], dtype=int16)
        >>> code.values()
        array([[ 0.3, -0.1], [ 3. ,  2. ]], dtype=float32)
    """

    bits: int = 8
    symmetric: bool = True
    granularity: Literal["tensor", "axis", "group"] = "tensor"
    axis: int = 0
    group: int = 64
    range: Literal["minmax", "mse"] = "minmax"
    step: float | None = None
    rounding: Literal["nearest", "squant"] = "nearest"

    def __post_init__(self) -> None:
        check_int(self, "bits", 2, 8)
        check_flag(self, "symmetric")
        check_choice(self, "granularity", ("tensor", "axis", "group"))
        check_int(self, "axis", 0, 63)
        check_int(self, "group", 1, 2**31 - 1)
        check_choice(self, "range", ("minmax", "mse"))
        check_choice(self, "rounding", ("nearest", "squant"))
        if self.rounding == "squant" and (self.granularity == "group" or self.axis != 0):
            raise refusal(self, "rounding", "squant needs one scale per filter, or one in all")
        if self.axis != 0 and self.granularity != "axis":
            raise refusal(self, "axis", "an axis needs granularity='axis'")
        if self.group != 64 and self.granularity != "group":
            raise refusal(self, "group", "a group size needs granularity='group'")
        if self.step is not None:
            check_number(self, "step")
            if not self.symmetric or self.granularity != "tensor" or self.range != "minmax":
                raise refusal(self, "step", "a step excludes symmetric=False, granularity and range; leave them out")

    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> Code:
        """Symbols in the shape of the weight, with the affine rule back to values."""
        weight = checked(weight)
        axis = self._axis(weight)
        rows = as_rows(weight, axis).astype(np.float64)
        groups = -(-rows.shape[1] // self.group) if self.granularity == "group" else 1
        runs = _cut(rows, groups)
        if self.step is not None:
            scale = self._stepped(rows, self.step)
            zero = np.zeros(scale.shape, np.int16)
        else:
            # padding has no importance, and its zeros lie inside every range
            mass = _cut(as_rows(importance_of(weight, stats), axis), groups)
            low, high = np.minimum(runs.min(axis=1), 0.0), np.maximum(runs.max(axis=1), 0.0)
            grid = self._grid(runs, mass, low, high)
            if self.range == "mse":
                grid = self._search(runs, mass, grid)
            scale, zero = grid.scale, grid.zero
        symbols = self._symbols(runs, scale, zero).astype(np.int16)
        symbols = symbols.reshape(rows.shape[0], -1)[:, : rows.shape[1]]
        if self.rounding == "squant":
            ideal = (rows / scale[:, None] + zero[:, None]).reshape(weight.shape)
            symbols = squant(ideal, *self._ends).astype(np.int16).reshape(rows.shape)
        rule = Affine(scale.reshape(-1, groups), zero.reshape(-1, groups), axis)
        return Code(from_rows(symbols, weight.shape, axis), rule)

    def _axis(self, weight: FloatArray) -> int | None:
        """The axis whose indices have scales of their own in this weight, or None."""
        if self.granularity == "tensor" or weight.ndim < 2:
            return None
        if self.axis >= weight.ndim:
            raise refusal(self, "axis", f"a weight of shape {weight.shape} has only {weight.ndim} axes")
        return self.axis

    @property
    def _ends(self) -> tuple[int, int]:
        """The first and the last symbol."""
        half = 2 ** (self.bits - 1) - 1
        return (-half, half) if self.symmetric else (0, 2**self.bits - 1)

    def _symbols(
        self, runs: NDArray[np.float64], scale: NDArray[np.float32], zero: NDArray[np.int16]
    ) -> NDArray[np.float64]:
        first, last = self._ends
        symbols: NDArray[np.float64] = np.clip(np.rint(runs / scale[:, None]) + zero[:, None], first, last)
        return symbols

    def _stepped(self, rows: NDArray[np.float64], step: float) -> NDArray[np.float32]:
        """The scale of ``step`` standard deviations, in shape (1,)."""
        # by the largest magnitude first: squares of the smallest floats would vanish
        largest = float(np.abs(rows).max())
        deviation = float((rows / largest).std()) if largest > 0 else 0.0
        # rounding leaves a constant tensor a deviation of about 1e-16, which means none
        if rows.min() == rows.max():
            return _scales(np.array([largest / self._ends[1]]))
        # at three times the largest magnitude all is zero already, and float32 can still hold it
        return _scales(np.array([min(step * deviation, 3.0) * largest]))

    def _grid(
        self,
        runs: NDArray[np.float64],
        mass: NDArray[np.float64],
        low: NDArray[np.float64],
        high: NDArray[np.float64],
    ) -> _Grid:
        """The grid that spans low..high (each of shape (runs,), low <= 0 <= high)."""
        last = self._ends[1]
        if self.symmetric:
            scale = _scales(np.maximum(-low, high) / last)
            zero = np.zeros(scale.shape, np.int16)
        else:
            scale = _scales((high - low) / last)
            zero = np.clip(np.rint(-low / scale), 0, last).astype(np.int16)
        return _Grid(low, high, scale, zero, self._error(runs, mass, scale, zero))

    def _error(
        self,
        runs: NDArray[np.float64],
        mass: NDArray[np.float64],
        scale: NDArray[np.float32],
        zero: NDArray[np.int16],
    ) -> NDArray[np.float64]:
        """Weighted squared error of each run."""
        values = (self._symbols(runs, scale, zero) - zero[:, None]) * scale[:, None]
        error: NDArray[np.float64] = np.einsum("ij,ij->i", mass, (runs - values) ** 2)
        return error

    def _search(self, runs: NDArray[np.float64], mass: NDArray[np.float64], widest: _Grid) -> _Grid:
        """The grid of least weighted squared error per run: coarse, then fine, then by least squares."""
        best = widest
        for factor in COARSE:
            best = _better(best, self._grid(runs, mass, widest.low * factor, widest.high * factor))
        # a symmetric grid has one end to move, an asymmetric one has two that move on their own
        for moves_low, moves_high in [(True, True)] if self.symmetric else [(True, False), (False, True)]:
            base = best
            for factor in FINE:
                low = np.maximum(base.low * factor, widest.low) if moves_low else base.low
                high = np.minimum(base.high * factor, widest.high) if moves_high else base.high
                best = _better(best, self._grid(runs, mass, low, high))
        for _ in range(POLISH):
            # with the symbols q held, the error is least at scale = sum(m w q) / sum(m q^2)
            offset = self._symbols(runs, best.scale, best.zero) - best.zero[:, None]
            above = np.einsum("ij,ij,ij->i", mass, runs, offset)
            below = np.einsum("ij,ij,ij->i", mass, offset, offset)
            scale = _scales(above / np.where(below > 0, below, 1.0))
            error = self._error(runs, mass, scale, best.zero)
            best = _better(best, best._replace(scale=scale, error=error))
        return best


def _scales(scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """Steps that float32 can hold and divide by: 1 for zero, and none below the smallest normal float."""
    return np.where(scale > 0, np.maximum(scale, SMALLEST_STEP), 1.0).astype(np.float32)


def _cut(rows: NDArray[np.float64], groups: int) -> NDArray[np.float64]:
    """Rows of shape (n, rest) as (n * groups, run), padded with zeros; the run length is the one of ``Affine``."""
    run = -(-rows.shape[1] // groups)
    return np.pad(rows, ((0, 0), (0, run * groups - rows.shape[1]))).reshape(-1, run)


def _better(one: _Grid, other: _Grid) -> _Grid:
    """Run by run the grid with the smaller error; the first of two equals."""
    wins = other.error < one.error
    return _Grid(
        low=np.where(wins, other.low, one.low),
        high=np.where(wins, other.high, one.high),
        scale=np.where(wins, other.scale, one.scale),
        zero=np.where(wins, other.zero, one.zero),
        error=np.where(wins, other.error, one.error),
    )
