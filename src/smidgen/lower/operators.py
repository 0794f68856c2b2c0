"""ONNX's operators, each as the operations of a program that compute it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from smidgen.errors import one_line
from smidgen.lower import elementwise, layers, moving, pools
from smidgen.lower.functions import ELEMENTWISE
from smidgen.lower.graph import attributes_of
from smidgen.lower.structure import Elementwise, Ending, Padded, Value, Work

__all__ = ["OPERATORS", "lower_node"]


def lower_node(work: Work, node: Any) -> None:
    """Adds what a node computes to the work, unless that is the same for every input; who needs it then will say so.

    Raises:
        ModelError: it has no form in a program.
    """
    work.node = node
    if node.op_type == "Shape" and node.input[0] in work.values:
        start, end = (attributes_of(node).get(name) for name in ("start", "end"))
        work.graph.constants[node.output[0]] = np.array(_shape(work.value(node.input[0]))[start:end], np.int64)
    elif not work.graph.fold(node) and work.values.keys() & set(node.input):
        if node.op_type not in OPERATORS:
            raise work.refuse(_HINTS.get(node.op_type, "programs have no such operation"))
        try:
            work.values[node.output[0]] = OPERATORS[node.op_type](work, node)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise work.refuse(f"it is not as ONNX has it: {one_line(error)}") from None


_HINTS = {
    "BatchNormalization": "no layer before it could take it: tables, turned weights and those used twice cannot",
    "LogSoftmax": "end the network with its scores or with a Softmax",
}


def _shape(value: Value) -> tuple[int, ...]:
    if isinstance(value, Padded):
        top, left, bottom, right = value.pads
        n, c, h, w = value.view.shape
        return (n, c, h + top + bottom, w + left + right)
    return value.view.shape if isinstance(value, Elementwise | Ending) else value.shape


OPERATORS: Mapping[str, Callable[[Work, Any], Value]] = {
    **dict.fromkeys(ELEMENTWISE, elementwise.elementwise),
    "AveragePool": pools.average,
    "Cast": moving.same,
    "Concat": moving.concat,
    "Conv": layers.convolution,
    "Dropout": moving.same,
    "Flatten": moving.reshape,
    "Gemm": layers.gemm,
    "GlobalAveragePool": pools.mean,
    "GlobalMaxPool": pools.global_maximum,
    "Identity": moving.same,
    "MatMul": layers.matmul,
    "MaxPool": pools.maximum,
    "Pad": moving.pad,
    "ReduceMean": pools.mean,
    "Reshape": moving.reshape,
    "Resize": moving.resize,
    "Softmax": moving.softmax,
    "Squeeze": moving.reshape,
    "Transpose": moving.transpose,
    "Unsqueeze": moving.reshape,
    "Upsample": moving.resize,
}
"""By their names in ONNX."""
