"""What a stage leaves: the network as a file, and how much of the pictures that names right."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from smidgen.archive import Archive, Preprocessing
from smidgen.arrange import arranged, bias_names
from smidgen.code import Affine, Code
from smidgen.methods import Quantize
from smidgen.pipeline import with_program
from smidgen.read import from_module
from smidgen.reporter import Reporter
from smidgen.run.runner import Runner
from smidgen.train.loop import inputs
from smidgen.train.network import shown
from smidgen.train.pictures import Labelled, Pictures
from smidgen.zoo import build

__all__ = ["archive_of", "named_right", "rebuilt_archive_of"]

BIASES = Quantize(bits=8)
MANTISSA = 10
"""Bits after the leading one of what is kept as floats, as in float16."""

AT_ONCE = 100
"""Pictures that are measured at once."""


def archive_of(
    module: nn.Module, codes: Mapping[str, Code], preprocessing: Preprocessing, pictures: Pictures, reporter: Reporter
) -> Archive:
    """A network ready to run, with codes in place of weights: normalization folded, biases in few bits, a program.

    Args:
        module: as it was trained.
        codes: of some of its weights, by name.
        preprocessing: how a picture becomes the input.
        pictures: with the classes; some show the ranges of activations.
        reporter: is told why there is no program.
    """
    archive = _exported(module, preprocessing, pictures)
    archive = arranged(replace(archive, tensors={**archive.tensors, **codes}))
    if codes:
        archive = replace(archive, tensors=_shortened(archive))
    items = [np.ascontiguousarray(picture.permute(1, 2, 0).numpy()) for picture in shown(pictures.training)]
    return with_program(archive, items, reporter)


def rebuilt_archive_of(
    module: nn.Module, codes: Mapping[str, Code], preprocessing: Preprocessing, pictures: Pictures, zoo: Any
) -> Archive | None:
    """A network of the zoo as it is, so that its class can be built again and trained further; None if it is no such.

    Args:
        module: as it was trained.
        codes: of some of its weights, by name.
        preprocessing: how a picture becomes the input.
        pictures: with the classes.
        zoo: what it was built from.
    """
    if zoo is None:
        return None
    with torch.device("meta"):
        built = build(**zoo).state_dict()
    if {n: t.shape for n, t in built.items()} != {n: t.shape for n, t in module.state_dict().items()}:
        return None
    archive = _exported(module, preprocessing, pictures)
    return replace(archive, tensors={**archive.tensors, **codes}, metadata={"zoo": dict(zoo)})


def _exported(module: nn.Module, preprocessing: Preprocessing, pictures: Pictures) -> Archive:
    plain = copy.deepcopy(module).cpu().eval()
    vars(plain).pop("zoo", None)
    return from_module(plain, (3, preprocessing.height, preprocessing.width), preprocessing, pictures.labels)


def _shortened(archive: Archive) -> dict[str, Any]:
    """Tensors with biases of 8 bits, and scales of few."""
    tensors = dict(archive.tensors)
    codes = [name for name, tensor in tensors.items() if isinstance(tensor, Code)]
    for name in bias_names(archive, codes):
        bias = tensors[name]
        if not isinstance(bias, Code) and bias.dtype == np.float32:
            tensors[name] = BIASES(bias)
    for name in codes:
        code = tensors[name]
        if isinstance(code, Code) and isinstance(code.rule, Affine) and code.rule.axis is not None:
            tensors[name] = Code(code.symbols, replace(code.rule, scale=_rounded(code.rule.scale)))
    return tensors


def named_right(runner: Runner, pictures: Labelled) -> float:
    """Percent of the pictures that a file names right."""
    assert runner.preprocessing is not None
    right = 0
    for places in torch.split(torch.arange(len(pictures)), AT_ONCE):
        x = inputs(pictures[places], runner.preprocessing, torch.device("cpu")).contiguous()
        scores = runner(np.asarray(x.numpy(), np.float32, order="C"))
        right += int((scores.argmax(1) == pictures.classes[places].numpy()).sum())
    return 100 * right / len(pictures)


def _rounded(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Floats of fewer bits, in float32; the zeros at their ends take no bytes.

    Example:
        >>> _rounded(np.array([1.0001, -3.0], np.float32))
        array([ 1., -3.], dtype=float32)
    """
    mantissa, exponent = np.frexp(weight)
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0 ** (MANTISSA + 1)), exponent - MANTISSA - 1), np.float32)
