"""What the outputs of a network are, and how far those of two networks lie apart: for any task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError

if TYPE_CHECKING:
    import onnx

__all__ = [
    "KINDS",
    "Output",
    "agreement",
    "cosine",
    "divergence",
    "last_operator",
    "log_probabilities",
    "maker",
    "outputs_of",
]

KINDS = ("scores", "probabilities", "chances", "values")

# Operators that pass on the numbers as they are: what is before them says what an output is.
_RESHAPING = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
_MOVING = (*_RESHAPING, "Gather", "Slice", "Split")
MOST_COORDINATES = 64
"""Of a place: four, or a distribution for each."""

_SCORING = ("Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "LogSoftmax", "MatMul", "ReduceMean")

COORDINATES = 100.0
"""Of detections: how much a relative squared error of coordinates counts. One percent is 0.005 nats for each thing."""

DETECTED = 0.25
"""A chance from which on a thing counts as found, as usual where what overlaps is then dropped."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Output:
    """One output of a network.

    Args:
        name: in the graph.
        kind: "scores" of classes, before or after a log-softmax; "probabilities" of classes, which sum to 1; "chances",
            each of 0 to 1 on its own; "detections", for each of many places coordinates, and chances that something is
            there; "values", anything else: features, coordinates, states.
        axis: of the classes; of what is told of each place.
        coordinates: of detections, the first place on that axis that is one, and the first after them that is not.
        variance: of values, what answers to different inputs differ by (``smidgen.run.variance``); None if that is not
            known, and the mean square of each answer takes its place.
    """

    name: str
    kind: str
    axis: int = -1
    coordinates: tuple[int, int] = (0, 0)
    variance: float | None = None

    def detections(self, array: Any) -> tuple[Any, Any]:
        """Coordinates and chances, an array of NumPy or a tensor of PyTorch for each: (n, what is told, places)."""
        told = array.swapaxes(self.axis, 1)
        told = told.reshape(len(told), told.shape[1], -1)
        first, end = self.coordinates
        return told[:, first:end], told[:, end:] if first == 0 else told[:, :first]


def outputs_of(
    model: onnx.ModelProto, sample: Sequence[Array], labelled: bool = False, kind: str | None = None
) -> list[Output]:
    """What each output of a network is, by its last operators and a sample of what it gives.

    Where there are probabilities or chances beside it that are not made of it, what is linear is values: a network that
    gives classes as scores leaves them all so.

    Args:
        model: the graph, weights or not.
        sample: what it gives for some input, in the order of its outputs.
        labelled: whether the first output is known to be scores of classes.
        kind: what the first output is, if the user says so.

    Raises:
        InputError: no such kind, or one that does not fit.
    """
    found = [
        _detections(model, value.name, np.asarray(array))
        or _output(value.name, last_operator(model, value.name), np.asarray(array))
        for value, array in zip(model.graph.output, sample, strict=True)
    ]
    likely = [output.name for output in found if output.kind in ("probabilities", "chances")]
    if likely:
        # such a network leaves no other classes as scores: what is linear is a place, a size, an angle
        own = {name for each in likely for name in _behind(model, each)}
        found = [
            replace(output, kind="values")
            if output.kind == "scores" and not own & _behind(model, output.name)
            else output
            for output in found
        ]
    first = np.asarray(sample[0])
    if kind is not None:
        if kind not in KINDS:
            raise InputError(f"outputs: {kind!r} is none of {', '.join(KINDS)}")
        if first.dtype.kind != "f" or (kind in KINDS[:2] and (first.ndim < 2 or first.shape[_class_axis(first)] < 2)):
            raise InputError(
                f"outputs: {found[0].name!r} is {first.dtype} of shape {first.shape}, which cannot be {kind}"
            )
        found[0] = Output(found[0].name, kind, _class_axis(first))
    elif labelled and found[0].kind == "values" and first.ndim >= 2 and first.shape[_class_axis(first)] > 1:
        found[0] = Output(found[0].name, "scores", _class_axis(first))
    return found


