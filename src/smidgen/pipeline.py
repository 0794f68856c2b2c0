"""From a network and pictures to the file that was asked for: measure, squeeze, search, repair."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.archive import Archive
from smidgen.arrange import arranged, bias_names
from smidgen.budget import CLOSE, Budget, Fidelity, Outcome, Point, search
from smidgen.code import Code, Stats
from smidgen.errors import ModelError
from smidgen.examples import Examples, Item, batches, inputs_of
from smidgen.file import SMALLEST, UNIT, file_size
from smidgen.lower import lower
from smidgen.methods import Method
from smidgen.network import Network
from smidgen.parts import split_like, taken_out
from smidgen.reference import Reference
from smidgen.refine import targets
from smidgen.repair import Lesson, repair
from smidgen.reporter import SILENT, Reporter
from smidgen.squeezer import BIASES, Squeezer
from smidgen.survey import measured

__all__ = ["Settings", "describe", "squeeze_to_budget", "with_program"]

AT_ONCE = 5
"""Examples that two networks see at once."""

LOWERED = 100
"""Examples that show the ranges of activations."""

RARE = 10
"""Times the points that may be lost: where fewer percent of the answers are not the commonest one, that is said."""

FIRST_RATE = 1e-7
REFINED = 250
"""Pictures that targets are found with, at most; more would take longer than they are worth."""

TRIES, STEEP = 3, 10.0
"""Files that are made of targets until one fits, and the power of its bytes that the rate goes with."""

FULL = 0.99
"""A file made of targets has at least this part of the bytes of the one before."""

AFTER_REPAIR = 0.92
"""Part of the smallest file that lost little enough, from which distillation tries to win back what is lost."""


@dataclass(frozen=True)
class Settings:
    """How the work is done.

    Args:
        seed: of every draw; the same seed gives the same bytes.
        codecs: what the file is written with.
        epochs: of distillation; 0 for none.
        checkpoint: where distillation keeps its state, to go on after a kill; None to keep none.
        outputs: what outputs are, see ``smidgen.run.kinds.kinds_in``; None to find out.
    """

    seed: int = 0
    codecs: tuple[str, ...] = SMALLEST
    epochs: int = 0
    checkpoint: Path | None = None
    outputs: str | None = None


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
    given, original = original, arranged(original)
    original = with_program(original, examples.calibration, reporter)
    reference = Reference(original, examples, settings.outputs, given.graph)
    for line in _caveats(reference, examples, outcome.budget.max_drop):
        reporter.say(line)
    if stats is None:
        stats = measured(original, examples, settings.seed, reporter, outcome.budget.left / 2, reference.outputs)
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


def _caveats(reference: Reference, examples: Examples, max_drop: float | None) -> Iterator[str]:
    """What users should know of the figures that they will see."""
    count, what = len(reference), examples.what
    if reference.guessed:
        yield reference.guessed
    if reference.same:
        names = ", ".join(map(repr, reference.same))
        yield (
            f"the answers to all {count} {what} to judge by are the same ({names}), so nothing is known of others; "
            f"give more {what}, and different ones"
        )
    left_out = len(examples.held_out) - count if what == "pictures" else 0
    if left_out:
        yield f"the network takes a fixed number of pictures at once, so {left_out} held-out ones are left out"
    name, rare = reference.rare
    if max_drop is not None and reference.truth is None and rare < RARE * max_drop:
        yield (
            f"all answers of {name!r} but {rare:.1f} % are the same one, and {max_drop:g} points may be much of those; "
            "ask for less, or for a --size"
        )
    if max_drop is not None and 100 / count > max_drop and reference.counts:
        yield f"one of {count} answers is {100 / count:.1f} points: give more {what} for finer answers"


def with_program(archive: Archive, items: Sequence[Item], reporter: Reporter = SILENT) -> Archive:
    """The archive with a program, by which it runs without ONNX Runtime; or as it is, and why is said.

    Args:
        archive: to be squeezed, or squeezed already.
        items: what its activations are calibrated on; at most ``LOWERED`` of them.
        reporter: is told why there is no program.
    """
    try:
        with reporter.progress(len(items[:LOWERED]), "ranges of activations") as advance:
            inputs = batches(items[:LOWERED], archive, AT_ONCE)
            return replace(archive, program=lower(archive, _counted(inputs, advance)))
    except ModelError as error:
        reporter.say(f"runs by ONNX Runtime only: {error}")
        return archive


def _counted(inputs: Iterable[Mapping[str, Any]], advance: Callable[[int], None]) -> Iterator[Mapping[str, Any]]:
    for done, batch in enumerate(inputs, 1):
        yield batch
        advance(done * AT_ONCE)


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
        inputs = batches(items, original, AT_ONCE)
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
        parts = {name: archive.tensors[part] for name, part in taken_out(archive).items() if name in found}
        found |= {name: found[name] - part.values() for name, part in parts.items() if isinstance(part, Code)}
        # the other codes stay, since the targets make up for their errors
        squeezer = replace(self.squeezer, original=replace(archive, tensors={**archive.tensors, **found}))
        rate, aim = best.nats_per_bit, budget.size - budget.margin
        for _ in range(TRIES if found else 0):
            if self.outcome.budget.over:
                return
            refined, size = squeezer(rate)
            if FULL * best.bytes <= size <= aim:
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
        original = split_like(self.squeezer.original, start.archive)
        repair(lesson, original, start.archive, self.reporter.progress, judge)

    def explain(self) -> None:
        """Measures each layer's harm alone and keeps it in the file, if it does not grow beyond the size for that."""
        outcome, squeezer = self.outcome, self.squeezer
        best, archive = outcome.best, outcome.archive
        if best is None or archive is None or outcome.budget.over:
            return
        squeezed = {name: tensor for name, tensor in archive.tensors.items() if name in squeezer.stats}
        codes = {name: tensor for name, tensor in squeezed.items() if isinstance(tensor, Code)}
        with self.reporter.progress(len(codes), "each layer alone") as advance:
            harm = self.reference.harm_alone(split_like(squeezer.original, archive), codes, advance, outcome.budget)
        if len(harm) < len(codes):
            return
        explained = replace(archive, metadata=explanation(squeezer.original.metadata, harm, best.fidelity))
        point = replace(best, bytes=file_size(explained, squeezer.codecs))
        if outcome.budget.size is None or outcome.budget.allows(point):
            outcome.settle(explained, point)


