"""Static int8 quantization of an ONNX model, placed so that ONNX Runtime computes with integers from end to end."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from smidgen.errors import ModelError
from smidgen.run.placement import MOVING, Placement
from smidgen.run.qdq import write
from smidgen.run.ranges import Affine8, Histogram, best_affine, observed, wide_affine
from smidgen.run.session import reason, session

__all__ = ["quantize"]

# A part of a concatenation shares the scale of the whole unless that costs it more than two of its eight bits.
_SHARED_RANGE = 4
_OPSET, _IR_VERSION = 13, 7  # the first with a scale per channel


def quantize(model: onnx.ModelProto, batches: Iterable[Mapping[str, NDArray[Any]]]) -> onnx.ModelProto:
    """The model with integers: activations uint8 of calibrated ranges, weights int8 with a scale per output channel.

    Convolutions, ``Gemm`` and ``MatMul`` with constant weights become integers, and what lies between them where ONNX
    Runtime has an integer form of it; everything else stays float. Inputs and outputs keep names and types.

    Args:
        model: a float32 model; it is not changed.
        batches: what the network will see, an array for each input by name; looked at once, one batch at a time.

    Returns:
        A model with ``QuantizeLinear`` and ``DequantizeLinear`` around every node that is to be computed with integers.

    Raises:
        InputError: there are no batches.
        ModelError: ONNX Runtime cannot run the model, it has nothing that can be quantized, or an activation is
            not finite.

    Source:
        B. Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference,
        2018, section 2.

    Example:
        >>> import numpy as np
        >>> from onnx import TensorProto, helper
        >>> values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2]) for name in "xy"]
        >>> weight = onnx.numpy_helper.from_array(np.array([[1, 2], [3, -4]], np.float32), "w")
        >>> nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
        >>> graph = helper.make_graph(nodes, "g", values[:1], values[1:], [weight])
        >>> model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        >>> [node.op_type for node in quantize(model, [{"x": np.ones((1, 2), np.float32)}]).graph.node]
        ['QuantizeLinear', 'DequantizeLinear', 'DequantizeLinear', 'MatMul']
    """
    placement = Placement(_simplified(model))
    if not placement.integer:
        raise ModelError("nothing in the network can be quantized: it has no Conv, Gemm or MatMul of constant weights")
    return write(placement, _affines(placement, observed(placement.model, placement.tensors, batches)))


def _simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model as ONNX Runtime simplifies it: constants folded, batch norms and biases inside the convolutions."""
    import onnxruntime

    model = _modern(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder, "simple.onnx"))
        session(model, options=options)
        simple = onnx.load(options.optimized_model_filepath)
    simple.ir_version = model.ir_version
    used = {node.domain for node in simple.graph.node} | {""}
    kept = [opset for opset in simple.opset_import if opset.domain in used]
    del simple.opset_import[:]
    simple.opset_import.extend(kept)
    return simple


def _modern(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which weights are constants, not inputs, and of an opset that knows a scale per channel."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    constants = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    copy.ir_version = max(copy.ir_version, _IR_VERSION)
    if all(opset.domain or opset.version >= _OPSET for opset in copy.opset_import):
        return copy
    try:
        return onnx.version_converter.convert_version(copy, _OPSET)
    except Exception as error:  # the converter's exceptions have no public base class of their own
        raise ModelError(f"the graph cannot be brought to opset {_OPSET}: {reason(error)}") from None


def _affines(placement: Placement, histograms: Mapping[str, Histogram]) -> dict[str, Affine8]:
    """Scale and zero point of each tensor; tensors between which numbers are only moved have the same."""
    leader = {name: name for name in histograms}
    merged = dict(histograms)

    def find(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    def join(part: str, whole: str) -> None:
        first, second = find(part), find(whole)
        if first != second:
            leader[first] = second
            merged[second].merge(merged[first])

    nodes = [(placement.nodes[index], result) for index, result in placement.integer.items()]
    for node, result in nodes:
        if node.op_type in MOVING:
            join(node.input[0], result)
    for node, result in nodes:
        if node.op_type == "Concat" and result == node.output[0]:
            for part in placement.operands(node):
                if merged[find(result)].reach <= _SHARED_RANGE * merged[find(part)].reach:
                    join(part, result)
    ending = {find(name) for name in placement.ending}
    inner = {find(name) for name in histograms if name not in placement.ending}
    chosen = {
        name: (wide_affine if name in ending - inner else best_affine)(merged[name])
        for name in leader
        if find(name) == name
    }
    return {name: chosen[find(name)] for name in leader}
