"""Where a network looked, told from its graph: what each place of the last features gave to the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from smidgen.run.kinds import maker

if TYPE_CHECKING:
    import onnx

__all__ = ["Looking", "looking"]


@dataclass(frozen=True)
class Looking:
    """How the scores come from features: by their mean over all places, and a linear layer or none.

    Args:
        features: name of the tensor of shape (n, channels, height, width) in the graph.
        weight: of the linear layer, of shape (classes, channels); None if the mean is the scores.
        bias: of the classes, or 0.
    """

    features: str
    weight: NDArray[Any] | None = None
    bias: NDArray[Any] | None = None

    def map(self, features: NDArray[np.float32], number: int) -> NDArray[np.float32]:
        """What each place gave to the score of a class: of shape (height, width), with the score as its mean.

        Args:
            features: of one picture, of shape (channels, height, width).
            number: of the class.

        Source:
            Zhou et al., "Learning deep features for discriminative localization", arXiv 1512.04150, equation 2.

        Example:
            >>> features = np.array([[[1, 3]], [[5, 5]]], np.float32)
            >>> Looking("f").map(features, 0).tolist()
            [[1.0, 3.0]]
            >>> Looking("f", np.array([[1, 0], [2, -1]], np.float32), np.array([0, 10])).map(features, 1).tolist()
            [[7.0, 11.0]]
        """
        if self.weight is None:
            one: NDArray[np.float32] = features[number]
            return one
        bias = 0 if self.bias is None else self.bias[number]
        found: NDArray[np.float32] = np.tensordot(self.weight[number], features, 1) + bias
        return found


def looking(model: onnx.ModelProto) -> Looking | None:
    """How the first output of a classifier comes from features, or None if it is in no such way.

    Args:
        model: whole, with its weights.
    """
    node = maker(model, model.graph.output[0].name)
    if node is not None and node.op_type in ("Softmax", "LogSoftmax"):
        node = maker(model, node.input[0])
    layers: list[NDArray[Any]] = []
    if node is not None and node.op_type in ("Gemm", "MatMul"):
        layer = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        found = [_held(model, name) for name in node.input[1:]]
        plain = layer.get("alpha", 1) == layer.get("beta", 1) == 1 and not layer.get("transA")
        layers = [array for array in found if array is not None]
        if not plain or len(layers) < len(found):
            return None
        layers[0] = layers[0] if layer.get("transB") else layers[0].T
        layers[1:] = [np.broadcast_to(bias, (1, len(layers[0])))[0] for bias in layers[1:]]
        node = maker(model, node.input[0])
    if node is None or not _is_mean(model, node):
        return None
    return Looking(node.input[0], *layers)


def _held(model: onnx.ModelProto, name: str) -> NDArray[Any] | None:
    """A weight of the graph, also one that the graph turns first; None for what is computed."""
    for node in model.graph.node:
        if name in node.output and node.op_type == "Transpose":
            turned = _held(model, node.input[0])
            return None if turned is None else turned.T
    return next((numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name), None)


def _is_mean(model: onnx.ModelProto, node: Any) -> bool:
    """Whether a node takes the mean over rows and columns."""
    if node.op_type != "ReduceMean":
        return bool(node.op_type == "GlobalAveragePool")
    axes = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "axes"), [])
    if len(node.input) > 1:  # an input since operator set 18
        axes = [axis for t in model.graph.initializer if t.name == node.input[1] for axis in numpy_helper.to_array(t)]
    return sorted(axis % 4 for axis in axes) == [2, 3]
