"""A PyTorch module to an ONNX graph without weights. The way back is ``smidgen.run.onnx_graph``."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch import nn
from torch.onnx import TrainingMode

from smidgen.errors import ModelError

__all__ = ["export_graph", "one_line"]

_OPSET = 17
"""Old enough for every ONNX Runtime that smidgen allows, new enough for layer normalization as one node."""

INPUT, OUTPUT = "image", "scores"
"""What the input and the output of every graph are called."""


def export_graph(module: nn.Module, input_shape: tuple[int, ...]) -> bytes:
    """The computation of a module in evaluation mode, as an ONNX graph whose weights carry no data.

    Args:
        module: takes one float32 tensor of shape (batch, ``*input_shape``) and returns one tensor with the batch
            first. It is not changed.
        input_shape: shape of one input, without the batch dimension.

    Returns:
        A serialized ``ModelProto``, the same for the same module. Every entry of the state dict that the computation
        uses is an initializer of that name, shape and type (floats: float32) without data; constants keep theirs.

    Raises:
        ModelError: the module cannot be copied, run on such an input, or written as ONNX; or has several outputs.

    Example:
        >>> graph = onnx.load_from_string(export_graph(nn.Conv2d(3, 4, 1), (3, 8, 8))).graph
        >>> [node.op_type for node in graph.node], [weight.name for weight in graph.initializer]
        (['Conv'], ['weight', 'bias'])
    """
    try:
        # A copy, because hooks, the mode and the type of a module that may be in training are none of our business.
        still = copy.deepcopy(module).cpu().float().eval()
        proto = _export(still, torch.zeros(1, *input_shape))
    except Exception as error:  # tracing runs the user's code, and the exporter has no base class for its errors
        raise ModelError(
            f"{type(module).__name__}: cannot be traced for inputs of shape {input_shape}: {one_line(error)}"
        ) from None
    graph = proto.graph
    if len(graph.output) != 1:
        raise ModelError(f"{type(module).__name__}: has {len(graph.output)} outputs; a file holds a network with one")
    state = still.state_dict()
    for tensor in graph.initializer:
        if tensor.name not in state:
            continue
        if tuple(tensor.dims) != tuple(state[tensor.name].shape):
            raise ModelError(f"{tensor.name}: the exporter turned {tuple(state[tensor.name].shape)} into {tensor.dims}")
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    _strip_(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def one_line(error: BaseException) -> str:
    """The type of an error and the first line of what it says.

    Example:
        >>> one_line(ValueError("no\\nway"))
        'ValueError: no'
    """
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0]}"


def _export(module: nn.Module, example: torch.Tensor) -> Any:
    """The graph as the exporter gives it, its initializers under their names in the state dict."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # docs/decisions.md, 5: the old exporter is the one wanted, and announces that it is old
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            buffer,  # type: ignore[arg-type]  # the old exporter writes to any buffer; its annotation does not say so
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            opset_version=_OPSET,
            dynamo=False,
            # These three keep weights what they are in the state dict: no batch normalization multiplied into
            # convolutions, nothing computed from weights ahead, and equal biases (all zeros) are not made one.
            training=TrainingMode.PRESERVE,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    inputs = [value for value in proto.graph.input if value.name == INPUT]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _strip_(proto: Any) -> None:
    """Removes what no runtime needs: who made it, documentation, names of nodes, shapes between; shortens names."""
    for field in ("producer_name", "producer_version", "doc_string", "metadata_props"):
        proto.ClearField(field)
    graph = proto.graph
    graph.name = "graph"
    kept = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    numbers = (name for name in map(str, itertools.count()) if name not in kept)
    short: dict[str, str] = {"": "", **{name: name for name in kept}}

    def rename(name: str) -> str:
        if name not in short:
            short[name] = next(numbers)
        return short[name]

    _rename_(graph, rename)


def _rename_(graph: Any, rename: Callable[[str], str]) -> None:
    """Applies ``rename`` to every value in a graph and in the graphs inside its nodes."""
    graph.ClearField("value_info")
    for value in (*graph.input, *graph.output, *graph.initializer):
        value.name = rename(value.name)
    for node in graph.node:
        node.ClearField("name")
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
        node.input[:] = [rename(name) for name in node.input]
        node.output[:] = [rename(name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename_(attribute.g, rename)
