"""The original's answers on examples that nothing is calibrated on: what every file is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.budget import Budget, Fidelity
from smidgen.code import Code
from smidgen.examples import Examples, batches, by_shape
from smidgen.run.compare import answer_axes
from smidgen.run.kinds import kinds_in, outputs_of
from smidgen.run.outputs import Output
from smidgen.run.session import Engine
from smidgen.run.tally import Tally
from smidgen.run.variance import Variance

__all__ = ["Reference"]

BATCH = 10
PROBED = 64
"""Examples that a layer's harm alone is measured on, at least."""


class Reference:
    """The original's answers on the held-out examples, to compare with.

    Args:
        original: the network before.
        examples: to judge by.
        kind: what outputs are, if the user says so; see ``smidgen.run.kinds.kinds_in``.
        graph: the network's before it was made ready, in which the last operators say more of what outputs are: scores
            that are multiplied with the deviation of something are none. By default that of ``original``.
    """

    def __init__(
        self, original: Archive, examples: Examples, kind: str | None = None, graph: bytes | None = None
    ) -> None:
        self.inputs = list(batches(by_shape(examples.held_out), original, BATCH))
        engine = Engine(original.onnx())
        self.answers = [engine(batch) for batch in self.inputs]
        model = onnx.load_from_string(graph or original.graph)
        labelled = bool(original.labels) or examples.truth is not None
        axes = answer_axes(engine, original, self.inputs[0], self.answers[0])
        outputs = outputs_of(model, self.answers[0], labelled, kind, axes)
        self.outputs = [self._with_variance(place, output) for place, output in enumerate(outputs)]
        self.same = [output.name for place, output in enumerate(outputs) if self._is_same(place, output)]
        """Outputs that say the same of all examples."""
        # a network of a fixed batch leaves out what makes no batch
        self.truth = None if examples.truth is None else np.asarray(examples.truth)[: len(self)]
        names = [output.name for output in outputs]
        self._known = {*(names[:1] if labelled else ()), *(kinds_in(kind, names) if kind else ())}

    @property
    def counts(self) -> bool:
        """Whether one example more or less that agrees is a step of what is judged: one answer for each is counted."""
        return self.truth is not None or any(
            output.kind in ("scores", "probabilities", "chances") and _places(output, self.answers[0][place]) == 1
            for place, output in enumerate(self.outputs)
        )

    @property
    def rare(self) -> tuple[str, float]:
        """The output of one class for each input that has fewest answers beside the commonest one, and their part in
        percent; "" if there is no such output."""
        found = ("", 100.0)
        for place, output in enumerate(self.outputs):
            if output.kind in ("scores", "probabilities", "chances") and _places(output, self.answers[0][place]) == 1:
                each = np.concatenate([_classes(output, output.leading(answers[place])) for answers in self.answers])
                part = 100 - 100 * np.bincount(each).max() / len(each)
                found = min(found, (output.name, float(part)), key=lambda one: one[1])
        return found

    @property
    def guessed(self) -> str:
        """What outputs are taken for, where that may be wrong: what is linear may be scores of classes, or numbers for
        which a common shift matters. "" where it is known."""
        guessed = [
            (output, output.leading(self.answers[0][place]).shape[output.axis])
            for place, output in enumerate(self.outputs)
            if output.kind == "scores" and output.name not in self._known
        ]
        if not guessed:
            return ""
        taken = "; ".join(f"{output.name!r} is taken for scores of {count:,} classes" for output, count in guessed)
        said = "values" if guessed[0][0] is self.outputs[0] else f"{guessed[0][0].name}=values"
        return f"{taken}; if that is wrong, say what it is, as with --outputs {said} (outputs={said!r})"

    def fidelity(self, archive: Archive) -> Fidelity:
        """How near the answers of ``archive`` are, as told of the output that loses most; with labels the first one
        loses what it has less of them right."""
        answers = self._answers(archive, len(self.inputs))
        tallies = self._tallies(answers)
        lost = [100 - 100 * tally.agreement for tally in tallies]
        if self.truth is not None:
            lost[0] = self._right(self.answers) - self._right(answers)
        place = max(range(len(lost)), key=lambda place: lost[place])
        measure = "R squared" if tallies[place].is_values else "agreement"
        return Fidelity(
            pictures=len(self),
            kl=sum(tally.divergence for tally in tallies),
            agreement=100 * tallies[place].agreement,
            drop=lost[place],
            measure="top-1" if self.truth is not None and place == 0 else measure,
            output=self.outputs[place].name if len(tallies) > 1 else "",
        )

    def _right(self, answers: list[list[NDArray[Any]]]) -> float:
        """Percent of the first output's answers that are the true class."""
        output = self.outputs[0]
        found = [output.leading(each[0]) for each in answers]
        classes = [_classes(output, scores) for scores in found]
        return 100 * float((np.concatenate(classes) == self.truth).mean())

    def _tallies(self, answers: list[list[NDArray[Any]]]) -> list[Tally]:
        """Each output of the original beside other answers, of as many batches as there are."""
        tallies = [Tally(output) for output in self.outputs]
        for ours, theirs in zip(self.answers, answers, strict=False):
            for tally, one, other in zip(tallies, ours, theirs, strict=True):
                tally.add(one, other)
        return tallies

    def __len__(self) -> int:
        return sum(len(self.outputs[0].leading(answers[0])) for answers in self.answers)

    def _with_variance(self, place: int, output: Output) -> Output:
        if output.kind != "values" or self.answers[0][place].dtype.kind != "f":
            return output
        variance = Variance(output.axis)
        for answers in self.answers:
            variance.add(output.leading(answers[place]))
        return replace(output, variance=variance.found)

    def _is_same(self, place: int, output: Output) -> bool:
        each = [output.leading(answers[place]) for answers in self.answers]
        first = each[0][:1]
        if first.dtype.kind not in "biuf":
            return all(part.shape[1:] == first.shape[1:] and bool((part == first).all()) for part in each)
        return all(part.shape[1:] == first.shape[1:] and np.allclose(part, first, 1e-6, 0) for part in each)

    def harm_alone(
        self,
        original: Archive,
        codes: Mapping[str, Code | NDArray[Any]],
        on_progress: Callable[[int], None],
        budget: Budget,
    ) -> dict[str, float]:
        """For each code the divergence that it causes in the original network when it is the only one.

        Of fewer, if the time is up.
        """
        sizes = np.cumsum([len(self.outputs[0].leading(answers[0])) for answers in self.answers])
        count = int(np.searchsorted(sizes, PROBED)) + 1
        found = {}
        for number, (name, code) in enumerate(codes.items(), 1):
            if budget.over:
                break
            alone = replace(original, tensors={**original.tensors, name: code})
            found[name] = sum(tally.divergence for tally in self._tallies(self._answers(alone, count)))
            on_progress(number)
        return found

    def _answers(self, archive: Archive, count: int) -> list[list[NDArray[Any]]]:
        engine = Engine(archive.onnx())
        return [engine(batch) for batch in self.inputs[:count]]


def _places(output: Output, answers: NDArray[Any]) -> int:
    """How many answers there are for each input."""
    leading = output.leading(answers)
    classes = 1 if output.kind == "chances" else leading.shape[output.axis]
    return int(leading.size // max(1, len(leading) * classes))


def _classes(output: Output, leading: NDArray[Any]) -> NDArray[np.intp]:
    """The class of each input; of a single chance, or a score of one class against the other, that it is the second."""
    if leading.shape[output.axis] > 1:
        return np.asarray(leading.argmax(output.axis).reshape(len(leading)))
    return np.asarray((leading > (0.5 if output.kind == "chances" else 0)).reshape(len(leading)).astype(np.intp))
