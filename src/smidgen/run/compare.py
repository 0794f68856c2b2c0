"""How near networks come to a first one, for any inputs and outputs: no labels, no pictures needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.errors import InputError, ModelError
from smidgen.examples import inputs_of, together, twice
from smidgen.run.kinds import axes_of_examples, outputs_of
from smidgen.run.outputs import Output
from smidgen.run.session import Engine
from smidgen.run.tally import Tally
from smidgen.run.timing import interleaved

__all__ = ["Comparison", "answer_axes", "compare"]

_TIMED, _ROUNDS = 8, 24


@dataclass(frozen=True)
class Comparison:
    """One output of one network, beside that of the first network.

    Args:
        output: its name in the graph.
        kind: what it is, see ``smidgen.run.outputs.Output``.
        examples: how many there were.
        divergence: mean, in nats for classes and chances; of values half the squared error in parts of their variance.
        agreement: percent of equal answers, see ``smidgen.run.tally``; of values R squared in percent.
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
    free: list[list[int]] = []
    for done, batch in enumerate(batches, 1):
        answers = [engine(_named(batch, names)) for engine, names in zip(engines, inputs, strict=True)]
        if not outputs:
            first = _named(batch, inputs[0])
            axes = answer_axes(engines[0], archives[0], first, answers[0])
            outputs = outputs_of(archives[0].onnx(), answers[0], bool(archives[0].labels), kind, axes)
            sums = [[_Sums(output) for output in outputs] for _ in engines]
            free = _free_axes(archives[0])
        for number, (row, mine) in enumerate(zip(sums, answers, strict=True), 1):
            alike = len(mine) == len(free) and all(
                _kept(one, axes) == _kept(other, axes) for one, other, axes in zip(mine, answers[0], free, strict=True)
            )
            if not alike:
                shapes = [[a.shape for a in some] for some in (mine, answers[0])]
                raise InputError(
                    f"network {number} gives {shapes[0]} and the first {shapes[1]}; compare like with like"
                )
            for total, ours, theirs in zip(row, answers[0], mine, strict=True):
                total.add(ours, theirs)
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
    return [[total.found(times[place]) for total in row] for place, row in enumerate(sums)]


def answer_axes(
    engine: Engine, archive: Archive, batch: Mapping[str, NDArray[Any]], answers: Sequence[NDArray[Any]]
) -> list[int | None]:
    """The axis along which each output of a network has its answers, found by giving it a batch twice in one, or, if it
    does not take that, from the name that the axis has.

    Args:
        engine: the network, running.
        archive: the same.
        batch: what it was given.
        answers: what it gave.
    """
    double = twice(batch, archive)
    if double:
        try:
            return axes_of_examples(answers, engine(double))
        except ModelError:  # it takes no other number of them, whatever it says
            return [0 if array.ndim and len(array) == len(next(iter(batch.values()))) else None for array in answers]
    graph = onnx.load_from_string(archive.graph).graph
    named = [[d.dim_param for d in value.type.tensor_type.shape.dim] for value in graph.output]
    count = together(archive)
    return [
        names.index("batch") if "batch" in names else 0 if count and array.ndim and len(array) == count else None
        for names, array in zip(named, answers, strict=True)
    ]


def _free_axes(archive: Archive) -> list[list[int]]:
    """The axes of each output whose length the graph leaves free."""
    values = onnx.load_from_string(archive.graph).graph.output
    return [[k for k, d in enumerate(value.type.tensor_type.shape.dim) if not d.dim_value] for value in values]


def _kept(array: NDArray[Any], free: list[int]) -> list[int]:
    """What sizes of an answer are the same for all files: a choice of things may find more or fewer."""
    return [size for axis, size in enumerate(array.shape) if axis not in free]


def _named(batch: Mapping[str, NDArray[Any]], names: Sequence[str]) -> Mapping[str, NDArray[Any]]:
    """A single input is what the network takes, whatever that calls it: the data may have named the other."""
    return {names[0]: next(iter(batch.values()))} if len(batch) == len(names) == 1 else batch


class _Sums:
    """What adds up for one output of one network."""

    def __init__(self, output: Output) -> None:
        self.tally = Tally(output)
        self.numbers = 0
        self.error = self.square = self.largest = self.absolute = 0.0

    def add(self, ours: NDArray[Any], theirs: NDArray[Any]) -> None:
        self.tally.add(ours, theirs)
        if ours.shape != theirs.shape or ours.dtype.kind not in "biuf":
            return
        p, q = (array.astype(np.float64) for array in (ours, theirs))
        difference = np.abs(p - q)
        self.numbers += p.size
        self.error += float((difference**2).sum())
        self.square += float((p**2).sum())
        self.absolute += float(difference.sum())
        self.largest = max(self.largest, float(difference.max(initial=0.0)))

    def found(self, milliseconds: float) -> Comparison:
        tally = self.tally
        relative = (self.error / self.square) ** 0.5 if self.square else float(self.error > 0)
        mean = self.absolute / max(1, self.numbers)
        output, alike = tally.output, 100 * tally.agreement
        return Comparison(
            output.name,
            output.kind,
            tally.examples,
            tally.divergence,
            alike,
            tally.cosine,
            relative,
            self.largest,
            mean,
            milliseconds,
        )


def _run(engine: Engine, batches: Sequence[Mapping[str, NDArray[Any]]], turn: int) -> object:
    return engine(batches[turn % len(batches)])
