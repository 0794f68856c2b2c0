"""ONNX Runtime, as it is used everywhere here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError, ModelError

if TYPE_CHECKING:
    import onnx

__all__ = ["Engine", "reason", "session"]


def session(model: onnx.ModelProto, threads: int = 0, options: Any = None) -> Any:
    """A session of ONNX Runtime on the processor.

    Args:
        model: whole, with its weights.
        threads: how many compute; 0 lets the runtime take one for each core.
        options: an ``onnxruntime.SessionOptions`` to add to.

    Raises:
        ModelError: the runtime refuses the model.
    """
    import onnxruntime

    if not model.graph.output:
        raise ModelError(
            "the file holds only weights and no network, so nothing can be run; export them as safetensors"
        )
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # what goes wrong is raised, and so need not be printed too
    # Threads that wait by spinning after a run would slow down the network that runs next, also in a comparison.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    try:
        return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's exceptions have no public base class of their own
        raise ModelError(f"ONNX Runtime cannot load the graph: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What the runtime says is wrong, in one line."""
    return " ".join(str(error).split())[:300] or type(error).__name__


class Engine:
    """A whole model that runs in ONNX Runtime: any inputs in, all outputs out.

    Args:
        model: whole, with its weights.
        threads: how many compute; 0 lets the runtime take one for each core.

    Raises:
        ModelError: the runtime refuses the model.
    """

    def __init__(self, model: onnx.ModelProto, threads: int = 0) -> None:
        self._session = session(model, threads)
        self.inputs = {value.name: value for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """All outputs, in the order of the graph.

        Args:
            inputs: an array for each input of the graph, by its name.

        Raises:
            InputError: an input is missing, left over, or has another type or shape than the graph says.
            ModelError: the runtime fails, or an output is not finite.
        """
        self._check(inputs)
        try:
            found: list[NDArray[Any]] = self._session.run(None, dict(inputs))
        except Exception as error:  # the runtime's exceptions have no public base class of their own
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason(error)}") from None
        for name, array in zip(self.outputs, found, strict=True):
            if not isinstance(array, np.ndarray):
                raise ModelError(
                    f"the network's output {name!r} is no tensor; leave out what makes it (of scikit-learn's networks "
                    "options={'zipmap': False} of the converter)"
                )
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                given = (array for array in inputs.values() if array.dtype.kind == "f")
                whole = all(np.isfinite(array).all() for array in given)
                why = "its weights are damaged or too coarse" if whole else "what it was given is not finite"
                raise ModelError(f"the network's output {name!r} is not finite; {why}")
        return found

    def _check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        for name in {**self.inputs, **inputs}:
            if name not in inputs:
                raise InputError(f"input {name!r} of the network is missing; given are {', '.join(inputs) or 'none'}")
            if name not in self.inputs:
                raise InputError(f"the network has no input {name!r}; it takes {', '.join(self.inputs)}")
            wanted, array = self.inputs[name], inputs[name]
            sizes = [size if isinstance(size, int) else None for size in wanted.shape]
            fits = len(sizes) == array.ndim and all(
                want in (None, size) for want, size in zip(sizes, array.shape, strict=True)
            )
            if not fits or _TYPES.get(wanted.type) != array.dtype.name:
                shape = ", ".join("any" if size is None else str(size) for size in sizes)
                kind = _TYPES.get(wanted.type, wanted.type)
                raise InputError(f"input {name!r}: the network takes {kind} ({shape}), not {array.dtype} {array.shape}")


_TYPES = {
    f"tensor({runtime})": name
    for runtime, name in (
        ("float", "float32"),
        ("double", "float64"),
        ("float16", "float16"),
        ("bool", "bool"),
        *((kind, kind) for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")),
    )
}
