"""A graph and its weights under change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Code
from smidgen.run.onnx_graph import STANDARD, graphs_of

__all__ = ["Rewriting", "Use", "kind", "plain"]


class Use(NamedTuple):
    """A place where a tensor is read: the node, None for the end of a graph, and which of its inputs."""

    node: Any
    place: int


class Rewriting:
    """A graph and its weights under change."""

    def __init__(self, archive: Archive) -> None:
        self.before = archive
        self.model = onnx.load_from_string(archive.graph)
        self.graph = self.model.graph
        self.tensors: dict[str, Code | NDArray[Any]] = dict(archive.tensors)
        self.version = max((o.version for o in self.model.opset_import if o.domain in STANDARD), default=1)
        self.names = {name for graph in graphs_of(self.graph) for node in graph.node for name in node.output}
        self.names |= {value.name for value in (*self.graph.input, *self.graph.initializer)}

    def archive(self) -> Archive:
        """What has become of it, without what is no longer used."""
        tensors = self.hold()
        graph = self.model.SerializeToString(deterministic=True)
        metadata, before = dict(self.before.metadata), self.before.tensors
        if {n: plain(t).shape for n, t in tensors.items()} != {n: plain(t).shape for n, t in before.items()}:
            metadata.pop("zoo", None)  # its class has other weights
        # a program names tensors by their places
        return replace(self.before, graph=graph, tensors=tensors, metadata=metadata, program=b"")

    def hold(self) -> dict[str, Code | NDArray[Any]]:
        """Has the graph hold the tensors that it uses, in the shapes they have by now; and gives these."""
        used = {name for name, _ in self.all_uses()} | {value.name for value in self.graph.output}
        tensors = {name: tensor for name, tensor in self.tensors.items() if name in used}
        constants = [t for t in self.graph.initializer if t.name not in self.tensors and t.name in used]
        places = [
            onnx.TensorProto(name=name, dims=plain(tensor).shape, data_type=kind(tensor))
            for name, tensor in tensors.items()
        ]
        kept = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in constants]
        del self.graph.initializer[:]
        self.graph.initializer.extend([*places, *kept])
        return tensors

    def all_uses(self, within: Any = None) -> Iterator[tuple[str, Use]]:
        """Every tensor that is read, and where, also by the ends of inner graphs; of one graph or of all."""
        for graph in graphs_of(self.graph if within is None else within):
            for node in graph.node:
                for index, name in enumerate(node.input):
                    yield name, Use(node, index)
            if graph is not self.graph:
                for value in graph.output:
                    yield value.name, Use(None, 0)

    def uses(self) -> dict[str, list[Use]]:
        """The same by the names of tensors."""
        found: dict[str, list[Use]] = {}
        for name, use in self.all_uses():
            found.setdefault(name, []).append(use)
        return found

    def free(self, name: str) -> str:
        """A name like this one that nothing has yet; it is taken then."""
        number = 2
        while f"{name}_{number}" in self.names:
            number += 1
        self.names.add(f"{name}_{number}")
        return f"{name}_{number}"

    def set_nodes(self, nodes: list[Any], graph: Any = None) -> None:
        """Puts these nodes in place of those of a graph, by default of the outermost."""
        graph = self.graph if graph is None else graph
        held = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(held)


def plain(tensor: Code | NDArray[Any]) -> NDArray[Any]:
    """An array of the shape of a tensor: itself, or its symbols."""
    return tensor.symbols if isinstance(tensor, Code) else tensor


def kind(tensor: Code | NDArray[Any]) -> int:
    """The type of a tensor's values, as ONNX numbers it."""
    return int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(np.float32) if isinstance(tensor, Code) else tensor.dtype))
