"""What is done to numbers one by one, or two by two."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.lower.functions import ELEMENTWISE, Function, Numbers
from smidgen.lower.graph import attributes_of
from smidgen.lower.layers import weight_shape
from smidgen.lower.structure import Elementwise, Value, Work
from smidgen.lower.views import View
from smidgen.run.program import NO_RECORD, Convolution, Product, Sum

__all__ = ["elementwise", "number_of"]


def elementwise(work: Work, node: Any) -> Value:
    """A function of one tensor; or the sum or product of two."""
    changing = [name for name in node.input if name in work.values]
    if _clamps(work, node) or (node.op_type == "Add" and len(changing) == 1 and _shifts(work, node)):
        return work.values[node.output[0]]
    sources = {name: _source(work, name) for name in changing}
    view = sources[changing[0]].view
    if any(source.view != view for source in sources.values()):
        return _paired(work, node)
    inputs = [sources[n].function if n in sources else number_of(work, n) if n else None for n in node.input]
    return Elementwise(node.output[0], view, _composed(node, inputs))


def _source(work: Work, name: str) -> Elementwise:
    """A tensor as a function of one that lies in a plane, if only of itself."""
    value = work.value(name)
    return value if isinstance(value, Elementwise) else Elementwise(name, work.view(name), _identity)


def _identity(x: Numbers) -> Numbers:
    return x


def _composed(node: Any, inputs: list[Function | float | None]) -> Function:
    operator, attributes = ELEMENTWISE[node.op_type], attributes_of(node)

    def function(x: Numbers) -> Numbers:
        return operator(attributes, *[each(x) if callable(each) else each for each in inputs])

    return function


def number_of(work: Work, name: str) -> float:
    """A constant of which all numbers are the same.

    Raises:
        ModelError: it is none.
    """
    array = work.graph.constant(name)
    if array is None:
        raise work.refuse(f"its input {name!r} is computed from weights")
    if array.size == 0 or not (array == array.reshape(-1)[0]).all():
        raise work.refuse(f"its constant {name!r} is not one number, and no convolution before it can take it as bias")
    return float(array.reshape(-1)[0])


def _clamps(work: Work, node: Any) -> bool:
    """Makes a Relu or Clip part of the operation before it, if that is possible."""
    if node.op_type not in ("Relu", "Clip"):
        return False
    made = work.just_made(node.input[0])
    if made is None:
        return False
    limits = [number_of(work, name) if name else None for name in node.input[1:]]
    ends = np.array([-np.inf, np.inf])
    low, high = ELEMENTWISE[node.op_type](attributes_of(node), ends, *limits).tolist()
    plane = work.operations[made].output
    work.clamps[plane] = (low, high)
    work.rename(plane, node.output[0])
    work.values[node.output[0]] = work.values[node.input[0]]
    return True


def _shifts(work: Work, node: Any) -> bool:
    """Makes the sum with a tensor of the file the bias of the convolution before it, if that has none."""
    source, constant = sorted(node.input, key=lambda name: name not in work.values)
    weight, made = work.graph.weight(constant), work.just_made(source, (Convolution,))
    if weight is None or weight.more is not None or made is None or work.graph.record_type(weight.record) != "float32":
        return False
    convolution, view = work.operations[made], work.values[source]
    assert isinstance(convolution, Convolution)
    assert isinstance(view, View)
    plane, shape = work.planes[convolution.output], weight_shape(work, constant)
    offset = len(view.axes) - len(shape)
    across = offset >= 0 and all(size == 1 or view.axes[offset + place] == plane.c for place, size in enumerate(shape))
    if convolution.bias != NO_RECORD or not across or math.prod(shape) != plane.channels:
        return False
    work.operations[made] = replace(convolution, bias=weight.record)
    work.rename(convolution.output, node.output[0])
    work.values[node.output[0]] = view
    return True


def _paired(work: Work, node: Any) -> Value:
    """The sum or product of two tensors, of which one may be a single pixel."""
    if node.op_type not in ("Add", "Mul") or len(node.input) != 2:
        raise work.refuse("two tensors can only be added or multiplied")
    first, second = (work.view(name) for name in node.input)
    if not _fits(work, first, second) and _fits(work, second, first):
        first, second = second, first
    if not _fits(work, first, second):
        first, second = work.gathered(first), work.gathered(second)
        if math.prod(second.shape) > math.prod(first.shape):
            first, second = second, first
    if not _fits(work, first, second):
        raise work.refuse(f"its inputs have the shapes {first.shape} and {second.shape}")
    p = work.planes[first.plane]
    output = work.plane(node.output[0], p.channels, p.height, p.width)
    work.emit((Sum if node.op_type == "Add" else Product)(first.plane, second.plane, output))
    return View(output, first.axes)


def _fits(work: Work, first: View, second: View) -> bool:
    """Whether the second tensor meets the first pixel by pixel, or as a single pixel."""
    p, q = work.planes[first.plane], work.planes[second.plane]
    if p.channels != q.channels or len(first.axes) != len(second.axes):
        return False
    if (p.height, p.width) == (q.height, q.width):
        return first.axes == second.axes
    channels = tuple(axis if axis == p.c else () for axis in first.axes)
    return q.pixels == 1 and second.axes == channels and p.c in first.axes
