"""Weights of two parts: what 255 levels of one scale are too few for is kept as two codes, and the graph adds them."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import replace
from itertools import count, islice
from typing import Any

import numpy as np
import onnx

from smidgen.archive import Archive
from smidgen.code import Code
from smidgen.errors import ModelError, one_line
from smidgen.run.onnx_graph import graphs_of
from smidgen.run.program import Convolution, Program

__all__ = ["added", "split", "split_like", "taken_out"]


def split(archive: Archive, parts: Mapping[str, Code]) -> Archive:
    """The same network, but of some weights a part is kept in a code of its own, and graph and program add it again.

    Args:
        archive: of any network that is not built by a class, which would take its weights whole.
        parts: what to take out of float weights, by their names; the difference must be exact. None may be split twice.

    Example:
        >>> import torch
        >>> from smidgen.code import Affine
        >>> from smidgen.read import from_module
        >>> archive = from_module(torch.nn.Linear(2, 1), (2,))
        >>> again = split(archive, {"weight": Code(np.array([[1, 0]], np.int16), Affine.per_tensor(8.0))})
        >>> list(again.tensors), taken_out(again)
        (['weight', 'bias', 'weight_2'], {'weight': 'weight_2'})
    """
    if not parts:
        return archive
    model = onnx.load_from_string(archive.graph)
    names = {*archive.tensors, *(name for graph in graphs_of(model.graph) for name in _names(graph))}
    given = {value.name for value in model.graph.output}  # a weight that is an answer, too, stays whole
    tensors, sums = dict(archive.tensors), []
    for name, part in parts.items():
        if name in given:
            continue
        other, whole = islice((f"{name}_{n}" for n in count(2) if f"{name}_{n}" not in names), 2)
        names |= {other, whole}
        for graph in graphs_of(model.graph):
            for node in graph.node:
                node.input[:] = [whole if read == name else read for read in node.input]
            for value in graph.output:
                value.name = whole if value.name == name else value.name
        sums.append(onnx.helper.make_node("Add", [name, other], [whole]))
        model.graph.initializer.append(onnx.TensorProto(name=other, dims=part.shape, data_type=onnx.TensorProto.FLOAT))
        tensors[name], tensors[other] = np.asarray(tensors[name]) - part.values(), part
    nodes = [*sums, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found = replace(archive, graph=model.SerializeToString(deterministic=True), tensors=tensors)
    return replace(found, program=_program_of(found)) if found.program else found


def taken_out(archive: Archive) -> dict[str, str]:
    """The weights of which a part of the same shape is kept in a code of its own, and the names of these codes.

    Raises:
        ModelError: the graph is no ONNX model.
    """
    shapes = {name: tensor.shape for name, tensor in archive.tensors.items()}
    codes = {name for name, tensor in archive.tensors.items() if isinstance(tensor, Code)}
    found = added(archive.graph, archive.tensors, codes)
    return {name: part for name, part in found.items() if shapes[name] == shapes[part] and part not in found}


def added(graph: bytes, weights: Container[str], codes: Container[str]) -> dict[str, str]:
    """The weights that a graph, an ONNX model, adds codes to, and the names of these.

    Raises:
        ModelError: it is none.
    """
    try:
        whole = onnx.load_from_string(graph).graph
    except Exception as error:  # the class of the error depends on the version of protobuf
        raise ModelError(f"the graph is not an ONNX model: {one_line(error)}") from None
    sums = [node.input for inner in graphs_of(whole) for node in inner.node if node.op_type == "Add"]
    pairs = [(given[0], given[1]) for given in sums if len(given) == 2]
    return {one: other for one, other in pairs if one in weights and other in codes}


def split_like(archive: Archive, other: Archive) -> Archive:
    """The network with the same parts taken out of its weights as ``other``, which was made of it."""
    parts = {name: other.tensors[part] for name, part in taken_out(other).items() if part not in archive.tensors}
    return split(archive, {name: part for name, part in parts.items() if isinstance(part, Code)})


def _names(graph: Any) -> Iterator[str]:
    """All names in one graph, used or not."""
    for node in graph.node:
        yield from (*node.input, *node.output)
    for value in (*graph.input, *graph.output, *graph.initializer):
        yield value.name


def _program_of(archive: Archive) -> bytes:
    """The program, which names tensors by their places, with what is added to weights."""
    program = Program.from_bytes(archive.program)
    numbers = {name: number for number, name in enumerate(archive.tensors)}
    more = {numbers[name]: numbers[part] for name, part in taken_out(archive).items()}
    operations = (
        replace(each, more=more.get(each.weight, each.more)) if isinstance(each, Convolution) else each
        for each in program.operations
    )
    return replace(program, operations=tuple(operations)).to_bytes()
