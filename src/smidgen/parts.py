"""Weights of two parts: what 255 levels of one scale are too few for is kept as two codes, and the graph adds them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx

from smidgen.archive import Archive
from smidgen.code import Code
from smidgen.run.onnx_graph import graphs_of
from smidgen.run.program import Convolution, Program

__all__ = ["split", "split_like", "taken_out"]


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
    names = {name for graph in graphs_of(model.graph) for node in graph.node for name in (*node.input, *node.output)}
    tensors, added = dict(archive.tensors), []
    for name, part in parts.items():
        number = next(
            n for n in range(2, len(names) + 3) if f"{name}_{n}" not in names and f"{name}_{n + 1}" not in names
        )
        other, whole = f"{name}_{number}", f"{name}_{number + 1}"
        names |= {other, whole}
        for graph in graphs_of(model.graph):
            for node in graph.node:
                node.input[:] = [whole if given == name else given for given in node.input]
        added.append(onnx.helper.make_node("Add", [name, other], [whole]))
        model.graph.initializer.append(onnx.TensorProto(name=other, dims=part.shape, data_type=onnx.TensorProto.FLOAT))
        tensors[name], tensors[other] = np.asarray(tensors[name]) - part.values(), part
    nodes = [*added, *(onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    found = replace(archive, graph=model.SerializeToString(deterministic=True), tensors=tensors)
    return replace(found, program=_with_parts(found)) if found.program else found


def taken_out(archive: Archive) -> dict[str, str]:
    """The weights of which a part is kept in a code of its own, and the names of these codes."""
    graph = onnx.load_from_string(archive.graph).graph
    pairs = [node.input for inner in graphs_of(graph) for node in inner.node if node.op_type == "Add"]
    held = archive.tensors
    return {one: other for one, other in pairs if one in held and isinstance(held.get(other), Code)}


def split_like(archive: Archive, other: Archive) -> Archive:
    """The network with the same parts taken out of its weights as ``other``, which was made of it."""
    parts = {name: other.tensors[part] for name, part in taken_out(other).items() if part not in archive.tensors}
    return split(archive, {name: part for name, part in parts.items() if isinstance(part, Code)})


def _with_parts(archive: Archive) -> bytes:
    """The program, which names tensors by their places, with what is added to weights."""
    program, numbers = (
        Program.from_bytes(archive.program),
        {name: number for number, name in enumerate(archive.tensors)},
    )
    more = {numbers[name]: numbers[part] for name, part in taken_out(archive).items()}
    operations = (
        replace(each, more=more.get(each.weight, each.more)) if isinstance(each, Convolution) else each
        for each in program.operations
    )
    return replace(program, operations=tuple(operations)).to_bytes()
