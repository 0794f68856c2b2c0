"""Repair: the original teaches the squeezed network, without labels; symbols are chosen again as it learns."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smidgen import distributed
from smidgen.answers import divergence
from smidgen.archive import Archive, open_archive
from smidgen.arrange import bias_names
from smidgen.code import Code, Trellis
from smidgen.errors import FormatError
from smidgen.examples import Item, batches, groups
from smidgen.file import FAST
from smidgen.methods.squeeze import nearest
from smidgen.network import Network
from smidgen.run.outputs import Output
from smidgen.run.pictures import open_picture, picture_size

if TYPE_CHECKING:
    from smidgen.reporter import Progress

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


def _never() -> bool:
    return False


@dataclass(frozen=True, eq=False)
class Lesson:
    """What to repair, and how long.

    Args:
        items: to learn from, without labels: pictures, which are varied, or inputs by name, taken as they are.
        outputs: what the outputs of the network are.
        epochs: passes over the pictures, in all.
        seed: of crops and order.
        checkpoint: where the state is kept after each epoch, or None.
        over: whether the time is up; the epoch that is under way then ends early.
    """

    items: Sequence[Item]
    outputs: Sequence[Output]
    epochs: int
    seed: int
    checkpoint: Path | None = None
    over: Callable[[], bool] = _never


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
    small beside the distance of two symbols, so that few symbols change at a time. Under ``torchrun`` every process
    computes a part of each batch; only the first one may call this, while the others ``smidgen.distributed.follow``.

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
    teacher = Network(original)
    with progress(lesson.epochs * len(lesson.items), "distilling") as advance:
        while epoch < lesson.epochs and not lesson.over():
            student = _Student(state)
            distributed.broadcast(partial(_help, replace(lesson, over=_never), original, state, epoch))
            _learn(lesson, teacher, student, epoch, advance)
            state = student.state(state)
            if not lesson.over():
                epoch += 1
                _keep(lesson, key, state, epoch)
            on_epoch(_without_ideals(state))
    if lesson.checkpoint and epoch == lesson.epochs:
        lesson.checkpoint.unlink(missing_ok=True)


def _help(lesson: Lesson, original: Archive, state: Archive, epoch: int) -> None:
    """What the other processes do while the first one learns for an epoch."""
    _learn(lesson, Network(original), _Student(state), epoch, lambda done: None)


def _learn(lesson: Lesson, teacher: Network, student: _Student, epoch: int, advance: Callable[[int], None]) -> None:
    """One pass over the pictures. The optimizer starts anew, so that a run that was cut off goes on the same way."""
    optimizer = torch.optim.Adam(student.groups(), betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimizer.param_groups]
    done = 0
    for turn, batch in enumerate(_augmented(lesson, student.archive, epoch), 1):
        _differentiate(lesson, teacher, student, batch)
        part = (epoch + done / len(lesson.items)) / lesson.epochs
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1.0, turn / 20) * (1 - 0.9 * part)
        student.update(optimizer)
        if distributed.broadcast(lesson.over()):
            break
        if turn % ROUNDED_EVERY == 0:
            student.choose()
        done += batch.count
        advance(epoch * len(lesson.items) + done)
    student.choose()


def _differentiate(lesson: Lesson, teacher: Network, student: _Student, batch: _Batch) -> None:
    """The gradients of the mean over a batch; each process has its part of it."""
    trained = student.trained()
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    if batch.inputs:
        with torch.no_grad():
            wanted = teacher.given(batch.inputs)
        pairs = zip(lesson.outputs, wanted, student.network.given(batch.inputs), strict=True)
        loss = torch.stack([divergence(*pair) for pair in pairs if pair[1].is_floating_point()]).sum()
        (batch.part * loss).backward()  # type: ignore[no-untyped-call]
    distributed.add_up([parameter.grad for parameter in trained if parameter.grad is not None])


class _Student:
    """The network that learns, and for each squeezed weight its code and its ideal value."""

    def __init__(self, state: Archive) -> None:
        self.archive = _without_ideals(state)
        self.network = Network(self.archive)
        self.parameters = dict(self.network.named_weights())
        self.codes = {
            name: tensor
            for name, tensor in state.tensors.items()
            if isinstance(tensor, Code) and isinstance(tensor.rule, Trellis)
        }
        # what is said to be kept without loss stays as it is
        biases = set(bias_names(self.archive, self.codes))
        for name, parameter in self.parameters.items():
            parameter.requires_grad_(name in self.codes or name in biases)
        self.ideals = {name: torch.from_numpy(np.array(state.tensors[IDEAL + name])) for name in self.codes}

    def trained(self) -> list[Tensor]:
        """What has gradients."""
        return [parameter for parameter in self.parameters.values() if parameter.requires_grad]

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
        """Takes the symbols that are nearest to the ideal values; those of the first process, so that none drifts."""
        if distributed.is_first():
            with ThreadPoolExecutor(os.cpu_count()) as pool, torch.no_grad():
                found = pool.map(lambda name: nearest(self.codes[name], self.ideals[name].numpy()), self.codes)
                for name, code in zip(self.codes, list(found), strict=True):
                    self.codes[name] = code
                    self.parameters[name].copy_(torch.from_numpy(code.values()))
        distributed.share([*self.trained(), *self.ideals.values()])

    def state(self, before: Archive) -> Archive:
        """The network as an archive, with the ideal values beside the codes."""
        tensors: dict[str, Code | NDArray[np.float32]] = {}
        for name, tensor in before.tensors.items():
            if name in self.codes:
                tensors[name] = self.codes[name]
            elif name.startswith(IDEAL):
                tensors[name] = self.ideals[name.removeprefix(IDEAL)].numpy().copy()
            else:
                fixed = isinstance(tensor, Code) or name not in self.parameters
                tensors[name] = tensor if fixed else self.parameters[name].detach().numpy().copy()
        return replace(before, tensors=tensors)


def _without_ideals(state: Archive) -> Archive:
    return replace(state, tensors={name: t for name, t in state.tensors.items() if not name.startswith(IDEAL)})


@dataclass(frozen=True)
class _Batch:
    """The part of a batch that this process computes.

    Args:
        inputs: of the network; none where there are fewer examples than processes.
        part: how much of the whole batch it is, 0 to 1.
        count: examples in the whole batch.
    """

    inputs: Mapping[str, Tensor]
    part: float
    count: int


def _augmented(lesson: Lesson, archive: Archive, epoch: int) -> Iterator[_Batch]:
    """Batches. Of pictures random crops, some mirrored, some with other light, some laid over each other. All draws are
    made in all processes."""
    rng = np.random.default_rng((lesson.seed, epoch))
    items = [lesson.items[index] for index in rng.permutation(len(lesson.items))]
    for group in groups(items, archive, BATCH):
        mine = distributed.part(len(group))
        varied = [
            item if isinstance(item, Mapping) else _varied(item, rng, wanted=index in mine)
            for index, item in enumerate(group)
        ]
        own = [item for index in mine if (item := varied[index]) is not None]
        inputs = {}
        for batch in batches(own, archive, BATCH):
            inputs = {name: torch.from_numpy(np.array(array)) for name, array in batch.items()}
        if not isinstance(group[0], Mapping) and rng.random() < MIXED:
            part = float(rng.uniform(0.5, 1))
            inputs = {name: part * x + (1 - part) * x.flip(0) for name, x in inputs.items()}
        rows = [_rows(item) for item in group]
        yield _Batch(inputs, sum(rows[index] for index in mine) / sum(rows), len(group))


def _rows(item: Item) -> int:
    """How many examples are in one item."""
    first = next(iter(item.values())) if isinstance(item, Mapping) else None
    return 1 if first is None or not first.ndim else len(first)


def _varied(picture: Path | NDArray[np.uint8], rng: np.random.Generator, wanted: bool) -> NDArray[np.uint8] | None:
    """A picture cut, turned and lit at random; None if only the draws are wanted."""
    if isinstance(picture, Path) and wanted:
        picture = open_picture(picture)
    height, width = picture_size(picture) if isinstance(picture, Path) else picture.shape[:2]
    area, shape = rng.uniform(SMALLEST_CROP, 1), np.exp(rng.uniform(-0.28, 0.28))
    tall = min(height, max(1, round(height * np.sqrt(area * shape))))
    wide = min(width, max(1, round(width * np.sqrt(area / shape))))
    top, left = rng.integers(0, height - tall + 1), rng.integers(0, width - wide + 1)
    mirrored = rng.random() < 0.5
    light = 128 + rng.uniform(-20, 20) + rng.uniform(-8, 8, 3)
    contrast = rng.uniform(0.8, 1.2)
    if isinstance(picture, Path) or not wanted:
        return None
    crop = picture[top : top + tall, left : left + wide].astype(np.float32)
    turned = crop[:, ::-1] if mirrored else crop
    return np.clip((turned - 128) * contrast + light, 0, 255).astype(np.uint8)


def _key(lesson: Lesson, original: Archive, archive: Archive) -> str:
    """Names the work, so that a checkpoint of other work is not taken for it."""
    digest = hashlib.sha256(f"{lesson.epochs} {lesson.seed} {len(lesson.items)}".encode())
    for network in (original, archive):
        for name, weight in network.decoded().items():
            digest.update(name.encode() + np.ascontiguousarray(weight).tobytes())
    for item in lesson.items:
        for part in item.values() if isinstance(item, Mapping) else [item]:
            digest.update(part.tobytes() if isinstance(part, np.ndarray) else str(part).encode())
    return digest.hexdigest()[:32]


def _keep(lesson: Lesson, key: str, state: Archive, epoch: int) -> None:
    if lesson.checkpoint:
        metadata = {"repair": {"key": key, "epoch": epoch}}
        # a program counts tensors, and there are more of them here
        replace(state, metadata=metadata, program=b"").save(lesson.checkpoint, FAST)


def _resumed(lesson: Lesson, key: str, original: Archive, archive: Archive) -> tuple[Archive, int]:
    """The state to go on from, and the epochs done: those of the checkpoint if there is one of this very work."""
    tensors: dict[str, Code | NDArray[np.float32]] = {}
    before = original.decoded()
    for name, tensor in archive.tensors.items():
        squeezed = isinstance(tensor, Code) and isinstance(tensor.rule, Trellis)
        # biases start from what they were, since they get their symbols last
        tensors[name] = tensor if squeezed or isinstance(original.tensors[name], Code) else before[name]
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
