"""What the outputs of a network are, found by its last operators and a sample of what it gives."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError
from smidgen.run.outputs import Output

if TYPE_CHECKING:
    import onnx

__all__ = ["KINDS", "axes_of_examples", "kinds_in", "last_operator", "maker", "outputs_of"]

KINDS = ("scores", "probabilities", "chances", "values")

# Operators that pass on the numbers as they are: what is before them says what an output is.
_RESHAPING = ("Cast", "Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Transpose")
_MOVING = (*_RESHAPING, "Gather", "Slice", "Split")
QUANTITIES = 16
"""So many numbers of an answer, at most, are quantities of their own, each with a unit; more are one thing together."""

MOST_COORDINATES = 64
"""Of a place: four, or a distribution for each."""

_SCORING = ("Add", "AveragePool", "Conv", "Gemm", "GlobalAveragePool", "LogSoftmax", "MatMul", "ReduceMean")

Array = NDArray[Any]


def outputs_of(
    model: onnx.ModelProto,
    sample: Sequence[Array],
    labelled: bool = False,
    kind: str | None = None,
    examples: Sequence[int | None] | None = None,
) -> list[Output]:
    """What each output of a network is, by its last operators and a sample of what it gives.

    Where there are probabilities or chances beside it that are not made of it, what is linear is values: a network that
    gives classes as scores leaves them all so.

    Args:
        model: the graph, weights or not.
        sample: what it gives for some input, in the order of its outputs.
        labelled: whether the first output is known to be scores of classes.
        kind: what outputs are, if the user says so, as for ``kinds_in``.
        examples: the axis along which each output has its answers (``axes_of_examples``); by default the first.

    Raises:
        InputError: no such kind or output, or a kind that does not fit.
    """
    values, axes = list(model.graph.output), examples or [0] * len(sample)
    leading = [
        Output("", "", examples=axis).leading(np.asarray(array)) for axis, array in zip(axes, sample, strict=True)
    ]
    told = {} if kind is None else kinds_in(kind, [value.name for value in values])
    found, known = [], {*told, *(value.name for value in values[:1] if labelled)}
    for value, array, axis in zip(values, leading, axes, strict=True):
        last = last_operator(model, value.name)
        if value.name in told:
            output = _as_told(value.name, told[value.name], array, last)
        else:
            fixed = _fixed_axes(value, axis, array)
            output = _detections(model, value.name, array) or _output(value.name, last, array, fixed)
        classes = array.ndim > 1 and array.shape[_class_axis(array)] > 1
        if output.kind == "values" and labelled and value is values[0] and classes:
            output = Output(value.name, "scores", _class_axis(array))
        elif output.kind == "scores" and axis and value.name not in known:
            output = replace(output, kind="values")  # a state: answers lie along the first axis
        found.append(replace(output, examples=axis))
    return [
        replace(output, axis=_axis_of_quantities(value, axis, array)) if output.kind == "values" else output
        for output, value, axis, array in zip(
            _what_is_linear_alone(model, found, known), values, axes, leading, strict=True
        )
    ]


def _what_is_linear_alone(model: onnx.ModelProto, found: list[Output], known: set[str]) -> list[Output]:
    """Outputs, those that are linear as values if there are probabilities beside them that are not made of them."""
    likely = [output.name for output in found if output.kind in ("probabilities", "chances")]
    if not likely:
        return found
    # such a network leaves no other classes as scores: what is linear is a place, a size, an angle
    own = {name for each in likely for name in _behind(model, each)}
    return [
        replace(output, kind="values")
        if output.kind == "scores" and output.name not in known and not own & _behind(model, output.name)
        else output
        for output in found
    ]


def axes_of_examples(one: Sequence[Array], two: Sequence[Array]) -> list[int | None]:
    """For each output the axis along which the answers to several inputs lie, None if there is none.

    Args:
        one: what a network gives for some inputs.
        two: what it gives for all of these twice.

    Example:
        >>> axes_of_examples([np.zeros((3, 9)), np.zeros((1, 3, 5))], [np.zeros((6, 9)), np.zeros((1, 6, 5))])
        [0, 1]
    """
    found: list[int | None] = []
    for single, double in zip(one, two, strict=True):
        grown = [k for k, (a, b) in enumerate(zip(single.shape, double.shape, strict=False)) if b == 2 * a != 0]
        found.append(grown[0] if grown else None)
    return found


def kinds_in(text: str, outputs: Sequence[str] | None = None) -> dict[str, str]:
    """What outputs are, as a user says it: a kind for the first one, or ``name=kind``, with commas between several.

    Args:
        text: what the user says.
        outputs: the names of the network's outputs; None if they are not known yet.

    Raises:
        InputError: there is no such kind, or no such output.

    Example:
        >>> kinds_in("values", ["boxes", "classes"]), kinds_in("classes=scores,boxes=values")
        ({'boxes': 'values'}, {'classes': 'scores', 'boxes': 'values'})
    """
    if "=" not in text:
        text = f"{outputs[0] if outputs else ''}={text}"
    found: dict[str, str] = {}
    for part in re.split("|".join(f"(?<=={kind})," for kind in KINDS), text):
        name, given, kind = part.rpartition("=")
        if kind not in KINDS:
            raise InputError(f"outputs: {kind!r} is none of {', '.join(KINDS)}")
        if not given or (outputs and name not in outputs):
            which = f"the network gives no {name!r}" if given else f"of which one is {kind!r} said? say NAME={kind}"
            there = f"; there are {', '.join(map(repr, outputs))}" if outputs else ""
            raise InputError(f"outputs: {which}{there}")
        if name in found:
            raise InputError(f"outputs: {name!r} is said to be {found[name]} and {kind}")
        found[name] = kind
    return found


def _as_told(name: str, kind: str, array: Array, last: str) -> Output:
    axis = 1 if last in ("Conv", "ConvTranspose", "Resize") and array.ndim > 2 else _class_axis(array)
    if array.dtype.kind != "f" or (kind in KINDS[:2] and (array.ndim < 2 or array.shape[axis] < 2)):
        raise InputError(f"outputs: {name!r} is {array.dtype} of shape {array.shape}, which cannot be {kind}")
    return Output(name, kind, axis)


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


def _output(name: str, last: str, array: Array, fixed: list[int]) -> Output:
    if array.dtype.kind != "f" or array.ndim < 1 or array.size == 0:
        return Output(name, "values")
    axis = _class_axis(array)
    if array.ndim >= 2 and array.shape[axis] > 1:
        total = array.sum(axis)
        if bool((array >= 0).all()) and bool(np.allclose(total, 1, atol=1e-3)):
            return Output(name, "probabilities", axis)
        if last == "Softmax" and bool(np.allclose(array.sum(1), 1, atol=1e-3)):
            return Output(name, "probabilities", 1)
        single = array.size == len(array) * array.shape[axis] and all(k in (0, axis, *fixed) for k in range(array.ndim))
        if last == "LogSoftmax" or (last in _SCORING and single):
            return Output(name, "scores", axis)
    if last in ("Sigmoid", "HardSigmoid"):
        return Output(name, "chances")
    return Output(name, "values")


def _class_axis(array: Array) -> int:
    """The last axis, or the second of (n, classes, 1, 1) and of pictures (n, classes, height, width)."""
    if array.ndim > 2 and array.size == array.shape[0] * array.shape[1]:
        return 1
    return 1 if array.ndim > 3 and array.shape[1] < array.shape[-1] else array.ndim - 1


def _axis_of_quantities(value: onnx.ValueInfoProto, examples: int | None, array: Array) -> int:
    """Of what is values the axis along which there are a few numbers of different meaning, such as those of a short
    vector or the channels of a picture: the shortest one that the graph does not leave free; 0 if there is none."""
    axes = [k for k in _fixed_axes(value, examples, array) if 0 < array.shape[k] <= QUANTITIES]
    # of as many the channels of a picture come first, the features of a sequence last
    return min(axes, key=lambda k: (array.shape[k], k if array.ndim > 3 else -k), default=0)


def _fixed_axes(value: onnx.ValueInfoProto, examples: int | None, array: Array) -> list[int]:
    """The axes, but for that of examples, whose size the graph fixes; all if it says nothing of them."""
    sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
    if examples is None:
        sizes = [1, *sizes]
    elif len(sizes) > examples:
        sizes[0], sizes[examples] = sizes[examples], sizes[0]
    return [k for k in range(1, array.ndim) if len(sizes) != array.ndim or sizes[k]]
