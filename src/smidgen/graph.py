"""A PyTorch module to an ONNX graph without weights. The way back is ``smidgen.run.onnx_graph``."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import nn
from torch.onnx import TrainingMode
from torch.utils import _pytree

from smidgen.errors import InputError, ModelError, one_line
from smidgen.nested import flattened, nested
from smidgen.run.session import Engine

__all__ = ["export_graph", "strip_"]

_OPSET = 17
"""Old enough for every ONNX Runtime that smidgen allows, new enough for layer normalization as one node."""

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
        with warnings.catch_warnings():
            # The old exporter is the one wanted (docs/decisions.md, 5) and announces that it is old; what else is said
            # while tracing is about examples other than those given, and answers are compared in any case.
            warnings.simplefilter("ignore")
            still = copy.deepcopy(module).cpu().float()
            still = still if isinstance(still, torch.fx.GraphModule) else still.eval()
            if examples:
                named = _examples(still, examples)
                proto = _export_any(still, named)
            else:
                named = [{INPUT: torch.zeros(1, *input_shape)}]
                proto = _export(still, named, {INPUT: 0}, [0])
            _compare(still, proto, named)
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


def _examples(module: nn.Module, given: Sequence[Mapping[str, Any] | Sequence[Any]]) -> list[dict[str, torch.Tensor]]:
    """Inputs by the names that the module's own function gives them."""
    found = []
    for one in given:
        if not isinstance(one, Mapping):
            one = [one] if isinstance(one, torch.Tensor) else one
            names = [name for name in inspect.signature(module.forward).parameters if name not in ("args", "kwargs")]
            names += [f"input_{number}" for number in range(len(names), len(one))]
            one = dict(zip(names, one, strict=False))
        found.append({name: torch.as_tensor(value) for name, value in flattened(one).items()})
    return found


