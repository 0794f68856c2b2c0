"""Rate-constrained quantization: every bit that is spent must be worth it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smidgen._core import ffi, lib
from smidgen.code import Affine, Code, Elimination, Stats, Trellis, as_rows
from smidgen.errors import PlanError, WeightError
from smidgen.methods.base import FloatArray, Method, checked

__all__ = ["Squeeze", "nearest"]

LIMIT = 127
"""Symbols lie within -LIMIT..LIMIT, so that there are at most 255."""

STEP = math.sqrt(6 / math.log(2))
"""The step at which, for many bits a weight, one bit less costs as much as it saves. A step is two scales, and is taken
wider by the square root of 2, which was best by trial: zeros are cheap."""

SAMPLES, SHARE = 3, 4
"""So many passes over one input in SHARE find out how often symbols occur, before the pass over all. By trial they are
worth as much as whole passes."""

BLOCK = 128
HARM = (1e-15, 1e15)
"""Bits for the square of the largest weight: beyond these all is zero, or as fine as it gets."""

TINY = 1e-6
"""No scale is a smaller part of the largest weight."""

HARM_BITS = 0.5 / math.log(2)
"""What the errors of a weight cost at the wanted scale, in bits."""

STEPS = (400, 200, 100, 50)
"""Steps of a coarse code that are tried, in wanted scales; what is left of a weight is at most half of one."""

PART_BITS = 600
"""What a second code costs beside its symbols: its place in the index, and a node in the graph."""

SMALLEST_UNIT = 1e-34
"""Weights far below this are zero."""

BITS_PER_LEVEL = 100.0
"""So much must a code save for each squared level that it is off, in ``nearest``."""


@dataclass(frozen=True)
class Squeeze(Method):
    """Quantization by trellis with feedback of errors, at one exchange rate between harm and bits for all weights.

    Column by column, inputs of great power first, symbols are chosen that minimise expected harm plus
    ``nats_per_bit`` times the bits that they take; what a column gets wrong is made up for by the columns after it,
    as far as their inputs are correlated. The scale follows from the same exchange rate, so that this single number,
    given to all layers, spreads bits over layers as they are worth it. ``smidgen compress --size`` searches it.

    Args:
        nats_per_bit: how much Kullback-Leibler divergence may be paid to save one bit, above 0. Without statistics:
            how much squared error of the weights.

    Raises:
        PlanError: a number that is not positive and finite.

    Source:
        Error feedback: Frantar et al., "GPTQ", arXiv 2210.17323; with a rate term: arXiv 2505.18758 (CERWU). Two
        grids that take turns: Schwarz et al., "Hybrid video coding with trellis-coded quantization", DCC 2019. Scale:
        high-rate theory, where an error of scale^2 / 12 and 1 / (scale ln 2) bits balance.

    Example:
        >>> weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
        >>> code = Squeeze(nats_per_bit=0.01)(weight)
        >>> bool(np.abs(code.values() - weight).mean() < 0.15), code.rule
        (True, Trellis(scale=0.20772914588451385, states=64))
    """

    nats_per_bit: float = 1e-6

    def __post_init__(self) -> None:
        rate = self.nats_per_bit
        if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < math.inf:
            raise PlanError(f"Squeeze: nats_per_bit must be a positive number, not {rate!r}")

    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> Code:
        """The code of ``weight``; see ``Method``. Without statistics all errors harm alike."""
        task = self._task(weight, stats)
        inputs, outputs, columns, harm = task.inputs, task.outputs, task.columns, task.harm
        row_harm = outputs.remaining / math.exp(np.log(outputs.remaining).mean())
        scale = float(np.float32(max(task.wanted, task.finest)))
        rule, answer = Trellis(float(np.float32(scale * task.unit))), (outputs.feedback, row_harm)
        costs = _laplace(float(np.abs(columns).mean()) / (2 * scale))
        for sample in range(SAMPLES):
            part = slice(sample % len(columns), None, SHARE)
            alone = _independent(len(harm[part])).feedback
            chosen = _feed_back(np.ascontiguousarray(columns[part]), (alone, harm[part]), answer, scale, costs)
            costs = _costs(Code(np.ascontiguousarray(chosen.T), rule), costs)
        symbols = np.empty(columns.shape[::-1], np.int16)
        symbols[:, inputs.order] = _feed_back(columns, (inputs.feedback, harm), answer, scale, costs).T
        return Code(symbols.reshape(weight.shape), rule)

    def coarse(self, weight: FloatArray, stats: Stats | None = None) -> Code | None:
        """What to keep of ``weight`` in a code of its own, so that the rest can have a code as fine as it should be.

        A code has 255 levels, all of one scale, so a few large weights can make it too coarse for all others. Multiples
        of a step that is some hundred times the wanted scale are then taken out, where errors of a code without that,
        counted in bits at the exchange rate, cost more than the bits of two codes. The rest is exact in float32.

        Args:
            weight: float32 of any shape.
            stats: as for a call.

        Returns:
            The code to take out; None where one code does.

        Example:
            >>> weight = np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32)
            >>> weight[5, 3] = 1000
            >>> coarse = Squeeze(nats_per_bit=0.01).coarse(weight)
            >>> np.flatnonzero(coarse.symbols), float(np.abs(weight - coarse.values()).max()) < 30
            (array([163]), True)
        """
        task = self._task(weight, stats)
        if task.wanted >= task.finest:
            return None
        values = task.columns.astype(np.float64)
        alone = _bits(values, 2 * task.finest) + HARM_BITS * (task.finest / task.wanted) ** 2
        found = []
        for levels in STEPS:
            step = _short(max(levels * task.wanted, float(np.abs(values).max()) / LIMIT))
            multiples = np.rint(values / step)
            bits = _bits(multiples, 1) + _bits(values - step * multiples, 2 * task.wanted) + HARM_BITS
            found.append((bits, step))
        bits, step = min(found)
        if (alone - bits) * weight.size < PART_BITS:
            return None
        step *= task.unit
        return Code(np.rint(weight / np.float32(step)).astype(np.int16), Affine.per_tensor(step))

    def _task(self, weight: FloatArray, stats: Stats | None) -> _Task:
        weight = checked(weight)
        if weight.ndim == 0:
            raise PlanError("Squeeze: a single number has no axis for a trellis; quantize it")
        rows = as_rows(weight, 0)
        stats = stats or Stats(np.eye(rows.shape[1]), 2.0, 0)
        stats.importance(weight)  # raises where they do not fit
        inputs, outputs = stats.input_elimination, stats.output_elimination or _independent(len(rows))
        if len(outputs.order) != len(rows):
            raise WeightError(f"statistics of {len(outputs.order)} outputs do not fit a weight of shape {weight.shape}")
        # half the second derivative, for the weights of an input, once later inputs have made up for what they can
        unit = _unit(rows)
        harm = np.clip(stats.sensitivity * inputs.remaining / 2 / self.nats_per_bit * unit**2, *HARM)
        columns = np.ascontiguousarray((rows.T[inputs.order] / unit), np.float32)
        largest = float(np.abs(columns).max())
        wanted = min(STEP / math.sqrt(2) * math.exp(-np.log(harm).mean() / 2), 2 * largest)
        return _Task(inputs, outputs, columns, harm, unit, max(wanted, TINY), max(largest / (2 * LIMIT - 6), TINY))


class _Task(NamedTuple):
    """What there is to do for one weight.

    Args:
        inputs: the elimination of its inputs.
        outputs: the same of its outputs.
        columns: the weights of each input, in the order of elimination, in units.
        harm: of a squared error in each of these, in bits.
        unit: what they were divided by, a power of two.
        wanted: the scale that theory wants, in units.
        finest: the smallest with which the largest weight has a symbol.
    """

    inputs: Elimination
    outputs: Elimination
    columns: FloatArray
    harm: NDArray[np.float64]
    unit: float
    wanted: float
    finest: float


def _short(step: float) -> float:
    """The next number of five bits, so that its multiples are exact."""
    mantissa, exponent = math.frexp(step)
    return math.ldexp(math.ceil(32 * mantissa), exponent - 5)


def _bits(values: NDArray[np.float64], step: float) -> float:
    """The entropy of each of the multiples of ``step`` next to ``values``."""
    symbols = np.rint(values / step).astype(np.int64).ravel()
    counts = np.bincount(symbols - symbols.min())
    counts = counts[counts > 0]
    return float(counts @ np.log2(symbols.size / counts)) / symbols.size


def nearest(code: Code, weight: FloatArray) -> Code:
    """The code of the same scale whose values are nearest to ``weight``; of equally near ones that of fewer bits.

    Args:
        code: of ``Squeeze``, with 64 states; where ``weight`` is its value, nothing changes.
        weight: float32 of the same shape.

    Example:
        >>> code = Code(np.array([[1], [1]], np.int16), Trellis(0.5))
        >>> nearest(code, np.array([[1.1], [2.1]], np.float32)).values().ravel()
        array([1., 2.], dtype=float32)
    """
    assert isinstance(code.rule, Trellis)
    assert code.rule.states == 64
    columns = np.ascontiguousarray(as_rows(weight, 0).T)
    count, rows = columns.shape
    harm = np.full(count, BITS_PER_LEVEL / code.rule.scale**2)
    alone = _independent(count), _independent(rows)
    costs = _costs(code, _laplace(1.0))
    chosen = _feed_back(
        columns, (alone[0].feedback, harm), (alone[1].feedback, alone[1].remaining), code.rule.scale, costs
    )
    return Code(np.ascontiguousarray(chosen.T).reshape(code.shape), code.rule)


def _independent(count: int) -> Elimination:
    return Elimination(np.arange(count), None, np.ones(count))


def _unit(rows: FloatArray) -> float:
    """A power of two near the largest weight, so that sums of costs stay within what float32 tells apart."""
    largest = float(np.abs(rows).max())
    return 2.0 ** math.frexp(max(largest, SMALLEST_UNIT))[1]


def _feed_back(
    columns: FloatArray,
    inputs: tuple[FloatArray | None, NDArray[np.float64]],
    outputs: tuple[FloatArray | None, NDArray[np.float64]],
    scale: float,
    costs: FloatArray,
) -> NDArray[np.int16]:
    """The symbols of all columns: shape (inputs, outputs), as ``columns``."""
    count, rows = columns.shape
    targets, errors, symbols = columns.copy(), np.empty_like(columns), np.empty(columns.shape, np.int16)
    aims, paths = np.empty(rows, np.float32), np.empty((rows, 64), np.int16)
    feedback, harm = inputs
    alone = np.eye(BLOCK, dtype=np.float32)
    between = np.eye(rows, dtype=np.float32) if outputs[0] is None else outputs[0]
    for start in range(0, count, BLOCK):
        block = slice(start, min(start + BLOCK, count))
        # what the struct points at must live as long as it does
        size = block.stop - start
        within = np.ascontiguousarray(alone[:size, :size] if feedback is None else feedback[block, block])
        held = [costs, within, harm[block].astype(np.float32), between]
        pointers = [_floats(array) for array in (*held, outputs[1].astype(np.float32))]
        settings = ffi.new("smidgen_squeeze *", (rows, size, scale, LIMIT, *pointers))
        lib.smidgen_trellis_squeeze(
            settings,
            _floats(columns[block]),
            _floats(targets[block]),
            ffi.from_buffer("int16_t[]", symbols[block]),
            _floats(errors[block]),
            _floats(aims),
            ffi.from_buffer("int16_t[]", paths),
        )
        if feedback is not None:
            targets[block.stop :] += feedback[block, block.stop :].T @ errors[block]
    return symbols


def _floats(array: NDArray[np.float32]) -> Any:
    return ffi.from_buffer("float[]", array)


def _laplace(mean: float) -> FloatArray:
    """Bits of the symbols -LIMIT..LIMIT by the law of Laplace with this mean magnitude: shape (2, symbols)."""
    mean = max(mean, 1e-3)
    bits = np.abs(np.arange(-LIMIT, LIMIT + 1)) / mean + math.log(2 * mean + 1)
    return np.tile(np.minimum(bits / math.log(2), 1000), (2, 1)).astype(np.float32)


def _costs(code: Code, before: FloatArray) -> FloatArray:
    """Bits of every symbol on each grid by how often it occurs, with a little of what was thought before."""
    assert isinstance(code.rule, Trellis)
    grids = code.rule.levels(code.symbols)[1]
    costs = np.empty_like(before)
    for grid in range(2):
        counts = np.bincount(code.symbols[grids == grid].astype(np.int64) + LIMIT, minlength=2 * LIMIT + 1)
        prior = np.exp2(-before[grid].astype(np.float64))
        smoothed = counts + 0.02 * counts.sum() * prior / prior.sum() + 1e-3
        costs[grid] = -np.log2(smoothed / smoothed.sum())
    return costs
