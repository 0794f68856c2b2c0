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
from smidgen.run.kinds import kinds_in, outputs_of
from smidgen.run.outputs import Output, agreement, divergence
from smidgen.run.session import Engine
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
    """

    def __init__(self, original: Archive, examples: Examples, kind: str | None = None) -> None:
        self.inputs = list(batches(by_shape(examples.held_out), original, BATCH))
        self.answers = self._answers(original, len(self.inputs))
        # a network of a fixed batch leaves out what makes no batch
        self.truth = None if examples.truth is None else np.asarray(examples.truth)[: len(self)]
        model = onnx.load_from_string(original.graph)
        labelled = bool(original.labels) or self.truth is not None
        outputs = outputs_of(model, self.answers[0], labelled, kind)
        self.outputs = [self._with_variance(place, output) for place, output in enumerate(outputs)]
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
        return "; ".join(
            f"{output.name!r} is taken for scores of {self.answers[0][place].shape[output.axis]:,} classes"
            for place, output in enumerate(self.outputs)
            if output.kind == "scores" and output.name not in self._known
        )

    def fidelity(self, archive: Archive) -> Fidelity:
        """How near the answers of ``archive`` are: those of the output that loses most, or of the one with labels."""
        answers = self._answers(archive, len(self.inputs))
        judged = [place for place, output in enumerate(self.outputs) if self._is_judged(output)]
        alike = {place: self._alike(place, answers) for place in judged}
        place = min(alike, key=lambda place: alike[place])
        drop, measure = 100 - alike[place], "agreement" if self.outputs[place].variance is None else "R squared"
        if self.truth is not None:
            right = [
                100 * float((np.concatenate([self._classes(each[0]) for each in mine]) == self.truth).mean())
                for mine in (self.answers, answers)
            ]
            drop, measure = right[0] - right[1], "top-1"
        name = self.outputs[place].name if len(judged) > 1 else ""
        return Fidelity(len(self), self._divergence(answers), alike[place], drop, measure, name)

    def _alike(self, place: int, answers: list[list[NDArray[Any]]]) -> float:
        """Percent, of one output."""
        output = self.outputs[place]
        each = [
            agreement(output, ours[place], theirs[place]) for ours, theirs in zip(self.answers, answers, strict=True)
        ]
        return 100 * float(np.concatenate(each).mean())

    def _is_judged(self, output: Output) -> bool:
        return self.truth is None or output is self.outputs[0]

    def __len__(self) -> int:
        return sum(len(answers[0]) for answers in self.answers)

    def _with_variance(self, place: int, output: Output) -> Output:
        if output.kind != "values" or self.answers[0][place].dtype.kind != "f":
            return output
        variance = Variance()
        for answers in self.answers:
            variance.add(answers[place])
        return replace(output, variance=variance.found)

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