def last_operator(model: onnx.ModelProto, output: str) -> str:
    """The last operator before an output that changes numbers, not only their places; "" if there is none."""
    node = maker(model, output)
    return "" if node is None else str(node.op_type)


def maker(model: onnx.ModelProto, output: str) -> Any:
    """The node that makes the numbers of an output, before others change their places; None for those of an input."""
    makers = {name: node for node in model.graph.node for name in node.output}
    while output in makers and makers[output].op_type in _RESHAPING:
        output = makers[output].input[0]
    return makers.get(output)


def _behind(model: onnx.ModelProto, output: str) -> set[str]:
    """What the node that makes an output makes and takes: the same where one output is the softmax of another."""
    node = maker(model, output)
    if node is None:
        return {output}
    takes = node.input[0] if node.op_type in ("Softmax", "Sigmoid", "HardSigmoid") else node.output[0]
    before = maker(model, takes)
    return {takes} if before is None else {str(before.output[0])}


def log_probabilities(output: Output, array: Array) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities of classes: shape (n, positions, classes), for scores or probabilities.

    Example:
        >>> log_probabilities(Output("y", "scores", 1), np.zeros((1, 2), np.float32)).round(3)
        array([[[-0.693, -0.693]]])
    """
    scores = np.moveaxis(array.astype(np.float64), output.axis, -1)
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
    the chances; for values half the mean squared error, in parts of the variance of the output.

    Example:
        >>> one = np.array([[3.0, 4.0]], np.float32)
        >>> divergence(Output("y", "values", variance=10.0), one, np.array([[3.0, 2.0]], np.float32))
        array([0.1])
    """
    if output.kind in ("scores", "probabilities"):
        logs = [log_probabilities(output, array) for array in (reference, other)]
        return np.asarray(np.maximum((np.exp(logs[0]) * (logs[0] - logs[1])).sum(2).mean(1), 0))
    if output.kind == "detections":
        (boxes, p), (found, q) = output.detections(reference), output.detections(other)
        nats, expected = _bernoulli(p, q).sum(1), p.astype(np.float64).sum((1, 2))
        there = p.astype(np.float64).max(1, keepdims=True)  # coordinates of what is not there say nothing
        error, square = ((there * array.astype(np.float64) ** 2).sum((1, 2)) for array in (boxes - found, boxes))
        apart = error / 2 / np.where(square > 0, square, 1.0) * np.minimum(expected, 1)
        return np.asarray(nats / np.maximum(expected, 1) + COORDINATES * apart)
    if output.kind == "chances":
        return np.asarray(_bernoulli(reference, other).mean(1))
    p, q = (array.astype(np.float64).reshape(len(array), -1) for array in (reference, other))
    square = (p**2).mean(1) if output.variance is None else np.full(len(p), output.variance)
    return np.asarray(((p - q) ** 2).mean(1) / 2 / np.where(square > 0, square, 1.0))


def agreement(output: Output, reference: Array, other: Array) -> NDArray[np.float64]:
    """How alike answers are, for each input, 1 for the same: shape (n,).

    For classes the part of positions whose likeliest class is the same, for chances the part that lies on the same side
    of one half, for detections the part of what one of both finds that both do, for whole numbers the part that is
    equal. For values 1 less the mean squared error in parts of the variance: over all inputs that is R squared, the
    part of what answers differ by that the others tell, too, and below 0 if a guess of the mean would be nearer.

    Example:
        >>> agreement(Output("y", "values", variance=10.0), np.array([[3.0, 4.0]]), np.array([[3.0, 2.0]]))
        array([0.8])
    """
    if output.kind in ("scores", "probabilities"):
        classes = [np.moveaxis(array, output.axis, -1) for array in (reference, other)]
        same = classes[0].argmax(-1) == classes[1].argmax(-1)
        return np.asarray(same.reshape(len(same), -1).mean(1))
    if output.kind == "detections":
        here, there = (output.detections(array)[1] > DETECTED for array in (reference, other))
        either = (here | there).sum((1, 2))
        return np.asarray(np.where(either > 0, (here & there).sum((1, 2)) / np.maximum(either, 1), 1.0))
    p, q = (array.reshape(len(array), -1) for array in (reference, other))
    if p.dtype.kind != "f":
        return np.asarray((p == q).mean(1))
    if output.kind == "chances":
        return np.asarray(((p > 0.5) == (q > 0.5)).mean(1))
    return 1 - 2 * divergence(output, reference, other)


