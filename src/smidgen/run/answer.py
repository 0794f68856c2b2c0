"""From a network's numbers to the names of what is in a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from heapq import nlargest
from typing import NamedTuple

from smidgen.archive import Label
from smidgen.errors import InputError, ModelError

__all__ = ["NOT_FINITE", "UNPREPARED", "Answer", "likeliest"]

NOT_FINITE = "the network gives scores that are not finite; its weights are damaged or too coarse"
UNPREPARED = (
    "the file does not say how pictures are prepared; give the module an attribute `preprocessing` and compress it "
    "again"
)


class Answer(NamedTuple):
    """One class that a picture may show, and its probability (0..1)."""

    label: Label
    score: float


def likeliest(numbers: Sequence[float], probabilities: bool, labels: tuple[Label, ...], top: int) -> list[Answer]:
    """The likeliest classes with their probabilities, the likeliest first; of equal ones the lower index.

    Args:
        numbers: finite, one for each class.
        probabilities: whether they are that, or scores, whose softmax is.
        labels: the classes in the order of the numbers; where it is empty, class 17 is called "class 17".
        top: how many answers, at most as many as there are classes.

    Raises:
        InputError: ``top`` is below 1.
        ModelError: there are labels, but another number of them.

    Example:
        >>> likeliest([0.0, math.log(3)], False, (), 1)
        [Answer(label=Label(id='class 1', name='class 1'), score=0.75)]
    """
    if top < 1:
        raise InputError(f"top: {top} is not a number of answers; give 1 or more")
    if labels and len(labels) != len(numbers):
        raise ModelError(f"the file has {len(labels)} labels, but its network gives {len(numbers)} scores")
    # ranked by logarithms: beside a sure answer the probabilities of the others can all round to 0
    logs = [math.log(max(number, sys.float_info.min)) for number in numbers] if probabilities else numbers
    greatest = max(logs)
    total = math.fsum(math.exp(log - greatest) for log in logs)
    best = nlargest(top, range(len(logs)), key=logs.__getitem__)  # of equal ones the first
    return [
        Answer(
            labels[index] if labels else Label(f"class {index}", f"class {index}"),
            math.exp(logs[index] - greatest) / total,
        )
        for index in best
    ]
