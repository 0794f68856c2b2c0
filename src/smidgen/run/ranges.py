"""What values a tensor takes, counted as they pass by, and the range that eight bits serve best."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.errors import InputError, ModelError
from smidgen.run.session import reason, session

__all__ = ["Affine8", "Histogram", "best_affine", "observed", "wide_affine"]

Affine8 = tuple[np.float32, np.uint8]
"""Scale and zero point of uint8: a value is scale * (integer - zero point)."""

_HALF = 2048  # bins on each side of zero
_LEVELS = 255
_PARTS = np.linspace(0.5, 1.0, 51)
_HEADROOM = 1.25


class Histogram:
    """Counts of values in equal bins about zero, whose width is a power of two and doubles when a value lies outside.

    So its size never grows, and two of them can be added exactly.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([-1, 0, 3], np.float32))
        >>> histogram.add(np.array([100], np.float32))
        >>> histogram.low, histogram.high, int(histogram.counts.sum())
        (-1.0, 100.0, 4)
    """

    def __init__(self) -> None:
        self.low = self.high = 0.0  # zero always has a level of its own
        self.width = 2.0**-116
        self.counts = np.zeros(2 * _HALF, np.int64)

    @property
    def reach(self) -> float:
        """The largest distance of a value from zero."""
        return max(-self.low, self.high)

    def add(self, values: NDArray[Any]) -> None:
        """Counts values.

        Raises:
            ModelError: one is infinite or no number.
        """
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ModelError("an activation of the network is not finite; its weights or its inputs are damaged")
        self._reach_(low, high)
        bins = np.floor(values.ravel() * np.float32(1 / self.width)).astype(np.int32) + _HALF
        self.counts += np.bincount(bins, minlength=2 * _HALF)

    def merge(self, other: Histogram) -> None:
        """Adds the counts of another histogram, which is not changed."""
        self._reach_(other.low, other.high)
        counts, width = other.counts, other.width
        while width < self.width:
            counts, width = _halved(counts), 2 * width
        while self.width < width:
            self.counts, self.width = _halved(self.counts), 2 * self.width
        self.counts = self.counts + counts

    def centers(self) -> NDArray[np.float64]:
        """The value in the middle of each bin."""
        return np.linspace(0.5 - _HALF, _HALF - 0.5, 2 * _HALF) * self.width

    def _reach_(self, low: float, high: float) -> None:
        """Makes the bins wide enough, with one to spare at each end."""
        self.low, self.high = min(self.low, low), max(self.high, high)
        while self.reach >= self.width * (_HALF - 1):
            self.counts, self.width = _halved(self.counts), 2 * self.width


def observed(
    model: onnx.ModelProto, names: Iterable[str], batches: Iterable[Mapping[str, NDArray[Any]]]
) -> dict[str, Histogram]:
    """What values tensors of a network take.

    Args:
        model: whole, with its weights; it is not changed.
        names: of float32 tensors in it, inputs among them.
        batches: what the network will see, an array for each input by name; looked at once, one batch at a time.

    Raises:
        InputError: there are no batches.
        ModelError: ONNX Runtime cannot run the model, or a value is not finite.
    """
    histograms = {name: Histogram() for name in names}
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    given = {value.name for value in wider.graph.input}
    known = {value.name for value in wider.graph.output}
    made = [name for name in histograms if name not in given]
    wider.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in made if name not in known
    )
    running = session(wider)
    empty = True
    for batch in batches:
        empty = False
        try:
            values = running.run(made, dict(batch))[: len(made)]  # no names mean all
        except Exception as error:  # the runtime's exceptions have no public base class of their own
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason(error)}") from None
        for name, value in zip(made, values, strict=True):
            histograms[name].add(value)
        for name in given & set(histograms):
            histograms[name].add(batch[name])
    if empty:
        raise InputError("no batches to calibrate on")
    return histograms


def best_affine(
    histogram: Histogram,
    power: float = 2.0,
    function: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None,
) -> Affine8:
    """Scale and zero point that lose least of the values that were counted.

    Of ranges from half of what was seen to all, the one with the least sum of errors to this power; a value outside
    becomes its end.

    Args:
        histogram: of the values.
        power: of errors; the greater, the wider the range.
        function: what is computed of the values, if nothing else is: then its errors count, and the range may end where
            it hardly changes any more.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([-1, 0, 3], np.float32))
        >>> scale, zero = best_affine(histogram)
        >>> round(float(scale) * 255, 2), int(zero)
        (4.0, 64)
        >>> histogram.add(np.linspace(-9, 3, 9999))
        >>> scale, zero = best_affine(histogram, function=lambda x: np.maximum(x, 0))
        >>> round(float(scale) * 255, 2), int(zero)
        (3.0, 0)
    """
    used = np.flatnonzero(histogram.counts)
    counts, values = histogram.counts[used], histogram.centers()[used].clip(histogram.low, histogram.high)
    ranges = [(histogram.low * part, histogram.high * part) for part in _PARTS]
    if function is not None:
        lows = np.linspace(0, 1, 21) if histogram.low < 0 else (1.0,)
        ranges = [(histogram.low * low, histogram.high * high) for low in lows for high in _PARTS[::2]]
    of = function or (lambda numbers: numbers)
    exact = of(values)

    def harm(affine: Affine8) -> float:
        scale, zero = float(affine[0]), float(affine[1])
        rounded = (np.clip(np.rint(values / scale) + zero, 0, _LEVELS) - zero) * scale
        return float((counts * np.abs(of(rounded) - exact) ** power).sum())

    return min((_affine(low, high) for low, high in ranges), key=harm)


def wide_affine(histogram: Histogram) -> Affine8:
    """Scale and zero point for a quarter more than was seen, where the largest value is what counts: for answers.

    Example:
        >>> histogram = Histogram()
        >>> histogram.add(np.array([0, 8], np.float32))
        >>> round(float(wide_affine(histogram)[0]) * 255, 2)
        10.0
    """
    return _affine(histogram.low * _HEADROOM, histogram.high * _HEADROOM)


def _affine(low: float, high: float) -> Affine8:
    span = np.float32((high - low) / _LEVELS)
    if span < np.finfo(np.float32).tiny:
        return np.float32(1), np.uint8(0)
    # a scale that is rounded up would reach past a Clip, which would then have to be computed
    scale = np.nextafter(span, np.float32(0))
    return scale, np.uint8(min(_LEVELS, round(-low / float(scale))))


def _halved(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same counts in half as many bins, twice as wide."""
    return np.pad(counts.reshape(-1, 2).sum(axis=1), _HALF // 2)
