"""Where kernels stand and what resized pixels are made of: the numbers of windows and of resizing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from smidgen.run.program import Pair

__all__ = ["Window", "places", "window"]


class Window(NamedTuple):
    """A kernel along one axis.

    Args:
        kernel: places of it.
        stride: pixels from one of its positions to the next.
        dilation: pixels from one of its places to the next.
        start: pixels that its first position begins before the input.
        end: pixels of padding after the input.
        positions: how many there are.
    """

    kernel: int
    stride: int
    dilation: int
    start: int
    end: int
    positions: int

    def after(self, size: int) -> int:
        """How many pixels beyond an input of this size it reads; below 0 if it stays within."""
        return (self.positions - 1) * self.stride - self.start + (self.kernel - 1) * self.dilation - (size - 1)


def window(
    attributes: Mapping[str, Any], kernel: tuple[int, ...], sizes: tuple[int, int], pads: tuple[int, ...] = (0,) * 4
) -> tuple[Window, Window]:
    """The kernel of an ONNX operator along rows and along columns of an input of these sizes.

    Args:
        attributes: of the operator.
        kernel: its sizes.
        sizes: of the input.
        pads: top, left, bottom, right besides those of the attributes.

    Source:
        ONNX, operators Conv and MaxPool; of positions that ``ceil_mode`` adds, those that begin after the input and the
        padding before it do not count, as in PyTorch and ONNX Runtime.

    Example:
        >>> window({"strides": [2, 2], "ceil_mode": 1}, (3, 3), (6, 7))[0].positions
        3
    """
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    given, auto = attributes.get("pads", (0,) * 4), attributes.get("auto_pad", b"NOTSET")
    found = []
    for axis in (0, 1):
        stride, dilation, size = strides[axis], dilations[axis], sizes[axis] + pads[axis] + pads[axis + 2]
        span = (kernel[axis] - 1) * dilation + 1
        start, end = (0, 0) if auto == b"VALID" else (given[axis], given[axis + 2])
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            missing = max(0, (math.ceil(size / stride) - 1) * stride + span - size)
            start = missing // 2 if auto == b"SAME_UPPER" else missing - missing // 2
            end = missing - start
        room = size + start + end - span
        positions = (-(-room // stride) if attributes.get("ceil_mode") else room // stride) + 1
        if attributes.get("ceil_mode") and (positions - 1) * stride >= size + start:
            positions -= 1
        found.append(Window(kernel[axis], stride, dilation, start + pads[axis], end + pads[axis + 2], positions))
    return found[0], found[1]


_COORDINATES: Mapping[str, Callable[[NDArray[np.float64], float, int, int], NDArray[np.float64]]] = {
    "half_pixel": lambda x, scale, old, new: (x + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda x, scale, old, new: (x + 0.5) / scale - 0.5 if new > 1 else 0 * x,
    "half_pixel_symmetric": lambda x, scale, old, new: old / 2 * (1 - new / (old * scale)) + (x + 0.5) / scale - 0.5,
    "asymmetric": lambda x, scale, old, new: x / scale,
    "align_corners": lambda x, scale, old, new: x * (old - 1) / (new - 1) if new > 1 else 0 * x,
}
_NEAREST: Mapping[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def places(old: int, new: int, scale: float, coordinates: str, nearest: str) -> tuple[Pair, ...] | None:
    """For each pixel of a resized axis the one that it comes from, and the 256ths that the one after counts.

    Args:
        old: size of the axis.
        new: size after resizing.
        scale: by which it was asked for.
        coordinates: ONNX's ``coordinate_transformation_mode``.
        nearest: ONNX's ``nearest_mode``; empty for linear interpolation.

    Returns:
        The pairs; None for a mode that has no form in a program.

    Example:
        >>> places(2, 4, 2.0, "half_pixel", "")
        ((0, 0), (0, 64), (0, 192), (1, 0))
    """
    if coordinates not in _COORDINATES or (nearest and nearest not in _NEAREST):
        return None
    x = _COORDINATES[coordinates](np.arange(new, dtype=np.float64), scale, old, new)
    if nearest:
        return tuple((int(place), 0) for place in np.clip(_NEAREST[nearest](x), 0, old - 1))
    parts = np.rint(np.clip(x, 0, old - 1) * 256).astype(np.int64)
    return tuple((int(part // 256), int(part % 256)) for part in parts)
