"""Which nodes of an ONNX model ONNX Runtime can compute with integers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

__all__ = ["MOVING", "WEIGHTED", "Placement", "attribute", "between", "reads"]

WEIGHTED = ("Conv", "Gemm", "MatMul")
_COMPUTING = ("Add", "AveragePool", "Concat", "GlobalAveragePool", "LeakyRelu", "Mul", "Sigmoid")
MOVING = ("Flatten", "MaxPool", "Reshape", "Squeeze", "Transpose", "Unsqueeze")  # out come numbers that went in
_OF_SEVERAL = ("Add", "Concat", "Mul")
# Where only floats follow, these save nothing as integers, and the rounding of an average is that of the answer.
_IDLE_AT_THE_END = (*MOVING, "GlobalAveragePool", "LeakyRelu", "Sigmoid")


class Placement:
    """Which nodes of a model become integers, and which tensors are therefore quantized.

    Convolutions and products with constant weights do, and between or after them what ONNX Runtime has in integers.

    Args:
        model: a float32 model with its nodes in order; it is not changed.

    Attributes:
        integer: the index of each such node, and the tensor that it makes: that of a Relu or Clip after it.
        tensors: each tensor that is quantized, and whether an integer node makes it.
        ending: those of them that no weights are applied to any more.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._users = _users(model.graph)
        self._floats = _floats(model)
        made: dict[str, int] = {}
        for index, node in enumerate(self.nodes):
            if self._is_weighted(node) or self._can_follow(node, made):
                made[self._result(node)] = index
        self.integer: dict[int, str] = {}
        self._reading: dict[str, list[Any]] = defaultdict(list)
        for name, index in reversed(made.items()):
            node = self.nodes[index]
            if name in self._reading or node.op_type not in _IDLE_AT_THE_END:
                self.integer[index] = name
                for operand in set(self.operands(node)):
                    self._reading[operand].append(node)
        self.integer = dict(reversed(self.integer.items()))
        self.tensors = dict(self._quantized())
        self.ending = set(self.tensors) - self._before_weights()

    def operands(self, node: Any) -> list[str]:
        """The inputs of an integer node that change from run to run; weights and shapes do not."""
        read = node.input if node.op_type in _OF_SEVERAL else node.input[:1]
        return [name for name in read if name not in self.constants]

    def factors(self, node: Any) -> list[str]:
        """The constants that an integer node without weights computes with."""
        return [name for name in node.input if name in self.constants] if node.op_type in _OF_SEVERAL else []

    def array(self, name: str) -> NDArray[Any]:
        """A constant."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def reading(self, name: str) -> list[Any]:
        """The integer nodes that read a tensor."""
        return self._reading.get(name, [])

    def _quantized(self) -> Iterator[tuple[str, bool]]:
        results = set(self.integer.values())
        for index, result in self.integer.items():
            for name in self.operands(self.nodes[index]):
                yield name, name in results
            # a product can leave its sums as floats, a convolution cannot
            if self.nodes[index].op_type not in ("Gemm", "MatMul") or self.reading(result):
                yield result, True

    def _before_weights(self) -> set[str]:
        before: set[str] = set()
        for index, result in reversed(self.integer.items()):
            if self.nodes[index].op_type in WEIGHTED or result in before:
                before.update(self.operands(self.nodes[index]))
        return before

    def _is_weighted(self, node: Any) -> bool:
        if node.op_type not in WEIGHTED or node.domain or node.input[0] not in self._floats - set(self.constants):
            return False
        fixed = [name for name in node.input[1:] if name]
        if any(name not in self.constants or self.constants[name].data_type != TensorProto.FLOAT for name in fixed):
            return False
        if node.op_type == "Conv":
            return True
        plain = not attribute(node, "transA", 0) and {attribute(node, n, 1.0) for n in ("alpha", "beta")} == {1.0}
        # a bias for each row is a matrix, and the integer form has none
        bias = self.array(fixed[1]) if len(fixed) > 1 else np.zeros(1)
        return plain and len(self.constants[fixed[0]].dims) == 2 and bias.size == (bias.shape or (1,))[-1]

    def _can_follow(self, node: Any, made: Mapping[str, int]) -> bool:
        if node.op_type not in (*_COMPUTING, *MOVING) or node.domain or len(node.output) > 1:
            return False
        operands = self.operands(node)
        touched = (*operands, *self.factors(node), *node.output)
        return any(name in made for name in operands) and self._floats.issuperset(touched)

    def _result(self, node: Any) -> str:
        name = str(node.output[0])
        following = self._users[name]
        if node.op_type in MOVING or len(following) != 1 or following[0] is None:
            return name
        return str(following[0].output[0]) if self._clips_at_zero(following[0]) else name

    def _clips_at_zero(self, node: Any) -> bool:
        if node.op_type != "Clip":
            return bool(node.op_type == "Relu")
        low, high = [*node.input[1:], "", ""][:2]
        return low in self.constants and high in (*self.constants, "") and float(self.array(low)) == 0


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of a node's attribute."""
    return next((helper.get_attribute_value(each) for each in node.attribute if each.name == name), default)


def between(node: Any, inputs: Iterable[str], outputs: Iterable[str]) -> Any:
    """The same node, without its name, between other tensors."""
    other = onnx.NodeProto()
    other.CopyFrom(node)
    other.name = ""
    del other.input[:], other.output[:]
    other.input.extend(inputs)
    other.output.extend(outputs)
    return other


def _users(graph: Any) -> dict[str, list[Any]]:
    """The nodes that read each tensor; None stands for the end of the graph."""
    found: dict[str, list[Any]] = defaultdict(list)
    for output in graph.output:
        found[output.name].append(None)
    for node in graph.node:
        for name in reads(node):
            found[name].append(node)
    return found


def reads(node: Any) -> Iterator[str]:
    """What a node reads, its inner graphs included."""
    yield from node.input
    for each in node.attribute:
        for graph in (each.g, *each.graphs):
            for inner in graph.node:
                yield from reads(inner)
            yield from (output.name for output in graph.output)


def _floats(model: onnx.ModelProto) -> set[str]:
    """Names of the tensors that are known to be float32."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    constants = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT} | constants
