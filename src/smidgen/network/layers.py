"""ONNX operators of layers: products, convolutions, pools, normalizations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import ModelError
from smidgen.network.call import Call, Operator, text

__all__ = ["LAYERS"]


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
    mode = text(call.attributes.get("auto_pad", "NOTSET"))
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
    mode = text(call.attributes.get("auto_pad", "NOTSET"))
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


LAYERS: dict[str, Operator] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _lrn,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
}
