"""A PyTorch module to an ONNX graph without weights. The way back is ``smidgen.run.onnx_graph``."""

from __future__ import annotations

import copy
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import onnx
import torch
from torch import nn
from torch.onnx import TrainingMode

from smidgen.errors import InputError, ModelError, one_line
from smidgen.example_axes import axes_found, rows_of
from smidgen.examples import free_axis
from smidgen.flat import Flat, apart, named_inputs, tensors_of
from smidgen.run.session import Engine

__all__ = ["export_graph", "strip_"]

_OPSET = 17
"""Old enough for every ONNX Runtime that smidgen allows, new enough for layer normalization as one node."""

FEW = 4
"""So many examples of a batch are tried, at most."""

INPUT, OUTPUT = "image", "scores"
"""What input and output are called of networks of which only a shape is known; of others what they call them."""

SHAKEN, JUMPS = 1e-4, 5.0
"""By how much inputs are changed to see what rounding does to answers, as a part of them; and how many times as much as
those answers a graph's may differ from a module's."""


def export_graph(
    module: nn.Module,
    input_shape: tuple[int, ...],
    examples: Sequence[Mapping[str, Any] | Sequence[Any]] = (),
) -> bytes:
    """The computation of a module in evaluation mode, as an ONNX graph whose weights carry no data.

    Args:
        module: takes one float32 tensor of shape (batch, ``*input_shape``) and returns one tensor with the batch
            first; or, with ``examples``, takes what these are and returns tensors, alone or in tuples, lists and
            mappings, whose keys become the names of outputs. It is not changed.
        input_shape: shape of one input, without the batch dimension.
        examples: inputs of the module, in order or by name. An axis along which they differ gets a free size.

    Returns:
        A serialized ``ModelProto``, the same for the same module. Every entry of the state dict that the computation
        uses is an initializer of that name, shape and type (floats: float32) without data; constants keep theirs.

    Raises:
        ModelError: the module cannot be copied, run on such an input, or written as ONNX.

    Example:
        >>> graph = onnx.load_from_string(export_graph(nn.Conv2d(3, 4, 1), (3, 8, 8))).graph
        >>> [node.op_type for node in graph.node], [weight.name for weight in graph.initializer]
        (['Conv'], ['weight', 'bias'])
    """
    named: list[dict[str, torch.Tensor]] = []
    try:
        # A copy, because hooks, the mode and the type of a module that may be in training are none of our business.
        with warnings.catch_warnings(), _attention_as_traced():
            # The old exporter is the one wanted (docs/decisions.md, 5) and announces that it is old; what else is said
            # while tracing is about examples other than those given, and answers are compared in any case.
            warnings.simplefilter("ignore")
            still = copy.deepcopy(module).cpu().float()
            still = still if isinstance(still, torch.fx.GraphModule) else still.eval()
            if examples:
                given = [named_inputs(still, one) for one in examples]
                flat = Flat(still, given[0])
                named = [tensors_of(one) for one in given]
                proto, named = _export_any(flat, named)
            else:
                named = [{INPUT: torch.zeros(1, *input_shape)}]
                flat = Flat(still, named[0])
                proto = _export(flat, named, {INPUT: 0}, [0])
            _compare(flat, proto, named)
    except ModelError as error:
        raise ModelError(f"{type(module).__name__}: {error}") from None
    except Exception as error:  # tracing runs the user's code, and the exporter has no base class for its errors
        shapes = [{name: tuple(tensor.shape) for name, tensor in one.items()} for one in named[:1]] if examples else []
        wanted = f"examples of shapes {shapes[0]}" if shapes else f"inputs of shape {input_shape}"
        raise ModelError(f"{type(module).__name__}: cannot be traced for {wanted}: {one_line(error)}") from None
    graph = proto.graph
    state = still.state_dict()
    for tensor in graph.initializer:
        if tensor.name not in state:
            continue
        if tuple(tensor.dims) != tuple(state[tensor.name].shape):
            raise ModelError(f"{tensor.name}: the exporter turned {tuple(state[tensor.name].shape)} into {tensor.dims}")
        tensor.CopyFrom(onnx.TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    strip_(proto)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def _named_outputs(called: Sequence[str], first: str, known: Iterable[str]) -> list[str]:
    """What outputs become that a module calls so: nothing like ``known``, and no two alike; the first one is ``first``
    where only places are known."""
    taken, names = set(known), []
    for number, name in enumerate(called, 1):
        name = name or (first if number == 1 else f"output_{number}")
        while name in taken:
            name += "_output"
        taken.add(name)
        names.append(name)
    return names


def _export_any(flat: Flat, examples: list[dict[str, torch.Tensor]]) -> tuple[Any, list[dict[str, torch.Tensor]]]:
    """The graph, with a free number of examples where these are answered one by one, and what to try it with."""
    for axes, answered, one in axes_found(flat, examples):
        proto = _export(flat, [one, *examples[1:]], axes, answered)
        two = {name: torch.cat([t, t], axes[name]) if name in axes else t for name, t in one.items()}
        if _difference(flat, _engine(proto), two) is None:
            return proto, [{name: _few(t, axes.get(name)) for name, t in each.items()} for each in examples]
    rows = rows_of(examples[0])
    if rows and flat.answers(examples[0]) is None and flat.answers(rows[0]) is not None:
        return _export_any(flat, rows)  # each row is what it takes
    return _export(flat, examples, {}, []), examples


def _few(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    return tensor if axis is None else tensor.narrow(axis, 0, min(FEW, tensor.shape[axis]))


def _compare(flat: Flat, proto: Any, examples: list[dict[str, torch.Tensor]]) -> None:
    """Runs module and graph on the examples, and on noise of both signs where all inputs are floats.

    Raises:
        ModelError: they do not answer alike.
    """
    generator, noise, engine = torch.Generator().manual_seed(0), [], _engine(proto)
    if all(tensor.is_floating_point() for tensor in examples[0].values()):
        noise = [
            {name: sign * (torch.rand(tensor.shape, generator=generator) + 0.1) for name, tensor in examples[0].items()}
            for sign in (1, -1)
        ]
    for inputs in (*examples[:4], *noise):
        why = _difference(flat, engine, inputs)
        if why is not None:
            shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
            raise ModelError(
                f"traced, it does not answer as the module does ({why}, for {shapes}): its code decides by values or "
                "sizes; torch.onnx.export(..., dynamo=True) may do better, and its file can be given"
            )


def _engine(proto: Any) -> Engine | str:
    """The graph ready to run, or why it cannot."""
    try:
        return Engine(proto)
    except ModelError as error:
        return str(error)


def _difference(flat: Flat, engine: Engine | str, inputs: dict[str, torch.Tensor]) -> str | None:
    """How the graph fails to answer as the module; None if it does not, or the module takes no such inputs."""
    wanted, again = flat.answers(inputs), flat.answers(inputs)
    if wanted is None or again is None or any(apart(*pair) for pair in zip(wanted, again, strict=True)):
        return None  # what draws numbers of its own cannot be compared
    if isinstance(engine, str):
        return engine
    try:
        found = engine({name: tensor.numpy() for name, tensor in inputs.items()})
    except (ModelError, InputError) as error:
        return None if any(not bool(torch.isfinite(y).all()) for y in wanted) else str(error)[:120]
    shaken = flat.answers({name: _shaken(tensor) for name, tensor in inputs.items()}) or wanted
    rooms = [_room(one, two) for one, two in zip(wanted, shaken, strict=True)]
    pairs = zip(wanted, found, rooms, strict=True)
    return next((why for one, two, room in pairs if (why := apart(one, torch.from_numpy(two), room))), None)


def _shaken(tensor: torch.Tensor) -> torch.Tensor:
    """An input that differs by rounding."""
    if not tensor.is_floating_point():
        return tensor
    turns = torch.arange(tensor.numel()).reshape(tensor.shape) % 2
    size = float(tensor.abs().max()) if tensor.numel() else 0.0
    return tensor + SHAKEN * (size or 1.0) * (2 * turns - 1)


def _room(one: torch.Tensor, two: torch.Tensor) -> float:
    """How far answers may be apart: where activations have few levels, rounding alone makes them jump."""
    if one.shape != two.shape or not one.is_floating_point() or not one.numel():
        return 0.0
    return JUMPS * float(torch.nan_to_num(one - two, 0.0, 0.0, 0.0).abs().max())


@contextmanager
def _attention_as_traced() -> Iterator[None]:
    """PyTorch's attention has another way in evaluation mode, which says something else where there is padding."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _unflatten_as_reshape() -> Iterator[None]:
    """The exporter takes the sizes of what ``unflatten`` gives for those of the example, and with it of all keys and
    values in PyTorch's own attention."""
    before = torch.Tensor.unflatten

    def unflatten(x: torch.Tensor, dim: int, sizes: Sequence[int]) -> torch.Tensor:
        dim = dim % x.ndim
        return x.reshape(*x.shape[:dim], *sizes, *x.shape[dim + 1 :])

    torch.Tensor.unflatten = unflatten  # type: ignore[method-assign]
    try:
        yield
    finally:
        torch.Tensor.unflatten = before  # type: ignore[method-assign]


def _export(
    flat: Flat, examples: list[dict[str, torch.Tensor]], axes: Mapping[str, int], answered: Sequence[int | None]
) -> Any:
    """The graph as the exporter gives it, its initializers under their names in the state dict; with a free number of
    examples along ``axes`` of inputs, and of answers along those of outputs."""
    buffer, names, first = io.BytesIO(), list(examples[0]), list(examples[0].values())
    with torch.no_grad():
        flat(*first)
    outputs = [f"output_{number}_of_all" for number in range(len(flat.called))]  # the exporter refuses some names
    free = {
        name: {
            axis: "batch" if axis == axes.get(name) else free_axis(name, axis)
            for axis, size in enumerate(tensor.shape)
            if axis == axes.get(name) or any(other[name].shape[axis] != size for other in examples)
        }
        for name, tensor in zip(names, first, strict=True)
    }
    with _unflatten_as_reshape():
        torch.onnx.export(
            flat,
            tuple(first),
            buffer,  # type: ignore[arg-type]  # the old exporter writes to any buffer; its annotation does not say so
            input_names=names,
            output_names=outputs,
            dynamic_axes={
                **free,
                **{name: {axis: "batch"} for name, axis in zip(outputs, answered, strict=False) if axis is not None},
            },
            opset_version=_OPSET,
            dynamo=False,
            # These three keep weights what they are in the state dict: no batch normalization multiplied into
            # convolutions, nothing computed from weights ahead, and equal biases (all zeros) are not made one.
            training=TrainingMode.PRESERVE,
            do_constant_folding=False,
            keep_initializers_as_inputs=True,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    prefix = "module."
    _rename_(proto.graph, lambda name: name.removeprefix(prefix) if name.startswith(prefix) else name)
    known = [*names, *flat.module.state_dict(), *(tensor.name for tensor in proto.graph.initializer)]
    called = _named_outputs(flat.called, OUTPUT if names == [INPUT] else "output", known)
    final = dict(zip(outputs, called, strict=True))
    inner = {name: f"{name} inside" for name in final.values()}  # what lies between has no name that counts
    _rename_(proto.graph, lambda name: {**inner, **final}.get(name, name))
    inputs = [value for value in proto.graph.input if value.name in names]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def strip_(proto: Any) -> None:
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
