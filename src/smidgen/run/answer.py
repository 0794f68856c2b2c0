"""From a network's numbers to the names of what is in a picture."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from typing import NamedTuple

from smidgen.errors import InputError, ModelError
from smidgen.label import Label

__all__ = ["Answer", "likeliest", "lines"]


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


def lines(answers: Mapping[str, Sequence[Answer]]) -> Iterator[str]:
    """What people read: the answers to each picture, under its name where there are several.

    Example:
        >>> list(lines({"a.jpg": [Answer(Label("n02123045", "tabby"), 0.75)]}))
        [' 75.00 %  tabby']
    """
    for picture, found in answers.items():
        if len(answers) > 1:
            yield f"{picture}:"
        for answer in found:
            yield f"{100 * answer.score:6.2f} %  {answer.label.name}"
