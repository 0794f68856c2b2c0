"""From a network and pictures to the file that was asked for: measure, squeeze, search, repair."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.arrange import arranged, bias_names
from smidgen.budget import CLOSE, Budget, Fidelity, Outcome, Point, search
from smidgen.code import Code, Stats
from smidgen.errors import ModelError
from smidgen.examples import Examples, Item, batches, by_shape, inputs_of
from smidgen.file import SMALLEST, write
from smidgen.measure import measure, need
from smidgen.methods import Method, Quantize, Squeeze
from smidgen.network import Network
from smidgen.plan import Plan
from smidgen.refine import targets
from smidgen.repair import Lesson, repair
from smidgen.run.outputs import Output, agreement, divergence, outputs_of
from smidgen.run.session import Engine
from smidgen.transform import transform

__all__ = [
    "Progress",
    "Reference",
    "Reporter",
    "Settings",
    "Squeezer",
    "describe",
    "measured",
    "squeeze_to_budget",
]

Progress = Callable[[int, str], AbstractContextManager[Callable[[int], None]]]

BATCH = 10
KEPT = 2_000_000_000
"""Bytes that the examples measured at once may need by ``need``, about twice what they keep; of large ones fewer."""

PROBED = 64
FIRST_RATE = 1e-7
REFINED = 250
"""Pictures that targets are found with, at most; more would take longer than they are worth."""

TRIES, STEEP = 3, 10.0
"""Files that are made of targets until one fits, and the power of its bytes that the rate goes with."""

AFTER_REPAIR = 0.92
"""Part of the smallest file that lost little enough, from which distillation tries to win back what is lost."""

BIASES = Quantize(bits=6), Quantize(bits=8)
"""For the biases of squeezed layers; on SqueezeNet 6 bits alone cost 0.00001 nats."""

SPREAD = 4.0
"""Factor between the rates at which the first and the last bias get fewer bits."""

FLOAT_BITS = 28
"""What a bit pattern of 32 bits takes once it is coded, about."""


@contextmanager
def _silent(length: int, label: str) -> Iterator[Callable[[int], None]]:
    del length, label
    yield lambda done: None


@dataclass(frozen=True)
class Reporter:
    """Who is told how the work goes.

    Args:
        progress: shows how far a step has come; made of its length and a label.
        say: takes a line that tells what happens.
    """

    progress: Progress = _silent
    say: Callable[[str], None] = lambda line: None


SILENT = Reporter()


class Reference:
    """The original's answers on the held-out examples, to compare with.

    Args:
        original: the network before.
        examples: to judge by.
        kind: what the first output is, if the user says so.
    """

    def __init__(self, original: Archive, examples: Examples, kind: str | None = None) -> None:
        self.truth = None if examples.truth is None else np.asarray(examples.truth)
        self.inputs = list(batches(by_shape(examples.held_out), original, BATCH))
        self.answers = self._answers(original, len(self.inputs))
        model = onnx.load_from_string(original.graph)
        labelled = bool(original.labels) or self.truth is not None
        self.outputs = outputs_of(model, self.answers[0], labelled, kind)

    @property
    def measure(self) -> str:
        """What is counted as agreement: of classes, of chances, or as a cosine."""
        if self.truth is not None:
            return "top-1"
        return "cosine" if self.outputs[0].kind == "values" else "agreement"

    def fidelity(self, archive: Archive) -> Fidelity:
        """How near the answers of ``archive`` are."""
        answers = self._answers(archive, len(self.inputs))
        pairs = [(ours[0], theirs[0]) for ours, theirs in zip(self.answers, answers, strict=True)]
        alike = 100 * float(np.concatenate([agreement(self.outputs[0], *pair) for pair in pairs]).mean())
        drop = 100 - alike
        if self.truth is not None:
            right = [
                100 * float((np.concatenate([self._classes(answer) for answer in column]) == self.truth).mean())
                for column in zip(*pairs, strict=True)
            ]
            drop = right[0] - right[1]
        return Fidelity(len(self), self._divergence(answers), alike, drop, self.measure)

    def __len__(self) -> int:
        return sum(len(answers[0]) for answers in self.answers)

    def _classes(self, answer: NDArray[Any]) -> NDArray[np.intp]:
        return np.asarray(answer.argmax(self.outputs[0].axis).reshape(len(answer)))

    def harm_alone(
        self,
        original: Archive,
        codes: Mapping[str, Code | NDArray[Any]],
        on_progress: Callable[[int], None],
        budget: Budget,
    ) -> dict[str, float]:
        """For each code the divergence, in nats, that it causes in the original network when it is the only one.

        Of fewer, if the time is up.
        """
        sizes = np.cumsum([len(answers[0]) for answers in self.answers])
        count = int(np.searchsorted(sizes, PROBED)) + 1
        found = {}
        for number, (name, code) in enumerate(codes.items(), 1):
            if budget.over:
                break
            alone = replace(original, tensors={**original.tensors, name: code})
            found[name] = self._divergence(self._answers(alone, count))
            on_progress(number)
        return found

    def _divergence(self, answers: list[list[NDArray[Any]]]) -> float:
        """The mean over examples of the sum over outputs."""
        total = [
            sum(
                (divergence(*three) for three in zip(self.outputs, ours, theirs, strict=True)),
                start=np.zeros(len(ours[0])),
            )
            for ours, theirs in zip(self.answers, answers, strict=False)
        ]
        return max(0.0, float(np.concatenate(total).mean()))

    def _answers(self, archive: Archive, count: int) -> list[list[NDArray[Any]]]:
        engine = Engine(archive.onnx())
        return [engine(batch) for batch in self.inputs[:count]]


@dataclass(frozen=True)
class Settings:
    """How the work is done.

    Args:
        seed: of every draw; the same seed gives the same bytes.
        codecs: what the file is written with.
        epochs: of distillation; 0 for none.
        checkpoint: where distillation keeps its state, to go on after a kill; None to keep none.
        outputs: what the first output is, of ``smidgen.run.outputs.KINDS``; None to find out.
    """

    seed: int = 0
    codecs: tuple[str, ...] = SMALLEST
    epochs: int = 0
    checkpoint: Path | None = None
    outputs: str | None = None


@dataclass(frozen=True, eq=False)
class Squeezer:
    """Makes files: what has statistics squeezed at one rate, its biases at 6 or 8 bits, the rest without loss.

    Args:
        original: the network before; its float weights are what is squeezed.
        stats: of the weights to squeeze, by name.
        codecs: what the file is written with.
        biases: names of the biases that go with them.
        bias_harm: nats that biases of 6 and of 8 bits cost alone; they get more bits where these are worth it.
    """

    original: Archive
    stats: Mapping[str, Stats]
    codecs: tuple[str, ...] = SMALLEST
    biases: Sequence[str] = ()
    bias_harm: tuple[float, ...] = (0.0, 0.0)

    def __call__(self, rate: float) -> tuple[Archive, int]:
        """The archive for a rate in nats per bit, and the bytes of its file. Codes stay as they are."""
        tensors = self.original.tensors
        live = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Code)}
        done = dict(tensors)
        steps: list[tuple[Sequence[str], Method]] = [(list(self.stats), Squeeze(rate)), *self._biases(rate, live)]
        for names, method in steps:
            weights = {name: live[name] for name in names if name in live}
            if weights:
                done.update(transform(weights, Plan((("*", method),)), self.stats))
        archive = replace(self.original, tensors=done)
        return archive, len(write(archive, self.codecs))

    def _biases(self, rate: float, live: Mapping[str, Any]) -> Iterator[tuple[list[str], Method]]:
        """Which biases get how many bits. Not all change at the same rate, so that any size can be met."""
        count = sum(live[name].size for name in self.biases if name in live)
        bits = (*(method.bits for method in BIASES), FLOAT_BITS)
        for place, name in enumerate(self.biases):
            own = rate * SPREAD ** ((place + 0.5) / len(self.biases) - 0.5)
            costs = [harm + own * count * each for harm, each in zip((*self.bias_harm, 0.0), bits, strict=True)]
            best = costs.index(min(costs))
            if best < len(BIASES):
                yield [name], BIASES[best]


def squeeze_to_budget(
    original: Archive,
    examples: Examples,
    outcome: Outcome,
    settings: Settings = Settings(),
    reporter: Reporter = SILENT,
    stats: Mapping[str, Stats] | None = None,
) -> None:
    """The smallest file that does little enough harm, or the best one of the size that was asked for.

    Args:
        original: the network, uncompressed.
        examples: to calibrate on and to judge by.
        outcome: says what is asked for, and takes every file as it is found; so it is valid if this is interrupted.
        settings: how the work is done.
        reporter: is told what happens.
        stats: of the weights, where they were ``measured`` before with the same seed.

    Raises:
        ModelError: there is nothing to squeeze, or the network's answers cannot be measured.
    """
    inputs_of(original)
    original = arranged(original)
    reference = Reference(original, examples, settings.outputs)
    if stats is None:
        stats = measured(original, examples, settings.seed, reporter, outcome.budget.left / 2, reference.outputs)
    least = 100 / len(reference)
    if outcome.budget.max_drop is not None and least > outcome.budget.max_drop and reference.measure != "cosine":
        reporter.say(
            f"one of {len(reference)} answers is {least:.1f} points: give more {examples.what} for finer answers"
        )
    outcome.budget = replace(outcome.budget, margin=_room(original, len(stats)))
    biases = [name for name in bias_names(original, stats) if np.asarray(original.tensors[name]).dtype == np.float32]
    harm = tuple(_bias_harm(original, biases, method, reference) for method in BIASES)
    squeezer = Squeezer(original, stats, settings.codecs, biases, harm)
    run = _Run(outcome, squeezer, reference, reporter)
    search(outcome, run.attempt, FIRST_RATE, _count(original, stats))
    run.refine(examples.calibration[:REFINED], settings.seed)
    if settings.epochs and not outcome.budget.over:
        lesson = Lesson(
            examples.calibration,
            reference.outputs,
            settings.epochs,
            settings.seed,
            settings.checkpoint,
            lambda: outcome.budget.over,
        )
        run.repair(lesson)
    run.explain()


@dataclass(frozen=True, eq=False)
class _Run:
    """One search, from its first file to the explanation of its last."""

    outcome: Outcome
    squeezer: Squeezer
    reference: Reference
    reporter: Reporter

    def attempt(self, rate: float) -> Point:
        """The file for a rate, judged."""
        return self._judged(*self.squeezer(rate), rate)

    def _judged(self, archive: Archive, size: int, rate: float, repaired: bool = False, refined: bool = False) -> Point:
        point = Point(rate, size, self.reference.fidelity(archive), repaired, refined)
        self.outcome.add(archive, point)  # first, so that what was said is kept
        self.reporter.say(describe(point))
        return point

    def refine(self, items: Sequence[Item], seed: int) -> None:
        """Squeezes again, with targets for the inputs of the best file, where a size is asked for."""
        best, archive, budget = self.outcome.best, self.outcome.archive, self.outcome.budget
        if budget.size is None or budget.over or not best or not archive or not self.outcome.reached:
            return
        original = self.squeezer.original
        inputs = batches(items, original, BATCH // 2)  # two networks at once
        with self.reporter.progress(len(items), "refining") as advance:
            found = targets(
                Network(original),
                Network(archive),
                takewhile(lambda _: not budget.over, inputs),
                set(self.squeezer.stats),
                seed,
                advance,
                self.reference.outputs,
            )
        # the other codes stay, since the targets make up for their errors
        squeezer = replace(self.squeezer, original=replace(archive, tensors={**archive.tensors, **found}))
        rate, aim = best.nats_per_bit, budget.size - budget.margin
        for _ in range(TRIES if found else 0):
            if self.outcome.budget.over:
                return
            refined, size = squeezer(rate)
            if size <= aim:
                self._judged(refined, size, rate, refined=True)
                return
            rate *= (size / aim) ** STEEP * (1 + CLOSE)

    def repair(self, lesson: Lesson) -> None:
        """Distils the original into the best file of the search, and adds what comes out of each epoch.

        Where a drop is the limit, a smaller file is what is distilled.
        """
        start, budget = self.outcome, self.outcome.budget
        best = start.best
        assert best
        if budget.size is None:
            start = Outcome(Budget(size=max(1, int(best.bytes * AFTER_REPAIR)), deadline=budget.deadline))
            weights = _count(self.squeezer.original, self.squeezer.stats)
            search(start, partial(_weigh, self.squeezer, start), best.nats_per_bit, weights)
        assert start.archive
        assert start.best
        rate = start.best.nats_per_bit

        def judge(repaired: Archive) -> None:
            self._judged(*replace(self.squeezer, original=repaired)(rate), rate, repaired=True)

        self.reporter.say(f"distilling {lesson.epochs} epochs on {len(lesson.items):,} examples")
        repair(lesson, self.squeezer.original, start.archive, self.reporter.progress, judge)

    def explain(self) -> None:
        """Measures each layer's harm alone and keeps it in the file, if it does not grow beyond the size for that."""
        outcome, squeezer = self.outcome, self.squeezer
        best, archive = outcome.best, outcome.archive
        if best is None or archive is None or outcome.budget.over:
            return
        codes = {name: tensor for name, tensor in archive.tensors.items() if name in squeezer.stats}
        with self.reporter.progress(len(codes), "each layer alone") as advance:
            harm = self.reference.harm_alone(squeezer.original, codes, advance, outcome.budget)
        if len(harm) < len(codes):
            return
        explained = replace(archive, metadata=explanation(squeezer.original.metadata, harm, best.fidelity))
        point = replace(best, bytes=len(write(explained, squeezer.codecs)))
        if outcome.budget.size is None or outcome.budget.allows(point):
            outcome.settle(explained, point)


