"""Weight sharing: a codebook of a few values, and for each weight an index into it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Code, Stats, Table
from smidgen.methods.base import (
    FloatArray,
    Method,
    check_choice,
    check_flag,
    check_int,
    checked,
    importance_of,
)

__all__ = ["Cluster"]

EXACT_POINTS = 4096
"""Up to this many distinct values the search for the best codebook is exact."""

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Cluster(Method):
    """Shares one codebook of ``levels`` values among all weights of the tensor, by k-means in one dimension.

    Forward: ``c[argmin_k (w - c_k)^2]`` with ``c`` minimising ``sum m (w - c[k(w)])^2``, m the importance (all ones
    without statistics). Han et al., "Deep Compression", arXiv 1510.00149, section 3 and equation 2. Lloyd's iterations
    run on the sorted values with prefix sums, k log n each. A tensor with no more distinct values than levels is
    coded without loss.

    Args:
        levels: size of the codebook, 2..256, the zero of ``keep_zeros`` included.
        init: where the iterations start (section 3.2 of the paper): "linear" between the smallest and the largest
            weight, "density" at equal steps of the cumulative distribution, "random" at weights drawn by Forgy's rule,
            or "exact": the best codebook, by dynamic programming (Wang and Song, "Ckmeans.1d.dp", R Journal 3(2),
            2011) with divide and conquer over the monotone split points. Exact up to 4096 distinct values; more are
            first gathered into at most 4096 cells (half of them of equal width, half of equal mass), each standing at
            its mean, and Lloyd's iterations on all values follow: near the optimum then, not proven to be it.
        keep_zeros: weights that are exactly zero (pruned ones) stay zero and have that level for themselves.
        iterations: the most Lloyd iterations, 0..10000; they stop early when nothing moves.
        seed: of the "random" start.

    Raises:
        PlanError: a field is not allowed.

    Example:
        >>> code = Cluster(levels=3)(np.array([[0, 1.0, 1.2], [0, -2.0, -2.2]], np.float32))
        >>> code.symbols
        array([[1, 2, 2], [1, 0, 0]], dtype=int16)
        >>> code.rule.levels
        array([[-2.1, 0. , 1.1]], dtype=float32)
    """

    levels: int = 16
    init: Literal["linear", "density", "random", "exact"] = "exact"
    keep_zeros: bool = True
    iterations: int = 50
    seed: int = 0

    def __post_init__(self) -> None:
        check_int(self, "levels", 2, 256)
        check_choice(self, "init", ("linear", "density", "random", "exact"))
        check_flag(self, "keep_zeros")
        check_int(self, "iterations", 0, 10_000)
        check_int(self, "seed", 0, 2**63 - 1)

    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> Code:
        """Indices into one table of ascending levels, none of them unused."""
        weight = checked(weight)
        flat = weight.ravel()
        importance = importance_of(weight, stats).ravel()
        live = flat != 0 if self.keep_zeros else np.ones(flat.shape, np.bool_)
        values = np.zeros(flat.shape, np.float32)
        if live.any():
            values[live] = self._shared(flat[live], importance[live], self.levels - int(not live.all()))
        # sorts the levels, drops the unused ones and joins those that float32 cannot tell apart, all in one;
        # the 0.0 turns -0.0 into 0.0, of which there is one
        levels, symbols = np.unique(values + np.float32(0), return_inverse=True)
        return Code(symbols.astype(np.int16).reshape(weight.shape), Table(levels.reshape(1, -1)))

    def _shared(self, weights: FloatArray, importance: Points, count: int) -> FloatArray:
        """The shared value of each weight (1-D), of which there are at most ``count`` different ones."""
        distinct, place = np.unique(weights, return_inverse=True)
        if distinct.size <= count:
            return weights
        points, mass = distinct.astype(np.float64), np.bincount(place, importance).astype(np.float64)
        centers = _lloyd(points, mass, self._start(points, mass, count), self.iterations)
        nearest = np.searchsorted((centers[1:] + centers[:-1]) / 2, points)
        shared: FloatArray = centers.astype(np.float32)[nearest][place]
        return shared

    def _start(self, points: Points, mass: Points, count: int) -> Points:
        """``count`` ascending centers to start from, for more than ``count`` ascending points."""
        if self.init == "exact":
            return _optimal(*_gathered(points, mass), count)
        if self.init == "linear":
            return np.linspace(points[0], points[-1], count)
        if self.init == "density":
            cumulative = np.cumsum(mass)
            shares = (np.arange(count) + 0.5) / count * cumulative[-1]
            chosen = np.minimum(np.searchsorted(cumulative, shares), points.size - 1)
        else:
            generator = np.random.default_rng(self.seed)
            chosen = np.sort(generator.choice(points.size, count, replace=False, p=mass / mass.sum()))
        start: Points = points[chosen]
        return start


def _lloyd(points: Points, mass: Points, centers: Points, iterations: int) -> Points:
    """Ascending centers after Lloyd's iterations; one that loses all its points stays where it is."""
    total = np.concatenate([[0.0], np.cumsum(mass)])
    moment = np.concatenate([[0.0], np.cumsum(mass * points)])
    edges = np.empty(0, np.intp)
    for _ in range(iterations):
        inner = np.searchsorted(points, (centers[1:] + centers[:-1]) / 2, side="right")
        if np.array_equal(inner, edges):
            break
        edges = inner
        first, last = np.concatenate([[0], inner]), np.concatenate([inner, [points.size]])
        share = total[last] - total[first]
        used = (last > first) & (share > 0)
        means = (moment[last] - moment[first])[used] / share[used]
        # a difference of prefix sums loses digits; the mean still lies among its points
        centers = centers.copy()
        centers[used] = np.clip(means, points[first[used]], points[last[used] - 1])
    return centers


