"""What a file holds, in memory: the one place where the compressing and the running half meet."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from smidgen.container import read_bytes
from smidgen.errors import InputError
from smidgen.label import Label

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch.nn import Module

    from smidgen.code import Code
    from smidgen.run.runner import Runner

__all__ = ["Archive", "Label", "Preprocessing", "open_archive"]


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

    def __post_init__(self) -> None:
        sizes = isinstance(self.height, int) and isinstance(self.width, int)
        if not sizes or not (0 < self.height <= 16384 and 0 < self.width <= 16384):
            raise InputError(f"preprocessing: {self.height} x {self.width} is not a size of 1 to 16384 pixels")
        if self.channels not in ("RGB", "BGR") or self.resample not in ("bilinear", "bicubic"):
            raise InputError(f"preprocessing: unknown channels {self.channels!r} or resample {self.resample!r}")
        if len(self.mean) != 3 or len(self.std) != 3 or not all(map(math.isfinite, (*self.mean, *self.std))):
            raise InputError("preprocessing: mean and std must be three finite numbers each")
        if 0 in self.std:
            raise InputError("preprocessing: std must not be zero")
        for name in ("mean", "std"):  # numbers of NumPy are no JSON
            object.__setattr__(self, name, tuple(map(float, getattr(self, name))))


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
        program: the program section, by which the network runs in integers; empty if there is none. It names tensors by
            their place.
    """

    graph: bytes
    tensors: Mapping[str, Code | NDArray[Any]]
    preprocessing: Preprocessing | None = None
    labels: tuple[Label, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    program: bytes = b""

    def weights(self) -> dict[str, NDArray[Any]]:
        """Every weight as a plain array, decoded from its code, or the sum of its two; float32 where it was a code.

        Raises:
            ModelError: the graph is no ONNX model.
        """
        from smidgen.parts import taken_out

        found, parts = self.decoded(), taken_out(self)
        sums = {name: found[name] + found[part] for name, part in parts.items()}
        return {name: sums.get(name, array) for name, array in found.items() if name not in parts.values()}

    def decoded(self) -> dict[str, NDArray[Any]]:
        """Every tensor as a plain array, as the graph takes it: weights of two codes are in two parts."""
        import numpy as np

        from smidgen.code import Code

        return {name: t.values() if isinstance(t, Code) else np.asarray(t) for name, t in self.tensors.items()}

    def save(self, path: str | os.PathLike[str], codecs: tuple[str, ...] | None = None) -> int:
        """Writes the file under a temporary name, renames it, and returns its size in bytes.

        Args:
            path: where to; an existing file is replaced only once the new one is complete.
            codecs: names of the codecs to choose from (see ``smidgen.file``); by default those that give the
                smallest file.

        Raises:
            InputError: it cannot be written.
            WeightError: a tensor cannot be kept in a file.
        """
        from smidgen.disk import replace_file
        from smidgen.file import SMALLEST, write

        data = write(self, codecs or SMALLEST)
        replace_file(path, lambda temporary: temporary.write_bytes(data))
        return os.stat(path).st_size

    def onnx(self) -> Any:
        """The network as an ``onnx.ModelProto`` with float32 weights; its metadata say what pictures and classes are.

        Raises:
            ModelError: graph and weights do not fit together.
        """
        from smidgen.onnx_notes import note_
        from smidgen.run.onnx_graph import fill_graph

        model = fill_graph(self.graph, self.decoded())
        note_(model, self)
        return model

    def safetensors(self) -> bytes:
        """The weights, decoded, as the bytes of a safetensors file."""
        import numpy as np
        from safetensors.numpy import save

        return bytes(save({name: np.ascontiguousarray(weight) for name, weight in self.weights().items()}))

    def runner(self, threads: int = 0, engine: str | None = None) -> Runner:
        """The network ready to run; see ``smidgen.run.runner.runner_of``.

        Args:
            threads: how many compute; 0 for one on each core.
            engine: "native", in integers of 8 bits by the program; "onnxruntime", in float32 by the graph; None for
                the first where there is a program.

        Raises:
            InputError: there is no such engine, or a negative number of threads.
            ModelError: there is no program, or ONNX Runtime refuses the graph.
        """
        from smidgen.run.runner import runner_of

        return runner_of(self, threads, engine)

    def module(self) -> Module:
        """The network as a ``torch.nn.Module`` with the decoded weights; needs the extra ``compress``.

        Raises:
            ModelError: the file does not say which module of the zoo it holds.
        """
        from smidgen.read import to_module

        module: Module = to_module(self)
        return module


def open_archive(path: str | os.PathLike[str]) -> Archive:
    """Reads a ``.smidgen`` file.

    Raises:
        FormatError: it is not a valid file of this version.
        InputError: it cannot be read.
    """
    from smidgen.file import read

    return read(read_bytes(path), str(path))
