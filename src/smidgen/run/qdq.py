"""A model with the integers written in: QuantizeLinear and DequantizeLinear around every node that is to use them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from smidgen.methods.rounding import squant  # NumPy only
from smidgen.run.placement import WEIGHTED, Placement, attribute, between, reads
from smidgen.run.ranges import Affine8, Histogram, best_affine

__all__ = ["write"]

# Without VNNI, two products of 8 bits are added in 16 bits with saturation; weights of 7 bits cannot overflow there.
_WEIGHT_LIMIT = 63
_ALIGNMENT = 4  # the direct convolution takes input channels in fours
_ALIGNED_POSITIONS = 9  # of a larger kernel the zeros cost more than is won


def write(placement: Placement, affines: Mapping[str, Affine8]) -> onnx.ModelProto:
    """The model, computing with integers where the placement says so.

    Args:
        placement: which nodes of which model.
        affines: scale and zero point of every tensor in ``placement.tensors``.
    """
    return _Writer(placement, affines).write()


class _Writer:
    def __init__(self, placement: Placement, affines: Mapping[str, Affine8]) -> None:
        self._placement = placement
        self._affines = affines
        self._nodes: list[Any] = []
        self._constants: dict[str, Any] = dict(placement.constants)
        self._rounded: dict[str, str] = {}  # tensor or constant to what integer nodes read in its place
        self._scales: dict[str, NDArray[np.float32]] = {}  # of the weights, by the name of the rounded ones

    def write(self) -> onnx.ModelProto:
        model = onnx.ModelProto()
        model.CopyFrom(self._placement.model)
        outputs = {output.name for output in model.graph.output}
        for value in model.graph.input:
            self._quantize(value.name, value.name, f"{value.name}/rounded")
        for index, node in enumerate(self._placement.nodes):
            inputs = self._inputs(node, index in self._placement.integer)
            # an output of the graph keeps its name, so that what is rounded gets another one
            held = {name: f"{name}/exact" for name in node.output if name in outputs and self._is_made(name)}
            self._nodes.append(between(node, inputs, [held.get(name, name) for name in node.output]))
            for name in node.output:
                self._quantize(name, held.get(name, name), name if name in held else f"{name}/rounded")
        read = {name for node in self._nodes for name in reads(node)} | outputs
        constants = [tensor for name, tensor in self._constants.items() if name in read]
        del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
        model.graph.node.extend(self._nodes)
        model.graph.initializer.extend(constants)
        return model

    def _is_made(self, name: str) -> bool:
        return self._placement.tensors.get(name, False)

    def _inputs(self, node: Any, integer: bool) -> list[str]:
        """What a node reads; a node of floats takes the exact numbers where there are any."""
        if not integer:
            return [self._rounded[name] if self._is_made(name) else name for name in node.input]
        if node.op_type in WEIGHTED:
            return self._weighted(node)
        for name in self._placement.factors(node):
            self._factor(name)
        quantized = {*self._placement.operands(node), *self._placement.factors(node)}
        return [self._rounded[name] if name in quantized else name for name in node.input]

    def _quantize(self, name: str, source: str, result: str) -> None:
        """Writes a tensor as integers and back, if it is to be quantized."""
        if name not in self._placement.tensors:
            return
        parameters = self._parameters(name, *self._affines[name])
        self._node("QuantizeLinear", [source, *parameters], f"{name}/integer")
        integers, missing = f"{name}/integer", self._missing(name)
        if missing:
            pads = self._store(f"{name}/pads", np.array([0, 0, 0, 0, 0, missing, 0, 0], np.int64))
            integers = f"{name}/aligned"
            self._node("Pad", [f"{name}/integer", pads, parameters[1]], integers)
        self._node("DequantizeLinear", [integers, *parameters], result)
        self._rounded[name] = result

    def _missing(self, name: str) -> int:
        """Channels of zeros that a picture needs for a direct convolution; within the network they would cost more."""
        readers = self._placement.reading(name)
        if self._is_made(name) or any(node.op_type != "Conv" or attribute(node, "group", 1) != 1 for node in readers):
            return 0
        shapes = [self._placement.constants[node.input[1]].dims for node in readers]
        if any(len(shape) != 4 or math.prod(shape[2:]) > _ALIGNED_POSITIONS for shape in shapes):
            return 0
        return -int(shapes[0][1]) % _ALIGNMENT

    def _weighted(self, node: Any) -> list[str]:
        """Activations, weights and bias of a convolution or product, each from integers."""
        source, name = node.input[0], node.input[1]
        axis = 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1
        alike = node.op_type == "Conv" or self._affines[source][1] == 0
        weight = self._weight(name, axis, 0 if node.op_type != "Conv" else self._missing(source), alike)
        bias = node.input[2] if len(node.input) > 2 else ""
        if not bias:
            return [self._rounded[source], weight]
        scales = self._scales[weight] * self._affines[source][0]
        values = np.broadcast_to(self._placement.array(bias).reshape(-1), scales.shape)
        limit = np.iinfo(np.int32)
        integers = np.clip(np.rint(values / scales.astype(np.float64)), limit.min, limit.max).astype(np.int32)
        return [self._rounded[source], weight, self._constant(f"{node.output[0]}/bias", integers, scales, 0)]

    def _weight(self, name: str, axis: int, missing: int, alike: bool) -> str:
        key = f"{name}/{axis}/{missing}"
        if key not in self._rounded:
            values = np.moveaxis(self._placement.array(name), axis, 0).astype(np.float64)
            most = np.abs(values).max(axis=tuple(range(1, values.ndim)))
            scales = np.where(most > 0, most / _WEIGHT_LIMIT, 1).astype(np.float32)
            scaled = values / scales.reshape(-1, *[1] * (values.ndim - 1))
            rounded = squant(scaled, -_WEIGHT_LIMIT, _WEIGHT_LIMIT) if alike else np.rint(scaled)
            integers = np.moveaxis(rounded.astype(np.int8), 0, axis)
            if missing:
                integers = np.pad(integers, [(0, 0), (0, missing), (0, 0), (0, 0)])
            self._rounded[key] = self._constant(key, integers, scales, axis)
            self._scales[self._rounded[key]] = scales
        return self._rounded[key]

    def _factor(self, name: str) -> None:
        """Writes a constant operand as integers and back."""
        if name not in self._rounded:
            histogram = Histogram()
            histogram.add(self._placement.array(name))
            scale, zero = best_affine(histogram)
            integers = np.clip(np.rint(self._placement.array(name) / scale) + zero, 0, 255).astype(np.uint8)
            self._rounded[name] = self._constant(name, integers, scale, None, zero)

    def _constant(self, name: str, integers: NDArray[Any], scale: Any, axis: int | None, zero: Any = None) -> str:
        """Writes integers, and back."""
        zeros = np.zeros(np.shape(scale), integers.dtype) if zero is None else zero
        inputs = [self._store(f"{name}/integer", integers), *self._parameters(name, scale, zeros)]
        self._node("DequantizeLinear", inputs, f"{name}/rounded", **({} if axis is None else {"axis": axis}))
        return f"{name}/rounded"

    def _parameters(self, name: str, scale: Any, zero: Any) -> list[str]:
        return [self._store(f"{name}/scale", np.asarray(scale)), self._store(f"{name}/zero", np.asarray(zero))]

    def _store(self, name: str, value: NDArray[Any]) -> str:
        self._constants[name] = numpy_helper.from_array(value, name)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._nodes.append(helper.make_node(kind, inputs, [output], **attributes))
