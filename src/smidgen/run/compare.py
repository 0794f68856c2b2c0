"""How near networks come to a first one, for any inputs and outputs: no labels, no pictures needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.errors import InputError
from smidgen.examples import inputs_of
from smidgen.run.kinds import outputs_of
from smidgen.run.outputs import Output, agreement, cosine, divergence
from smidgen.run.session import Engine
from smidgen.run.timing import interleaved
from smidgen.run.variance import Variance

__all__ = ["Comparison", "compare"]

_TIMED, _ROUNDS = 8, 24


@dataclass(frozen=True)
class Comparison:
    """One output of one network, beside that of the first network.

    Args:
        output: its name in the graph.
        kind: what it is, see ``smidgen.run.outputs.Output``.
        examples: how many there were.
        divergence: mean, in nats for classes and chances; of values half the squared error in parts of their variance.
        agreement: percent of equal answers; of values R squared, the percent of the variance that is told.
        cosine: of values, the mean cosine of the angle between answers; of others None.
        relative_error: root of the sum of squared errors over the sum of squares.
        largest_error: the largest absolute difference.
        mean_error: the mean absolute difference.
        milliseconds: median time of the network alone for one batch of the examples.
    """

    output: str
    kind: str
    examples: int
    divergence: float
    agreement: float
    cosine: float | None
    relative_error: float
    largest_error: float
    mean_error: float
    milliseconds: float


def compare(
    archives: Sequence[Archive],
    batches: Iterable[Mapping[str, NDArray[Any]]],
    kind: str | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[list[Comparison]]:
    """Runs networks on the same inputs; the first one is the reference. Memory does not grow with the inputs.

    Args:
        archives: the networks, all with the same inputs and outputs.
        batches: arrays by name of input.
        kind: what outputs are, if it is known better than ``outputs_of`` finds out; see ``smidgen.run.kinds.kinds_in``.
        on_progress: called after each batch with the number of batches done.

    Returns:
        For each network one comparison for each output.

    Raises:
        InputError: no networks or inputs, inputs that do not fit, or networks of other outputs.
        ModelError: a network cannot run.
    """
    if not archives:
        raise InputError("no network to evaluate")
    engines = [Engine(archive.onnx()) for archive in archives]
    inputs = [[given.name for given in inputs_of(archive)] for archive in archives]
    sums: list[list[_Sums]] = []
    kept: list[Mapping[str, NDArray[Any]]] = []
    outputs: list[Output] = []
    for done, batch in enumerate(batches, 1):
        answers = [engine(_named(batch, names)) for engine, names in zip(engines, inputs, strict=True)]
        if not outputs:
            outputs = outputs_of(archives[0].onnx(), answers[0], bool(archives[0].labels), kind)
            sums = [[_Sums() for _ in outputs] for _ in engines]
        for number, (row, mine) in enumerate(zip(sums, answers, strict=True), 1):
            if [a.shape for a in mine] != [a.shape for a in answers[0]]:
                shapes = [[a.shape for a in some] for some in (mine, answers[0])]
                raise InputError(
                    f"network {number} gives {shapes[0]} and the first {shapes[1]}; compare like with like"
                )
            for output, total, ours, theirs in zip(outputs, row, answers[0], mine, strict=True):
                total.add(output, ours, theirs)
        if len(kept) < _TIMED:
            kept.append(batch)
        if on_progress is not None:
            on_progress(done)
    if not kept:
        raise InputError("no inputs to evaluate on")
    runs = [
        partial(_run, engine, [_named(batch, names) for batch in kept])
        for engine, names in zip(engines, inputs, strict=True)
    ]
    times = [float(median) for median in np.median(interleaved(runs, _ROUNDS), axis=0)]
    return [
        [total.found(output, times[place]) for output, total in zip(outputs, row, strict=True)]
        for place, row in enumerate(sums)
    ]


def _named(batch: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """A single input is what the network takes, whatever that calls it: the data may have named the other."""
    return {names[0]: next(iter(batch.values()))} if len(batch) == len(names) == 1 else batch


class _Sums:
    """What adds up for one output of one network."""

    def __init__(self) -> None:
        self.examples = self.numbers = 0
        self.divergence = self.agreement = self.error = self.square = self.largest = self.absolute = 0.0
        self.variance: Variance | None = None
        self.cosine = 0.0

    def add(self, output: Output, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        ours, theirs = (a if a.ndim else a[None] for a in (ours, theirs))
        self.examples += len(ours)
        p, q = ours.astype(np.float64), theirs.astype(np.float64)
        if output.kind == "values" and ours.dtype.kind == "f":
            self.variance = self.variance or Variance()
            self.variance.add(p, q)
            self.cosine += float(cosine(ours, theirs).sum())
        else:
            self.agreement += float(agreement(output, ours, theirs).sum())
            if ours.dtype.kind == "f":
                self.divergence += float(divergence(output, ours, theirs).sum())
        difference = np.abs(p - q)
        self.numbers += p.size
        self.error += float((difference**2).sum())
        self.square += float((p**2).sum())
        self.absolute += float(difference.sum())
        self.largest = max(self.largest, float(difference.max(initial=0.0)))

    def found(self, output: Output, milliseconds: float) -> Comparison:
        n = max(1, self.examples)
        apart, alike, angle = max(0.0, self.divergence / n), self.agreement / n, None
        if self.variance:
            apart, alike, angle = self.variance.unexplained / 2, 1 - self.variance.unexplained, self.cosine / n
        relative = (self.error / self.square) ** 0.5 if self.square else float(self.error > 0)
        mean = self.absolute / max(1, self.numbers)
        return Comparison(
            *(output.name, output.kind, self.examples, apart, 100 * alike, angle),
            *(relative, self.largest, mean, milliseconds),
        )


def _run(engine: Engine, batches: Sequence[Mapping[str, NDArray[Any]]], turn: int) -> object:
    return engine(batches[turn % len(batches)])
