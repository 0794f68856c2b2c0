"""ONNX operators that move numbers about."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import ModelError
from smidgen.network.call import Call, Operator, dtype_of, text

__all__ = ["SHAPES"]


def _reshape(call: Call) -> Tensor:
    shape = call.numbers(1, "shape") or []
    if not call.attributes.get("allowzero"):
        shape = [call[0].shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return call[0].reshape(shape)


def _shape(call: Call) -> Tensor:
    end = call.attributes.get("end")
    return torch.tensor(call[0].shape[call.attributes.get("start", 0) : end], dtype=torch.int64)


def _flatten(call: Call) -> Tensor:
    axis = call.attributes.get("axis", 1) % (call[0].ndim + 1)
    return call[0].reshape(math.prod(call[0].shape[:axis]), -1)


def _squeeze(call: Call) -> Tensor:
    axes = call.numbers(1, "axes")
    return call[0].squeeze() if axes is None else call[0].squeeze(tuple(axes))


def _unsqueeze(call: Call) -> Tensor:
    axes = call.numbers(1, "axes") or []
    result, rank = call[0], call[0].ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        result = result.unsqueeze(axis)
    return result


def _transpose(call: Call) -> Tensor:
    return call[0].permute(call.attributes.get("perm") or tuple(reversed(range(call[0].ndim))))


def _concat(call: Call) -> Tensor:
    parts = [call[index] for index in range(len(call.inputs))]
    return torch.cat(parts, call.attributes.get("axis", 1))


def _split(call: Call) -> tuple[Tensor, ...]:
    axis = call.attributes.get("axis", 0)
    sizes = call.numbers(1, "split")
    if sizes is None:
        sizes = [-(-call[0].shape[axis] // call.outputs)] * call.outputs
        sizes[-1] = call[0].shape[axis] - sum(sizes[:-1])
    return torch.split(call[0], sizes, axis)


def _slice(call: Call) -> Tensor:
    starts, ends = call.numbers(1, "starts") or [], call.numbers(2, "ends") or []
    axes = call.numbers(3, "axes") or list(range(len(starts)))
    steps = call.numbers(4, "steps") or [1] * len(starts)
    result = call[0]
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        # a bound below -size means the very start, which Python's slices understand for both signs of the step
        bounds = slice(start, end, step).indices(result.shape[axis])
        if step > 0:
            index = [slice(None)] * result.ndim
            index[axis % result.ndim] = slice(bounds[0], max(bounds[0], bounds[1]), step)
            result = result[tuple(index)]
        else:
            result = result.index_select(axis, torch.arange(*bounds))
    return result


def _gather(call: Call) -> Tensor:
    data, indices = call[0], call[1].long()
    axis = call.attributes.get("axis", 0) % data.ndim
    indices = torch.where(indices < 0, indices + data.shape[axis], indices)
    if axis == 0 and data.ndim == 2 and data.is_floating_point() and indices.ndim:
        return functional.embedding(indices, data)
    found = data.index_select(axis, indices.reshape(-1))
    return found.reshape(data.shape[:axis] + indices.shape + data.shape[axis + 1 :])


def _gather_elements(call: Call) -> Tensor:
    axis = call.attributes.get("axis", 0)
    indices = torch.where(call[1] < 0, call[1] + call[0].shape[axis], call[1]).long()
    return torch.gather(call[0], axis, indices)


def _gather_nd(call: Call) -> Tensor:
    if call.attributes.get("batch_dims"):
        raise ModelError("GatherND with batch_dims is not known")
    return call[0][tuple(call[1].long().movedim(-1, 0))]


def _scatter_nd(call: Call) -> Tensor:
    if text(call.attributes.get("reduction", "none")) != "none":
        raise ModelError("ScatterND with a reduction is not known")
    return call[0].index_put(tuple(call[1].long().movedim(-1, 0)), call[2])


def _expand(call: Call) -> Tensor:
    shape = torch.broadcast_shapes(  # type: ignore[no-untyped-call]
        call[0].shape, tuple(call.numbers(1, "shape") or ())
    )
    return call[0].expand(shape)


def _tile(call: Call) -> Tensor:
    return call[0].repeat(*(call.numbers(1, "repeats") or []))


def _pad(call: Call) -> Tensor:
    pads = call.numbers(1, "pads") or []
    given = call.optional(2)
    value = float(given) if given is not None else call.attributes.get("value", 0.0)
    axes = call.numbers(3, "axes") or list(range(len(pads) // 2))
    before, after = dict.fromkeys(range(call[0].ndim), 0), dict.fromkeys(range(call[0].ndim), 0)
    for place, axis in enumerate(axes):
        before[axis % call[0].ndim], after[axis % call[0].ndim] = pads[place], pads[place + len(axes)]
    mode = text(call.attributes.get("mode", "constant"))
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    flat = [size for axis in reversed(range(call[0].ndim)) for size in (before[axis], after[axis])]
    if mode == "constant":
        return functional.pad(call[0], flat, value=value)
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    missing = len(flat) // 2 + 2 - call[0].ndim  # other modes want a batch and channels before the axes that are padded
    data = call[0].reshape((1,) * max(0, missing) + tuple(call[0].shape))
    return functional.pad(data, flat, mode=names[mode]).reshape(
        [size + before[axis] + after[axis] for axis, size in enumerate(call[0].shape)]
    )


def _constant_of_shape(call: Call) -> Tensor:
    value = call.attributes.get("value", torch.zeros(1))
    assert isinstance(value, Tensor)
    return value.reshape(()).expand(tuple(call.numbers(0, "shape") or ())).clone()


def _range(call: Call) -> Tensor:
    start, limit, delta = (call[index].item() for index in range(3))
    return torch.arange(start, limit, delta, dtype=call[0].dtype)


def _cast(call: Call) -> Tensor:
    return call[0].to(dtype_of(call.attributes["to"]))


def _top_k(call: Call) -> tuple[Tensor, Tensor]:
    (count,) = call.numbers(1, "k") or [1]
    largest = bool(call.attributes.get("largest", 1))
    values, indices = torch.topk(call[0], count, call.attributes.get("axis", -1), largest)
    return values, indices


def _arg(function: Callable[..., Tensor]) -> Operator:
    return lambda call: function(call[0], call.attributes.get("axis", 0), bool(call.attributes.get("keepdims", 1)))


def _one_hot(call: Call) -> Tensor:
    depth = int(call[1].reshape(-1)[0])
    axis = call.attributes.get("axis", -1)
    hot = functional.one_hot(torch.remainder(call[0].long(), depth), depth).movedim(-1, axis)
    return torch.where(hot.bool(), call[2][1], call[2][0])


def _cumulative_sum(call: Call) -> Tensor:
    axis = int(call[1])
    data = call[0].flip(axis) if call.attributes.get("reverse") else call[0]
    total = data.cumsum(axis)
    if call.attributes.get("exclusive"):
        total = total - data
    return total.flip(axis) if call.attributes.get("reverse") else total


def _triangle(call: Call) -> Tensor:
    diagonal = int(call[1]) if call.optional(1) is not None else 0
    return call[0].triu(diagonal) if call.attributes.get("upper", 1) else call[0].tril(diagonal)


def _depth_to_space(call: Call) -> Tensor:
    size, (n, c, h, w) = call.attributes["blocksize"], call[0].shape
    if text(call.attributes.get("mode", "DCR")) == "CRD":
        return functional.pixel_shuffle(call[0], size)
    parts = call[0].reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(call: Call) -> Tensor:
    size, (n, c, h, w) = call.attributes["blocksize"], call[0].shape
    parts = call[0].reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)


def _einsum(call: Call) -> Tensor:
    parts = [call[index] for index in range(len(call.inputs))]
    return torch.einsum(text(call.attributes["equation"]).replace(" ", ""), *parts)


SHAPES: dict[str, Operator] = {
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "Cast": _cast,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative_sum,
    "DepthToSpace": _depth_to_space,
    "Einsum": _einsum,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "OneHot": _one_hot,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
}
