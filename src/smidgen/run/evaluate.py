"""What compression cost: accuracy, agreement with the original, divergence, and time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError
from smidgen.run.pictures import open_picture
from smidgen.run.runner import Runner
from smidgen.run.timing import interleaved

__all__ = ["Evaluation", "evaluate", "latency"]

_BATCH = 16
_TIMED_PICTURES = 8
_TIMED_ROUNDS = 24


@dataclass(frozen=True)
class Evaluation:
    """What one network did with the pictures, and how far it is from the first network that was evaluated.

    Args:
        pictures: how many there were.
        labelled: whether the truth was known.
        top1: percent of the pictures whose likeliest class is the true one, or None without labels.
        top5: percent of the pictures whose true class is among the five likeliest, or None without labels.
        agreement: percent of the pictures whose likeliest class is that of the first network.
        kl: Kullback-Leibler divergence from the first network in nats, the mean over the pictures of
            sum p_first (log p_first - log p); 0 says that the probabilities are the same.
        milliseconds: median time of the network alone for one picture.
    """

    pictures: int
    labelled: bool
    top1: float | None
    top5: float | None
    agreement: float
    kl: float
    milliseconds: float


def evaluate(
    runners: Sequence[Runner],
    pictures: Sequence[Path | NDArray[np.uint8]],
    truth: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
    on_answers: Callable[[Sequence[NDArray[np.float64]]], None] | None = None,
) -> list[Evaluation]:
    """Compare networks on the same pictures, each with its own preprocessing; the first one is the reference.

    The pictures are read once and in small batches, so that memory does not grow with their number. Of equal scores
    the lower index ranks first. Time is measured afterwards, see ``latency``.

    Args:
        runners: the networks; all with the same classes in the same order.
        pictures: files, or uint8 arrays of shape (height, width, 3) in RGB.
        truth: index of the true class of each picture, or None if unknown.
        on_progress: called after each batch with the number of pictures done.
        on_answers: called before that with each network's logarithms of probabilities, of shape (pictures, classes).

    Returns:
        One evaluation for each runner, in their order.

    Raises:
        InputError: no networks or pictures, networks of different classes, a truth of another length or outside the
            classes, or a picture that cannot be read.
        ModelError: a network has no preprocessing or cannot run.

    Source:
        S. Kullback, R. A. Leibler: On Information and Sufficiency, 1951, eq. 2.4.
    """
    _check(runners, pictures, truth)
    counts = np.zeros((len(runners), 3), np.int64)  # top-1, top-5, agreement
    divergence = np.zeros(len(runners), np.float64)
    done = 0
    for batches in _batches(runners, pictures):
        logs = [runner.log_probabilities(batch) for runner, batch in zip(runners, batches, strict=True)]
        size = len(logs[0])
        answers = None if truth is None else np.asarray(truth[done : done + size])
        _check_classes([log.shape[1] for log in logs], answers)
        for row, log in enumerate(logs):
            counts[row] += _count(log, logs[0], answers)
            divergence[row] += (np.exp(logs[0]) * (logs[0] - log)).sum()
        done += size
        if on_answers is not None:
            on_answers(logs)
        if on_progress is not None:
            on_progress(done)
    times = latency(runners, pictures[:_TIMED_PICTURES], _TIMED_ROUNDS)
    percent = 100.0 * counts / done
    return [
        Evaluation(
            pictures=done,
            labelled=truth is not None,
            top1=None if truth is None else float(percent[row, 0]),
            top5=None if truth is None else float(percent[row, 1]),
            agreement=float(percent[row, 2]),
            # rounding can leave a sum that is never negative a little below zero
            kl=max(0.0, float(divergence[row] / done)),
            milliseconds=times[row],
        )
        for row in range(len(runners))
    ]


def latency(runners: Sequence[Runner], pictures: Sequence[Path | NDArray[np.uint8]], rounds: int) -> list[float]:
    """Median time of each network for one picture, without reading and preparing it.

    In each round every network runs once on the same picture, see ``interleaved``.

    Args:
        runners: the networks.
        pictures: a few pictures, taken in turn; all are held in memory.
        rounds: how many times each network is timed, after one run that is not counted.

    Returns:
        Milliseconds, one number for each runner.

    Raises:
        InputError: no networks, pictures or rounds, or a picture that cannot be read.
        ModelError: a network has no preprocessing or cannot run.
    """
    _check(runners, pictures, None)
    if rounds < 1:
        raise InputError(f"rounds: {rounds} is not a number of rounds; give 1 or more")
    inputs = [
        [batch[index : index + 1] for batch in batches for index in range(len(batch))]
        for batches in zip(*_batches(runners, pictures), strict=True)
    ]
    runs = [partial(_run, runner, mine) for runner, mine in zip(runners, inputs, strict=True)]
    return [float(median) for median in np.median(interleaved(runs, rounds), axis=0)]


def _run(runner: Runner, inputs: Sequence[NDArray[np.float32]], turn: int) -> object:
    return runner(inputs[turn % len(inputs)])


def _check(
    runners: Sequence[Runner], pictures: Sequence[Path | NDArray[np.uint8]], truth: Sequence[int] | None
) -> None:
    if not runners:
        raise InputError("no network to evaluate")
    if not len(pictures):
        raise InputError("no pictures to evaluate on")
    if truth is not None and len(truth) != len(pictures):
        raise InputError(f"truth: {len(truth)} class indices for {len(pictures)} pictures; one each is needed")


def _check_classes(classes: list[int], answers: NDArray[np.int64] | None) -> None:
    odd = next((row for row, count in enumerate(classes) if count != classes[0]), None)
    if odd is not None:
        raise InputError(
            f"network {odd + 1} has {classes[odd]} classes and the first {classes[0]}; compare networks of one task"
        )
    if answers is not None and not ((answers >= 0) & (answers < classes[0])).all():
        raise InputError(f"truth: a class index lies outside 0..{classes[0] - 1}")


def _batches(
    runners: Sequence[Runner], pictures: Sequence[Path | NDArray[np.uint8]]
) -> Iterator[list[NDArray[np.float32]]]:
    """For each batch of pictures, one input for each runner; runners prepared alike share theirs."""
    like = [next(n for n, other in enumerate(runners) if other.preprocessing == r.preprocessing) for r in runners]
    for start in range(0, len(pictures), _BATCH):
        prepared: dict[int, list[NDArray[np.float32]]] = {row: [] for row in like}
        for picture in pictures[start : start + _BATCH]:
            pixels = picture if isinstance(picture, np.ndarray) else open_picture(picture)
            for row, batch in prepared.items():
                batch.append(runners[row].prepare(pixels))
        stacked = {row: np.stack(batch) for row, batch in prepared.items()}
        yield [stacked[row] for row in like]


def _count(
    log: NDArray[np.float64], reference: NDArray[np.float64], answers: NDArray[np.int64] | None
) -> tuple[int, int, int]:
    """How many pictures are right at the first, are right within five, and agree with the reference."""
    agree = int((log.argmax(axis=1) == reference.argmax(axis=1)).sum())
    if answers is None:
        return 0, 0, agree
    five = np.argsort(-log, axis=1, kind="stable")[:, :5] == answers[:, None]
    return int(five[:, 0].sum()), int(five.any(axis=1).sum()), agree
