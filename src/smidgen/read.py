"""Models at the door: what a user names to a PyTorch module, a module to an archive, and an archive to a module."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn

from smidgen.archive import Archive, Label, Preprocessing, open_archive
from smidgen.container import read_bytes
from smidgen.errors import ModelError, WeightError, one_line
from smidgen.graph import export_graph
from smidgen.network import Network
from smidgen.onnx_file import read_onnx
from smidgen.preprocess import size_in, with_preprocessing
from smidgen.traceable import traceable
from smidgen.zoo import ZOO, build
from smidgen.zoo.pretrained import PRETRAINED, SQUEEZENET1_1_PREPROCESSING, imagenet_labels, squeezenet1_1_weights

__all__ = ["call", "described", "from_module", "read_model", "says_what_it_takes", "takes", "to_module"]

_PRETRAINED = "squeezenet1_1"
_CHECKPOINTS = (".pth", ".pt", ".ckpt", ".bin")
_INPUT_SHAPE = (3, 224, 224)


def read_model(spec: str, data: Path | None = None, preprocessing: str | None = None) -> Archive:
    """The uncompressed network that a user names.

    Args:
        spec: one of

            * a network of the zoo that has pretrained weights;
            * a ``.smidgen`` file, whose weights are what its codes stand for;
            * an ``.onnx`` file (operator sets 9 and newer);
            * an exported PyTorch program, ``.pt2``, as ``torch.export.save`` writes it;
            * a ``.safetensors`` file: weights alone, for plans;
            * ``package.module:function`` for a function without arguments that returns a ``torch.nn.Module``. If it has
              the attributes ``example_inputs`` (a tuple of tensors, or a list of such), ``input_shape`` (without the
              batch), ``preprocessing`` or ``labels``, these are used; otherwise it takes what ``data`` has, or pictures
              of shape (3, height, width) of the preprocessing, or (3, 224, 224).
        data: where examples for it are; ``.npz`` files show what a function's module takes that does not say so.
        preprocessing: how pictures become its input, see ``smidgen.preprocess``; the size in it is also that of the
            pictures which a function's module takes that has neither ``example_inputs`` nor ``input_shape``.

    Raises:
        ModelError: there is no such model, it has no weights, or the user's code fails.
        InputError: the file cannot be read, or the network takes no such pictures.
        WeightError: a weight is NaN or infinite.

    Example:
        >>> model = read_model("squeezenet1_1")
        >>> model.preprocessing.height, len(model.labels)
        (227, 1000)
    """
    return with_preprocessing(_read(spec, data, size_in(preprocessing)), preprocessing)


def _read(spec: str, data: Path | None, size: tuple[int, int] | None) -> Archive:
    if spec == _PRETRAINED:
        module = _rebuild({"name": spec}, squeezenet1_1_weights())
        known = (SQUEEZENET1_1_PREPROCESSING.height, SQUEEZENET1_1_PREPROCESSING.width)
        return from_module(module, (3, *known), SQUEEZENET1_1_PREPROCESSING, imagenet_labels())
    if spec in PRETRAINED:
        return _read_archive(str(PRETRAINED[spec]))
    if spec in ZOO:
        raise ModelError(
            f"{spec}: smidgen has no pretrained weights of it; write a function that builds it with yours "
            "(smidgen.zoo.build, load_state_dict) and name that as package.module:function"
        )
    readers = {".smidgen": _read_archive, ".onnx": read_onnx, ".pt2": _read_program, ".safetensors": _read_weights}
    if Path(spec).suffix in readers:
        return readers[Path(spec).suffix](spec)
    if spec.count(":") == 1 and all(part.isidentifier() for part in spec.replace(":", ".").split(".")):
        module = call(spec)
        if says_what_it_takes(module):
            return described(spec, module)
        shown = () if data is None else traceable(data, *takes(module))
        return described(spec, module, examples=shown, side=size)
    if Path(spec).suffix in _CHECKPOINTS:
        raise ModelError(
            f"{spec}: what torch.save wrote may be weights alone, and can run code when it is opened; write a function "
            "that builds the module and loads it, and name that as package.module:function"
        )
    names = ", ".join((_PRETRAINED, *PRETRAINED))
    raise ModelError(
        f"{spec!r} names no model; possible are {names}, files that end in {', '.join(readers)}, and "
        "package.module:function for a function that returns a torch.nn.Module"
    )


def from_module(
    module: nn.Module,
    input_shape: tuple[int, ...] = _INPUT_SHAPE,
    preprocessing: Preprocessing | None = None,
    labels: tuple[Label, ...] = (),
    examples: Sequence[Mapping[str, Any] | Sequence[Any]] = (),
) -> Archive:
    """The archive of an uncompressed network: its graph, and every entry of its state dict that the graph uses.

    Args:
        module: the network; it is not changed, and the archive shares no memory with it.
        input_shape: shape of one input, without the batch dimension, of a network of one float input.
        preprocessing: how a picture becomes the input.
        labels: the classes, in the order of the scores.
        examples: for any other network, its inputs once or more, as tuples or by name. Axes along which these differ
            may have any size, and so may the first one of all.

    Returns:
        An archive with plain arrays only; what the module has as floats of any width is float32.

    Raises:
        ModelError: the module cannot be turned into a graph.
        WeightError: a weight is NaN or infinite, as float32.

    Example:
        >>> archive = from_module(build("squeezenet1_1", classes=10), (3, 64, 64))
        >>> archive.tensors["features.0.weight"].shape, archive.metadata
        ((64, 3, 3, 3), {'zoo': {'name': 'squeezenet1_1', 'classes': 10}})
    """
    graph = export_graph(module, input_shape, examples)
    state = module.state_dict()
    used = [tensor.name for tensor in onnx.load_from_string(graph).graph.initializer if tensor.name in state]
    trained = dict(module.named_parameters())  # a buffer may hold infinity: masks do
    tensors = {name: _array(state[name], name, name in trained) for name in used}
    return Archive(graph, tensors, preprocessing, labels, _metadata(module))


def to_module(archive: Archive) -> nn.Module:
    """The network that an archive holds, in evaluation mode, with its decoded weights.

    Args:
        archive: of any network. Of one of the zoo this is the class that it was built from; of any other it is a
            ``smidgen.network.Network``, which computes the graph node by node and gives a tuple of all outputs.

    Raises:
        ModelError: its weights are not those of the network of the zoo that it names, or its graph holds a loop.

    Example:
        >>> module = build("squeezenet1_1", classes=2)
        >>> again = to_module(from_module(module, (3, 32, 32)))
        >>> torch.equal(again.features[0].weight, module.features[0].weight)
        True
    """
    zoo = archive.metadata.get("zoo")
    if not isinstance(zoo, Mapping) or not isinstance(zoo.get("name"), str):
        return Network(archive)
    return _rebuild(zoo, archive.weights())


def _rebuild(zoo: Mapping[str, Any], weights: Mapping[str, NDArray[Any]]) -> nn.Module:
    """The network of the zoo that ``zoo`` describes, in evaluation mode, with these weights."""
    try:
        # without memory, since the description may ask for more than there is, and without using up random numbers
        with torch.device("meta"):
            module = build(**zoo)
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    except (OverflowError, RuntimeError, TypeError) as error:
        raise ModelError(f"the file describes a network that cannot be built: {one_line(error)}") from None
    counters = {name: np.zeros((), np.int64) for name in wanted if name.endswith(".num_batches_tracked")}
    weights = {**counters, **weights}  # no answer depends on them, so no graph has them
    for name in {**wanted, **weights}:
        given = weights[name].shape if name in weights else "missing"
        if given != wanted.get(name):
            raise ModelError(f"{name} is {given}, but {zoo['name']} wants {wanted.get(name, 'no such weight')}")
    tensors = {name: torch.from_numpy(np.array(weight)) for name, weight in weights.items()}
    module.load_state_dict(tensors, assign=True)
    return module.eval()


def _metadata(module: nn.Module) -> dict[str, Any]:
    zoo = getattr(module, "zoo", None)
    return {"zoo": dict(zoo)} if isinstance(zoo, Mapping) else {}


def _array(tensor: torch.Tensor, name: str, trained: bool) -> NDArray[Any]:
    """A tensor of the state dict as an array of its own."""
    if not tensor.is_floating_point():
        return tensor.detach().cpu().numpy().copy()
    array = tensor.detach().cpu().float().numpy().copy()
    if trained and not np.isfinite(array).all():
        raise WeightError(f"{name}: holds NaN or infinity; the training of this network has diverged")
    return array


@contextmanager
def _working_directory_importable() -> Iterator[None]:
    """Lets users name their own files from a command, as ``python -m`` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def call(spec: str) -> nn.Module:
    """What the user's function returns."""
    path, name = spec.split(":")
    try:
        with _working_directory_importable():
            function = getattr(importlib.import_module(path), name, None)
            if not callable(function):
                raise ModelError(f"{spec}: {path} has no function {name!r}")
            module = function()
    except ModelError:
        raise
    except Exception as error:  # the user's code raises what it likes
        raise ModelError(f"{spec}: failed with {one_line(error)}") from None
    if not isinstance(module, nn.Module):
        raise ModelError(f"{spec}: returns a {type(module).__name__}, not a torch.nn.Module")
    return module


