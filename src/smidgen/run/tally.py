"""How far the answers of two networks lie apart over all inputs, added up batch by batch: for any task."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.run.outputs import Output, divergence
from smidgen.run.variance import Apart, Variance

__all__ = ["Tally"]

DETECTED = 0.25
"""A chance from which on a thing counts as found, as usual where what overlaps is then dropped."""

Array = NDArray[Any]


class Tally:
    """What adds up for one output; memory does not grow with the inputs.

    Args:
        output: what it is. Where its variance is not known, that of what is added takes its place.

    Example:
        >>> tally = Tally(Output("y", "scores", 1))
        >>> tally.add(np.eye(4), np.eye(4)[[0, 1, 2, 2]])
        >>> tally.agreement
        0.75
    """

    def __init__(self, output: Output) -> None:
        self.output = output
        self.examples = 0
        self._unlike = 0
        self._divergence = self._agreement = self._cosine = 0.0
        self._variance, self._apart = Variance(output.axis), Apart(output.axis)
        self._places = _Places()
        self.is_values = False
        """Whether these are values in floats, which are judged by R squared."""

    def add(self, ours: Array, theirs: Array) -> None:
        """Adds a batch of answers, as both graphs give them."""
        output = self.output
        p, q = output.leading(ours), output.leading(theirs)
        self.examples += len(p)
        self.is_values = output.kind == "values" and p.dtype.kind == "f"
        if p.shape != q.shape:
            self._unlike += len(p)  # how many things there are is a part of the answer
            return
        if self.is_values:
            if self.output.variance is None:
                self._variance.add(p)
            self._apart.add(p, q)
            self._cosine += float(_cosine(p, q).sum())
            return
        if p.dtype.kind == "f":
            self._divergence += float(divergence(output, ours, theirs).sum())
        if output.kind == "detections":
            self._agreement += float(_found_by_both(output, p, q).sum())
        elif p.size:
            self._add_answers(*(_answers(output, array) for array in (p, q)))
        else:
            self._agreement += len(p)

    def _add_answers(self, ours: Array, theirs: Array) -> None:
        """Numbers of classes, shape (n, places)."""
        if self.output.kind == "values":
            self._agreement += float((ours == theirs).mean(1).sum())
        else:
            self._places.add(ours, theirs)

    @property
    def divergence(self) -> float:
        """The mean of ``smidgen.run.outputs.divergence``; of values half of what R squared lacks of 1. Answers of
        another shape, as after a choice of things, count one each."""
        if self.is_values:
            return self._unexplained / 2 * (1 - self._part_unlike) + self._part_unlike
        return max(0.0, self._divergence / max(1, self.examples)) + self._part_unlike

    @property
    def agreement(self) -> float:
        """How alike answers are, 1 for the same.

        Of one answer for each input, a class or the side of one half that a chance lies on, the part that is the same.
        Of many for each, as those of pixels or labels, the same part of those where not both give the answer that the
        first network gives most, so that a background does not count: of two classes that is the intersection over the
        union (Jaccard's index). Of detections that of each picture's. Of whole numbers the part that is equal.
        Of values R squared, of several quantities their mean: the part of what answers differ by that the others tell,
        too, and below 0 if a guess of the mean would be nearer.
        """
        if self.is_values:
            return (1 - self._unexplained) * (1 - self._part_unlike)
        if self._places.count:
            return self._places.agreement * (1 - self._part_unlike)
        return self._agreement / max(1, self.examples)

    @property
    def cosine(self) -> float | None:
        """Of values the mean cosine of the angle between answers."""
        return self._cosine / max(1, self.examples) if self.is_values else None

    @property
    def _part_unlike(self) -> float:
        return self._unlike / max(1, self.examples)

    @property
    def _unexplained(self) -> float:
        return self._apart.over(self.output.variance or self._variance.found)


class _Places:
    """How often each answer was given, and by both."""

    def __init__(self) -> None:
        self.count = 0
        self._several = False
        self._ours = self._same = np.zeros(0, np.int64)

    def add(self, ours: NDArray[np.intp], theirs: NDArray[np.intp]) -> None:
        """Adds answers of shape (n, places)."""
        self._several |= ours.shape[1] > 1
        ours, theirs = ours.reshape(-1), theirs.reshape(-1)
        self.count += len(ours)
        most = max(int(ours.max()) + 1, len(self._ours))
        self._ours, self._same = (
            np.bincount(found, minlength=most) + np.pad(before, (0, most - len(before)))
            for found, before in ((ours, self._ours), (ours[ours == theirs], self._same))
        )

    @property
    def agreement(self) -> float:
        background = int(self._same[self._ours.argmax()]) if self._several else 0
        left = self.count - background
        return (int(self._same.sum()) - background) / left if left else 1.0


def _answers(output: Output, array: Array) -> Array:
    """What is answered, at each place of each input."""
    if output.kind in ("scores", "probabilities"):
        array = array.argmax(output.axis)
    elif output.kind == "chances":
        array = (array > 0.5).astype(np.intp)
    return array.reshape(len(array), -1)


def _found_by_both(output: Output, ours: Array, theirs: Array) -> NDArray[np.float64]:
    """The part, for each picture, of what one of both finds that both do."""
    here, there = (output.detections(array)[1] > DETECTED for array in (ours, theirs))
    either = (here | there).sum((1, 2))
    return np.asarray(np.where(either > 0, (here & there).sum((1, 2)) / np.maximum(either, 1), 1.0))


def _cosine(ours: Array, theirs: Array) -> NDArray[np.float64]:
    p, q = (array.reshape(len(array), -1).astype(np.float64) for array in (ours, theirs))
    length = np.sqrt((p**2).sum(1) * (q**2).sum(1))
    return np.asarray(np.where(length > 0, (p * q).sum(1) / np.where(length > 0, length, 1), (p == q).all(1)))
