"""Normalization made part of the layers before it, or a layer of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.code import Affine, Code
from smidgen.errors import ModelError
from smidgen.network import constant_node
from smidgen.rewriting import Rewriting, Use
from smidgen.run.onnx_graph import STANDARD, graphs_of

__all__ = ["convolve", "fold"]

PICTURE = 4
"""Axes of a batch of pictures."""

DEEPEST = 10
"""Views of views that are looked through."""

_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_VIEWS = ("Identity", "Reshape", "Squeeze", "Unsqueeze")
_ARITHMETIC = ("Add", "Div", "Mul", "Sub")

Array = NDArray[np.float64]


class _Steps(NamedTuple):
    """What a node does to each channel: it is multiplied, and something is added.

    Args:
        given: the name of its input.
        factors: of shape (channels,), or (1,) for all.
        shift: likewise.
        fits: takes the number of axes of the input, and says whether channels are then its second axis.
    """

    given: str
    factors: Array
    shift: Array
    fits: Callable[[int], bool]


def fold(work: Rewriting, may: Callable[[str], bool]) -> None:
    """What fixed numbers do to the channels after a layer (a normalization, a product, a sum) is a scale and a bias of
    its outputs, or of those of convolutions that are joined there.

    Args:
        work: changed in place.
        may: takes the name of a layer's weight, and says whether that may change. Floats can get a factor for each
            output, and so can symbols whose steps are equal; others are left alone in any case.
    """
    for graph in graphs_of(work.graph):
        makers = {node.output[0]: node for node in graph.node if _is_one_of(node, *_LAYERS, "Concat")}
        constants, uses, gone = _Constants(work, graph), work.uses(), []
        for value in graph.output:  # what the graph gives has a use beside those in it
            uses.setdefault(value.name, []).append(Use(None, 0))
        for node in graph.node:
            steps = _steps(constants, node)
            layers = [] if steps is None else _joined(makers, uses, steps.given)
            if steps is None or not all(_takes(constants, layer, steps, uses, may) for layer in layers):
                continue
            sizes = [constants(layer.input[1]).shape[_outputs_axis(layer)] for layer in layers]
            if len(steps.factors) not in (1, sum(sizes)) or not layers:  # one channel may become many
                continue
            _fold(work, constants, layers, sizes, steps, uses)
            makers[node.output[0]] = makers[steps.given]
            makers[steps.given].output[0] = node.output[0]
            gone.append(node)
        if gone:
            work.set_nodes([node for node in graph.node if not any(node is other for other in gone)], graph)
            _drop_unread(work, graph)


def convolve(work: Rewriting) -> set[str]:
    """A normalization of pictures that has no layer before it, as in a DenseNet, is a convolution of each channel
    alone: that has half as many numbers, and a form in a program.

    Args:
        work: changed in place.

    Returns:
        The names of the weights of these.
    """
    makers = {name: node for node in work.graph.node for name in node.output}
    constants, uses, pictures = _Constants(work, work.graph), work.uses(), _pictures(work)
    nodes, made = list[Any](), set[str]()
    for node in work.graph.node:
        steps = _steps(constants, node) if node.op_type == "BatchNormalization" else None
        maker = makers.get(node.input[0]) if steps else None
        # after a layer that could not be scaled channels may differ by orders of magnitude, and nobody else needs them
        unscaled = maker is not None and maker.op_type in _LAYERS and len(uses[node.input[0]]) == 1
        if steps is None or unscaled or steps.given not in pictures:
            nodes.append(node)
            continue
        weight, bias = (name if constants.is_own(name, uses) else work.free(name) for name in node.input[1:3])
        work.tensors[weight] = steps.factors.astype(np.float32).reshape(-1, 1, 1, 1)
        work.tensors[bias] = steps.shift.astype(np.float32)
        made.add(weight)
        given, channels = [steps.given, weight, bias], len(steps.factors)
        nodes.append(
            onnx.helper.make_node("Conv", given, [node.output[0]], node.name, group=channels, kernel_shape=[1, 1])
        )
    work.set_nodes(nodes)
    _drop_unread(work, work.graph)
    return made


def _scalable(weight: Any, axis: int | None) -> bool:
    """Whether each output of a weight can get a factor."""
    if isinstance(weight, Code):
        rule = weight.rule
        return axis == 0 and isinstance(rule, Affine) and rule.axis in (None, 0) and rule.scale.shape[1] == 1
    return weight is not None and axis is not None


def _steps(constants: _Constants, node: Any) -> _Steps | None:
    """What a node does to channels, if it does no more than that, by numbers that are known."""
    if _is_one_of(node, "BatchNormalization"):
        given = [constants(name) for name in node.input[1:5]]
        training = any(a.name == "training_mode" and a.i for a in node.attribute) or any(node.output[1:])
        if training or any(isinstance(each, Code | None) for each in given):
            return None
        scale, shift, mean, variance = (np.asarray(each, np.float64).reshape(-1) for each in given)
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factors = scale / np.sqrt(variance + epsilon)
        return _Steps(node.input[0], factors, shift - mean * factors, lambda rank: True)
    if not _is_one_of(node, *_ARITHMETIC) or len(node.input) != 2:
        return None
    known = [constants(name) for name in node.input]
    place = 0 if known[0] is not None and node.op_type in ("Add", "Mul") else 1
    constant, other = known[place], known[1 - place]
    if other is not None or isinstance(constant, Code | None) or constant.dtype.kind != "f":
        return None
    return _by_arithmetic(node.op_type, node.input[1 - place], np.asarray(constant, np.float64))


def _is_one_of(node: Any, *operators: str) -> bool:
    return node.op_type in operators and node.domain in STANDARD


class _Constants:
    """What is known of a graph: tensors of the archive, constants of the graph, and views of them."""

    def __init__(self, work: Rewriting, graph: Any) -> None:
        self.work = work
        self.held = {tensor.name: tensor for tensor in work.graph.initializer}
        self.views = {node.output[0]: node for node in graph.node if _is_one_of(node, *_VIEWS, "Constant")}

    def is_own(self, name: str, uses: Mapping[str, list[Use]]) -> bool:
        """Whether a name stands for a tensor, and no node's output, that is read at most once: it may be changed."""
        return (name in self.work.tensors or name in self.held) and len(uses.get(name, ())) < 2

    def __call__(self, name: str, deep: int = 0) -> Any:
        """A code or an array; None where nothing is known."""
        if name in self.work.tensors:
            return self.work.tensors[name]
        if name in self.held:
            return onnx.numpy_helper.to_array(self.held[name])
        if name not in self.views or deep > DEEPEST:
            return None
        given = {each: self(each, deep + 1) for each in self.views[name].input}
        if any(isinstance(array, Code | None) for array in given.values()):
            return None
        try:
            return constant_node(self.work.model, self.views[name], given)[0]
        except ModelError:  # it may depend on an attribute that nothing knows
            return None


