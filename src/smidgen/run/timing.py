"""Timing that a busy machine cannot bend in favour of one of those compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["interleaved"]


def interleaved(
    runs: Sequence[Callable[[int], object]], rounds: int, settle: float | None = None
) -> NDArray[np.float64]:
    """Milliseconds that each of some functions takes, in each round: shape (rounds, functions).

    In each round every function runs once, in an order that is drawn anew (with a fixed seed), so that a machine that
    is slow for a while, or a neighbour that empties the caches, favours none.

    Args:
        runs: each takes the number of the round.
        rounds: how many, after one that is not counted.
        settle: before each run wait for so many seconds, until threads that another function has left spinning
            sleep, and then run once without counting, so that the caches hold what they hold for a function alone.

    Example:
        >>> import time
        >>> fast, slow = np.median(interleaved([lambda turn: None, lambda turn: time.sleep(0.002)], 5), axis=0)
        >>> bool(fast < slow)
        True
    """
    rng = np.random.default_rng(0)
    for run in runs:
        run(0)
    nanoseconds = np.zeros((rounds, len(runs)), np.int64)
    for turn in range(rounds):
        for place in rng.permutation(len(runs)):
            if settle is not None:
                time.sleep(settle)
                runs[place](turn)
            start = time.perf_counter_ns()
            runs[place](turn)
            nanoseconds[turn, place] = time.perf_counter_ns() - start
    return nanoseconds / 1e6