class _Flat(nn.Module):
    """A module that takes tensors in order and gives all its tensors in a tuple; ``called`` is what it calls them."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        parameters = inspect.signature(module.forward).parameters
        self.by_name = [name.partition(".")[0] in parameters for name in names]
        self.names = names
        self.called: list[str] = []

    def forward(self, *inputs: torch.Tensor) -> Any:
        given = list(zip(self.names, inputs, self.by_name, strict=True))
        unnamed, named = (nested({name: t for name, t, known in given if known == wish}) for wish in (False, True))
        output = self.module(*unnamed.values(), **named)
        leaves = list(_tensors(output))
        self.called = [_joined(path) for path, _ in leaves]
        found = tuple(leaf for _, leaf in leaves)
        return found if len(found) != 1 else found[0]


def _tensors(output: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], torch.Tensor]]:
    """The tensors in what a module gives, with the keys, fields and places on the way to each.

    Example:
        >>> [path for path, _ in _tensors({"boxes": torch.zeros(1), "masks": [torch.zeros(1), None]})]
        [('boxes',), ('masks', 0)]
    """
    if isinstance(output, torch.Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _tensors(part, (*path, key))
    elif is_dataclass(output):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name), (*path, field.name))
    elif isinstance(output, tuple | list):
        for key, part in zip(getattr(output, "_fields", range(len(output))), output, strict=True):
            yield from _tensors(part, (*path, key))
    else:  # a container of somebody's own, if PyTorch knows it
        for place, part in enumerate(_pytree.tree_leaves(output)):
            if isinstance(part, torch.Tensor):
                yield (*path, place), part


def _joined(path: tuple[Any, ...]) -> str:
    """A name of keys and fields; "" where there are places alone."""
    return ".".join(map(str, path)) if any(isinstance(key, str) for key in path) else ""


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


def _export_any(module: nn.Module, examples: list[dict[str, torch.Tensor]]) -> Any:
    """The graph with a free number of examples, if these lie along the first axes, or along the second ones of states,
    and it answers two at once as the module does."""
    first = examples[0]
    for axes in _axes_of_examples(first):
        twice = _joined_along(axes, first, first)
        turned = {name: tensor.flip(-1) if tensor.ndim > axes[name] + 1 else tensor for name, tensor in first.items()}
        answered = _answers_each(module, [first, first], twice)
        if (
            answered is None
            or _answers_each(module, [first, turned], _joined_along(axes, first, turned), answered) is None
        ):
            continue
        proto = _export(module, examples, axes, answered)
        if _difference(module, _engine(proto), twice) is None:
            return proto
    return _export(module, examples, {}, [])


def _axes_of_examples(first: dict[str, torch.Tensor]) -> Iterator[dict[str, int]]:
    """The axes along which there may be examples: the first of all inputs, or the second of all but the first input, as
    in the states of recurrent layers."""
    yield dict.fromkeys(first, 0)
    name, *others = first
    if others and all(first[other].ndim > 1 for other in others):
        yield {name: 0, **dict.fromkeys(others, 1)}


def _joined_along(
    axes: dict[str, int], one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    return {name: torch.cat([t, other[name]], axes[name]) if t.ndim else t for name, t in one.items()}


def _answers_each(
    module: nn.Module,
    parts: list[dict[str, torch.Tensor]],
    joined: dict[str, torch.Tensor],
    unsure: list[int | None] | None = None,
) -> list[int | None] | None:
    """The axes of the outputs along which there are answers to what is joined, or None if it is not answered as each
    part alone: steps of a sequence are not. What is said where the module does not take all of this is ``unsure``."""
    one, other, same, together = (_answers(module, inputs) for inputs in (*parts, parts[0], joined))
    if one is None or other is None or same is None or together is None:
        return unsure
    axes: list[int | None] = []
    for first, second, again, two in zip(one, other, same, together, strict=True):
        grown = [axis for axis, (a, b) in enumerate(zip(first.shape, two.shape, strict=False)) if a != b]
        if len(grown) != 1 or two.shape[grown[0]] != 2 * first.shape[grown[0]]:
            axes.append(None)  # it sums up, or pairs everything with everything
            continue
        axes.append(grown[0])
        halves = zip((first, second), two.chunk(2, grown[0]), strict=True)
        if not _apart(first, again) and any(_apart(*pair) for pair in halves):  # else it draws numbers
            return None
    return axes


def _compare(module: nn.Module, proto: Any, examples: list[dict[str, torch.Tensor]]) -> None:
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
        why = _difference(module, engine, inputs)
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


def _answers(module: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...] | None:
    """What the module answers; None if it does not take such inputs."""
    try:
        with torch.no_grad():
            found = _Flat(module, list(inputs))(*inputs.values())
    except Exception:  # the user's code
        return None
    return found if isinstance(found, tuple) else (found,)


def _difference(module: nn.Module, engine: Engine | str, inputs: dict[str, torch.Tensor]) -> str | None:
    """How the graph fails to answer as the module; None if it does not, or the module takes no such inputs."""
    wanted, again = _answers(module, inputs), _answers(module, inputs)
    if wanted is None or again is None or any(_apart(*pair) for pair in zip(wanted, again, strict=True)):
        return None  # what draws numbers of its own cannot be compared
    if isinstance(engine, str):
        return engine
    try:
        found = engine({name: tensor.numpy() for name, tensor in inputs.items()})
    except (ModelError, InputError) as error:
        return None if any(not bool(torch.isfinite(y).all()) for y in wanted) else str(error)[:120]
    shaken = _answers(module, {name: _shaken(tensor) for name, tensor in inputs.items()}) or wanted
    rooms = [_room(one, two) for one, two in zip(wanted, shaken, strict=True)]
    pairs = zip(wanted, found, rooms, strict=True)
    return next((why for one, two, room in pairs if (why := _apart(one, torch.from_numpy(two), room))), None)


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


def _apart(one: torch.Tensor, two: torch.Tensor, room: float = 0.0) -> str | None:
    """How two answers differ by more than rounding."""
    if one.shape != two.shape:
        return f"{tuple(two.shape)} in place of {tuple(one.shape)}"
    scale = float(one.abs().max()) if one.is_floating_point() and one.numel() else 0.0
    same = np.allclose(one.numpy(), two.numpy(), rtol=1e-2, atol=1e-3 * scale + 1e-6 + room, equal_nan=True)
    return None if same else "other numbers"


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
    module: nn.Module, examples: list[dict[str, torch.Tensor]], axes: Mapping[str, int], answered: Sequence[int | None]
) -> Any:
    """The graph as the exporter gives it, its initializers under their names in the state dict; with a free number of
    examples along ``axes`` of inputs, and of answers along those of outputs."""
    buffer, names, first = io.BytesIO(), list(examples[0]), list(examples[0].values())
    flat = _Flat(module, names)
    with torch.no_grad():
        flat(*first)
    outputs = [f"output_{number}_of_all" for number in range(len(flat.called))]  # the exporter refuses some names
    free = {
        name: {
            axis: "batch" if axis == axes.get(name) else f"{name}_{axis}"
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
    known = [*names, *module.state_dict(), *(tensor.name for tensor in proto.graph.initializer)]
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