def _drop_unread(work: Rewriting, graph: Any) -> None:
    """Removes constants and views that nothing reads any more."""
    read = {name for name, _ in work.all_uses()} | {value.name for value in graph.output}
    kept = [node for node in graph.node if not _is_one_of(node, *_VIEWS, "Constant") or read.intersection(node.output)]
    if len(kept) < len(graph.node):
        work.set_nodes(kept, graph)
        _drop_unread(work, graph)


def _by_arithmetic(operator: str, given: str, constant: Array) -> _Steps | None:
    wide = [axis for axis, size in enumerate(constant.shape) if size > 1]
    if len(wide) > 1 or (operator == "Div" and not constant.all()):
        return None
    behind = constant.ndim - 1 - wide[0] if wide else None
    numbers = constant.reshape(-1)
    factors, shift = np.ones_like(numbers), np.zeros_like(numbers)
    if operator in ("Mul", "Div"):
        factors = numbers if operator == "Mul" else 1 / numbers
    else:
        shift = numbers if operator == "Add" else -numbers
    return _Steps(given, factors, shift, lambda rank: constant.ndim <= rank and behind in (None, rank - 2))


def _joined(makers: Mapping[str, Any], uses: Mapping[str, list[Use]], name: str) -> list[Any]:
    """The layer whose output a tensor is, or the convolutions whose outputs, joined along the channels, it is; if
    nothing else uses them."""
    maker = makers.get(name)
    if maker is None or len(uses[name]) != 1:
        return []
    if maker.op_type in _LAYERS:
        return [maker]
    axis = next((a.i for a in maker.attribute if a.name == "axis"), None)
    parts = [makers.get(part) for part in maker.input] if axis == 1 else []
    single = all(part is not None and part.op_type == "Conv" and len(uses[part.output[0]]) == 1 for part in parts)
    return parts if single else []


