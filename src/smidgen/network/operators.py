"""What each ONNX operator computes, in PyTorch: one function each, and one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import ModelError

__all__ = ["OPERATORS", "Call", "dtype_of"]


@dataclass(frozen=True, eq=False)
class Call:
    """One use of an operator.

    Args:
        inputs: its inputs; None where an optional one is left out.
        attributes: by name, as Python values, tensors as tensors.
        opset: the version of the operators.
        outputs: how many outputs are wanted.
    """

    inputs: Sequence[Tensor | None]
    attributes: Mapping[str, Any]
    opset: int
    outputs: int

    def __getitem__(self, index: int) -> Tensor:
        tensor = self.inputs[index]
        if tensor is None:
            raise ModelError("an input that is not optional is missing")
        return tensor

    def optional(self, index: int) -> Tensor | None:
        """An input, or None if it is left out."""
        return self.inputs[index] if index < len(self.inputs) else None

    def numbers(self, index: int, name: str, default: list[int] | None = None) -> list[int] | None:
        """Whole numbers that newer operators take as an input and older ones as an attribute."""
        tensor = self.optional(index)
        if tensor is not None:
            return [int(number) for number in tensor.reshape(-1).tolist()]
        found: list[int] | None = self.attributes.get(name, default)
        return found


Operator = Callable[[Call], Any]


def dtype_of(number: int) -> torch.dtype:
    """The type of a tensor whose ONNX type has this number."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(number)
    return torch.from_numpy(np.zeros(0, kind)).dtype


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0], call[1])


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(call: Call) -> Tensor:
        result = call[0]
        for index in range(1, len(call.inputs)):
            result = function(result, call[index])
        return result

    return operator


def _divide(call: Call) -> Tensor:
    if call[0].is_floating_point():
        return call[0] / call[1]
    return torch.div(call[0], call[1], rounding_mode="trunc")


def _modulo(call: Call) -> Tensor:
    return torch.fmod(call[0], call[1]) if call.attributes.get("fmod") else torch.remainder(call[0], call[1])


def _clip(call: Call) -> Tensor:
    low, high = (call.optional(1), call.optional(2)) if call.opset >= 11 else (None, None)
    if call.opset < 11:
        low, high = call.attributes.get("min"), call.attributes.get("max")
    return call[0] if low is None and high is None else torch.clamp(call[0], low, high)


def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = float(call.attributes.get("alpha", 0.2)), float(call.attributes.get("beta", 0.5))
    return (alpha * call[0] + beta).clamp(0, 1)


def _gelu(call: Call) -> Tensor:
    approximate = call.attributes.get("approximate", b"none")
    return functional.gelu(call[0], approximate=_text(approximate))


def _prelu(call: Call) -> Tensor:
    return torch.where(call[0] < 0, call[0] * call[1], call[0])


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


# shapes


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
    if _text(call.attributes.get("reduction", "none")) != "none":
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
    mode = _text(call.attributes.get("mode", "constant"))
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
    if _text(call.attributes.get("mode", "DCR")) == "CRD":
        return functional.pixel_shuffle(call[0], size)
    parts = call[0].reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, c // size**2, h * size, w * size)


