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
from smidgen.run.outputs import agreement, divergence, outputs_of
from smidgen.run.session import Engine

__all__ = ["Reference"]

BATCH = 10
PROBED = 64
"""Examples that a layer's harm alone is measured on, at least."""


class Reference:
    """The original's answers on the held-out examples, to compare with.

    Args:
        original: the network before.
        examples: to judge by.
        kind: what the first output is, if the user says so.
    """

    def __init__(self, original: Archive, examples: Examples, kind: str | None = None) -> None:
        self.inputs = list(batches(by_shape(examples.held_out), original, BATCH))
        self.answers = self._answers(original, len(self.inputs))
        # a network of a fixed batch leaves out what makes no batch
        self.truth = None if examples.truth is None else np.asarray(examples.truth)[: len(self)]
        model = onnx.load_from_string(original.graph)
        labelled = bool(original.labels) or self.truth is not None
        self.outputs = outputs_of(model, self.answers[0], labelled, kind)
        self._known = labelled or kind is not None

    @property
    def measure(self) -> str:
        """What is counted as agreement: of classes, of chances, or as a cosine."""
        if self.truth is not None:
            return "top-1"
        return "cosine" if self.outputs[0].kind == "values" else "agreement"

    @property
    def guessed(self) -> str:
        """What the first output is taken for, where that may be wrong: what is linear may be scores of classes, or
        numbers for which a common shift matters. "" where it is known."""
        output = self.outputs[0]
        if self._known or output.kind != "scores":
            return ""
        return f"{output.name!r} is taken for scores of {self.answers[0][0].shape[output.axis]:,} classes"

    @property
    def spread(self) -> float:
        """The part of the square of the first output's answers that is not that of their mean: where it is small, as of
        boxes that lie in one corner, the cosine hardly sees what answers differ by. 1 where they differ in shape."""
        first = [answers[0] for answers in self.answers]
        if len({each.shape[1:] for each in first}) > 1:
            return 1.0
        total, square = np.zeros(first[0].shape[1:]), 0.0
        for each in first:  # one after the other: answers may be pictures
            total += each.sum(0, dtype=np.float64)
            square += float(np.square(each, dtype=np.float64).sum())
        return 1 - float(np.square(total).sum()) / len(self) / square if square > 0 else 1.0

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
