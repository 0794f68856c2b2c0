"""How far the outputs of two networks lie apart: for any task."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.run.variance import over_variance

if TYPE_CHECKING:
    pass

__all__ = ["Output", "divergence", "log_probabilities"]

COORDINATES = 100.0
"""Of detections: how much a relative squared error of coordinates counts. One percent is 0.005 nats for each thing."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Args:
        name: in the graph.
        kind: "scores" of classes, before or after a log-softmax; "probabilities" of classes, which sum to 1; "chances",
            each of 0 to 1 on its own; "detections", for each of many places coordinates, and chances that something is
            there; "values", anything else: features, coordinates, states.
        axis: of the classes; of what is told of each place; of values that of quantities, such as the numbers of a
            short vector or the channels of a picture, or 0 for none. Counted after what ``leading`` does.
        coordinates: of detections, the first place on that axis that is one, and the first after them that is not.
        variance: of values, what answers to different inputs differ by, for each quantity or for all together (see
            ``smidgen.run.variance``); None if that is not known: the mean square of each answer takes its place.
        examples: the axis along which the answers to several inputs lie, as the graph has it; None if all are one.
    """

    name: str
    kind: str
    axis: int = -1
    coordinates: tuple[int, int] = (0, 0)
    variance: tuple[float, ...] | None = None
    examples: int | None = 0

    def leading(self, array: Any) -> Any:
        """An output of the graph, an array of NumPy or a tensor of PyTorch, with its answers along the first axis."""
        return array[None] if self.examples is None else array.swapaxes(0, self.examples)

    def detections(self, array: Any) -> tuple[Any, Any]:
        """Coordinates and chances, an array of NumPy or a tensor of PyTorch for each: (n, what is told, places)."""
        told = array.swapaxes(self.axis, 1)
        told = told.reshape(len(told), told.shape[1], -1)
        first, end = self.coordinates
        return told[:, first:end], told[:, end:] if first == 0 else told[:, :first]


def log_probabilities(output: Output, array: Array) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities of classes: shape (n, positions, classes), for scores or probabilities.

    Example:
        >>> log_probabilities(Output("y", "scores", 1), np.zeros((1, 2), np.float32)).round(3)
        array([[[-0.693, -0.693]]])
    """
    scores = np.moveaxis(output.leading(array).astype(np.float64), output.axis, -1)
    scores = scores.reshape(len(scores), -1, scores.shape[-1])
    if output.kind == "probabilities":
        scores = np.log(np.maximum(scores, np.finfo(np.float32).tiny))
    scores = scores - scores.max(axis=2, keepdims=True)
    total: NDArray[np.float64] = np.exp(scores).sum(axis=2, keepdims=True)
    return np.asarray(scores - np.log(total))


def divergence(output: Output, reference: Array, other: Array) -> NDArray[np.float64]:
    """How far answers lie from those of a reference, for each input: shape (n,), 0 for the same.

    For classes the Kullback-Leibler divergence in nats, for chances that of each (Bernoulli's law), the mean over
    positions; for detections the sum of the latter for each thing that is expected (the sum of the chances, at least
    one), and ``COORDINATES`` times half the squared error of the coordinates, relative to their square and weighted by
    the chances; for values half the mean squared error, in parts of the variance of each quantity.

    Example:
        >>> one = np.array([[3.0, 4.0]], np.float32)
        >>> divergence(Output("y", "values", 1, variance=(10.0, 20.0)), one, np.array([[3.0, 2.0]], np.float32))
        array([0.05])
    """
    if reference.size == 0:
        return np.zeros(len(output.leading(reference)))
    if output.kind in ("scores", "probabilities"):
        logs = [log_probabilities(output, array) for array in (reference, other)]
        return np.asarray(np.maximum((np.exp(logs[0]) * (logs[0] - logs[1])).sum(2).mean(1), 0))
    reference, other = (output.leading(array) for array in (reference, other))
    if output.kind == "detections":
        (boxes, p), (found, q) = output.detections(reference), output.detections(other)
        nats, expected = _bernoulli(p, q).sum(1), p.astype(np.float64).sum((1, 2))
        there = p.astype(np.float64).max(1, keepdims=True)  # coordinates of what is not there say nothing
        error, square = ((there * array.astype(np.float64) ** 2).sum((1, 2)) for array in (boxes - found, boxes))
        apart = error / 2 / np.where(square > 0, square, 1.0) * np.minimum(expected, 1)
        return np.asarray(nats / np.maximum(expected, 1) + COORDINATES * apart)
    if output.kind == "chances":
        return np.asarray(_bernoulli(reference, other).mean(1))
    p, q = (array.astype(np.float64) for array in (reference, other))
    if output.variance is not None:
        parts = over_variance((p - q) ** 2, np.array(output.variance), output.axis)
        return np.asarray(parts.reshape(len(p), -1).mean(1) / 2)
    square, error = ((each**2).reshape(len(p), -1).mean(1) for each in (p, p - q))
    return np.asarray(error / 2 / np.where(square > 0, square, 1.0))


def _bernoulli(reference: Array, other: Array) -> NDArray[np.float64]:
    """Divergence of each chance, shape (n, chances)."""
    p, q = (np.clip(a.astype(np.float64).reshape(len(a), -1), 1e-7, 1 - 1e-7) for a in (reference, other))
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
