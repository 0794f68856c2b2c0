"""The greatest, the average and the mean of pixels."""

from __future__ import annotations

from typing import Any

from smidgen.lower.geometry import Window, window
from smidgen.lower.graph import attributes_of
from smidgen.lower.structure import Value, Work
from smidgen.lower.views import View
from smidgen.run.program import Average, Maximum, Mean

__all__ = ["average", "global_maximum", "maximum", "mean"]


def _pooled(work: Work, node: Any) -> tuple[int, Window, Window, dict[str, Any]]:
    view, attributes = work.image(node.input[0]), attributes_of(node)
    p = work.planes[view.plane]
    rows, columns = window(attributes, tuple(attributes["kernel_shape"]), (p.height, p.width))
    values = (*rows[:2], *columns[:2])
    if len(node.output) > 1 and node.output[1]:
        raise work.refuse("its second output, the places of the greatest, is asked for")
    if {rows.dilation, columns.dilation} != {1} or not all(1 <= value <= 255 for value in values):
        raise work.refuse("kernels and strides go from 1 to 255, and dilations are 1")
    for each, size in ((rows, p.height), (columns, p.width)):
        last = (each.positions - 1) * each.stride - each.start
        if each.positions < 1 or not 0 <= each.start < each.kernel or last >= size:
            raise work.refuse("its kernel would lie beside its input")
    return view.plane, rows, columns, attributes


def maximum(work: Work, node: Any) -> Value:
    """MaxPool."""
    source, rows, columns, _ = _pooled(work, node)
    output = work.plane(node.output[0], work.planes[source].channels, rows.positions, columns.positions)
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    work.emit(Maximum(source, output, kernel, stride, rows.start, columns.start), rows.kernel * columns.kernel)
    return work.whole(output)


def average(work: Work, node: Any) -> Value:
    """AveragePool."""
    source, rows, columns, attributes = _pooled(work, node)
    p, padded = work.planes[source], bool(attributes.get("count_include_pad"))
    if padded and (rows.after(p.height) > rows.end or columns.after(p.width) > columns.end):
        raise work.refuse("it counts its padding, but its last kernels reach beyond that")
    output = work.plane(node.output[0], p.channels, rows.positions, columns.positions)
    kernel, stride = (rows.kernel, columns.kernel), (rows.stride, columns.stride)
    work.emit(Average(source, output, kernel, stride, rows.start, columns.start, padded), rows.kernel * columns.kernel)
    return work.whole(output)


def global_maximum(work: Work, node: Any) -> Value:
    """GlobalMaxPool."""
    view = work.image(node.input[0])
    p = work.planes[view.plane]
    if max(p.height, p.width) > 255:
        raise work.refuse("kernels have at most 255 pixels")
    output = work.plane(node.output[0], p.channels, 1, 1)
    work.emit(Maximum(view.plane, output, (p.height, p.width)), p.pixels)
    return work.whole(output)


def mean(work: Work, node: Any) -> Value:
    """GlobalAveragePool, and ReduceMean over the same axes."""
    attributes, view = attributes_of(node), work.view(node.input[0])
    p, rank = work.planes[view.plane], len(view.axes)
    axes, keep = tuple(range(2, rank)), True
    if node.op_type == "ReduceMean":
        given = work.graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
        listed = attributes.get("axes", range(rank)) if given is None else given.reshape(-1).tolist()
        axes, keep = tuple(int(axis) % rank for axis in listed), bool(attributes.get("keepdims", 1))
    reduced = sorted(factor for axis in axes for factor in view.axes[axis])
    if reduced != sorted(p.y + p.x) or (rank == 4 and not axes):
        raise work.refuse("a mean is of all rows and columns of a picture, and of nothing else")
    output = work.plane(node.output[0], p.channels, 1, 1)
    work.emit(Mean(view.plane, output), p.pixels)
    left = [() if place in axes else axis for place, axis in enumerate(view.axes) if keep or place not in axes]
    return View(output, tuple(left))