def _count(archive: Archive, names: Iterable[str]) -> int:
    return sum(np.asarray(archive.tensors[name]).size for name in names)


def _bias_harm(original: Archive, names: Sequence[str], method: Method, reference: Reference) -> float:
    coarse = {name: method(np.asarray(original.tensors[name])) for name in names}
    return reference.fidelity(replace(original, tensors={**original.tensors, **coarse})).kl if coarse else 0.0


def _weigh(squeezer: Squeezer, outcome: Outcome, rate: float) -> Point:
    archive, size = squeezer(rate)
    return outcome.add(archive, Point(rate, size))


def explanation(metadata: Mapping[str, Any], harm: Mapping[str, float], fidelity: Fidelity | None) -> dict[str, Any]:
    """Metadata that says what squeezing cost: the divergence for each squeezed layer alone, in the order of the
    tensors, and for all together. Of layers it is in parts of ``unit``, by default a millionth.

    Example:
        >>> explanation({}, {"0.weight": 0.00123}, Fidelity(10, 0.01, 99.0, 1.0, "agreement"))
        {'squeezed': {'harm': [1200], 'kl': 0.01, 'agreement': 99.0, 'pictures': 10}}
        >>> explanation({}, {"0.weight": 2.56e-8}, None)
        {'squeezed': {'harm': [260], 'unit': 1e-10}}
    """
    most = max(harm.values(), default=0.0)
    fits = most < 1e-30 or 1e-4 <= most < 1e5
    unit = UNIT if fits else float(f"1e{math.floor(math.log10(most)) - 2}")
    squeezed: dict[str, Any] = {"harm": [round(float(f"{value / unit:.2g}")) for value in harm.values()]}
    if unit != UNIT:
        squeezed["unit"] = unit
    if fidelity:
        of_values = fidelity.measure == "R squared"
        name, alike = ("r_squared", 0.01 * fidelity.agreement) if of_values else ("agreement", fidelity.agreement)
        squeezed |= {"kl": float(f"{fidelity.kl:.3g}"), name: round(alike, 4 if of_values else 1)}
        squeezed["pictures"] = fidelity.pictures
    return {**metadata, "squeezed": squeezed}


def _room(archive: Archive, layers: int) -> int:
    """Bytes that an explanation will take in the file."""
    bare = replace(archive, tensors={})
    fidelity = Fidelity(400, 0.0123, 98.7, 0, "agreement")
    sizes = []
    for value in (0.00123, 0.0000123):
        filled = explanation(archive.metadata, {str(number): value for number in range(layers)}, fidelity)
        sizes.append(file_size(replace(bare, metadata=filled)))
    return max(sizes) - file_size(bare) + 4


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
