"""Repair: the original teaches the squeezed network, without labels; symbols are chosen again as it learns."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from smidgen.archive import Archive, Preprocessing, open_archive
from smidgen.code import Code, Trellis
from smidgen.errors import FormatError
from smidgen.examples import Picture
from smidgen.file import FAST
from smidgen.measure import scores_of
from smidgen.methods.squeeze import nearest
from smidgen.run.pictures import open_picture, prepare

if TYPE_CHECKING:
    from smidgen.pipeline import Progress

__all__ = ["Lesson", "repair"]

BATCH = 16
ROUNDED_EVERY = 8
"""Updates between two choices of symbols."""

STEP = 0.003
"""How far a weight moves in one update at first, as a part of the distance of two symbols."""

BIAS_STEP = 0.001
"""The same for what is not squeezed, as a part of its standard deviation."""

BEFORE = 0.3
"""How far weights start on the way from their values back to what they were before they were squeezed."""

SMALLEST_CROP = 0.35
MIXED = 0.3
"""Part of the batches whose pictures are laid over each other in pairs."""

IDEAL = "ideal:"
"""Before the name of a weight in a checkpoint: what it would be if it needed no symbols."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """What to repair, and how long.

    Args:
        module: the original; it is not changed.
        preprocessing: how a picture becomes the input.
        pictures: to learn from, without labels.
        epochs: passes over the pictures, in all.
        seed: of crops and order.
        checkpoint: where the state is kept after each epoch, or None.
        over: whether the time is up; the epoch that is under way then ends early.
    """

    module: nn.Module
    preprocessing: Preprocessing
    pictures: Sequence[Picture]
    epochs: int
    seed: int
    checkpoint: Path | None = None
    over: Callable[[], bool] = lambda: False


def repair(
    lesson: Lesson,
    original: Archive,
    archive: Archive,
    progress: Progress,
    on_epoch: Callable[[Archive], object],
) -> None:
    """Distils the original into the squeezed network.

    Every weight has an ideal value, which the gradient of the divergence from the original's answers moves; its symbols
    are those of the path nearest to the ideal values, found anew every few updates (straight-through). Steps are
    small beside the distance of two symbols, so that few symbols change at a time.

    Args:
        lesson: what to do.
        original: the network before.
        archive: the squeezed one.
        progress: shows pictures done.
        on_epoch: takes the network after each epoch, its biases as floats.

    Source:
        Hinton et al., arXiv 1503.02531, for distillation, at temperature 1; Bengio et al., arXiv 1308.3432, for the
        straight-through gradient.
    """
    key = _key(lesson, original, archive)
    state, epoch = _resumed(lesson, key, original, archive)
    if epoch:
        on_epoch(_without_ideals(state))
    lesson = replace(lesson, module=copy.deepcopy(lesson.module).float().eval())
    with progress(lesson.epochs * len(lesson.pictures), "distilling") as advance:
        while epoch < lesson.epochs and not lesson.over():
            student = _Student(lesson.module, state)
            _learn(lesson, student, epoch, advance)
            state = student.state(state)
            if not lesson.over():
                epoch += 1
                _keep(lesson, key, state, epoch)
            on_epoch(_without_ideals(state))
    if lesson.checkpoint and epoch == lesson.epochs:
        lesson.checkpoint.unlink(missing_ok=True)


def _learn(lesson: Lesson, student: _Student, epoch: int, advance: Callable[[int], None]) -> None:
    """One pass over the pictures. The optimizer starts anew, so that a run that was cut off goes on the same way."""
    optimizer = torch.optim.Adam(student.groups(), betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    done = 0
    for turn, inputs in enumerate(_augmented(lesson, epoch), 1):
        with torch.no_grad():
            wanted = scores_of(lesson.module(inputs)).log_softmax(1)
        answers = scores_of(student.module(inputs)).log_softmax(1)
        loss = nn.functional.kl_div(answers, wanted, log_target=True, reduction="batchmean")
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        part = (epoch + done / len(lesson.pictures)) / lesson.epochs
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, turn / 20) * (1 - 0.9 * part)
        student.update(optimizer)
        if lesson.over():
            break
        if turn % ROUNDED_EVERY == 0:
            student.choose()
        done += len(inputs)
        advance(epoch * len(lesson.pictures) + done)
    student.choose()


class _Student:
    """The network that learns: a module, and for each squeezed weight its code and its ideal value."""

    def __init__(self, module: nn.Module, state: Archive) -> None:
        self.module = copy.deepcopy(module).eval()
        weights = _without_ideals(state).weights()
        self.module.load_state_dict({name: torch.from_numpy(np.array(w)) for name, w in weights.items()}, strict=False)
        self.parameters = dict(self.module.named_parameters())
        self.codes = {
            name: tensor
            for name, tensor in state.tensors.items()
            if isinstance(tensor, Code) and isinstance(tensor.rule, Trellis)
        }
        # what is said to be kept without loss stays as it is
        biases = {name.removesuffix("weight") + "bias" for name in self.codes}
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.codes or name in biases)
        self.ideals = {name: torch.from_numpy(np.array(state.tensors[IDEAL + name])) for name in self.codes}

    def groups(self) -> Iterator[dict[str, object]]:
        """What is trained, and how fast."""
        for name, parameter in self.parameters.items():
            code = self.codes.get(name)
            if code is None:
                if not parameter.requires_grad:
                    continue
                spread = float(parameter.detach().std()) if parameter.numel() > 1 else abs(float(parameter.detach()))
                yield {"params": [parameter], "lr": BIAS_STEP * spread}
            else:
                assert isinstance(code.rule, Trellis)
                yield {"params": [parameter], "lr": STEP * 2 * code.rule.scale}

    def update(self, optimizer: torch.optim.Optimizer) -> None:
        """Moves ideal values by what the optimizer would move the weights; those stay until symbols are chosen."""
        values = {name: self.parameters[name].detach().clone() for name in self.codes}
        optimizer.step()
        with torch.no_grad():
            for name, value in values.items():
                self.ideals[name] += self.parameters[name] - value
                self.parameters[name].copy_(value)

    def choose(self) -> None:
        """Takes the symbols that are nearest to the ideal values."""
        with ThreadPoolExecutor(os.cpu_count()) as pool, torch.no_grad():
            found = pool.map(lambda name: nearest(self.codes[name], self.ideals[name].numpy()), self.codes)
            for name, code in zip(self.codes, list(found), strict=True):
                self.codes[name] = code
                self.parameters[name].copy_(torch.from_numpy(code.values()))

    def state(self, before: Archive) -> Archive:
        """The network as an archive, with the ideal values beside the codes."""
        tensors: dict[str, Code | NDArray[np.float32]] = {}
        trained = self.module.state_dict()
        for name, tensor in before.tensors.items():
            if name in self.codes:
                tensors[name] = self.codes[name]
            elif name.startswith(IDEAL):
                tensors[name] = self.ideals[name.removeprefix(IDEAL)].numpy().copy()
            else:
                tensors[name] = trained[name].detach().numpy().copy() if name in trained else tensor
        return replace(before, tensors=tensors)


def _without_ideals(state: Archive) -> Archive:
    return replace(state, tensors={name: t for name, t in state.tensors.items() if not name.startswith(IDEAL)})


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


def _key(lesson: Lesson, original: Archive, archive: Archive) -> str:
    """Names the work, so that a checkpoint of other work is not taken for it."""
    digest = hashlib.sha256(f"{lesson.epochs} {lesson.seed} {len(lesson.pictures)}".encode())
    for network in (original, archive):
        for name, weight in network.weights().items():
            digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
    for picture in lesson.pictures:
        digest.update(picture.tobytes() if isinstance(picture, np.ndarray) else str(picture).encode())
    return digest.hexdigest()[:32]


def _keep(lesson: Lesson, key: str, state: Archive, epoch: int) -> None:
    if lesson.checkpoint:
        metadata = {"repair": {"key": key, "epoch": epoch}}
        replace(state, metadata=metadata).save(lesson.checkpoint, FAST)


def _resumed(lesson: Lesson, key: str, original: Archive, archive: Archive) -> tuple[Archive, int]:
    """The state to go on from, and the epochs done: those of the checkpoint if there is one of this very work."""
    tensors: dict[str, Code | NDArray[np.float32]] = {}
    before = original.weights()
    for name, tensor in archive.tensors.items():
        # biases start from what they were, since they get their symbols last
        tensors[name] = tensor if isinstance(tensor, Code) and isinstance(tensor.rule, Trellis) else before[name]
        if isinstance(tensor, Code) and isinstance(tensor.rule, Trellis):
            tensors[IDEAL + name] = tensor.values() + np.float32(BEFORE) * (before[name] - tensor.values())
    start = replace(archive, tensors=tensors)
    if lesson.checkpoint is None or not lesson.checkpoint.exists():
        return start, 0
    try:
        found = open_archive(lesson.checkpoint)
    except FormatError:
        return start, 0
    kept: Mapping[str, object] = found.metadata.get("repair", {})
    if kept.get("key") != key:
        return start, 0
    return replace(start, tensors=found.tensors), int(str(kept["epoch"]))
