"""Compression in one call: a module in, an archive out."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.arrange import layer_weights, normalized, turned
from smidgen.budget import Budget, Outcome, parse_size
from smidgen.errors import InputError, LimitError
from smidgen.examples import Examples
from smidgen.given import examples_from, examples_in, iterable
from smidgen.pipeline import Settings, squeeze_to_budget, with_program
from smidgen.plan import Plan
from smidgen.read import described, read_model, says_what_it_takes, takes
from smidgen.traceable import LOOKED_AT, traceable, traceable_from
from smidgen.transform import transform

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["compress", "compress_by_plan"]


def compress(
    module: Module | Archive | str | os.PathLike[str],
    data: str | os.PathLike[str] | Iterable[Any] | None = None,
    *,
    plan: Plan | str | None = None,
    size: int | str | None = None,
    max_drop: float | None = None,
    finetune: int = 0,
    seconds: float = float("inf"),
    pictures: int = 2000,
    seed: int = 0,
    input_shape: tuple[int, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    labels: tuple[Label, ...] = (),
    inputs: Sequence[Mapping[str, Any] | Sequence[Any]] = (),
    outputs: str | None = None,
) -> Archive:
    """Compresses a network to a size, to a loss of accuracy, or after a plan.

    Args:
        module: the network; or what the command line takes, such as an ONNX file. It is not changed.
        data: a folder of pictures or an ``.npz`` file; or any iterable of pictures (files, uint8 arrays of shape
            (height, width, 3)) or of batches, as a data loader gives them, or one of these: see
            ``smidgen.given.examples_from``. No labels are needed; a folder may have sub-folders named by ``labels``.
            With a plan they only show the ranges of activations, which the network needs to run by itself.
        plan: a plan, the path of one in TOML, or the name of one that ships with smidgen.
        size: bytes that the saved file must not exceed, as a number or as "400KB".
        max_drop: points that may be lost, of each output: of top-1 where labels are known, else of agreement with the
            original; of values hundredths of their variance (100 less R squared in percent).
        finetune: epochs of distillation from the original on ``data``.
        seconds: how long this may take; the best that was found by then is returned.
        pictures: how many to calibrate on at most.
        seed: of every draw.
        input_shape: shape of one input, without the batch dimension; by default what the module's attributes say (see
            ``smidgen.read.read_model``), or else what ``data`` has where that is not pictures.
        preprocessing: how a picture becomes the input, to be kept in the file; needed with ``data``.
        labels: the classes, in the order of the scores, to be kept in the file.
        inputs: for a network of other inputs: these, once or more; axes along which they differ may have any size.
        outputs: what outputs are, "values" or "boxes=values,classes=scores" (``smidgen.run.kinds``); None to find out.

    Raises:
        PlanError: the plan cannot be read, or a pattern in it matches nothing.
        WeightError: a weight is NaN or infinite.
        ModelError: the module cannot be turned into a graph, or measured.
        InputError: not exactly one of plan, size and max_drop; or no pictures.
        LimitError: the limit could not be reached; its ``archive`` is the nearest that was found.

    Example:
        >>> import numpy as np, smidgen
        >>> from smidgen.zoo import build
        >>> network = build("squeezenet1_1", classes=10)
        >>> smidgen.compress(network, plan="int8").tensors["features.0.weight"].alphabet[2] <= 256
        True
        >>> pictures = list(np.random.default_rng(0).integers(0, 256, (8, 40, 40, 3), np.uint8))
        >>> archive = smidgen.compress(
        ...     network, pictures, size=300_000, input_shape=(3, 32, 32), preprocessing=smidgen.Preprocessing(32, 32)
        ... )
        >>> 297_000 <= len(smidgen.file.write(archive)) <= 300_000
        True
    """
    read = read_model(os.fspath(module)) if isinstance(module, str | os.PathLike) else module
    if isinstance(read, Archive):
        model = replace(read, preprocessing=preprocessing or read.preprocessing, labels=labels or read.labels)
    else:
        if not inputs and input_shape is None and not says_what_it_takes(read):
            inputs, data = _traceable(read, data)
        model = described("the module", read, input_shape, preprocessing, labels, inputs)
    if plan is not None:
        if size is not None or max_drop is not None:
            raise InputError("give one of plan, size and max_drop")
        archive = compress_by_plan(model, plan if isinstance(plan, Plan) else Plan.find(plan))
        return archive if data is None else with_program(archive, _examples(data, model, pictures, seed).calibration)
    outcome = Outcome(Budget(parse_size(size) if isinstance(size, str) else size, max_drop, time.monotonic() + seconds))
    if data is None:
        raise InputError("data: pictures are needed to compress to a size or a loss of accuracy")
    examples = _examples(data, model, pictures, seed)
    squeeze_to_budget(model, examples, outcome, Settings(seed=seed, epochs=finetune, outputs=outputs))
    if outcome.archive is None or not outcome.reached:
        raise LimitError(outcome.verdict(), outcome.archive)
    return outcome.archive


def _traceable(
    module: Module, data: str | os.PathLike[str] | Iterable[Any] | None
) -> tuple[Sequence[Mapping[str, Any]], str | os.PathLike[str] | Iterable[Any] | None]:
    """What the data show of the inputs of a module, and the same data."""
    if data is None or isinstance(data, str | os.PathLike):
        return ([] if data is None else traceable(Path(data), *takes(module))), data
    needed, known = takes(module)
    batches = iterable(data, len(needed))
    if isinstance(batches, list) and batches is not data:  # one batch alone, or pictures in one array
        return traceable_from(batches, needed, known), data
    rest = iter(batches)
    first = list(islice(rest, LOOKED_AT))
    return traceable_from(first, needed, known), chain(first, rest)


def _examples(data: str | os.PathLike[str] | Iterable[Any], archive: Archive, pictures: int, seed: int) -> Examples:
    if isinstance(data, str | os.PathLike):
        return examples_in(Path(data), archive, pictures, seed)
    return examples_from(data, archive, pictures, seed)


def compress_by_plan(archive: Archive, plan: Plan) -> Archive:
    """The archive of a network, compressed after a plan; see ``compress``."""
    if not plan.steps:
        return replace(archive, tensors=archive.decoded(), program=b"")  # that was made for other weights
    ready = turned(replace(archive, tensors=archive.decoded()))
    tensors = transform(ready.decoded(), plan, layers=layer_weights(ready))
    return normalized(replace(ready, tensors=tensors))