def cosine(reference: Array, other: Array) -> NDArray[np.float64]:
    """The cosine of the angle between answers, for each input: shape (n,).

    Example:
        >>> cosine(np.array([[1.0, 0.0]]), np.array([[2.0, 0.0]]))
        array([1.])
    """
    p, q = (array.reshape(len(array), -1).astype(np.float64) for array in (reference, other))
    length = np.sqrt((p**2).sum(1) * (q**2).sum(1))
    return np.asarray(np.where(length > 0, (p * q).sum(1) / np.where(length > 0, length, 1), (p == q).all(1)))


def _bernoulli(reference: Array, other: Array) -> NDArray[np.float64]:
    """Divergence of each chance, shape (n, chances)."""
    p, q = (np.clip(a.astype(np.float64).reshape(len(a), -1), 1e-7, 1 - 1e-7) for a in (reference, other))
    return np.asarray(p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))


def _detections(model: onnx.ModelProto, name: str, array: Array) -> Output | None:
    """A single output of a detector: sigmoids beside what is larger than they can be, first or last on an axis."""
    if array.dtype.kind != "f" or array.ndim < 3 or array.size == 0 or not _beside_sigmoids(model, name):
        return None
    for axis in (1, array.ndim - 1):
        told = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
        large = np.flatnonzero((told.min(0) < 0) | (told.max(0) > 1)).tolist()
        count, end = len(large), array.shape[axis]
        ends = (large[:1] == [0] and large[-1] == count - 1) or (large[-1:] == [end - 1] and large[0] == end - count)
        if 0 < count < end and count <= MOST_COORDINATES and ends and told.max() > 2:
            return Output(name, "detections", axis, (large[0], large[-1] + 1))
    return None


def _beside_sigmoids(model: onnx.ModelProto, name: str) -> bool:
    """Whether an output puts sigmoids, or products of such, beside other numbers."""
    makers = {output: node for node in model.graph.node for output in node.output}

    def chances(name: str) -> bool:
        node = makers.get(name)
        if node is None or node.op_type in ("Sigmoid", "HardSigmoid"):
            return node is not None
        if node.op_type in _MOVING:
            return chances(node.input[0])
        return node.op_type in ("Concat", "Mul") and all(chances(each) for each in node.input)

    def beside(name: str) -> bool:
        node = makers.get(name)
        if node is None or node.op_type not in (*_MOVING, "Concat"):
            return False
        if node.op_type != "Concat":
            return beside(node.input[0])
        return any(chances(each) or beside(each) for each in node.input)

    return beside(name)


def _output(name: str, last: str, array: Array) -> Output:
    if array.dtype.kind != "f" or array.ndim < 1 or array.size == 0:
        return Output(name, "values")
    axis = _class_axis(array)
    if array.ndim >= 2 and array.shape[axis] > 1:
        total = array.sum(axis)
        if bool((array >= 0).all()) and bool(np.allclose(total, 1, atol=1e-3)):
            return Output(name, "probabilities", axis)
        if last == "Softmax" and bool(np.allclose(array.sum(1), 1, atol=1e-3)):
            return Output(name, "probabilities", 1)
        if last == "LogSoftmax" or (last in _SCORING and array.size == array.shape[0] * array.shape[axis]):
            return Output(name, "scores", axis)
    if last in ("Sigmoid", "HardSigmoid"):
        return Output(name, "chances")
    return Output(name, "values")


def _class_axis(array: Array) -> int:
    """The last axis, or the second of (n, classes, 1, 1)."""
    return 1 if array.ndim > 2 and array.size == array.shape[0] * array.shape[1] else array.ndim - 1