def _gathered(points: Points, mass: Points) -> tuple[Points, Points]:
    """The points themselves, or when there are too many at most ``EXACT_POINTS`` cells at their means."""
    if points.size <= EXACT_POINTS:
        return points, mass
    half = EXACT_POINTS // 2
    cumulative = np.cumsum(mass)
    # equal width serves the tails, equal mass the crowded middle
    wide = np.searchsorted(points, np.linspace(points[0], points[-1], half, endpoint=False))
    heavy = np.searchsorted(cumulative, np.linspace(0, cumulative[-1], half, endpoint=False))
    starts = np.unique(np.concatenate([[0], wide, heavy]))
    cells = np.add.reduceat(mass, starts)
    means = np.add.reduceat(mass * points, starts) / cells
    return means, cells


def _optimal(points: Points, mass: Points, count: int) -> Points:
    """The ``count`` centers of least weighted squared error for ascending points; all points when they are fewer.

    ``best[j]`` is the least cost of the first j points with the clusters so far, and ``split[j]`` where the last of
    these clusters begins. The split points ascend with j, so that each halving of the stride searches at most
    n + n / stride candidates: k n log n in all.
    """
    size = points.size
    if size <= count:
        return points
    # centered and scaled: squares then neither overflow nor cancel more than they must
    middle = np.average(points, weights=mass)
    spread = max(float(points[-1] - middle), float(middle - points[0]))
    # a mass below the digits of the sums would divide by zero
    x, m = (points - middle) / spread, np.maximum(mass / mass.mean(), 1e-9)
    sums = np.zeros((3, size + 1))
    np.cumsum(np.stack([m, m * x, m * x * x]), axis=1, out=sums[:, 1:])
    best = np.full(size + 1, np.inf)
    best[1:] = sums[2, 1:] - sums[1, 1:] ** 2 / sums[0, 1:]
    splits = []
    for clusters in range(2, count + 1):
        best, split = _layer(sums, best, clusters)
        splits.append(split)
    edges = [size]
    for split in reversed(splits):
        edges.append(int(split[edges[-1]]))
    starts = np.array([0, *reversed(edges[1:])])
    return np.add.reduceat(mass * points, starts) / np.add.reduceat(mass, starts)


def _layer(sums: Points, before: Points, clusters: int) -> tuple[Points, NDArray[np.intp]]:
    """Best costs and split points with one cluster more than ``before``."""
    size = before.size - 1
    best, split = np.full(size + 1, np.inf), np.zeros(size + 1, np.intp)
    top = size - clusters + 1
    stride = 1 << top.bit_length()
    while stride:
        # ends of prefixes halfway between those already solved; clusters - 1 stands for the unsolved left neighbour
        ends = np.arange(stride, top + 1, 2 * stride) + clusters - 1
        low = np.maximum(split[ends - stride], clusters - 1)
        right = ends + stride
        high = np.where(right <= size, np.minimum(split[np.minimum(right, size)], ends - 1), ends - 1)
        if ends.size:
            best[ends], split[ends] = _least(sums, before, ends, (low, high))
        stride //= 2
    return best, split


def _least(
    sums: Points, before: Points, ends: NDArray[np.intp], bounds: tuple[NDArray[np.intp], NDArray[np.intp]]
) -> tuple[Points, NDArray[np.intp]]:
    """For each end the least ``before[i] + cost(i, end)`` over i in low..high, and the first such i."""
    low, high = bounds
    lengths = high - low + 1
    starts = np.cumsum(lengths) - lengths
    candidates = np.arange(int(lengths.sum())) + np.repeat(low - starts, lengths)
    mass, first, second = np.repeat(sums[:, ends], lengths, axis=1) - sums[:, candidates]
    costs = before[candidates] + np.maximum(second - first * first / mass, 0.0)
    least = np.minimum.reduceat(costs, starts)
    hits = np.flatnonzero(costs == np.repeat(least, lengths))
    return least, candidates[hits[np.searchsorted(hits, starts)]]
