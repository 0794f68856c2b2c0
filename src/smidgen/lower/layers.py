"""Layers with weights: convolutions, and products that become such."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.lower.functions import Function
from smidgen.lower.geometry import Window, window
from smidgen.lower.graph import attributes_of
from smidgen.lower.structure import Elementwise, Padded, Value, Work
from smidgen.lower.views import View
from smidgen.run.program import NO_RECORD, Convolution, Signs, SignsConvolution

__all__ = ["convolution", "gemm", "matmul", "weight_shape"]

MOST_SIGNS = 65535
"""Inputs of an output of a convolution of signs."""


def convolution(work: Work, node: Any) -> Value:
    """Conv, with any kernel of two axes."""
    source, pads = work.value(node.input[0]), (0, 0, 0, 0)
    if isinstance(source, Elementwise) and _is_sign(source.function) and _is_binary(work, node):
        return _of_signs(work, node, source.view)
    if isinstance(source, Padded):
        view, pads = source.view, source.pads
    else:
        view = work.image(node.input[0])
    attributes, p = attributes_of(node), work.planes[view.plane]
    shape = weight_shape(work, node.input[1])
    if len(shape) != 4:
        raise work.refuse(f"its weight has the shape {shape}, and not that of a kernel of two axes")
    rows, columns = window(attributes, shape[2:], (p.height, p.width), pads)
    groups = attributes.get("group", 1)
    if shape[1] * groups != p.channels:
        raise work.refuse(f"its weight of shape {shape} does not fit {p.channels} channels in {groups} groups")
    return _convolved(work, node, view.plane, shape[0], rows, columns, groups)


def _convolved(
    work: Work, node: Any, source: int, channels: int, rows: Window, columns: Window, groups: int = 1
) -> View:
    """A convolution of a plane with the weight of a node, as a tensor (1, channels, height, width)."""
    p = work.planes[source]
    values = (*rows[:3], *columns[:3])
    if not all(1 <= value <= 255 for value in values) or min(rows.start, columns.start, rows.end, columns.end) < 0:
        raise work.refuse("kernels, strides and dilations go from 1 to 255, and paddings from 0")
    if rows.positions < 1 or columns.positions < 1:
        raise work.refuse("its kernel is larger than its input")
    inputs = p.channels // groups * rows.kernel * columns.kernel
    weight, more = _weight(work, node.input[1], channels, inputs)
    bias = _bias(work, node.input[2], channels) if len(node.input) > 2 and node.input[2] else NO_RECORD
    work.widen(source, max(rows.start, columns.start, rows.after(p.height), columns.after(p.width)))
    output = work.plane(node.output[0], channels, rows.positions, columns.positions)
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    dilation = (rows.dilation, columns.dilation)
    convolution = Convolution(source, output, weight, bias, kernel, stride, dilation, rows.start, columns.start, groups)
    work.emit(convolution if more is None else replace(convolution, more=more), inputs)
    return work.whole(output)


def _is_sign(function: Function) -> bool:
    """Whether a function is 1 from 0 on, and -1 below."""
    numbers = np.array([-1e3, -1, -1e-6, 0, 1e-6, 1, 1e3])
    with np.errstate(all="ignore"):
        return bool(np.array_equal(np.asarray(function(numbers), np.float64), np.where(numbers >= 0, 1, -1)))


def _is_binary(work: Work, node: Any) -> bool:
    weight = work.graph.weight(node.input[1])
    whole = weight is not None and weight.more is None and attributes_of(node).get("group", 1) == 1
    return whole and weight is not None and work.graph.is_of_signs(weight.record)


def _of_signs(work: Work, node: Any, view: View) -> View:
    """A convolution of the signs of a plane with weights that are signs, too."""
    if len(view.axes) != 4 or view.axes[0]:
        raise work.refuse(f"a tensor of shape {view.shape} is no (1, channels, height, width)")
    source = work.gathered(view).plane
    p, shape = work.planes[source], weight_shape(work, node.input[1])
    if len(shape) != 4 or shape[1] != p.channels:
        raise work.refuse(f"its weight of shape {shape} does not fit {p.channels} channels")
    rows, columns = window(attributes_of(node), shape[2:], (p.height, p.width), (0, 0, 0, 0))
    inputs = math.prod(shape[1:])
    if rows.positions < 1 or columns.positions < 1 or -(-shape[1] // 4) * 4 * math.prod(shape[2:]) > MOST_SIGNS:
        raise work.refuse("its kernel is larger than its input, or of more than 65535 numbers")
    weight, _ = _weight(work, node.input[1], shape[0], inputs)
    bias = _bias(work, node.input[2], shape[0]) if len(node.input) > 2 and node.input[2] else NO_RECORD
    made = [each.output for each in work.operations if isinstance(each, Signs) and each.input == source]
    signs = made[0] if made else work.plane(p.name, -(-p.channels // 4), p.height, p.width)
    if not made:
        work.emit(Signs(source, signs))
    output = work.plane(node.output[0], shape[0], rows.positions, columns.positions)
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    dilation = (rows.dilation, columns.dilation)
    places = (kernel, stride, dilation, rows.start, columns.start)
    work.emit(SignsConvolution(signs, output, weight, bias, p.channels, *places), inputs)
    return work.whole(output)


def weight_shape(work: Work, name: str) -> tuple[int, ...]:
    """Of a weight as the graph has it."""
    weight = work.graph.weight(name)
    if weight is None:
        if name in work.graph.constants:
            raise work.refuse(f"its weight {name!r} is too small to be a tensor of the file")
        raise work.refuse(f"its weight {name!r} is no tensor of the file, nor one turned")
    shape = work.graph.record_shape(weight.record)
    return shape[::-1] if weight.turned else shape


def _weight(work: Work, name: str, outputs: int, inputs: int) -> tuple[int, int | None]:
    """The number of a weight that is kept with its outputs first, and of what is added to it."""
    weight_shape(work, name)
    weight = work.graph.weight(name)
    assert weight is not None
    shape = work.graph.record_shape(weight.record)
    if work.graph.record_type(weight.record) != "float32":
        raise work.refuse(f"its weight {name!r} is of type {work.graph.record_type(weight.record)}, and not float32")
    if not shape or shape[0] != outputs or math.prod(shape) != outputs * inputs:
        raise work.refuse(f"its weight {name!r} of shape {shape} is not kept with its {outputs} outputs first")
    return weight.record, weight.more


def _bias(work: Work, name: str, outputs: int) -> int:
    """The number of a bias."""
    weight = work.graph.weight(name)
    if weight is None or weight.more is not None:
        raise work.refuse(f"its bias {name!r} is not a tensor of the file (those of less than 8 numbers are not)")
    shape = work.graph.record_shape(weight.record)
    if math.prod(shape) != outputs or work.graph.record_type(weight.record) != "float32":
        raise work.refuse(f"its bias {name!r} of shape {shape} is not a float32 number for each of {outputs} outputs")
    return weight.record


def _covering(size: int) -> Window:
    """A kernel that covers an axis of this size at once."""
    return Window(size, 1, 1, 0, 0, 1)


def _pointwise(size: int) -> Window:
    """A kernel of one place, at every place of an axis of this size."""
    return Window(1, 1, 1, 0, 0, size)


def gemm(work: Work, node: Any) -> Value:
    """Gemm with a constant weight."""
    attributes = attributes_of(node)
    if attributes.get("transA") or {attributes.get(name, 1.0) for name in ("alpha", "beta")} != {1.0}:
        raise work.refuse("its first input is turned, or it scales by alpha or beta")
    return _multiplied(work, node, turned=not attributes.get("transB"))


def matmul(work: Work, node: Any) -> Value:
    """MatMul with a constant weight."""
    return _multiplied(work, node, turned=True)


def _multiplied(work: Work, node: Any, turned: bool) -> View:
    """A product with a weight of two axes: a convolution of the pixels, or of the whole picture where it was flattened.

    Args:
        work: to add it to.
        node: a Gemm or MatMul.
        turned: whether the graph has the inputs of the weight first.
    """
    weight, shape = work.graph.weight(node.input[1]), weight_shape(work, node.input[1])
    if weight is not None and weight.turned is not turned:
        raise work.refuse(f"its weight {node.input[1]!r} is not kept with its outputs first")
    if len(shape) != 2:
        raise work.refuse(f"its weight has the shape {shape}, and not two axes")
    outputs = shape[1] if turned else shape[0]
    view = work.view(node.input[0])
    p = work.planes[view.plane]
    if view.axes[-1] == p.c and not any(f.along == "c" for axis in view.axes[:-1] for f in axis):
        found = _convolved(work, node, view.plane, outputs, _pointwise(p.height), _pointwise(p.width))
        return View(found.plane, (*view.axes[:-1], work.planes[found.plane].c))
    if any(view.axes[:-1]):
        raise work.refuse(f"the values of its input of shape {view.shape} do not lie together for each row")
    if view.axes[-1] != p.c + p.y + p.x:
        view = work.flat(node.input[0])
        p = work.planes[view.plane]
    found = _convolved(work, node, view.plane, outputs, _covering(p.height), _covering(p.width))
    return View(found.plane, (*[()] * (len(work.view(node.input[0]).axes) - 1), work.planes[found.plane].c))
