"""One stage: epochs of training, with a state after each from which it goes on as if nothing had happened."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from smidgen import distributed
from smidgen.archive import Preprocessing
from smidgen.disk import replace_file
from smidgen.errors import ModelError
from smidgen.train.fold import NORMS
from smidgen.train.pictures import Labelled, Pictures, batches
from smidgen.train.recipe import Schedule, Stage

__all__ = ["Epoch", "Lesson", "Teacher", "accuracy", "best_device", "inputs", "learn"]

MOMENTUM = 0.9
CLIP = 5.0
"""Largest norm of all gradients together; longer ones are shortened to it."""

MEASURED = 500
"""Pictures that are measured at once."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network whose answers are distilled, and how a picture becomes its input."""

    module: nn.Module
    preprocessing: Preprocessing


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a stage learns from.

    Args:
        pictures: to train on, and to measure on.
        preprocessing: how a picture becomes the input.
        teachers: the uncompressed network, or others, of which the mean of scores teaches; perhaps none.
        seed: of all draws of this stage.
        checkpoint: where the state is kept after each epoch.
    """

    pictures: Pictures
    preprocessing: Preprocessing
    teachers: Sequence[Teacher]
    seed: tuple[int, int]
    checkpoint: Path


@dataclass(frozen=True)
class Epoch:
    """What is known after an epoch: the mean loss, percent of the measuring pictures named right, and seconds taken."""

    stage: str
    epoch: int
    loss: float
    accuracy: float
    seconds: float


def best_device() -> torch.device:
    """A GPU of this process's own, if there is one."""
    if torch.cuda.is_available():
        return torch.device("cuda", distributed.rank() % torch.cuda.device_count())
    return torch.device("cpu")


def learn(
    module: nn.Module,
    stage: Stage,
    lesson: Lesson,
    done: list[Epoch],
    advance: Callable[[int], None],
) -> Iterator[list[Epoch]]:
    """Trains a module for a stage, from its last checkpoint on if there is one.

    Args:
        module: begun by the stage's family; trained in place.
        stage: what is done, and how long.
        lesson: what it learns from.
        done: epochs of earlier stages.
        advance: takes how many pictures are done in this stage.

    Yields:
        All epochs so far: those that were done before, then after each.

    Raises:
        ModelError: the loss is not finite any more.
    """
    training = _Training(module, stage, lesson)
    history, first = done, 0
    if lesson.checkpoint.exists():
        kept = _resumed(lesson.checkpoint, stage.name, module, training.optimizer)
        if kept is not None:
            history, first = kept, kept[-1].epoch
    count = len(lesson.pictures.training)
    yield history
    with _prepared(module, training.layout):
        for epoch in range(first, stage.schedule.epochs):
            start = time.monotonic()
            loss = training.epoch(epoch, partial(_advance, advance, epoch * count))
            measured = 0.0
            if distributed.is_first():
                measured = accuracy(module, lesson.pictures.measuring, lesson.preprocessing)
            right = distributed.broadcast(measured)
            history = [*history, Epoch(stage.name, epoch + 1, loss, right, time.monotonic() - start)]
            if distributed.is_first():
                _keep(lesson.checkpoint, module, training.optimizer, history)
            yield history


def _advance(advance: Callable[[int], None], before: int, done: int) -> None:
    advance(before + done)


