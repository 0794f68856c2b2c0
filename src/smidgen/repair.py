"""Repair: the original teaches what is not yet squeezed to make up for what is, layer by layer, without labels."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smidgen.archive import Archive, Preprocessing, open_archive
from smidgen.code import Code, Trellis
from smidgen.errors import FormatError
from smidgen.file import FAST
from smidgen.measure import layers
from smidgen.run.pictures import open_picture, prepare

if TYPE_CHECKING:
    from smidgen.pipeline import Progress

__all__ = ["Lesson", "repair"]

BATCH = 16
STEP = 0.01
"""How far a weight moves in one update, as a part of the distance of two levels; that is small on purpose."""

SMALLEST_CROP = 0.35
MIXED = 0.3
"""Part of the batches whose pictures are laid over each other in pairs."""

Picture = Path | NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Lesson:
    """What to repair, and how long.

    Args:
        module: the original; it is not changed.
        preprocessing: how a picture becomes the input.
        pictures: to learn from, without labels.
        epochs: passes over the pictures, in all.
        seed: of crops and order.
        order: names of the weights to squeeze, the most harmful first.
        squeeze: gives the archive for a network that is squeezed in part: codes stay, and the rest is squeezed so
            that the file has its size.
        checkpoint: where the state is kept after each epoch, or None.
    """

    module: nn.Module
    preprocessing: Preprocessing
    pictures: Sequence[Picture]
    epochs: int
    seed: int
    order: Sequence[str]
    squeeze: Callable[[Archive], Archive]
    checkpoint: Path | None = None


def repair(lesson: Lesson, archive: Archive, progress: Progress, over: Callable[[], bool]) -> Archive:
    """Squeezes a network layer by layer, and trains what is left in between.

    After each group of layers has got its symbols, for good, the other weights, all biases and the scales of the
    squeezed layers are trained on the divergence from the original's answers. So what comes later has learned to live
    with, and to make up for, what came before; no gradient is ever guessed through a rounding. The layers of most harm
    come first, while there is most left to train.

    Args:
        lesson: what to do.
        archive: the network before, its weights as floats.
        progress: shows pictures done.
        over: whether the time is up; what is left is then squeezed without training.

    Returns:
        The archive with every weight of ``lesson.order`` as a code.

    Source:
        Zhou et al., "Incremental Network Quantization", arXiv 1702.03044, for freezing in steps; Hinton et al.,
        arXiv 1503.02531, for distillation, here at temperature 1.
    """
    groups = _groups(lesson, archive)
    state, epoch = _resumed(lesson, archive)
    with progress(lesson.epochs * len(lesson.pictures), "distilling") as advance:
        for number, group in enumerate(groups):
            last = (number + 1) * lesson.epochs // len(groups)
            if any(not isinstance(state.tensors[name], Code) for name in group):
                squeezed = lesson.squeeze(state).tensors
                state = replace(state, tensors={**state.tensors, **{name: squeezed[name] for name in group}})
            while epoch < last and not over():
                state = _epoch(lesson, state, epoch, partial(_advance, advance, epoch * len(lesson.pictures)))
                epoch += 1
                _keep(lesson, archive, state, epoch)
    if lesson.checkpoint:
        lesson.checkpoint.unlink(missing_ok=True)
    return lesson.squeeze(state)


def _advance(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


def _groups(lesson: Lesson, archive: Archive) -> list[list[str]]:
    """The layers in groups of about equal size, at most one for each epoch."""
    sizes = {name: int(np.asarray(archive.tensors[name]).size) for name in lesson.order}
    groups: list[list[str]] = [[]]
    left, filled = sum(sizes.values()), 0
    count = min(len(sizes), lesson.epochs)
    for name, size in sizes.items():
        room = left / max(1, count - len(groups) + 1)
        if groups[-1] and filled + size / 2 > room and len(groups) < count:
            left -= filled
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    return groups


def _epoch(lesson: Lesson, state: Archive, epoch: int, advance: Callable[[int], None]) -> Archive:
    """One pass over the pictures. The optimizer starts anew, so that a run that was cut off goes on the same way."""
    student = copy.deepcopy(lesson.module).eval()
    student.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in state.weights().items()}, strict=False)
    scales = _Scales(student, state)
    groups = [{"params": [parameter], "lr": rate} for parameter, rate in _rates(student, state)]
    optimizer = torch.optim.Adam([*groups, *scales.groups()], betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    done = 0
    for inputs in _augmented(lesson, epoch):
        with torch.no_grad():
            wanted = lesson.module(inputs).log_softmax(1)
        loss = torch.nn.functional.kl_div(
            student(inputs).log_softmax(1), wanted, log_target=True, reduction="batchmean"
        )
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        scales.collect()
        part = (epoch + done / len(lesson.pictures)) / lesson.epochs
        warm = min(1.0, (done / BATCH + 1) / 10)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * warm * (1 - 0.9 * part)
        optimizer.step()
        scales.apply()
        done += len(inputs)
        advance(done)
    trained = {name: tensor.detach().numpy().copy() for name, tensor in student.state_dict().items()}
    tensors = {
        name: scales.code(name, tensor) if isinstance(tensor, Code) else trained[name].astype(tensor.dtype)
        for name, tensor in state.tensors.items()
    }
    return replace(state, tensors=tensors)


class _Scales:
    """The scales of squeezed layers, whose symbols are fixed."""

    def __init__(self, student: nn.Module, state: Archive) -> None:
        parameters = dict(student.named_parameters())
        self.weights: dict[str, tuple[Tensor, Tensor, Tensor]] = {}
        for name, tensor in state.tensors.items():
            if isinstance(tensor, Code) and isinstance(tensor.rule, Trellis):
                levels = torch.from_numpy(tensor.rule.levels(tensor.symbols)[0].astype(np.float32))
                scale = torch.tensor(tensor.rule.scale, requires_grad=True)
                self.weights[name] = (parameters[name], levels, scale)

    def groups(self) -> Iterator[dict[str, object]]:
        for _, _, scale in self.weights.values():
            yield {"params": [scale], "lr": STEP * float(scale.detach()) / 20}

    def collect(self) -> None:
        """The gradient of a scale is that of its weights along their levels."""
        for weight, levels, scale in self.weights.values():
            assert weight.grad is not None
            scale.grad = (weight.grad * levels).sum()
            weight.grad = None

    def apply(self) -> None:
        with torch.no_grad():
            for weight, levels, scale in self.weights.values():
                weight.copy_(levels * scale)

    def code(self, name: str, before: Code) -> Code:
        scale = self.weights[name][2] if name in self.weights else None
        return before if scale is None else Code(before.symbols, Trellis(float(scale.detach())))


def _rates(student: nn.Module, state: Archive) -> Iterator[tuple[Tensor, float]]:
    """What is trained besides scales, and the length of a step for each: weights that have no code, and biases."""
    measured = layers(student)
    for name, parameter in student.named_parameters():
        if isinstance(state.tensors.get(name), Code):
            continue
        spread = float(parameter.detach().std()) if parameter.numel() > 1 else abs(float(parameter.detach()))
        if name in measured or name.removesuffix("bias") + "weight" in measured:
            yield parameter, STEP * 0.2 * spread


def _augmented(lesson: Lesson, epoch: int) -> Iterator[Tensor]:
    """Batches of random crops, some mirrored, some with other light, some laid over each other."""
    rng = np.random.default_rng((lesson.seed, epoch))
    order = rng.permutation(len(lesson.pictures))
    for start in range(0, len(order), BATCH):
        batch = []
        for index in order[start : start + BATCH]:
            picture = lesson.pictures[index]
            pixels = picture if isinstance(picture, np.ndarray) else open_picture(picture)
            batch.append(prepare(_varied(pixels, rng), lesson.preprocessing))
        inputs = torch.from_numpy(np.stack(batch))
        if rng.random() < MIXED:
            part = float(rng.uniform(0.5, 1))
            inputs = part * inputs + (1 - part) * inputs.flip(0)
        yield inputs


def _varied(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    area, shape = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(-0.28, 0.28))
    tall = min(height, max(1, round(height * np.sqrt(area * shape))))
    wide = min(width, max(1, round(width * np.sqrt(area / shape))))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    crop = pixels[top : top + tall, left : left + wide].astype(np.float32)
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    light = 128 + rng.uniform(-20, 20) + rng.uniform(-8, 8, 3)
    return np.clip((crop - 128) * rng.uniform(0.8, 1.2) + light, 0, 255).astype(np.uint8)


def _key(lesson: Lesson, archive: Archive) -> str:
    """Names the work, so that a checkpoint of other work is not taken for it."""
    digest = hashlib.sha256(json.dumps([lesson.epochs, lesson.seed, len(lesson.pictures), list(lesson.order)]).encode())
    for name, weight in archive.weights().items():
        digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
    return digest.hexdigest()[:32]


def _keep(lesson: Lesson, archive: Archive, state: Archive, epoch: int) -> None:
    if lesson.checkpoint:
        metadata = {"repair": {"key": _key(lesson, archive), "epoch": epoch}}
        replace(state, metadata=metadata).save(lesson.checkpoint, FAST)


def _resumed(lesson: Lesson, archive: Archive) -> tuple[Archive, int]:
    """The state to go on from, and the epochs done: those of the checkpoint if there is one of this very work."""
    if lesson.checkpoint is None or not lesson.checkpoint.exists():
        return archive, 0
    try:
        found = open_archive(lesson.checkpoint)
    except FormatError:
        return archive, 0
    repair: Mapping[str, object] = found.metadata.get("repair", {})
    if repair.get("key") != _key(lesson, archive):
        return archive, 0
    return replace(archive, tensors=found.tensors), int(str(repair["epoch"]))