def _space_to_depth(call: Call) -> Tensor:
    size, (n, c, h, w) = call.attributes["blocksize"], call[0].shape
    parts = call[0].reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(n, c * size**2, h // size, w // size)


def _einsum(call: Call) -> Tensor:
    parts = [call[index] for index in range(len(call.inputs))]
    return torch.einsum(_text(call.attributes["equation"]).replace(" ", ""), *parts)


# reductions


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(call: Call) -> Tensor:
        axes = call.numbers(1, "axes")
        if not axes:
            if call.attributes.get("noop_with_empty_axes"):
                return call[0]
            axes = list(range(call[0].ndim))
        return function(call[0], axes, bool(call.attributes.get("keepdims", 1))) if axes else call[0]

    return operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _log_softmax(call: Call) -> Tensor:
    return _along(call, torch.log_softmax)


def _softmax(call: Call) -> Tensor:
    return _along(call, torch.softmax)


def _along(call: Call, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before version 13 all axes from the given one on were taken together."""
    if call.opset >= 13:
        return function(call[0], call.attributes.get("axis", -1))
    axis = call.attributes.get("axis", 1) % call[0].ndim
    return function(call[0].flatten(axis), axis).reshape(call[0].shape)


# layers


def _matmul(call: Call) -> Tensor:
    return torch.matmul(call[0], call[1])


def _gemm(call: Call) -> Tensor:
    alpha, beta = call.attributes.get("alpha", 1.0), call.attributes.get("beta", 1.0)
    a = call[0].t() if call.attributes.get("transA") else call[0]
    bias = call.optional(2)
    b = call[1] if call.attributes.get("transB") else call[1].t()
    product = functional.linear(a, b)
    product = product if alpha == 1 else product * float(alpha)
    return product if bias is None else product + (bias if beta == 1 else bias * float(beta))


class _Windows(NamedTuple):
    """How windows lie on the axes of space."""

    kernel: list[int]
    stride: list[int]
    dilation: list[int]
    before: list[int]
    after: list[int]


def _windows(call: Call, kernel: Sequence[int]) -> _Windows:
    axes = len(kernel)
    stride, dilation = call.attributes.get("strides", [1] * axes), call.attributes.get("dilations", [1] * axes)
    pads = list(call.attributes.get("pads", [0] * 2 * axes))
    mode = _text(call.attributes.get("auto_pad", "NOTSET"))
    if mode == "VALID":
        pads = [0] * 2 * axes
    elif mode.startswith("SAME"):
        sizes = zip(call[0].shape[2:], kernel, stride, dilation, strict=True)
        total = [max(0, (-(-size // s) - 1) * s + (k - 1) * d + 1 - size) for size, k, s, d in sizes]
        small, large = [part // 2 for part in total], [part - part // 2 for part in total]
        pads = small + large if mode == "SAME_UPPER" else large + small
    return _Windows(list(kernel), list(stride), list(dilation), pads[:axes], pads[axes:])


def _padded(x: Tensor, windows: _Windows, value: float = 0.0) -> Tensor:
    flat = [size for pair in reversed(list(zip(windows.before, windows.after, strict=True))) for size in pair]
    return functional.pad(x, flat, value=value) if any(flat) else x


_CONVOLVE = {1: torch.conv1d, 2: torch.conv2d, 3: torch.conv3d}
_CONVOLVE_BACK = {1: torch.conv_transpose1d, 2: torch.conv_transpose2d, 3: torch.conv_transpose3d}


def _conv(call: Call) -> Tensor:
    windows = _windows(call, call[1].shape[2:])
    same = windows.before == windows.after
    x = call[0] if same else _padded(call[0], windows)
    padding = windows.before if same else [0] * len(windows.kernel)
    convolve = _CONVOLVE[len(windows.kernel)]
    return convolve(
        x, call[1], call.optional(2), windows.stride, padding, windows.dilation, call.attributes.get("group", 1)
    )


def _conv_transpose(call: Call) -> Tensor:
    kernel = call[1].shape[2:]
    windows, axes = _windows(call, kernel), len(kernel)
    extra = call.attributes.get("output_padding", [0] * axes)
    wanted = call.attributes.get("output_shape")
    pads = [*windows.before, *windows.after]
    mode = _text(call.attributes.get("auto_pad", "NOTSET"))
    if wanted or mode.startswith("SAME"):
        wanted = wanted or [size * s for size, s in zip(call[0].shape[2:], windows.stride, strict=True)]
        full = [
            (size - 1) * s + (k - 1) * d + 1 + e - want
            for size, s, k, d, e, want in zip(
                call[0].shape[2:], windows.stride, kernel, windows.dilation, extra, wanted[-axes:], strict=True
            )
        ]
        small, large = [part // 2 for part in full], [part - part // 2 for part in full]
        pads = small + large if mode == "SAME_UPPER" else large + small
    back = _CONVOLVE_BACK[axes]
    group = call.attributes.get("group", 1)
    full_result = back(call[0], call[1], call.optional(2), windows.stride, [0] * axes, extra, group, windows.dilation)
    cut = [slice(None), slice(None)]
    for axis in range(axes):
        cut.append(slice(pads[axis], full_result.shape[2 + axis] - pads[axes + axis]))
    return full_result[tuple(cut)]


def _ceiled(call: Call, x: Tensor, windows: _Windows, value: float) -> tuple[Tensor, list[int]]:
    """The input padded so that the last, partial windows are whole, and by how much on each axis."""
    more = []
    for axis, (kernel, stride, spread) in enumerate(
        zip(windows.kernel, windows.stride, windows.dilation, strict=True), 2
    ):
        room = x.shape[axis] - ((kernel - 1) * spread + 1)
        short = -room % stride if call.attributes.get("ceil_mode") else 0
        # a window that would begin in what is added does not count
        more.append(short if room + short < x.shape[axis] - windows.after[axis - 2] else 0)
    flat = [size for extra in reversed(more) for size in (0, extra)]
    return (functional.pad(x, flat, value=value) if any(more) else x), more


def _max_pool(call: Call) -> Tensor:
    if call.outputs > 1:
        raise ModelError("MaxPool with indices is not known")
    windows = _windows(call, call.attributes["kernel_shape"])
    x, _ = _ceiled(call, _padded(call[0], windows, -math.inf), windows, -math.inf)
    pool = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(windows.kernel)]
    result: Tensor = pool(x, windows.kernel, windows.stride, 0, windows.dilation)
    return result


def _average_pool(call: Call) -> Tensor:
    windows = _windows(call, call.attributes["kernel_shape"])
    if any(spread != 1 for spread in windows.dilation):
        raise ModelError("AveragePool with dilations is not known")
    counted = torch.ones_like(call[0][:1, :1])
    counted = _padded(counted, windows, 1.0 if call.attributes.get("count_include_pad") else 0.0)
    x, _ = _ceiled(call, _padded(call[0], windows), windows, 0.0)
    counted, _ = _ceiled(call, counted, windows, 0.0)
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(windows.kernel)]
    result: Tensor = pool(x, windows.kernel, windows.stride) / pool(counted, windows.kernel, windows.stride)
    return result


def _batch_norm(call: Call) -> Tensor:
    if call.attributes.get("training_mode"):
        raise ModelError("BatchNormalization in training mode cannot be run")
    scale, bias, mean, variance = (call[index] for index in range(1, 5))
    mean, variance = mean.detach(), variance.detach()
    return functional.batch_norm(call[0], mean, variance, scale, bias, eps=call.attributes.get("epsilon", 1e-5))


def _instance_norm(call: Call) -> Tensor:
    return functional.instance_norm(call[0], weight=call[1], bias=call[2], eps=call.attributes.get("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor:
    axis = call.attributes.get("axis", -1) % call[0].ndim
    shape = list(call[0].shape[axis:])
    weight = call[1].expand(shape)
    bias = call.optional(2)
    bias = None if bias is None else bias.expand(shape)
    return functional.layer_norm(call[0], shape, weight, bias, call.attributes.get("epsilon", 1e-5))


def _group_norm(call: Call) -> Tensor:
    groups = call.attributes["num_groups"]
    scale, bias = call[1], call[2]
    if len(scale) == groups:  # before version 21
        scale, bias = (part.repeat_interleave(call[0].shape[1] // groups) for part in (scale, bias))
    return functional.group_norm(call[0], groups, scale, bias, call.attributes.get("epsilon", 1e-5))


def _lrn(call: Call) -> Tensor:
    size, alpha = call.attributes["size"], call.attributes.get("alpha", 1e-4)
    beta, bias = call.attributes.get("beta", 0.75), call.attributes.get("bias", 1.0)
    before = (size - 1) // 2
    squared = functional.pad(call[0].square().unsqueeze(1), (0, 0) * (call[0].ndim - 2) + (before, size - 1 - before))
    total = squared.unfold(2, size, 1).sum(-1).squeeze(1)
    result: Tensor = call[0] / (bias + alpha / size * total) ** beta
    return result


def _resize(call: Call) -> Tensor:
    x = call[0]
    scales, sizes = (call.optional(2), call.optional(3)) if call.opset >= 11 else (call.optional(1), None)
    if call.opset < 9:
        scales = torch.tensor(call.attributes["scales"])
    mode = _text(call.attributes.get("mode", "nearest"))
    transform = _text(call.attributes.get("coordinate_transformation_mode", "half_pixel"))
    if call.opset < 11:
        transform = "asymmetric"
    if sizes is not None and sizes.numel():
        wanted = [int(size) for size in sizes.tolist()]
        factors = [want / size for want, size in zip(wanted, x.shape, strict=True)]
    else:
        if scales is None:
            raise ModelError("Resize without scales and sizes")
        factors = [float(scale) for scale in scales.tolist()]
        wanted = [math.floor(size * factor) for size, factor in zip(x.shape, factors, strict=True)]
    if call.attributes.get("axes") or transform == "tf_crop_and_resize" or mode == "cubic":
        raise ModelError(f"Resize with mode {mode}, {transform} or axes is not known")
    for axis, (want, factor) in enumerate(zip(wanted, factors, strict=True)):
        if want != x.shape[axis] or factor != 1:
            rounding = _text(call.attributes.get("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor"))
            x = _resize_axis(x, axis, want, factor, (mode, transform, rounding))
    return x


def _resize_axis(x: Tensor, axis: int, want: int, factor: float, how: tuple[str, str, str]) -> Tensor:
    mode, transform, rounding = how
    size, place = x.shape[axis], torch.arange(want, dtype=torch.float64)
    if transform == "asymmetric":
        source = place / factor
    elif transform == "align_corners":
        source = place * (size - 1) / max(1, want - 1)
    elif transform == "pytorch_half_pixel" and want == 1:
        source = torch.zeros(1, dtype=torch.float64)
    else:
        source = (place + 0.5) / factor - 0.5
    if mode == "nearest":
        round_: dict[str, Callable[[Tensor], Tensor]] = {
            "floor": torch.floor,
            "ceil": torch.ceil,
            "round_prefer_floor": lambda s: torch.ceil(s - 0.5),
            "round_prefer_ceil": lambda s: torch.floor(s + 0.5),
        }
        return x.index_select(axis, round_[rounding](source).clamp(0, size - 1).long())
    source = source.clamp(0, size - 1)
    low = source.floor().long()
    high = (low + 1).clamp(max=size - 1)
    part = (source - low).to(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
    return x.index_select(axis, low) * (1 - part) + x.index_select(axis, high) * part


def _dequantize(call: Call) -> Tensor:
    scale, zero = _scale_and_zero(call)
    return (call[0].to(torch.int32) - zero).to(call[1].dtype) * scale


def _quantize(call: Call) -> Tensor:
    scale, zero = _scale_and_zero(call)
    kind = call.inputs[2].dtype if call.optional(2) is not None else torch.uint8  # type: ignore[union-attr]
    bounds = torch.iinfo(kind)
    return (torch.round(call[0] / scale) + zero).clamp(bounds.min, bounds.max).to(kind)


def _scale_and_zero(call: Call) -> tuple[Tensor, Tensor]:
    given = call.optional(2)
    zero = torch.zeros((), dtype=torch.int32) if given is None else given.to(torch.int32)
    if call[1].ndim == 0 or call[1].numel() == 1:
        return call[1].reshape(()), zero.reshape(())
    shape = [1] * call[0].ndim
    shape[call.attributes.get("axis", 1)] = -1
    return call[1].reshape(shape), zero.reshape(shape)


# recurrent layers; their gates go through one linear function for the inputs and one for the states of each step


def _recurrent(call: Call, gates: int, step: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """All directions of an LSTM, GRU or RNN: outputs (T, directions, N, H) and the last states (directions, N, H)."""
    if call.attributes.get("clip") or call.attributes.get("layout") or call.attributes.get("input_forget"):
        raise ModelError("recurrent layers with clip, layout or input_forget are not known")
    x, w, r = call[0].transpose(0, 1), call[1], call[2]
    bias, lengths = call.optional(3), call.optional(4)
    if lengths is not None and bool((lengths != len(call[0])).any()):
        raise ModelError("recurrent layers with sequences of different length are not known")
    size, direction = call.attributes["hidden_size"], _text(call.attributes.get("direction", "forward"))
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    given = [call.optional(index) for index in (5, 6)][: 2 if gates == 4 else 1]
    outputs, lasts = [], []
    for number, reverse in enumerate(backward):
        both = torch.zeros(2 * gates * size) if bias is None else bias[number]
        from_input = functional.linear(x, w[number])
        states = tuple(torch.zeros(len(x), size) if state is None else state[number] for state in given)
        steps = range(x.shape[1] - 1, -1, -1) if reverse else range(x.shape[1])
        seen: dict[int, Tensor] = {}
        for time in steps:
            states = step(from_input[:, time], r[number], (both[: gates * size], both[gates * size :]), states)
            seen[time] = states[0]
        outputs.append(torch.stack([seen[time] for time in range(x.shape[1])]))
        lasts.append(states)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _lstm(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Sigmoid", b"Tanh", b"Tanh"))
    if call.optional(7) is not None and bool(call[7].any()):
        raise ModelError("LSTM with peepholes is not known")

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, cell = states
        i, o, f, c = (x + functional.linear(hidden, r) + bias[0] + bias[1]).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * c.tanh()
        return o.sigmoid() * cell.tanh(), cell

    return _recurrent(call, 4, step)


def _gru(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Sigmoid", b"Tanh"))
    before = call.attributes.get("linear_before_reset", 0)

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = states
        size = hidden.shape[1]
        xz, xr, xh = (x + bias[0]).chunk(3, 1)
        bz, br, bh = bias[1].chunk(3)
        if before:
            hz, hr, hh = functional.linear(hidden, r).chunk(3, 1)
            update, reset = (xz + hz + bz).sigmoid(), (xr + hr + br).sigmoid()
            new = (xh + reset * (hh + bh)).tanh()
        else:
            hz, hr = functional.linear(hidden, r[: 2 * size]).chunk(2, 1)
            update, reset = (xz + hz + bz).sigmoid(), (xr + hr + br).sigmoid()
            new = (xh + functional.linear(reset * hidden, r[2 * size :]) + bh).tanh()
        return ((1 - update) * new + update * hidden,)

    return _recurrent(call, 3, step)


def _rnn(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Tanh",))

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor]) -> tuple[Tensor]:
        return ((x + functional.linear(states[0], r) + bias[0] + bias[1]).tanh(),)

    return _recurrent(call, 1, step)


def _plain_activations(call: Call, usual: tuple[bytes, ...]) -> None:
    given = call.attributes.get("activations")
    if given and any(name != usual[index % len(usual)] for index, name in enumerate(given)):
        raise ModelError(f"a recurrent layer with activations {given} is not known")


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "CastLike": lambda call: call[0].to(call[1].dtype),
    "Ceil": _unary(torch.ceil),
    "Celu": lambda call: functional.celu(call[0], call.attributes.get("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": _unary(torch.cos),
    "CumSum": _cumulative_sum,
    "DepthToSpace": _depth_to_space,
    "DequantizeLinear": _dequantize,
    "Div": _divide,
    "Dropout": _unary(lambda x: x),
    "Einsum": _einsum,
    "Elu": lambda call: functional.elu(call[0], call.attributes.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(torch.floor),
    "GRU": _gru,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "GatherND": _gather_nd,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_norm,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "InstanceNormalization": _instance_norm,
    "IsInf": _unary(torch.isinf),
    "IsNaN": _unary(torch.isnan),
    "LRN": _lrn,
    "LSTM": _lstm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call: functional.leaky_relu(call[0], call.attributes.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "MatMul": _matmul,
    "Max": _fold(torch.maximum),
    "MaxPool": _max_pool,
    "Mean": lambda call: _fold(torch.add)(call) / len(call.inputs),
    "Min": _fold(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "NonZero": _unary(lambda x: torch.nonzero(x).t()),
    "Not": _unary(torch.logical_not),
    "OneHot": _one_hot,
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "QuantizeLinear": _quantize,
    "RNN": _rnn,
    "Range": _range,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Round": _unary(torch.round),
    "ScatterND": _scatter_nd,
    "Selu": _unary(functional.selu),
    "Shape": _shape,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda call: torch.tensor(call[0].numel()),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Tile": _tile,
    "TopK": _top_k,
    "Transpose": _transpose,
    "Trilu": _triangle,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
    "Xor": _binary(torch.logical_xor),
}