def _takes(
    constants: _Constants,
    layer: Any,
    steps: _Steps,
    uses: Mapping[str, list[Use]],
    may: Callable[[str], bool],
) -> bool:
    weight = constants(layer.input[1])
    if not may(layer.input[1]) or not _scalable(weight, _outputs_axis(layer)) or not steps.fits(len(weight.shape)):
        return False
    for name in layer.input[2:]:
        bias = constants(name) if name else np.zeros(1)
        if isinstance(bias, Code | None) or math.prod(bias.shape[:-1]) != 1:
            return False
    return constants.is_own(layer.input[1], uses)


def _outputs_axis(layer: Any) -> int | None:
    """Along which axis the weight of a layer has its outputs; None if it is not so simple."""
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in layer.attribute}
    if layer.op_type == "Conv":
        return 0
    if layer.op_type == "ConvTranspose":
        return 1 if attributes.get("group", 1) == 1 else None
    simple = not attributes.get("transA") and {attributes.get(name, 1.0) for name in ("alpha", "beta")} == {1.0}
    return int(not attributes.get("transB")) if simple else None


def _fold(
    work: Rewriting,
    constants: _Constants,
    layers: Sequence[Any],
    sizes: Sequence[int],
    steps: _Steps,
    uses: Mapping[str, list[Use]],
) -> None:
    factors, shift = (np.broadcast_to(each, (sum(sizes),)) for each in (steps.factors, steps.shift))
    ends = np.cumsum(sizes)
    for layer, start, end in zip(layers, ends - sizes, ends, strict=True):
        weight, axis = constants(layer.input[1]), _outputs_axis(layer)
        bias = constants(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else 0.0
        shifted = np.asarray(bias, np.float64).reshape(-1) * factors[start:end] + shift[start:end]
        work.tensors[layer.input[1]] = _scaled(weight, factors[start:end], axis or 0)
        if len(layer.input) < 3:
            layer.input.append("")
        if not layer.input[2] or not constants.is_own(layer.input[2], uses):  # others have it, too, zeros perhaps
            layer.input[2] = _bias_name(work, layer.input[1])
        work.tensors[layer.input[2]] = shifted.astype(np.float32 if isinstance(weight, Code) else weight.dtype)


def _scaled(weight: Code | NDArray[Any], factor: Array, axis: int) -> Code | NDArray[Any]:
    """A weight times a factor for each output; of a code the steps change, and no symbol does."""
    if not isinstance(weight, Code):
        shape = [-1 if place == axis else 1 for place in range(weight.ndim)]
        return (weight * factor.reshape(shape)).astype(weight.dtype)
    assert isinstance(weight.rule, Affine)
    scale = (weight.rule.scale * factor[:, None]).astype(np.float32)
    zero = np.broadcast_to(weight.rule.zero, scale.shape).copy()
    return Code(weight.symbols, Affine(scale, zero, 0))


def _bias_name(work: Rewriting, weight: str) -> str:
    name = weight.removesuffix("weight") + "bias" if weight.endswith("weight") else f"{weight}_bias"
    if name in work.names or name in work.tensors:
        return work.free(name)
    work.names.add(name)
    return name


def _pictures(work: Rewriting) -> set[str]:
    """The names of tensors that are batches of pictures in float32, as far as that can be told."""
    work.hold()
    try:
        graph = onnx.shape_inference.infer_shapes(work.model).graph
    except Exception:  # a matter of what the graph holds; it has no base class for its errors
        return set()
    types = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.input, *graph.output)}
    return {
        name
        for name, told in types.items()
        if told.elem_type == onnx.TensorProto.FLOAT and told.HasField("shape") and len(told.shape.dim) == PICTURE
    }