def _count(archive: Archive, names: Iterable[str]) -> int:
    return sum(np.asarray(archive.tensors[name]).size for name in names)


def _weigh(squeezer: Squeezer, outcome: Outcome, rate: float) -> Point:
    archive, size = squeezer(rate)
    return outcome.add(archive, Point(rate, size))


def _bias_harm(original: Archive, names: Sequence[str], method: Method, reference: Reference) -> float:
    coarse = {name: method(np.asarray(original.tensors[name])) for name in names}
    return reference.fidelity(replace(original, tensors={**original.tensors, **coarse})).kl if coarse else 0.0


def measured(
    original: Archive,
    examples: Examples,
    seed: int = 0,
    reporter: Reporter = SILENT,
    seconds: float = math.inf,
    outputs: Sequence[Output] | None = None,
) -> dict[str, Stats]:
    """The statistics of the calibration examples, or of as many as there is time for, after saying what it will take.

    Args:
        original: the network, arranged.
        examples: to calibrate on.
        seed: of the draws.
        reporter: is told what it will take.
        seconds: how long it may take.
        outputs: what the outputs are; by default scores of classes.

    Raises:
        ModelError: there is nothing to measure, or the network's answers cannot be used.
    """
    network, what = Network(original), examples.what
    for operator in network.foreign:
        reporter.say(f"{operator} is run by ONNX Runtime; what matters only through it cannot be measured")
    first = [next(batches([item], original, 1)) for item in examples.calibration[:2]]
    together = _together(network, next(batches([max(examples.calibration, key=_numbers)], original, 1)))
    wanted = need(network, first[0], together)
    if not wanted.weights:
        raise ModelError("the network has no convolution and no linear layer, so there is nothing to squeeze")
    count = len(examples.calibration)
    moments = [time.perf_counter()]
    measure(network, first, seed, lambda _: moments.append(time.perf_counter()), outputs)
    each = moments[-1] - moments[-2]  # the first one also warms up
    if each * count > seconds:
        count = max(1, int(seconds / each))
        reporter.say(f"there is time for {count:,} of {len(examples.calibration):,} {what}")
    others = "others" if examples.disjoint else "of the same, since there are fewer than 20"
    reporter.say(
        f"measuring {wanted.weights:,} weights on {count:,} {what}; judging on {len(examples.held_out)} {others}: "
        f"about {wanted.bytes / 1e6:,.0f} MB and at most {each * count:,.0f} s"
    )
    with reporter.progress(count, "measuring") as advance:
        chosen = by_shape(examples.calibration[:count])
        stats = measure(network, batches(chosen, original, together), seed, advance, outputs)
    if all(known.sensitivity < 1e-18 for known in stats.values()):
        raise ModelError(
            "the network's answers do not depend on its weights, or are too sure to see it; nothing to go by"
        )
    found = {name: known for name, known in stats.items() if known.sensitivity > 0}
    _tell_what_is_kept(original, found, stats, reporter)
    return found


