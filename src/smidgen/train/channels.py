"""Which channels of a network belong together, found in its graph: what is cut in one layer must go in others, too."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.lower.graph import attributes_of

__all__ = ["Channels", "Layer", "channels_of"]

Ids = NDArray[np.int64]

SAME = (
    *("BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSwish", "HardSigmoid", "Tanh", "Elu"),
    *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "Dropout", "Identity", "Cast"),
)
"""Operators whose output has the channels of their first input."""


@dataclass(frozen=True)
class Layer:
    """A layer with a weight, by the name that it has in the module.

    Args:
        name: of the module.
        outputs: the channel of each output.
        inputs: the channel of each input.
        positions: how often each weight is used for one picture.
        kernel: weights for each pair of an input and an output.
    """

    name: str
    outputs: Ids
    inputs: Ids
    positions: int
    kernel: int


@dataclass
class Channels:
    """The channels of a network: numbers, of which some stand for the same one.

    Args:
        layers: convolutions and linear layers.
        norms: normalizations, by their names, with their channels.
        fixed: channels that cannot be cut: the network's inputs and outputs, and what is not understood.
    """

    layers: list[Layer] = field(default_factory=list)
    norms: dict[str, Ids] = field(default_factory=dict)
    fixed: set[int] = field(default_factory=set)
    _same: list[int] = field(default_factory=list)

    def new(self, count: int) -> Ids:
        """Numbers of new channels."""
        first = len(self._same)
        self._same += range(first, first + count)
        return np.arange(first, first + count)

    def root(self, number: int) -> int:
        """The number that stands for a channel."""
        while self._same[number] != number:
            self._same[number] = self._same[self._same[number]]
            number = self._same[number]
        return number

    def roots(self, ids: Ids) -> Ids:
        """The numbers that stand for channels."""
        return np.array([self.root(int(number)) for number in ids], np.int64)

    def join(self, one: Ids, other: Ids) -> None:
        """Says that channels are the same, pair by pair."""
        for a, b in zip(one, other, strict=True):
            first, second = sorted((self.root(int(a)), self.root(int(b))))
            self._same[second] = first
            if second in self.fixed:
                self.fixed.add(first)

    def fix(self, ids: Ids) -> None:
        """Says that channels cannot be cut."""
        self.fixed |= {int(number) for number in ids}

    def is_fixed(self) -> set[int]:
        """The numbers that stand for channels that cannot be cut."""
        return {self.root(number) for number in self.fixed}


def channels_of(archive: Archive, layers: Collection[str]) -> Channels:
    """The channels of the network of an archive.

    Args:
        archive: of the network.
        layers: names of the weights of its layers; what another weight is used by cannot lose channels.

    Example:
        >>> from torch import nn
        >>> from smidgen.read import from_module
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
        >>> found = channels_of(from_module(network, (3, 8, 8)), ["0.weight", "2.weight"])
        >>> [(layer.name, layer.inputs.tolist(), layer.outputs.tolist()) for layer in found.layers]
        [('0', [0, 1, 2], [3, 4, 5, 6]), ('2', [3, 4, 5, 6], [7, 8])]
    """
    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(archive.graph)).graph
    return _Walk(graph, archive, layers).channels


class _Walk:
    """One walk through a graph."""

    def __init__(self, graph: Any, archive: Archive, layers: Collection[str]) -> None:
        self.layers, self.met = layers, set[str]()
        self.channels, self.known = Channels(), dict[str, Ids]()
        self.shapes = {name: np.asarray(weight).shape for name, weight in archive.decoded().items()}
        self.sizes: dict[str, list[int]] = {}
        for value in (*graph.input, *graph.output, *graph.value_info):
            self.sizes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in graph.input:
            self._unknown(value.name)
        for node in graph.node:
            self._node(node)
        for value in graph.output:
            self.channels.fix(self.known[value.name])

    def _unknown(self, name: str) -> None:
        """Channels that are as they are."""
        sizes = self.sizes.get(name, [])
        self.known[name] = self.channels.new(sizes[1] if len(sizes) > 1 else 0)
        self.channels.fix(self.known[name])

    def _node(self, node: Any) -> None:
        given = [self.known[name] for name in node.input if name in self.known]
        weight = next((name for name in node.input[1:2] if name in self.shapes), None)
        if not given:
            return
        new = weight is not None and weight not in self.met
        own = new and weight in self.layers
        if weight is not None:
            self.met.add(weight)
        if node.op_type == "Conv" and weight and own:
            self._convolution(node, weight)
        elif node.op_type == "Gemm" and weight and own and attributes_of(node).get("transB"):
            self._linear(node, weight)
        elif node.op_type == "Add" and len(given) == 2 and len(given[0]) == len(given[1]):
            self.channels.join(given[0], given[1])
            self.known[node.output[0]] = given[0]
        elif node.op_type == "Concat" and len(given) == len(node.input) and attributes_of(node)["axis"] == 1:
            self.known[node.output[0]] = np.concatenate(given)
        elif node.op_type in ("Flatten", "Reshape") and self._flattens(node):
            count = self.sizes[node.output[0]][1]
            self.known[node.output[0]] = np.repeat(given[0], count // max(1, len(given[0])))
        elif node.op_type in SAME and self._keeps(node, new):
            if node.op_type == "BatchNormalization":
                self.channels.norms[node.input[1].removesuffix(".weight")] = given[0]
            self.known[node.output[0]] = given[0]
        else:
            for ids in given:
                self.channels.fix(ids)
            for name in node.output:
                self._unknown(name)

    def _keeps(self, node: Any, new: bool) -> bool:
        """Whether each channel is treated alike, or by numbers of its own that go with it; ``new``: none of these were
        met before."""
        if node.op_type == "PRelu":
            return math.prod(self.shapes.get(node.input[1], (2,))) == 1
        if node.op_type == "ReduceMean":
            return 1 not in attributes_of(node).get("axes", [1]) and -3 not in attributes_of(node).get("axes", [])
        if node.op_type == "BatchNormalization":
            return new
        return True

    def _flattens(self, node: Any) -> bool:
        before, after = self.sizes.get(node.input[0], []), self.sizes.get(node.output[0], [])
        return len(before) > 2 and len(after) == 2 and after[1] == math.prod(before[1:]) and after[1] > 0

    def _convolution(self, node: Any, weight: str) -> None:
        shape, groups = self.shapes[weight], attributes_of(node).get("group", 1)
        given = self.known[node.input[0]]
        name, positions = weight.removesuffix(".weight"), self._positions(node.output[0])
        if groups == 1:
            outputs = self.channels.new(shape[0])
        elif groups == shape[0] == len(given):
            outputs = given  # depthwise: each channel goes its own way
        else:
            self.channels.fix(given)
            outputs = self.channels.new(shape[0])
            self.channels.fix(outputs)
        inputs = given
        if groups > 1:  # each output reads as many inputs as the weight has, whichever channels go
            inputs = self.channels.new(shape[1])
            self.channels.fix(inputs)
        self.channels.layers.append(Layer(name, outputs, inputs, positions, math.prod(shape[2:])))
        self.known[node.output[0]] = outputs

    def _linear(self, node: Any, weight: str) -> None:
        outputs = self.channels.new(self.shapes[weight][0])
        layer = Layer(weight.removesuffix(".weight"), outputs, self.known[node.input[0]], 1, 1)
        self.channels.layers.append(layer)
        self.known[node.output[0]] = outputs

    def _positions(self, name: str) -> int:
        sizes: Sequence[int] = self.sizes.get(name, [])
        return math.prod(sizes[2:]) if len(sizes) > 2 else 1
