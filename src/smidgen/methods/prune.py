"""Pruning: the weights that matter least become zero."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Stats
from smidgen.errors import PlanError
from smidgen.methods.base import (
    FloatArray,
    Method,
    check_choice,
    check_flag,
    check_number,
    checked,
    importance_of,
    refusal,
)

__all__ = ["Prune"]

DEFAULT_DENSITY = 0.5


@dataclass(frozen=True)
class Prune(Method):
    """Keeps the largest weights as they are and sets the rest to zero.

    Forward: ``w * [score is among those kept]``, score = ``|w|``, or with statistics ``|w| sqrt(importance)``, the
    root of the squared error that zeroing the weight causes at the output. Magnitude pruning: Han et al., "Learning
    both Weights and Connections", arXiv 1506.02626, section 3. N:M: Zhou et al., arXiv 2102.04010. Filters: Li et
    al., arXiv 1608.08710, section 3.1, by the L2 norm.

    Args:
        density: share of the weights to keep, above 0 and at most 1: exactly ``round(density * n)`` of n, of equal
            ones the first. Filters: the same of the filters, but at least one.
        scope: "layer": every tensor keeps its share; "global": one threshold for all tensors of the step, of which
            together ``density`` stays. Weights exactly at the threshold all stay.
        pattern: "N:M" such as "2:4": of every M weights in a row of a filter (its inputs flattened) the N largest
            stay; a shorter last run keeps at most N. A 1-D tensor is one row. ``density`` then says nothing of its
            own and may only be left out or be N/M.
        filters: zero whole filters (axis 0).
        threshold: keep the scores from this on, instead of a share; what "global" resolves to.

    Raises:
        PlanError: a field or a combination of fields is not allowed.

    Example:
        >>> Prune(0.5)(np.array([[1, -3], [2, 0.5]], np.float32))
        array([[ 0., -3.],
               [ 2.,  0.]], dtype=float32)
    """

    density: float = DEFAULT_DENSITY
    scope: Literal["layer", "global"] = "layer"
    pattern: str | None = None
    filters: bool = False
    threshold: float | None = None

    def __post_init__(self) -> None:
        check_number(self, "density", 1.0)
        check_choice(self, "scope", ("layer", "global"))
        check_flag(self, "filters")
        if self.threshold is not None:
            check_number(self, "threshold")
        if self.pattern is not None:
            self._check_pattern()
        if self.filters and self.scope == "global":
            raise refusal(self, "scope", "norms of filters of different sizes do not compare; use scope='layer'")
        if self.filters and self.threshold is not None:
            raise refusal(self, "threshold", "filters are chosen by density; leave threshold out")

    def _check_pattern(self) -> None:
        kept, run = self._counts()
        if not 1 <= kept < run <= 64:
            raise refusal(self, "pattern", "pattern must be N:M with 1 <= N < M <= 64, such as 2:4")
        if self.filters or self.scope == "global" or self.threshold is not None:
            raise refusal(self, "pattern", "a pattern excludes filters, scope='global' and threshold")
        if self.density not in (DEFAULT_DENSITY, kept / run):
            raise refusal(self, "density", f"the pattern {self.pattern} sets the density; leave density out")

    def _counts(self) -> tuple[int, int]:
        """N and M of the pattern; zeros when it is not of that form."""
        match = re.fullmatch(r"([0-9]{1,3}):([0-9]{1,3})", str(self.pattern))
        return (int(match[1]), int(match[2])) if match else (0, 0)

    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> FloatArray:
        """The weight with zeros in place of what is pruned, float32 of the same shape."""
        weight = checked(weight)
        score = _score(weight, stats)
        if self.pattern is not None:
            rows = score.reshape(weight.shape[0] if weight.ndim > 1 else 1, -1)
            keep = _structured(rows, *self._counts())
        elif self.threshold is not None:
            keep = score >= self.threshold
        elif self.filters:
            norms = np.sqrt((score.reshape(weight.shape[0] if weight.ndim else 1, -1) ** 2).sum(axis=1))
            kept = _largest(norms, max(1, round(self.density * norms.size)))
            keep = np.repeat(kept, weight.size // norms.size)
        else:
            keep = _largest(score.ravel(), round(self.density * weight.size))
        return np.where(keep.reshape(weight.shape), weight, np.float32(0))

    def resolve(self, weights: Mapping[str, FloatArray], stats: Mapping[str, Stats] | None = None) -> Prune:
        """With scope "global": the same method with the threshold that keeps ``density`` of all ``weights`` together.

        Raises:
            PlanError: some of the weights have statistics and others not, so that their scores do not compare.
            WeightError: a weight that no method can take.

        Example:
            >>> a, b = np.array([1, 2, 3], np.float32), np.array([4], np.float32)
            >>> Prune(0.5, scope="global").resolve({"a": a, "b": b}).threshold
            3.0
        """
        if self.scope != "global" or self.threshold is not None or not weights:
            return self
        known = stats or {}
        missing = [name for name in weights if name not in known]
        if 0 < len(missing) < len(weights):
            raise PlanError(f"Prune: scope='global' needs statistics for all tensors or none; {missing[0]} has none")
        scores = np.concatenate([_score(checked(w, name), known.get(name)).ravel() for name, w in weights.items()])
        kept = round(self.density * scores.size)
        if kept == 0:
            return replace(self, threshold=float(np.nextafter(scores.max(), np.inf)))
        place = scores.size - kept
        # a threshold of 0 would say nothing: the smallest positive one zeroes only what is zero already
        threshold = max(float(np.partition(scores, place)[place]), float(np.finfo(np.float64).tiny))
        return replace(self, threshold=threshold)


def _score(weight: FloatArray, stats: Stats | None) -> NDArray[np.float64]:
    magnitude = np.abs(weight.astype(np.float64))
    return magnitude if stats is None else magnitude * np.sqrt(importance_of(weight, stats))


def _largest(score: NDArray[np.float64], count: int) -> NDArray[np.bool_]:
    """Marks the ``count`` largest of a 1-D array; of equal ones the first."""
    if count == 0:
        return np.zeros(score.size, np.bool_)
    place = score.size - count
    threshold = np.partition(score, place)[place]
    keep: NDArray[np.bool_] = score > threshold
    keep[np.flatnonzero(score == threshold)[: count - int(keep.sum())]] = True
    return keep


def _structured(rows: NDArray[np.float64], kept: int, run: int) -> NDArray[np.bool_]:
    """Marks the ``kept`` largest of every ``run`` in each row; of equal ones the first."""
    padding = -rows.shape[1] % run
    # padding below every score is never kept in place of a weight
    runs = np.pad(rows, ((0, 0), (0, padding)), constant_values=-1.0).reshape(-1, run)
    order = np.argsort(-runs, axis=1, kind="stable")
    keep = np.zeros(runs.shape, np.bool_)
    np.put_along_axis(keep, order[:, :kept], True, axis=1)
    return keep.reshape(rows.shape[0], -1)[:, : rows.shape[1]]
