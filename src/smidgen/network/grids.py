"""ONNX operators between grids: of places (resizing), and of values (quantization)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from smidgen.errors import ModelError
from smidgen.network.call import Call, Operator, text

__all__ = ["GRIDS"]

TRANSFORMS = ("asymmetric", "align_corners", "half_pixel", "pytorch_half_pixel")


def _resize(call: Call) -> Tensor:
    x = call[0]
    scales, sizes = (call.optional(2), call.optional(3)) if call.opset >= 11 else (call.optional(1), None)
    if call.opset < 9:
        scales = torch.tensor(call.attributes["scales"])
    mode = text(call.attributes.get("mode", "nearest"))
    transform = text(call.attributes.get("coordinate_transformation_mode", "half_pixel"))
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
    if call.attributes.get("axes") or call.attributes.get("antialias") or transform not in TRANSFORMS:
        raise ModelError(f"Resize with {transform}, axes or antialias is not known")
    for axis, (want, factor) in enumerate(zip(wanted, factors, strict=True)):
        if want != x.shape[axis] or factor != 1:
            rounding = text(call.attributes.get("nearest_mode", "round_prefer_floor" if call.opset >= 11 else "floor"))
            if mode == "cubic":
                x = _cubic(x, axis, _source(x.shape[axis], want, factor, transform), call)
            else:
                x = _resize_axis(x, axis, want, factor, (mode, transform, rounding))
    return x


def _cubic(x: Tensor, axis: int, source: Tensor, call: Call) -> Tensor:
    """Four neighbours each, weighted by Keys' kernel (1981, equation 15), as ONNX has it."""
    a = float(call.attributes.get("cubic_coeff_a", -0.75))
    size, low = x.shape[axis], source.floor()
    found, whole = torch.zeros(()), torch.zeros(len(source), dtype=torch.float64)
    weighted = []
    for step in range(-1, 3):
        distance, place = (source - low - step).abs(), low + step
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = a * (((distance - 5) * distance + 8) * distance - 4)
        weight = torch.where(distance <= 1, near, far)
        if call.attributes.get("exclude_outside"):
            weight = torch.where((place >= 0) & (place < size), weight, 0.0)
        whole = whole + weight
        weighted.append((place.clamp(0, size - 1).long(), weight))
    for place, weight in weighted:
        part = (weight / whole).to(x.dtype).reshape((-1,) + (1,) * (x.ndim - 1 - axis))
        found = found + x.index_select(axis, place) * part
    return found


def _source(size: int, want: int, factor: float, transform: str) -> Tensor:
    """Where each of ``want`` places lies among ``size``."""
    place = torch.arange(want, dtype=torch.float64)
    if transform == "asymmetric":
        return place / factor
    if transform == "align_corners":
        return place * (size - 1) / max(1, want - 1)
    if transform == "pytorch_half_pixel" and want == 1:
        return torch.zeros(1, dtype=torch.float64)
    return (place + 0.5) / factor - 0.5


def _resize_axis(x: Tensor, axis: int, want: int, factor: float, how: tuple[str, str, str]) -> Tensor:
    mode, transform, rounding = how
    size, source = x.shape[axis], _source(x.shape[axis], want, factor, transform)
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


GRIDS: dict[str, Operator] = {
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "Resize": _resize,
    "Upsample": _resize,
}