def _together(network: Network, largest: Mapping[str, NDArray[Any]]) -> int:
    """How many examples are measured at once, as what these keep is most of the memory if they are large."""
    one, two = (need(network, largest, count).bytes for count in (1, 2))
    return max(1, min(BATCH, KEPT // max(1, two - one)))


def _numbers(item: Item) -> int:
    """How large an example is; pictures all become equally large."""
    return sum(array.size for array in item.values()) if isinstance(item, Mapping) else 0


def _tell_what_is_kept(
    original: Archive, squeezed: Mapping[str, Stats], measured: Mapping[str, Stats], reporter: Reporter
) -> None:
    """What is not squeezed: by name what has two and more axes, in one line what has one, such as normalizations."""
    changed, small = {*squeezed, *bias_names(original, squeezed)}, []
    for name, tensor in original.tensors.items():
        if name in changed or isinstance(tensor, Code):
            continue
        if tensor.ndim < 2:
            small.append(name)
            continue
        why = "on which no answer depends" if name in measured else "which belongs to no layer that can be measured"
        reporter.say(f"kept without loss: {name}, {why}")
    if small:
        count = sum(np.asarray(original.tensors[name]).size for name in small)
        reporter.say(f"kept without loss: {count:,} numbers of one axis in {len(small)} others, such as {small[0]}")


def explanation(metadata: Mapping[str, Any], harm: Mapping[str, float], fidelity: Fidelity | None) -> dict[str, Any]:
    """Metadata that says what squeezing cost: micronats of divergence for each squeezed layer alone, in the order of
    the tensors, and for all together.

    Example:
        >>> explanation({}, {"0.weight": 0.00123}, Fidelity(10, 0.01, 99.0, 1.0, "agreement"))
        {'squeezed': {'harm': [1200], 'kl': 0.01, 'agreement': 99.0, 'pictures': 10}}
    """
    squeezed: dict[str, Any] = {"harm": [round(float(f"{1e6 * value:.2g}")) for value in harm.values()]}
    if fidelity:
        squeezed |= {
            "kl": float(f"{fidelity.kl:.3g}"),
            "agreement": round(fidelity.agreement, 1),
            "pictures": fidelity.pictures,
        }
    return {**metadata, "squeezed": squeezed}


def _room(archive: Archive, layers: int) -> int:
    """Bytes that an explanation will take in the file."""
    harm = {str(number): 0.00123 for number in range(layers)}
    filled = explanation(archive.metadata, harm, Fidelity(400, 0.0123, 98.7, 0, "agreement"))
    bare = replace(archive, tensors={})
    return len(write(replace(bare, metadata=filled))) - len(write(bare)) + 4


def describe(point: Point) -> str:
    """One line about a file that was tried.

    Example:
        >>> describe(Point(1e-7, 400_000, Fidelity(400, 0.0713, 86.4, 0.5, "top-1")))
        '400,000 bytes: KL 0.0713, agreement 86.4 %, top-1 drop 0.50 points'
    """
    line = f"{point.bytes:,} bytes"
    if point.fidelity:
        line += f": {point.fidelity.described}"
        line += f", top-1 drop {point.fidelity.drop:.2f} points" if point.fidelity.measure == "top-1" else ""
    return line + (" (repaired)" if point.repaired else " (refined)" if point.refined else "")
