"""Operators that are not known to the interpreter, run in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import Tensor

from smidgen.network.call import Call
from smidgen.run.session import session

__all__ = ["Foreign"]


class Foreign:
    """Runs single nodes of a model in ONNX Runtime; no gradient comes back through them.

    Args:
        model: whose versions of operators and own functions are meant.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.sessions: dict[tuple[Any, ...], Any] = {}

    def bound(self, node: Any) -> Callable[[Call], tuple[Tensor, ...]]:
        """The operator of one node."""
        return lambda call: self._run(node, call)

    def _run(self, node: Any, call: Call) -> tuple[Tensor, ...]:
        arrays = {
            name: tensor.detach().numpy()
            for name, tensor in zip(node.input, call.inputs, strict=True)
            if tensor is not None
        }
        key = (id(node), *((array.dtype, array.ndim) for array in arrays.values()))
        if key not in self.sessions:
            values = [
                onnx.helper.make_tensor_value_info(
                    name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), [None] * array.ndim
                )
                for name, array in arrays.items()
            ]
            outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
            graph = onnx.helper.make_graph([node], "node", values, outputs)
            single = onnx.helper.make_model(
                graph, opset_imports=self.model.opset_import, functions=self.model.functions
            )
            single.ir_version = self.model.ir_version
            self.sessions[key] = session(single, 1)
        found = self.sessions[key].run(None, arrays)
        return tuple(torch.from_numpy(array) for array in found)
