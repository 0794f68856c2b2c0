"""What every method is, and the checks that they share."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Code, Stats
from smidgen.errors import PlanError, WeightError

__all__ = [
    "FloatArray",
    "Method",
    "check_choice",
    "check_flag",
    "check_int",
    "check_number",
    "checked",
    "importance_of",
    "refusal",
]

FloatArray = NDArray[np.float32]

LARGEST = 1e38
"""Weights beyond this leave no room for a level half a step further out, which float32 could not hold."""


class Method(ABC):
    """One way to make weights smaller: a frozen dataclass that is its own configuration.

    A method never changes its input, and gives the same output for the same input. Axis 0 of a weight counts its
    filters (outputs).
    """

    @abstractmethod
    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> FloatArray | Code:
        """The compressed weight: floats of the same shape, or a code that ends the chain.

        Args:
            weight: float32 of any shape.
            stats: what measuring learned; squared errors then count by the importance of each weight.

        Raises:
            WeightError: the weight is empty, not of a float type, not finite, or does not fit the statistics.
            PlanError: the configuration does not fit the shape of this weight.
        """

    def resolve(self, weights: Mapping[str, FloatArray], stats: Mapping[str, Stats] | None = None) -> Method:
        """The method to apply to each of ``weights``, after a look at all of them; itself unless a method needs it."""
        del weights, stats
        return self


def checked(weight: NDArray[Any], name: str = "weight") -> FloatArray:
    """``weight`` as float32, when a method can take it.

    Raises:
        WeightError: it is empty, not of a float type, or holds NaN, infinity or a magnitude above 1e38.

    Example:
        >>> checked(np.array([0.5, 1.0])).dtype
        dtype('float32')
    """
    if not np.issubdtype(weight.dtype, np.floating):
        raise WeightError(f"{name}: only float weights can be compressed, not {weight.dtype}")
    if weight.size == 0:
        raise WeightError(f"{name}: shape {weight.shape} holds no weights")
    if not np.isfinite(weight).all():
        raise WeightError(f"{name}: holds NaN or infinity; only finite weights can be compressed")
    if max(-float(weight.min()), float(weight.max())) > LARGEST:
        raise WeightError(f"{name}: holds a magnitude above {LARGEST:g}; scale the weights down")
    return np.asarray(weight, np.float32)


def importance_of(weight: FloatArray, stats: Stats | None) -> NDArray[np.float64]:
    """How much a squared error of each weight counts, in the shape of ``weight``: positive, all ones without ``stats``.

    Inputs that were never active count a millionth of the mean and not nothing, so that their weights still get a
    sensible value.

    Raises:
        WeightError: the statistics do not fit the weight, or are negative or not finite.
    """
    if stats is None:
        return np.ones(weight.shape)
    importance = stats.importance(np.atleast_1d(weight)).reshape(weight.shape)
    if not np.isfinite(importance).all() or importance.min() < 0:
        raise WeightError("statistics: second moments must be finite and not negative")
    return np.maximum(importance, max(1e-6 * float(importance.mean()), 1e-30))


def refusal(method: object, field: str, allowed: str) -> PlanError:
    """The error for a field of ``method`` whose value is not ``allowed``."""
    return PlanError(f"{type(method).__name__}: {field}={getattr(method, field)!r}, but {allowed}")


def check_int(method: object, field: str, low: int, high: int) -> None:
    """Raises PlanError unless the field is a whole number in ``low..high``."""
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise refusal(method, field, f"{field} must be a whole number in {low}..{high}")


def check_number(method: object, field: str, high: float = math.inf) -> None:
    """Raises PlanError unless the field is a finite number above 0 and at most ``high``."""
    value = getattr(method, field)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= high or math.isinf(value):
        limit = "" if math.isinf(high) else f" and at most {high:g}"
        raise refusal(method, field, f"{field} must be a finite number above 0{limit}")


def check_flag(method: object, field: str) -> None:
    """Raises PlanError unless the field is true or false."""
    if not isinstance(getattr(method, field), bool):
        raise refusal(method, field, f"{field} must be true or false")


def check_choice(method: object, field: str, choices: tuple[str, ...]) -> None:
    """Raises PlanError unless the field is one of ``choices``."""
    if getattr(method, field) not in choices:
        raise refusal(method, field, f"{field} must be one of {', '.join(choices)}")
