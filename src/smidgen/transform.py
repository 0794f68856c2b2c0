"""A plan applied to weights."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Code, Stats
from smidgen.errors import PlanError, WeightError
from smidgen.methods import Method
from smidgen.methods.base import checked
from smidgen.plan import LAYERS, Plan

__all__ = ["transform"]

Weights = dict[str, Code | NDArray[Any]]


def transform(
    weights: Mapping[str, NDArray[Any]],
    plan: Plan,
    stats: Mapping[str, Stats] | None = None,
    layers: Collection[str] | None = None,
) -> dict[str, Code | NDArray[Any]]:
    """The weights after every step of the plan, under the same names and in the same order.

    Args:
        weights: arrays of any shape by name. Those of a float type can be compressed, computed as float32; the others,
            and those that no step matches, are handed on as they are.
        plan: the steps. A weight that has become a code is finished, and later steps pass it by.
        stats: what measuring learned, for some or all of the names.
        layers: names of the weights that are those of layers (see ``smidgen.arrange.layer_weights``); by default all of
            two and more axes.

    Returns:
        A code for every finished weight, and an array for every other one. The input is not changed.

    Raises:
        PlanError: a step matches no weight, or none that it could still change, or does not fit a shape.
        WeightError: a weight is empty or not finite, or its statistics do not fit.

    Example:
        >>> from smidgen.methods import Binarize, Prune
        >>> plan = Plan((("a", Binarize()), ("*", Prune(0.5))))
        >>> done = transform({"a": np.array([1, -1], np.float32), "b": np.array([1, 2], np.float32)}, plan)
        >>> done["a"].symbols, done["b"]
        (array([ 1, -1], dtype=int16), array([0., 2.], dtype=float32))
    """
    done: Weights = dict(weights)
    known = stats or {}
    if layers is None:
        layers = [name for name, weight in weights.items() if weight.ndim > 1]
    for number, (pattern, method) in enumerate(plan.steps, 1):
        where = f"step {number}" if pattern == LAYERS else f"step {number} ({pattern!r})"
        live = {name: checked(weight, name) for name, weight in _live(done, pattern, layers, where).items()}
        try:
            resolved = method.resolve(live, {name: known[name] for name in live if name in known})
        except (PlanError, WeightError) as error:
            raise type(error)(f"{where}: {error}") from None
        apply = partial(_apply, resolved, where, known)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done.update(zip(live, pool.map(apply, live, live.values()), strict=True))
    return done


def _live(weights: Weights, pattern: str, layers: Collection[str], where: str) -> dict[str, NDArray[Any]]:
    """The weights that match and can still be compressed."""
    every = pattern == LAYERS
    matched = {
        name: weight for name, weight in weights.items() if (name in layers if every else fnmatchcase(name, pattern))
    }
    if not matched and every:
        raise PlanError(
            f"{where}: none of the {len(weights)} weights is a layer's, or they are integers; match others by name"
        )
    if not matched:
        example = f"; the first of them is {next(iter(weights))!r}" if weights else ""
        raise PlanError(f"{where}: matches none of the {len(weights)} weights{example}")
    arrays = {name: weight for name, weight in matched.items() if not isinstance(weight, Code)}
    if not arrays:
        raise PlanError(f"{where}: all it matches was finished by earlier steps; put specific patterns first")
    live = {name: weight for name, weight in arrays.items() if np.issubdtype(weight.dtype, np.floating)}
    if not live:
        name, array = next(iter(arrays.items()))
        raise PlanError(f"{where}: matches no float weight that is not finished; {name} is {array.dtype}")
    return live


def _apply(
    method: Method, where: str, stats: Mapping[str, Stats], name: str, weight: NDArray[np.float32]
) -> NDArray[np.float32] | Code:
    """One weight through one method, whose errors then name the step and the weight."""
    try:
        return method(weight, stats.get(name))
    except PlanError as error:
        raise PlanError(f"{where}: {name}: {error}") from None
    except WeightError as error:
        raise WeightError(f"{name}: {error}") from None
