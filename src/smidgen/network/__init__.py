"""An archive's network in PyTorch: its ONNX graph, node by node, so that any network can be measured and repaired."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smidgen.archive import Archive
from smidgen.errors import ModelError, one_line
from smidgen.network.call import Call, dtype_of
from smidgen.network.foreign import Foreign
from smidgen.network.operators import OPERATORS
from smidgen.run.onnx_graph import STANDARD, fill_graph

__all__ = ["Network", "constant_node"]


class Network(nn.Module):
    """The graph of an archive as a module: ``network(*inputs)`` gives a tuple of all outputs of the graph.

    Float weights are parameters, under the names that they have in the archive; the others are buffers. Operators that
    are not known run in ONNX Runtime, and no gradient goes through them: ``foreign`` names them.

    Args:
        archive: graph and weights; codes are decoded.

    Raises:
        ModelError: the graph cannot be filled, or holds a loop.

    Example:
        >>> from smidgen.read import from_module
        >>> network = Network(from_module(nn.Conv2d(3, 4, 1), (3, 8, 8)))
        >>> [name for name, _ in network.named_parameters()], network(torch.zeros(1, 3, 8, 8))[0].shape
        (['weight', 'bias'], torch.Size([1, 4, 8, 8]))
    """

    def __init__(self, archive: Archive) -> None:
        super().__init__()
        model = fill_graph(archive.graph, archive.decoded())
        self.inputs = [value.name for value in model.graph.input]
        self.opsets = {opset.domain: opset.version for opset in model.opset_import}
        self.graph = _Graph.of(model.graph, Foreign(model), set(archive.tensors))
        self.places: dict[str, tuple[nn.Module, str]] = {}
        for tensor in model.graph.initializer:
            if tensor.name in archive.tensors:
                self._place(tensor.name, onnx.numpy_helper.to_array(tensor))
        self.eval()

    @property
    def foreign(self) -> list[str]:
        """The operators that run in ONNX Runtime, so that nothing before them can be measured through them."""
        return sorted({node.kind for node in self.graph.all_nodes() if node.foreign})

    def _place(self, name: str, array: NDArray[Any]) -> None:
        """Puts a weight where its dotted name says, as a module's state dict would."""
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            found = getattr(holder, part, None)
            if part and found is None:
                holder.add_module(part, found := nn.Module())
            if not isinstance(found, nn.Module):
                holder, last = self, name.replace(".", "/")  # a name that is no path of modules is kept as one word
                break
            holder = found
        if not last or hasattr(holder, last):
            holder, last = self, f"weight/{name}".replace(".", "/")
        tensor = _tensor(array)
        if tensor.is_floating_point():
            holder.register_parameter(last, nn.Parameter(tensor))
        else:
            holder.register_buffer(last, tensor)
        self.places[name] = holder, last

    def value_of(self, name: str) -> Tensor:
        """A weight by its name in the archive."""
        holder, last = self.places[name]
        found: Tensor = getattr(holder, last)
        return found

    def named_weights(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every float weight by its name in the archive."""
        for name in self.places:
            weight = self.value_of(name)
            if isinstance(weight, nn.Parameter):
                yield name, weight

    def forward(self, *inputs: Tensor, **named: Tensor) -> tuple[Tensor, ...]:
        """All outputs for the inputs, given in the order of the graph or by name."""
        given = {**dict(zip(self.inputs, inputs, strict=False)), **named}
        missing = [name for name in self.inputs if name not in given]
        if missing or len(inputs) > len(self.inputs):
            raise ModelError(f"the network takes {self.inputs}; missing: {missing or 'nothing, there are too many'}")
        return self.given(given)

    def given(self, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """All outputs, for the values of all inputs by name."""
        return self._run(self.graph, {**{name: self.value_of(name) for name in self.places}, **values})

    def _run(self, graph: _Graph, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        values = {**values, **graph.constants}
        for node in graph.nodes:
            try:
                results = self._node(node, values)
            except ModelError as error:
                raise ModelError(f"{node.kind} ({node.outputs[0]}): {error}") from None
            except (RuntimeError, IndexError, ValueError, TypeError, KeyError) as error:
                raise ModelError(f"{node.kind} ({node.outputs[0]}) cannot be computed: {one_line(error)}") from None
            values.update(zip(node.outputs, results, strict=False))
        return tuple(values[name] for name in graph.outputs)

    def _node(self, node: _Node, values: dict[str, Tensor]) -> tuple[Tensor, ...]:
        inputs = [values[name] if name else None for name in node.inputs]
        if node.kind == "If":
            return self._run(node.attributes["then_branch" if bool(inputs[0]) else "else_branch"], values)
        call = Call(inputs, node.attributes, self.opsets.get(node.domain, 1), len(node.outputs))
        results = node.foreign(call) if node.foreign else OPERATORS[node.kind](call)
        return results if isinstance(results, tuple) else (results,)


@dataclass(frozen=True, eq=False)
class _Node:
    kind: str
    domain: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any]
    foreign: Callable[[Call], tuple[Tensor, ...]] | None


@dataclass(frozen=True, eq=False)
class _Graph:
    """A graph taken out of its protobuf once: constants as tensors, attributes as Python values."""

    nodes: list[_Node]
    constants: dict[str, Tensor]
    outputs: list[str]

    @classmethod
    def of(cls, graph: Any, foreign: Foreign, placed: set[str]) -> _Graph:
        constants = {
            tensor.name: _tensor(onnx.numpy_helper.to_array(tensor))
            for tensor in graph.initializer
            if tensor.name not in placed
        }
        nodes = []
        for node in graph.node:
            attributes = {a.name: _value(a, foreign) for a in node.attribute}
            if node.op_type == "Constant":
                constants[node.output[0]] = _constant(attributes)
                continue
            known = node.domain in STANDARD and (node.op_type in OPERATORS or node.op_type == "If")
            if not known and any(isinstance(value, _Graph) for value in attributes.values()):
                raise ModelError(f"a graph with {node.op_type} cannot be measured")
            run = None if known else foreign.bound(node)
            nodes.append(_Node(node.op_type, node.domain, list(node.input), list(node.output), attributes, run))
        return cls(nodes, constants, [value.name for value in graph.output])

    def all_nodes(self) -> Iterator[_Node]:
        for node in self.nodes:
            yield node
            for value in node.attributes.values():
                if isinstance(value, _Graph):
                    yield from value.all_nodes()


def _value(attribute: Any, foreign: Foreign) -> Any:
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.TENSOR:
        return _tensor(onnx.numpy_helper.to_array(value))
    if attribute.type == onnx.AttributeProto.GRAPH:
        return _Graph.of(value, foreign, set())
    return value


def _constant(attributes: Mapping[str, Any]) -> Tensor:
    kind, value = next(iter(attributes.items()))
    if kind == "value":
        assert isinstance(value, Tensor)
        return value
    if kind not in ("value_float", "value_floats", "value_int", "value_ints"):
        raise ModelError(f"a constant given as {kind} cannot be computed")
    return torch.tensor(value, dtype=dtype_of(1 if "float" in kind else 7))


def _tensor(array: NDArray[Any]) -> Tensor:
    if array.dtype.kind not in "fiub":
        what = "text" if array.dtype.kind in "OSU" else str(array.dtype)
        raise ModelError(f"constants of {what} cannot be computed; leave out the outputs that are made of them")
    return torch.from_numpy(np.array(array))


def constant_node(model: onnx.ModelProto, node: Any, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
    """The outputs of one node of a model for these inputs.

    Raises:
        ModelError: it cannot be computed.
    """
    graph = onnx.helper.make_graph([node], "node", [], [onnx.ValueInfoProto(name=name) for name in node.output])
    single = onnx.helper.make_model(graph, opset_imports=model.opset_import, functions=model.functions)
    single.ir_version = model.ir_version
    network = Network(Archive(single.SerializeToString(), {}))
    with torch.no_grad():
        found = network.given({name: _tensor(array) for name, array in inputs.items()})
    return [tensor.numpy() for tensor in found]
