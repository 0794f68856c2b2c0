"""What the outputs of a network are, found by its last operators and a sample of what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError
from smidgen.run.outputs import Output

if TYPE_CHECKING:
    import onnx

__all__ = ["KINDS", "last_operator", "maker", "outputs_of"]

KINDS = ("scores", "probabilities", "chances", "values")

# Operators that pass on the numbers as they are: what is before them says what an output is.
_RESHAPING = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
_MOVING = (*_RESHAPING, "Gather", "Slice", "Split")
MOST_COORDINATES = 64
"""Of a place: four, or a distribution for each."""

_SCORING = ("Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "LogSoftmax", "MatMul", "ReduceMean")

Array = NDArray[Any]


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