class _Training:
    """A module that is trained for a stage."""

    def __init__(self, module: nn.Module, stage: Stage, lesson: Lesson) -> None:
        self.module, self.stage, self.lesson = module, stage, lesson
        self.device = next(module.parameters()).device
        self.parameters = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = _optimizer(module, stage.schedule)
        self.layout = _layout(module, lesson)

    def epoch(self, number: int, advance: Callable[[int], None]) -> float:
        """One pass over the pictures; the mean loss, without what the family adds."""
        schedule, pictures, lesson = self.stage.schedule, self.lesson.pictures.training, self.lesson
        rng = np.random.default_rng((*lesson.seed, number))
        torch.manual_seed(int(rng.integers(2**62)))
        mixing = np.random.default_rng((*lesson.seed, number, 1))
        batch = min(schedule.batch, len(pictures))
        turns, own = len(pictures) // batch, slice(distributed.rank(), None, distributed.size())
        self.module.train()
        total = torch.zeros(())
        drawn = batches(pictures, schedule, rng, own)
        for turn, (given, classes) in enumerate(drawn):
            share = float(mixing.beta(schedule.mix, schedule.mix)) if schedule.mix else 1.0
            loss = self.loss(given, classes, share)
            self._step(loss, len(classes) / batch, number * turns + turn, schedule.epochs * turns)
            total += loss.detach().cpu()
            advance((turn + 1) * batch)
        if not math.isfinite(float(total)):
            raise ModelError(
                f"stage {self.stage.name}: training diverged in epoch {number + 1}; lower its learning_rate"
            )
        distributed.share([b for b in self.module.buffers() if b.is_floating_point()])
        return float(total) / turns

    def _step(self, loss: Tensor, own: float, turn: int, turns: int) -> None:
        """Moves the weights; ``own`` is the part of the batch that this process has."""
        schedule, part = self.stage.schedule, turn / turns
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.learning_rate * speed(part, schedule.warmup)
        loss = own * loss
        penalty = self.stage.family.penalty(self.module)
        self.optimizer.zero_grad()
        (loss if penalty is None else loss + penalty / distributed.size()).backward()  # type: ignore[no-untyped-call]
        distributed.add_up([p.grad for p in self.parameters if p.grad is not None])
        self.stage.family.update(self.module, part, turn)
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()

    def loss(self, given: Tensor, classes: Tensor, share: float) -> Tensor:
        """Cross entropy, and divergence from the teachers.

        Args:
            given: pictures on the scale of 0 to 255.
            classes: of these.
            share: how much of each picture is its own; the rest is of the one in its place from the other end.
        """
        schedule, lesson, classes = self.stage.schedule, self.lesson, classes.to(self.device)
        if share < 1:
            given = share * given + (1 - share) * given.flip(0)
        x = inputs(given, lesson.preprocessing, self.device).contiguous(memory_format=self.layout)
        with _mixed(self.device):
            scores = self.module(x)
        scores = scores.float()
        loss = share * functional.cross_entropy(scores, classes)
        if share < 1:
            loss = loss + (1 - share) * functional.cross_entropy(scores, classes.flip(0))
        if not lesson.teachers or not schedule.distill:
            return loss
        answers = []
        for teacher in lesson.teachers:
            like = teacher.preprocessing == lesson.preprocessing
            seen = x if like else inputs(given, teacher.preprocessing, self.device)
            with torch.no_grad(), _mixed(self.device):
                answers.append(teacher.module(seen).float())
        taught = torch.stack(answers).mean(0)
        heat = schedule.temperature
        own, wanted = (functional.log_softmax(found / heat, 1) for found in (scores, taught))
        apart = functional.kl_div(own, wanted, reduction="batchmean", log_target=True)
        return (1 - schedule.distill) * loss + schedule.distill * heat**2 * apart


def speed(part: float, warmup: float) -> float:
    """The learning rate as a part of the largest, when ``part`` of all updates are done.

    Example:
        >>> [round(speed(part, 0.5), 2) for part in (0.25, 0.5, 0.75, 1)]
        [0.5, 1.0, 0.5, 0.0]
    """
    if part < warmup:
        return max(part / warmup, 1e-3)
    return 0.5 + 0.5 * math.cos(math.pi * (part - warmup) / (1 - warmup)) if warmup < 1 else 1.0


