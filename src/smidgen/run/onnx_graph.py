"""A graph without weights, and weights, to a whole ONNX model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from numpy.typing import NDArray

from smidgen.errors import ModelError

__all__ = ["STANDARD", "fill_graph", "graphs_of", "inner_graphs", "tensors_of"]

STANDARD = ("", "ai.onnx")
"""The names of the domain of ONNX's own operators."""


def fill_graph(graph: bytes, weights: Mapping[str, NDArray[Any]]) -> onnx.ModelProto:
    """The ONNX model that a graph without weights and its weights make together.

    Args:
        graph: a serialized ``ModelProto``, some of whose initializers have name, shape and type but no data.
        weights: an array for each of these, of its shape and type.

    Raises:
        ModelError: the bytes are no ONNX model or refer to other files, a weight is missing, left over, or has
            another shape or type than the graph says.

    Example:
        >>> import numpy as np
        >>> values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy"]
        >>> empty = onnx.TensorProto(name="w", dims=[2], data_type=onnx.TensorProto.FLOAT)
        >>> node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
        >>> model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:], [empty]))
        >>> filled = fill_graph(model.SerializeToString(), {"w": np.array([1, 2], np.float32)})
        >>> onnx.numpy_helper.to_array(filled.graph.initializer[0])
        array([1., 2.], dtype=float32)
    """
    try:
        model = onnx.load_from_string(graph)
    except Exception as error:  # the class of the error depends on the version of protobuf
        raise ModelError(f"the graph is not an ONNX model: {error}") from None
    for tensor in tensors_of(model):
        # a file must not make the runtime read others
        if tensor.external_data or tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ModelError(f"the graph keeps the data of {tensor.name!r} in another file; smidgen does not open it")
    empty = {tensor.name: tensor for tensor in model.graph.initializer if not _has_data(tensor)}
    for name in weights:
        if name not in empty:
            raise ModelError(f"weight {name!r} has no place in the graph")
    for name, tensor in empty.items():
        if name in weights:
            _fill_(tensor, weights[name])
        elif math.prod(tensor.dims):
            raise ModelError(f"weight {name!r} of the graph is missing")
    return model


def _fill_(tensor: Any, weight: NDArray[Any]) -> None:
    """Puts an array into an initializer that fits it."""
    try:
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
    except KeyError:
        raise ModelError(f"weight {tensor.name!r}: the graph gives it the unknown type {tensor.data_type}") from None
    if tuple(tensor.dims) != weight.shape or dtype != weight.dtype:
        raise ModelError(
            f"weight {tensor.name!r} is {weight.dtype} {weight.shape}, but the graph wants {dtype} {tuple(tensor.dims)}"
        )
    tensor.raw_data = weight.astype(dtype.newbyteorder("<")).tobytes()


def inner_graphs(node: Any) -> Iterator[Any]:
    """The graphs in a node's attributes: the branches of an If, the body of a Loop."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def graphs_of(graph: Any) -> Iterator[Any]:
    """A graph and all graphs within it."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from graphs_of(inner)


def _has_data(tensor: Any) -> bool:
    return any(field.name.endswith("_data") for field, _ in tensor.ListFields())


def tensors_of(model: Any) -> Iterator[Any]:
    """Every tensor in a model, also those in attributes, inner graphs and functions."""
    yield from _tensors_of_graph(model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(function.node)


def _tensors_of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(graph.node)


def _tensors_of_nodes(nodes: Any) -> Iterator[Any]:
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of_graph(graph)
