"""A network made ready to be squeezed: constants computed, normalization folded, weights with their outputs first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Affine, Code
from smidgen.errors import ModelError
from smidgen.network import constant_node
from smidgen.run.onnx_graph import STANDARD, graphs_of, inner_graphs

__all__ = ["WIDE", "arranged", "bias_names", "layer_weights"]

WIDE = 8192
"""Outputs of a weight beyond which their moments would be too large; it then is kept with its inputs first."""

_VIEWS = ("Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast")
_RECURRENT = ("LSTM", "GRU", "RNN")
_LAYERS = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (0, 1),
    "MatMul": (0, 1),
    "Gather": (0,),
    "Einsum": (0, 1, 2),
    "FusedConv": (1,),
    "FusedGemm": (0, 1),
    "FusedMatMul": (0, 1),
    **dict.fromkeys(_RECURRENT, (1, 2)),
}
"""Operators that are layers, and which of their inputs are weights."""
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")


def arranged(archive: Archive) -> Archive:
    """The same network, so that every weight that a layer multiplies with is an axis of outputs and axes of inputs.

    What is computed from weights alone is computed once; a batch normalization becomes part of the convolution before
    it; weights that are kept the other way round are turned, and the graph turns them back (any runtime does that once,
    when it loads). Answers stay the same up to rounding.

    Args:
        archive: uncompressed; codes are left alone.

    Example:
        >>> from torch import nn
        >>> from smidgen.read import from_module
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        >>> list(arranged(from_module(network, (3, 8, 8))).tensors)
        ['0.weight', '0.bias']
    """
    work = _Work(archive)
    work.fold_constants()
    work.fold_normalization()
    work.turn()
    return work.archive()


def layer_weights(archive: Archive) -> list[str]:
    """The names of the weights that layers multiply with or look up, directly or computed from them; where there is no
    graph, of all floats of two and more axes.

    Example:
        >>> from torch import nn
        >>> from smidgen.read import from_module
        >>> network = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.ReLU(), nn.Linear(4, 2))
        >>> layer_weights(from_module(network, (4,)))
        ['0.weight', '3.weight']
    """
    shapes = {name: _plain(t).shape for name, t in archive.tensors.items() if _is_float(t)}
    matrices = {name for name, shape in shapes.items() if len(shape) > 1}
    wide = {name for name in matrices if sum(size > 1 for size in shapes[name]) > 1}
    graph = onnx.load_from_string(archive.graph).graph
    if not graph.output:
        return [name for name in archive.tensors if name in matrices]
    # of everything that does not depend on inputs, the weights that it is computed from
    sources = {tensor.name: {tensor.name} & matrices for tensor in graph.initializer}
    found: set[str] = set()
    for node in (node for inner in graphs_of(graph) for node in inner.node):
        given = [name for name in node.input if name]
        for place in _LAYERS.get(node.op_type, ()):
            found |= sources.get(node.input[place], set()) if place < len(node.input) else set()
        if all(name in sources for name in given) and not any(inner_graphs(node)):
            from_all = set().union(*(sources[name] for name in given))
            # scales and the like are no matrices, though they may have axes of one
            made = from_all if node.op_type in _VIEWS else from_all & wide
            sources.update(dict.fromkeys(node.output, made))
    return [name for name in archive.tensors if name in found]


def _may_be_bias(tensor: Code | NDArray[Any]) -> bool:
    """Whether it has one axis, and is no mask, which may hold infinities."""
    plain = _plain(tensor)
    return sum(size > 1 for size in plain.shape) < 2 and bool(np.isfinite(plain).all())


def _is_float(tensor: Code | NDArray[Any]) -> bool:
    return isinstance(tensor, Code) or bool(np.issubdtype(tensor.dtype, np.floating))


def bias_names(archive: Archive, weights: Iterable[str]) -> list[str]:
    """The names of the biases that go with these weights, in the order of the archive: what a layer names as its bias,
    and vectors that are added to the products of a convolution or ``MatMul``, at once or behind views and slices.

    Args:
        archive: of the network.
        weights: names of weights.

    Example:
        >>> from torch import nn
        >>> from smidgen.read import from_module
        >>> bias_names(from_module(nn.Conv2d(3, 4, 1), (3, 8, 8)), ["weight"])
        ['bias']
    """
    graph, sources = onnx.load_from_string(archive.graph).graph, {name: name for name in weights}
    vectors = {name for name, tensor in archive.tensors.items() if _may_be_bias(tensor)}
    found: set[str] = set()
    for inner in graphs_of(graph):
        answers: set[str] = set()
        for node in inner.node:
            summed = node.op_type == "Add" and isinstance(archive.tensors.get(node.input[1]), Code)  # a part
            if (node.op_type in _VIEWS or summed) and node.input[0] in sources:
                sources[node.output[0]] = sources[node.input[0]]
            elif any(name in sources for name in node.input[:3]):
                if node.op_type in ("Conv", "ConvTranspose", "Gemm"):
                    found |= set(node.input[2:3])
                elif node.op_type in _RECURRENT:
                    found |= set(node.input[3:4])
                if node.op_type in ("Conv", "ConvTranspose", "MatMul"):
                    answers |= set(node.output)
            elif node.op_type in (*_VIEWS, "Slice") and node.input[0] in answers:
                answers |= set(node.output)
            elif node.op_type == "Add" and answers.intersection(node.input):
                found |= vectors & set(node.input)
    return [name for name in archive.tensors if name in found and name not in sources]


def _joined(makers: Mapping[str, Any], uses: Mapping[str, list[_Use]], name: str) -> list[Any]:
    """The convolutions whose outputs, joined along the channels, are a tensor, if nothing else uses them."""
    maker = makers.get(name)
    if maker is None or len(uses[name]) != 1:
        return []
    if maker.op_type == "Conv":
        return [maker]
    axis = next((a.i for a in maker.attribute if a.name == "axis"), None)
    parts = [makers.get(part) for part in maker.input] if axis == 1 else []
    single = all(part is not None and part.op_type == "Conv" and len(uses[part.output[0]]) == 1 for part in parts)
    return parts if single else []


def _scalable(weight: Any) -> bool:
    """Whether each output of a weight can get a factor: floats can, and symbols whose steps are equal."""
    if isinstance(weight, Code):
        return isinstance(weight.rule, Affine) and weight.rule.axis in (None, 0) and weight.rule.scale.shape[1] == 1
    return weight is not None


def _scaled(weight: Code | NDArray[Any], factor: NDArray[np.float64]) -> Code | NDArray[Any]:
    """A weight times a factor for each output; of a code the steps change, and no symbol does."""
    if not isinstance(weight, Code):
        return (weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))).astype(weight.dtype)
    assert isinstance(weight.rule, Affine)
    scale = (weight.rule.scale * factor[:, None]).astype(np.float32)
    zero = np.broadcast_to(weight.rule.zero, scale.shape).copy()
    return Code(weight.symbols, Affine(scale, zero, 0))


class _Use(NamedTuple):
    node: Any
    place: int


class _Work:
    """A graph and its weights under change."""

    def __init__(self, archive: Archive) -> None:
        self.before = archive
        self.model = onnx.load_from_string(archive.graph)
        self.graph = self.model.graph
        self.tensors: dict[str, Code | NDArray[Any]] = dict(archive.tensors)
        self.computed: dict[str, None] = {}
        self.version = max((o.version for o in self.model.opset_import if o.domain in STANDARD), default=1)
        self.names = {name for graph in graphs_of(self.graph) for node in graph.node for name in node.output}
        self.names |= {value.name for value in (*self.graph.input, *self.graph.initializer)}

    def archive(self) -> Archive:
        """What has become of it, without what is no longer used."""
        used = {name for name, _ in self._all_uses()} | {value.name for value in self.graph.output}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        constants = [t for t in self.graph.initializer if t.name not in self.before.tensors and t.name in used]
        places = [
            onnx.TensorProto(name=name, dims=_plain(tensor).shape, data_type=_kind(tensor))
            for name, tensor in tensors.items()
        ]
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*places, *kept])
        graph = self.model.SerializeToString(deterministic=True)
        return replace(self.before, graph=graph, tensors=tensors, program=b"")  # it names tensors by their places

    def _all_uses(self, within: Any = None) -> Iterator[tuple[str, _Use]]:
        for graph in graphs_of(self.graph if within is None else within):
            for node in graph.node:
                for index, name in enumerate(node.input):
                    yield name, _Use(node, index)
            if graph is not self.graph:
                for value in graph.output:
                    yield value.name, _Use(None, 0)

    def _uses(self) -> dict[str, list[_Use]]:
        found: dict[str, list[_Use]] = {}
        for name, use in self._all_uses():
            found.setdefault(name, []).append(use)
        return found

    def _free(self, name: str) -> str:
        number = 2
        while f"{name}_{number}" in self.names:
            number += 1
        self.names.add(f"{name}_{number}")
        return f"{name}_{number}"

    # constants

    def fold_constants(self) -> None:
        """Computes nodes of which all inputs are known, but for mere views of weights that are used elsewhere."""
        self._fold_constants(self.graph, {}, self._uses())
        self._merge_equal()

    def _fold_constants(self, graph: Any, outer: Mapping[str, NDArray[Any]], uses: dict[str, list[_Use]]) -> None:
        """The same in one graph, and in those within it, which know what is known around them."""
        own = {t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name not in self.tensors}
        known, held, kept = {**outer, **own}, {t.name for t in graph.initializer}, []
        outputs = {value.name for value in graph.output}
        for node in graph.node:
            for inner in inner_graphs(node):
                self._fold_constants(inner, known, uses)
            arrays = {name: self.tensors.get(name, known.get(name)) for name in node.input if name}
            if not self._foldable(node, arrays, uses, outputs):
                kept.append(node)
                continue
            try:
                results = constant_node(self.model, node, {name: np.asarray(a) for name, a in arrays.items()})
            except ModelError:
                kept.append(node)
                continue
            if sum(r.size for r in results) > 64 + sum(_size(a) for a in arrays.values()):
                kept.append(node)
                continue
            self._name_results(graph, node, results, known, uses)
        if len(kept) < len(graph.node):
            self._set_nodes(kept, graph)
            wanted = {name for name, _ in self._all_uses(graph)} - held - outer.keys()
            graph.initializer.extend(
                onnx.numpy_helper.from_array(np.asarray(array), name)
                for name, array in known.items() if name in wanted
            )  # fmt: skip

    def _foldable(
        self, node: Any, arrays: Mapping[str, Any], uses: Mapping[str, list[_Use]], outputs: set[str]
    ) -> bool:
        if any(array is None or isinstance(array, Code) for array in arrays.values()):
            return False
        if node.op_type in ("If", "Loop", "Scan", *_RANDOM) or outputs & set(node.output):
            return False
        shared = any(name in self.tensors and len(uses[name]) > 1 for name in arrays)
        return not (shared and node.op_type in _VIEWS)

    def _name_results(
        self,
        graph: Any,
        node: Any,
        results: list[NDArray[Any]],
        known: dict[str, NDArray[Any]],
        uses: dict[str, list[_Use]],
    ) -> None:
        """Results of some size are weights, under the name of what they come from if nothing else takes that."""
        sources = [name for name in node.input if name in self.tensors]
        for name, array in zip(node.output, results, strict=False):
            if not sources or array.size < 8:
                known[name] = array
                continue
            largest = max(sources, key=lambda source: _size(self.tensors[source]))
            new = largest if len(uses[largest]) == 1 and len(node.output) == 1 else self._free(largest)
            self.tensors[new], self.computed[new] = np.ascontiguousarray(array), None
            uses[new] = [use for used, use in self._all_uses(graph) if used == name]
            self._rename(name, new, graph)

    def _merge_equal(self) -> None:
        """Equal arrays, as branches of a condition compute them from the same weights, are kept once."""
        first: dict[tuple[Any, ...], str] = {}
        for name in self.computed:
            array = np.asarray(self.tensors[name])
            same = first.setdefault((array.dtype.str, array.shape, array.tobytes()), name)
            if same != name:
                self._rename(name, same)

    # normalization

    def fold_normalization(self) -> None:
        """A normalization by fixed numbers is a scale and a bias for each output of the convolution before it, or of
        those that are joined before it."""
        for graph in graphs_of(self.graph):
            makers = {node.output[0]: node for node in graph.node if node.op_type in ("Conv", "Concat")}
            uses, gone = self._uses(), []
            for value in graph.output:  # what the graph gives has a use beside those in it
                uses.setdefault(value.name, []).append(_Use(None, 0))
            for node in graph.node:
                if node.op_type != "BatchNormalization":
                    continue
                layers = _joined(makers, uses, node.input[0])
                if layers and all(self._foldable_into(layer, node, uses) for layer in layers):
                    self._fold(layers, node)
                    makers[node.input[0]].output[0] = node.output[0]
                    gone.append(node)
            if gone:
                self._set_nodes([node for node in graph.node if not any(node is other for other in gone)], graph)

    def _foldable_into(self, layer: Any, node: Any, uses: Mapping[str, list[_Use]]) -> bool:
        names = [name for name in (*layer.input[2:], *node.input[1:]) if name]
        if any(isinstance(self._constant(name), Code | None) for name in names):
            return False
        return _scalable(self._constant(layer.input[1])) and all(len(uses[n]) == 1 for n in layer.input[1:] if n)

    def _fold(self, layers: Sequence[Any], node: Any) -> None:
        scale, shift, mean, variance = (np.asarray(self._constant(name), np.float64) for name in node.input[1:5])
        epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
        factors = scale / np.sqrt(variance + epsilon)
        done = 0
        for layer in layers:
            weight = self._constant(layer.input[1])
            own = slice(done, done + weight.shape[0])
            done += weight.shape[0]
            bias = self._constant(layer.input[2]) if len(layer.input) > 2 and layer.input[2] else 0.0
            shifted = (np.asarray(bias, np.float64) - mean[own]) * factors[own] + shift[own]
            self.tensors[layer.input[1]] = _scaled(weight, factors[own])
            if len(layer.input) < 3:
                layer.input.append(self._bias_name(layer.input[1]))
            elif not layer.input[2]:
                layer.input[2] = self._bias_name(layer.input[1])
            self.tensors[layer.input[2]] = shifted.astype(np.float32 if isinstance(weight, Code) else weight.dtype)

    def _bias_name(self, weight: str) -> str:
        name = weight.removesuffix("weight") + "bias" if weight.endswith("weight") else f"{weight}_bias"
        if name in self.names or name in self.tensors:
            return self._free(name)
        self.names.add(name)
        return name

    def _constant(self, name: str) -> Any:
        if name in self.tensors:
            return self.tensors[name]
        found = [tensor for tensor in self.graph.initializer if tensor.name == name]
        return onnx.numpy_helper.to_array(found[0]) if found else None

    # outputs first

    def turn(self) -> None:
        """Turns every weight that is not kept with its outputs first, and has the graph turn it back."""
        uses, new = self._uses(), list[Any]()
        for name, tensor in list(self.tensors.items()):
            if isinstance(tensor, Code) or tensor.dtype.kind != "f" or tensor.ndim < 2 or not uses.get(name):
                continue
            steps: list[Any] = []
            if tensor.ndim == 3 and all(use.node is not None and use.node.op_type in _RECURRENT for use in uses[name]):
                self.tensors[name] = tensor.reshape(-1, tensor.shape[2])
                steps.append(("Reshape", [self._number(name, tensor.shape)], {}))
            else:
                order = _order(tensor, _wanted(name, uses))
                self.tensors[name] = tensor.transpose(order)
                if order != tuple(range(tensor.ndim)):
                    steps.append(("Transpose", [], {"perm": [int(axis) for axis in np.argsort(order)]}))
            if tensor.dtype != np.float32:
                steps.append(("Cast", [], {"to": _kind(tensor)}))
            self.tensors[name] = np.ascontiguousarray(self.tensors[name], np.float32)
            new += self._restored(name, steps)
        self._set_nodes([*new, *self.graph.node])

    def _restored(self, name: str, steps: list[tuple[str, list[str], dict[str, Any]]]) -> Iterator[Any]:
        """The nodes that undo what was done to a weight; what took the weight takes their result."""
        last = name
        for operator, more, attributes in steps:
            source, last = last, self._free(name)
            yield onnx.helper.make_node(operator, [source, *more], [last], **attributes)
        self._rename(name, last)

    def _rename(self, old: str, new: str, within: Any = None) -> None:
        for graph in graphs_of(self.graph if within is None else within):
            for node in graph.node:
                node.input[:] = [new if name == old else name for name in node.input]

    def _number(self, name: str, shape: tuple[int, ...]) -> str:
        size = self._free(name)
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), size))
        return size

    def _set_nodes(self, nodes: list[Any], graph: Any = None) -> None:
        graph = self.graph if graph is None else graph
        held = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(held)


def _wanted(name: str, uses: Mapping[str, list[_Use]]) -> set[str]:
    """How each use of a weight would have it: outputs "first", "last", second ("back"), or rows to "look" up."""
    found = set()
    for node, index in uses[name]:
        kind = "" if node is None or node.domain not in STANDARD else node.op_type
        attributes = {} if node is None else {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        if (kind, index) == ("Conv", 1) or (kind, index) == ("MatMul", 0):
            found.add("first")
        elif (kind, index) == ("ConvTranspose", 1):
            found.add("back")
        elif (kind, index) == ("Gemm", 1):
            found.add("first" if attributes.get("transB") else "last")
        elif (kind, index) == ("MatMul", 1):
            found.add("last")
        elif (kind, index) == ("Gather", 0) and not attributes.get("axis"):
            found.add("look")
        elif kind == "Transpose" and list(attributes.get("perm", [1, 0])) == [1, 0]:
            turned = _wanted(node.output[0], uses) if node.output[0] in uses else set()
            found |= {{"first": "last", "last": "first"}.get(want, "other") for want in turned}
        else:
            found.add("other")
    return found


def _order(tensor: NDArray[Any], wanted: set[str]) -> tuple[int, ...]:
    """The axes of a weight in the order in which it is to be kept."""
    axes = tuple(range(tensor.ndim))
    if wanted == {"back"}:
        return (*axes[1:], 0)
    if tensor.ndim != 2:
        return axes
    layers = wanted - {"look"}
    if len(layers) > 1 or "other" in layers or "back" in layers:
        return axes
    if not layers:
        return (1, 0) if wanted else axes
    outputs = 0 if layers == {"first"} else 1
    if tensor.shape[outputs] > WIDE:
        return (1 - outputs, outputs)
    return (outputs, 1 - outputs)


def _plain(tensor: Code | NDArray[Any]) -> NDArray[Any]:
    return tensor.symbols if isinstance(tensor, Code) else tensor


def _kind(tensor: Code | NDArray[Any]) -> int:
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.float32) if isinstance(tensor, Code) else tensor.dtype))


def _size(tensor: Code | NDArray[Any] | None) -> int:
    return 0 if tensor is None else _plain(tensor).size