def says_what_it_takes(module: nn.Module) -> bool:
    """Whether a module has an attribute with its inputs or their shape."""
    return hasattr(module, "example_inputs") or hasattr(module, "input_shape")


def takes(module: nn.Module) -> tuple[list[str], list[str]]:
    """The names of what a module must be given, at least of one, and of all that it may be given."""
    found = [p for p in inspect.signature(module.forward).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    known = [parameter.name for parameter in found]
    return [parameter.name for parameter in found if parameter.default is parameter.empty] or known[:1], known


def described(
    spec: str,
    module: nn.Module,
    input_shape: tuple[int, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[Label, ...] = (),
    examples: Sequence[Any] = (),
    side: tuple[int, int] | None = None,
) -> Archive:
    """The archive of a user's module; what is not given, its attributes say.

    Args:
        spec: what to call it.
        module: the network.
        input_shape: as for ``from_module``.
        preprocessing: likewise.
        labels: likewise.
        examples: likewise.
        side: height and width of the pictures that it takes if it says nothing of its inputs.

    Raises:
        ModelError: an attribute is not what it should be, or the module cannot be turned into a graph.
        WeightError: a weight is NaN or infinite.
    """
    preprocessing = preprocessing or getattr(module, "preprocessing", None)
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ModelError(f"{spec}: the module's preprocessing is not a smidgen.archive.Preprocessing")
    preprocessing = preprocessing or _timm(module)
    labels = labels or tuple(getattr(module, "labels", ()))
    if not all(isinstance(label, Label) for label in labels):
        raise ModelError(f"{spec}: the module's labels are not all smidgen.archive.Label")
    given = getattr(module, "example_inputs", None)
    if not examples and given is not None and input_shape is None:
        examples = given if isinstance(given, list) else [given]
    if examples:
        return from_module(module, (), preprocessing, labels, examples)
    size = (3, preprocessing.height, preprocessing.width) if preprocessing else _INPUT_SHAPE
    size = (3, *side) if side else size
    shape: tuple[Any, ...] = tuple(input_shape or getattr(module, "input_shape", None) or size)
    if not all(isinstance(side, int) and side > 0 for side in shape):
        raise ModelError(f"{spec}: the module's input_shape is {shape}, not positive whole numbers")
    try:
        return from_module(module, shape, preprocessing, labels)
    except ModelError as error:
        if preprocessing or input_shape or says_what_it_takes(module):
            raise
        raise ModelError(
            f"{error}; it does not say what it takes, so pictures were tried: give the module an attribute "
            "`example_inputs`, a tuple of tensors, or .npz files as data"
        ) from None


def _timm(module: nn.Module) -> Preprocessing | None:
    """What models of the package timm say about their pictures."""
    known = getattr(module, "pretrained_cfg", None)
    if not isinstance(known, Mapping) or not {"mean", "std", "input_size"} <= known.keys():
        return None
    _, height, width = known["input_size"]
    mean, std = (tuple(255 * float(number) for number in known[name]) for name in ("mean", "std"))
    resample = "bicubic" if known.get("interpolation") == "bicubic" else "bilinear"
    return Preprocessing(height, width, "RGB", mean, std, resample)  # type: ignore[arg-type]


def _read_archive(path: str) -> Archive:
    """A file of smidgen's own; its weights as floats, so that they can be compressed anew."""
    archive = open_archive(path)
    return replace(archive, tensors=archive.decoded(), program=b"")


def _read_program(path: str) -> Archive:
    """An exported program, with the inputs that it was exported with; its free sizes stay free."""
    read_bytes(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what loading says is about versions of PyTorch's own formats
            program = torch.export.load(path)
            module, (inputs, named) = program.module(), program.example_inputs
    except Exception as error:  # loading has no base class for its errors
        raise ModelError(f"{path}: is not an exported PyTorch program: {one_line(error)}") from None
    names = [spec.arg.name for spec in program.graph_signature.input_specs if spec.kind.name == "USER_INPUT"]
    example = dict(zip(names, (*inputs, *named.values()), strict=True))
    shapes = {node.name: node.meta["val"].shape for node in program.graph.nodes if node.name in names}
    return from_module(module, (), None, (), [example, {n: _longer(example[n], shapes[n]) for n in names}])


def _longer(example: torch.Tensor, shape: Sequence[Any]) -> torch.Tensor:
    """An example that is longer by one along each axis of free size."""
    for axis, size in enumerate(shape):
        if not isinstance(size, int):
            example = torch.cat([example, example.narrow(axis, 0, 1)], axis)
    return example


def _read_weights(path: str) -> Archive:
    """Weights without a network; 16-bit floats become float32, as everywhere."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        state = load(read_bytes(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise ModelError(f"{path}: is not a safetensors file: {one_line(error)}") from None
    tensors = {name: _array(tensor, name, True) for name, tensor in sorted(state.items())}
    places = [
        onnx.TensorProto(name=name, dims=a.shape, data_type=onnx.helper.np_dtype_to_tensor_dtype(a.dtype))
        for name, a in tensors.items()
    ]
    graph = onnx.helper.make_graph([], "weights", [], [], places)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return Archive(model.SerializeToString(deterministic=True), tensors)
