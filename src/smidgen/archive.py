"""What a file holds, in memory: the one place where the compressing and the running half meet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Code

__all__ = ["Archive", "Label", "Preprocessing"]


@dataclass(frozen=True)
class Label:
    """One class: the id that folders are matched by (for ImageNet ``n01440764``) and the name people read."""

    id: str
    name: str


@dataclass(frozen=True)
class Preprocessing:
    """How a picture becomes the network's input; stored in the file, so that nobody has to remember it.

    The picture is taken as RGB, resized to ``height`` x ``width`` (without keeping the aspect), its channels put
    in ``channels`` order, and each value v in 0..255 becomes ``(v - mean) / std`` of its channel. The result is
    float32 of shape (3, height, width).

    Args:
        height: rows in pixels.
        width: columns in pixels.
        channels: "RGB" or "BGR".
        mean: three numbers on the 0..255 scale, in the order of ``channels``.
        std: three numbers on the 0..255 scale, in the order of ``channels``.
        resample: "bilinear" or "bicubic".
    """

    height: int
    width: int
    channels: str = "RGB"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resample: str = "bilinear"


@dataclass(frozen=True, eq=False)
class Archive:
    """What a ``.smidgen`` file holds.

    Args:
        graph: a serialized ONNX ``ModelProto`` whose initializers named in ``tensors`` carry name, shape and type but
            no data.
        tensors: every weight, as a code or, kept losslessly, as a plain array.
        preprocessing: how a picture becomes the input, or None if unknown.
        labels: the classes in the order of the scores; empty if unknown.
        metadata: plain JSON values; ``{"zoo": {"name": ..., **arguments}}`` says how to rebuild the module.
    """

    graph: bytes
    tensors: Mapping[str, Code | NDArray[Any]]
    preprocessing: Preprocessing | None = None
    labels: tuple[Label, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def weights(self) -> dict[str, NDArray[Any]]:
        """Every weight as a plain array, decoded from its code; float32 where it was a code."""
        return {name: t.values() if isinstance(t, Code) else np.asarray(t) for name, t in self.tensors.items()}
