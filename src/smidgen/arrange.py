"""A network made ready to be squeezed: constants computed, normalization folded, weights with their outputs first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Code
from smidgen.errors import ModelError
from smidgen.network import constant_node
from smidgen.normalization import convolve, fold
from smidgen.rewriting import Rewriting, Use, kind, plain
from smidgen.run.onnx_graph import STANDARD, graphs_of, inner_graphs

__all__ = ["WIDE", "arranged", "bias_names", "layer_weights", "normalized", "turned"]

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

    What is computed from weights alone is computed once; a batch normalization becomes part of the layer before it, or
    a convolution of its own where there is none; weights that are kept the other way round are turned, and the graph
    turns them back (any runtime does that once, when it loads). Answers stay the same up to rounding.

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
    work.add_up()
    work.fold_constants()
    _normalize(work, lambda name: True)
    work.turn()
    return work.archive()


def turned(archive: Archive) -> Archive:
    """The same as ``arranged``, but with normalizations, and what is computed from weights, as they are: so that a plan
    sees the weights that were trained, under their names.

    Args:
        archive: uncompressed; codes are left alone.
    """
    work = _Work(archive)
    if not work.graph.output:  # weights alone
        return archive
    work.add_up()
    work.turn([np.float32])  # what no step changes keeps its type
    return work.archive()


def normalized(archive: Archive) -> Archive:
    """The same network with normalizations made part of the codes before them, whose symbols stay as they are: each
    output gets a step of its own. What is no code of equal steps is left alone, and so is the normalization after it.

    Args:
        archive: compressed.
    """
    work = _Work(archive)
    if not work.graph.output:  # weights alone
        return archive
    _normalize(work, lambda name: isinstance(work.tensors.get(name), Code))
    return work.archive()


def _normalize(work: Rewriting, may: Callable[[str], bool]) -> None:
    fold(work, may)
    made = convolve(work)
    fold(work, made.__contains__)  # what follows these


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
    shapes = {name: plain(t).shape for name, t in archive.tensors.items() if _is_float(t)}
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
    array = plain(tensor)
    return sum(size > 1 for size in array.shape) < 2 and bool(np.isfinite(array).all())


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


class _Work(Rewriting):
    """A network that is arranged."""

    def __init__(self, archive: Archive) -> None:
        super().__init__(archive)
        self.computed: dict[str, None] = {}

    # operators

    def add_up(self) -> None:
        """A sum of any number of tensors is additions of two, which all that follows knows."""
        nodes = list[Any]()
        for node in self.graph.node:
            if node.op_type != "Sum" or node.domain not in STANDARD or len(node.input) < 2:
                nodes.append(node)
                continue
            last, *others = node.input
            for number, other in enumerate(others, 1):
                name = node.output[0] if number == len(others) else self.free(node.output[0])
                nodes.append(onnx.helper.make_node("Add", [last, other], [name], node.name))
                last = name
        self.set_nodes(nodes)

    # constants

    def fold_constants(self) -> None:
        """Computes nodes of which all inputs are known, but for mere views of weights that are used elsewhere."""
        self._fold_constants(self.graph, {}, self.uses())
        self._merge_equal()

    def _fold_constants(self, graph: Any, outer: Mapping[str, NDArray[Any]], uses: dict[str, list[Use]]) -> None:
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
            self.set_nodes(kept, graph)
            wanted = {name for name, _ in self.all_uses(graph)} - held - outer.keys()
            graph.initializer.extend(
                onnx.numpy_helper.from_array(np.asarray(array), name)
                for name, array in known.items() if name in wanted
            )  # fmt: skip

    def _foldable(self, node: Any, arrays: Mapping[str, Any], uses: Mapping[str, list[Use]], outputs: set[str]) -> bool:
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
        uses: dict[str, list[Use]],
    ) -> None:
        """Results of some size are weights, under the name of what they come from if nothing else takes that."""
        sources = [name for name in node.input if name in self.tensors]
        for name, array in zip(node.output, results, strict=False):
            if not sources or array.size < 8:
                known[name] = array
                continue
            largest = max(sources, key=lambda source: _size(self.tensors[source]))
            new = largest if len(uses[largest]) == 1 and len(node.output) == 1 else self.free(largest)
            self.tensors[new], self.computed[new] = np.ascontiguousarray(array), None
            uses[new] = [use for used, use in self.all_uses(graph) if used == name]
            self._rename({name: new}, graph)

    def _merge_equal(self) -> None:
        """Equal arrays, as branches of a condition compute them from the same weights, are kept once."""
        first: dict[tuple[Any, ...], str] = {}
        for name in self.computed:
            array = np.asarray(self.tensors[name])
            same = first.setdefault((array.dtype.str, array.shape, array.tobytes()), name)
            if same != name:
                self._rename({name: same})

    # outputs first

    def turn(self, types: Sequence[Any] = (np.float16, np.float32, np.float64)) -> None:
        """Turns every weight of these types that is not kept with its outputs first, and has the graph turn it back."""
        uses, new, renamed = self.uses(), list[Any](), dict[str, str]()
        for name, tensor in list(self.tensors.items()):
            if isinstance(tensor, Code) or tensor.dtype not in types or tensor.ndim < 2 or not uses.get(name):
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
            if not steps and tensor.dtype == np.float32:
                self.tensors[name] = np.ascontiguousarray(tensor)
                continue
            if tensor.dtype != np.float32:
                steps.append(("Cast", [], {"to": kind(tensor)}))
            self.tensors[name] = np.ascontiguousarray(self.tensors[name], np.float32)
            new += self._restored(name, steps)
            renamed[name] = new[-1].output[0]
        self._rename(renamed)
        self.set_nodes([*new, *self.graph.node])

    def _restored(self, name: str, steps: list[tuple[str, list[str], dict[str, Any]]]) -> Iterator[Any]:
        """The nodes that undo what was done to a weight; what took the weight is to take their result."""
        last = name
        for operator, more, attributes in steps:
            source, last = last, self.free(name)
            yield onnx.helper.make_node(operator, [source, *more], [last], **attributes)

    def _rename(self, new: Mapping[str, str], within: Any = None) -> None:
        for graph in graphs_of(self.graph if within is None else within):
            for node in graph.node:
                if any(name in new for name in node.input):
                    node.input[:] = [new.get(name, name) for name in node.input]

    def _number(self, name: str, shape: tuple[int, ...]) -> str:
        size = self.free(name)
        self.graph.initializer.append(onnx.numpy_helper.from_array(np.array(shape, np.int64), size))
        return size


def _wanted(name: str, uses: Mapping[str, list[Use]]) -> set[str]:
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


def _size(tensor: Code | NDArray[Any] | None) -> int:
    return 0 if tensor is None else plain(tensor).size