def inputs(pictures: Tensor, preprocessing: Preprocessing, device: torch.device) -> Tensor:
    """What the network takes, from pictures on the scale of 0 to 255."""
    x = pictures.to(device).float()
    if preprocessing.channels == "BGR":
        x = x.flip(1)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (preprocessing.mean, preprocessing.std))
    return (x - mean) / std


def accuracy(module: nn.Module, pictures: Labelled, preprocessing: Preprocessing, exact: bool = False) -> float:
    """Percent of the pictures whose likeliest class is the true one.

    Args:
        module: the network.
        pictures: to name.
        preprocessing: how they become its input.
        exact: in float32, as files are measured; otherwise as fast as training is.
    """
    device = next(module.parameters()).device
    was_training = module.training
    module.eval()
    right = 0
    with torch.no_grad(), nullcontext() if exact else _mixed(device):
        for places in torch.split(torch.arange(len(pictures)), MEASURED):
            scores = module(inputs(pictures[places], preprocessing, device))
            right += int((scores.argmax(1).cpu() == pictures.classes[places]).sum())
    module.train(was_training)
    return 100 * right / len(pictures)


def _mixed(device: torch.device) -> Any:
    """Convolutions in bfloat16, where the processor has instructions for that."""
    there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    known = there and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    enabled = device.type == "cuda" or known
    return torch.autocast(device.type, torch.bfloat16, enabled=bool(enabled))


def _layout(module: nn.Module, lesson: Lesson) -> torch.memory_format:
    """Channels last, which is faster, unless the network cannot take that: ``view`` is then impossible."""
    device = next(module.parameters()).device
    tried = copy.deepcopy(module).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = inputs(lesson.pictures.training[torch.arange(2)], lesson.preprocessing, device)
    try:
        with torch.no_grad():
            tried(x.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return torch.contiguous_format
    return torch.channels_last


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


@contextmanager
def _prepared(module: nn.Module, layout: torch.memory_format) -> Iterator[None]:
    """Puts channels last, and has gradients arrive so at normalizations, which are ten times slower else."""

    def arranged(layer: nn.Module, given: object, output: Tensor) -> None:
        if output.requires_grad and output.dim() == 4:
            output.register_hook(_channels_last)  # type: ignore[no-untyped-call]

    module.to(memory_format=layout)  # type: ignore[call-overload]
    norms = [layer for layer in module.modules() if isinstance(layer, NORMS) and layout is torch.channels_last]
    hooks = [norm.register_forward_hook(arranged) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _optimizer(module: nn.Module, schedule: Schedule) -> torch.optim.Optimizer:
    trained = [p for p in module.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": schedule.decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if schedule.optimizer == "adam":
        return torch.optim.AdamW(groups, schedule.learning_rate)
    return torch.optim.SGD(groups, schedule.learning_rate, MOMENTUM, nesterov=True)


def _keep(path: Path, module: nn.Module, optimizer: torch.optim.Optimizer, history: list[Epoch]) -> None:
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for place, state in optimizer.state_dict()["state"].items():
        for name, value in state.items():
            if value is not None:
                tensors[f"optimizer.{place}.{name}"] = torch.as_tensor(value)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    metadata = {"history": json.dumps([vars(epoch) for epoch in history])}
    replace_file(path, lambda temporary: save_file(tensors, temporary, metadata))


def _resumed(path: Path, stage: str, module: nn.Module, optimizer: torch.optim.Optimizer) -> list[Epoch] | None:
    """The epochs done, if the checkpoint is of this stage; its state is loaded."""
    try:
        with safe_open(path, "pt") as file:
            history = [Epoch(**epoch) for epoch in json.loads((file.metadata() or {}).get("history", "[]"))]
            if not history or history[-1].stage != stage:
                return None
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except SafetensorError:
        return None
    state = {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
    if state.keys() != module.state_dict().keys():  # of another version
        return None
    module.load_state_dict(state)
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, place, key = name.split(".", 2)
            states.setdefault(int(place), {})[key] = tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
    return history
