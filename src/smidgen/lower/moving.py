"""Operators that move numbers, or only say otherwise where they are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx

from smidgen.lower.elementwise import number_of
from smidgen.lower.geometry import places
from smidgen.lower.graph import attributes_of
from smidgen.lower.structure import Elementwise, Ending, Padded, Value, Work
from smidgen.lower.views import View, reshaped
from smidgen.run.program import Join, Resize

__all__ = ["concat", "pad", "reshape", "resize", "same", "softmax", "transpose"]


def concat(work: Work, node: Any) -> Value:
    """Concat over channels: the parts are written where they belong."""
    views = [work.view(name) for name in node.input]
    axis = attributes_of(node)["axis"] % len(views[0].axes)
    if not all(_alike(work, view, views[0], axis) for view in views):
        views = [work.gathered(view) for view in views]
    if not all(_alike(work, view, views[0], axis) for view in views):
        raise work.refuse("only channels of pictures of the same size can be concatenated")
    parts: list[int] = []
    for view in views:
        # a part lies within the whole: not twice, not in two of them, and not where the input is written
        taken = view.plane == 0 or view.plane in work.parts or view.plane in parts
        parts.append(work.copied(view.plane) if taken else view.plane)
    if len(parts) > 255:
        raise work.refuse("it has more than 255 parts")
    work.parts.update(parts)
    first = work.planes[parts[0]]
    channels = sum(work.planes[part].channels for part in parts)
    output = work.plane(node.output[0], channels, first.height, first.width)
    work.emit(Join(output, tuple(parts)))
    axes = list(views[0].axes)
    axes[axis] = work.planes[output].c
    return View(output, tuple(axes))


def _alike(work: Work, view: View, other: View, axis: int) -> bool:
    """Whether two tensors differ in nothing but their channels, which are this axis."""
    p, q = work.planes[view.plane], work.planes[other.plane]
    rest = [each.axes[:axis] + each.axes[axis + 1 :] for each in (view, other)]
    return view.axes[axis] == p.c and rest[0] == rest[1] and (p.height, p.width) == (q.height, q.width)


def same(work: Work, node: Any) -> Value:
    """What only training changes, Identity, and a Cast to what it is."""
    if attributes_of(node).get("to", onnx.TensorProto.FLOAT) != onnx.TensorProto.FLOAT:
        raise work.refuse("all that changes from input to input is float32")
    return work.value(node.input[0])


def reshape(work: Work, node: Any) -> Value:
    """Reshape, Flatten, Squeeze and Unsqueeze."""
    value = work.value(node.input[0])
    view = value.view if isinstance(value, Elementwise) else work.view(node.input[0])
    shape = _target(work, node, view.shape)
    if math.prod(shape) != math.prod(view.shape):
        raise work.refuse(f"a tensor of shape {view.shape} cannot become {shape}")
    found = reshaped(view, shape)
    if found is None:
        found = reshaped(work.flat(node.input[0]), shape)
        assert found is not None  # a single axis can be cut in any way
        return found
    return Elementwise(value.name, found, value.function) if isinstance(value, Elementwise) else found


def _target(work: Work, node: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that a node gives to a tensor."""
    attributes = attributes_of(node)
    if node.op_type == "Flatten":
        axis = attributes.get("axis", 1)
        axis += len(shape) if axis < 0 else 0
        return (math.prod(shape[:axis]), math.prod(shape[axis:]))
    given = work.graph.constant(node.input[1]) if len(node.input) > 1 and node.input[1] else None
    if given is None and len(node.input) > 1 and node.input[1]:
        raise work.refuse("its shape depends on the input")
    axes = attributes.get("axes") if given is None else [int(size) for size in given.reshape(-1)]
    if node.op_type == "Reshape":
        keep = not attributes.get("allowzero")
        sizes = [shape[i] if size == 0 and keep else size for i, size in enumerate(axes or [])]
        known = math.prod(size for size in sizes if size != -1)
        return tuple(math.prod(shape) // known if size == -1 else size for size in sizes)
    if node.op_type == "Squeeze":
        gone = range(len(shape)) if axes is None else [axis % len(shape) for axis in axes]
        return tuple(size for place, size in enumerate(shape) if place not in gone or (axes is None and size > 1))
    rank = len(shape) + len(axes or [])
    added, sizes_left = {axis % rank for axis in axes or []}, iter(shape)
    return tuple(1 if place in added else next(sizes_left) for place in range(rank))


def transpose(work: Work, node: Any) -> Value:
    """Transpose."""
    value = work.value(node.input[0])
    view = value.view if isinstance(value, Elementwise) else work.view(node.input[0])
    order = tuple(attributes_of(node).get("perm", range(len(view.axes))[::-1]))
    turned = view.transposed(order)
    return Elementwise(value.name, turned, value.function) if isinstance(value, Elementwise) else turned


def pad(work: Work, node: Any) -> Value:
    """Pad with zeros, for the convolutions that read it."""
    attributes, value = attributes_of(node), work.value(node.input[0])
    view = work.image(node.input[0])
    given = work.graph.constant(node.input[1]) if len(node.input) > 1 else np.array(attributes["pads"])
    if given is None or (len(node.input) > 3 and node.input[3]):
        raise work.refuse("its pads are not constant, or for some axes alone")
    filling = number_of(work, node.input[2]) if len(node.input) > 2 and node.input[2] else attributes.get("value", 0.0)
    pads = [int(pad) for pad in given.reshape(-1)]
    if attributes.get("mode", b"constant") != b"constant" or filling or min(pads) < 0 or any(pads[:2] + pads[4:6]):
        raise work.refuse("only zeros around rows and columns can be added")
    if not any(pads):
        return value
    return Padded(view, (pads[2], pads[3], pads[6], pads[7]))


def resize(work: Work, node: Any) -> Value:
    """Resize and Upsample, to the nearest pixel or linear."""
    attributes, view = attributes_of(node), work.image(node.input[0])
    p = work.planes[view.plane]
    mode = attributes.get("mode", b"nearest").decode()
    names = [*node.input, "", ""][1:4] if node.op_type == "Resize" else ["", node.input[1], ""]
    scales, sizes = (work.graph.constant(name) if name else None for name in names[1:])
    if sizes is not None and sizes.size == 4:
        new = [int(size) for size in sizes]
        factors = [size / old for size, old in zip(new, view.shape, strict=True)]
    elif scales is not None and scales.size == 4:
        factors = [float(scale) for scale in scales]
        new = [math.floor(old * scale) for scale, old in zip(factors, view.shape, strict=True)]
    else:
        raise work.refuse("its scales or sizes are not four constants")
    plain = not attributes.get("antialias") and attributes.get("keep_aspect_ratio_policy", b"stretch") == b"stretch"
    if new[:2] != [1, p.channels] or mode not in ("nearest", "linear") or not plain or "axes" in attributes:
        raise work.refuse(f"mode {mode!r}, or what else it asks for, has no form in a program")
    upsampling = node.op_type == "Upsample"
    coordinates = (
        "asymmetric" if upsampling else attributes.get("coordinate_transformation_mode", b"half_pixel").decode()
    )
    nearest = "floor" if upsampling else attributes.get("nearest_mode", b"round_prefer_floor").decode()
    nearest = nearest if mode == "nearest" else ""
    rows = places(p.height, new[2], factors[2], coordinates, nearest)
    columns = places(p.width, new[3], factors[3], coordinates, nearest)
    if rows is None or columns is None:
        raise work.refuse(f"coordinates {coordinates!r} or {nearest!r} have no form in a program")
    output = work.plane(node.output[0], p.channels, new[2], new[3])
    work.emit(Resize(view.plane, output, rows, columns))
    return work.whole(output)


def softmax(work: Work, node: Any) -> Value:
    """Softmax over the classes, as the last operation."""
    view, attributes = work.view(node.input[0]), attributes_of(node)
    old = work.graph.version < 13
    axis = attributes.get("axis", 1 if old else -1) % len(view.axes)
    alone = not any(view.axes[:axis]) if old else not any(view.axes[:axis] + view.axes[axis + 1 :])
    if node.output[0] != work.graph.output or not alone:
        raise work.refuse("a softmax can only be the last operation, over all classes")
    return Ending(view)
