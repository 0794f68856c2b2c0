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
from smidgen.run.outputs import Output, agreement, divergence
from smidgen.run.session import Engine
from smidgen.run.variance import Apart, Variance

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
    """

    def __init__(self, original: Archive, examples: Examples, kind: str | None = None) -> None:
        self.inputs = list(batches(by_shape(examples.held_out), original, BATCH))
        engine = Engine(original.onnx())
        self.answers = [engine(batch) for batch in self.inputs]
        model = onnx.load_from_string(original.graph)
        labelled = bool(original.labels) or examples.truth is not None
        axes = answer_axes(engine, original, self.inputs[0], self.answers[0])
        outputs = outputs_of(model, self.answers[0], labelled, kind, axes)
        self.outputs = [self._with_variance(place, output) for place, output in enumerate(outputs)]
        # a network of a fixed batch leaves out what makes no batch
        self.truth = None if examples.truth is None else np.asarray(examples.truth)[: len(self)]
        names = [output.name for output in outputs]
        self._known = {*(names[:1] if labelled else ()), *(kinds_in(kind, names) if kind else ())}

    @property
    def counts(self) -> bool:
        """Whether one example more or less that agrees is a step of what is judged."""
        return self.truth is not None or any(output.variance is None for output in self.outputs)

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
        told = [self._told(place, answers) for place in range(len(self.outputs))]
        place = max(range(len(told)), key=lambda place: told[place][1])
        alike, drop, measure = told[place]
        name = self.outputs[place].name if len(told) > 1 else ""
        return Fidelity(len(self), self._divergence(answers), alike, drop, measure, name)

    def _told(self, place: int, answers: list[list[NDArray[Any]]]) -> tuple[float, float, str]:
        """Of one output the agreement in percent, the points lost, and what is counted."""
        output, pairs = self.outputs[place], self._pairs(place, answers)
        if output.variance is not None:
            alike = 100 * (1 - self._unexplained(output, pairs))
            return alike, 100 - alike, "R squared"
        alike = 100 * float(np.concatenate([agreement(output, *pair) for pair in pairs]).mean())
        if self.truth is None or place:
            return alike, 100 - alike, "agreement"
        right = [
            100 * float((np.concatenate([self._classes(each) for each in mine]) == self.truth).mean())
            for mine in zip(*pairs, strict=True)
        ]
        return alike, right[0] - right[1], "top-1"

    def _pairs(self, place: int, answers: list[list[NDArray[Any]]]) -> list[tuple[NDArray[Any], NDArray[Any]]]:
        """The original's and other answers, of as many batches as there are."""
        return [(ours[place], theirs[place]) for ours, theirs in zip(self.answers, answers, strict=False)]

    def _unexplained(self, output: Output, pairs: list[tuple[NDArray[Any], NDArray[Any]]]) -> float:
        assert output.variance is not None
        apart = Apart(output.axis)
        for ours, theirs in pairs:
            apart.add(output.leading(ours), output.leading(theirs))
        return apart.over(output.variance)

    def __len__(self) -> int:
        return sum(len(self.outputs[0].leading(answers[0])) for answers in self.answers)

    def _with_variance(self, place: int, output: Output) -> Output:
        if output.kind != "values" or self.answers[0][place].dtype.kind != "f":
            return output
        variance = Variance(output.axis)
        for answers in self.answers:
            variance.add(output.leading(answers[place]))
        return replace(output, variance=variance.found)

    def _classes(self, answer: NDArray[Any]) -> NDArray[np.intp]:
        found = self.outputs[0].leading(answer)
        return np.asarray(found.argmax(self.outputs[0].axis).reshape(len(found)))

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
        """The sum over outputs of the mean over examples."""
        total = 0.0
        for place, output in enumerate(self.outputs):
            pairs = self._pairs(place, answers)
            if output.variance is not None:
                total += self._unexplained(output, pairs) / 2
            elif pairs[0][0].dtype.kind == "f":
                total += float(np.concatenate([divergence(output, *pair) for pair in pairs]).mean())
        return max(0.0, total)

    def _answers(self, archive: Archive, count: int) -> list[list[NDArray[Any]]]:
        engine = Engine(archive.onnx())
        return [engine(batch) for batch in self.inputs[:count]]
