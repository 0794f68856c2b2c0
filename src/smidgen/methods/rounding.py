"""Rounding that looks at more than one weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["squant"]


def squant(ideal: NDArray[np.float64], first: int, last: int) -> NDArray[np.float64]:
    """Round so that the errors of every kernel, and of every filter, nearly cancel.

    What a filter adds up are activations after ReLU: they are positive, and neighbours in a kernel are alike. So the
    sum of a kernel's or a filter's rounding errors does more harm than their squares. After rounding to nearest, as
    few weights as needed, those nearest to the middle between two levels, take the other level, until the errors
    of a kernel sum to at most half a step, and then, kernel by kernel, those of the filter. No data is needed.

    Args:
        ideal: what would be the symbols if they were not integers; shape (filters, inputs, ...), the further axes
            being the kernel.
        first: the smallest symbol allowed.
        last: the largest symbol allowed.

    Returns:
        Integers as float64, in the same shape. Integers in ``ideal`` (pruned weights) stay as they are.

    Source:
        Guo et al., "SQuant: On-the-Fly Data-Free Quantization via Diagonal Hessian Approximation", arXiv 2202.07471,
        section 3.2, for one pass over kernels and one over filters.

    Example:
        >>> squant(np.array([[0.4, 0.3, 0.4]]), -7, 7)
        array([[1., 0., 0.]])
    """
    symbols = np.clip(np.rint(ideal), first, last)
    if ideal.ndim < 2:
        return symbols
    # a clipped weight cannot make up for others, so its error is left out
    error = np.where((ideal > first) & (ideal < last), ideal - symbols, 0.0)
    error = error.reshape(*ideal.shape[:2], -1)
    flips = np.zeros_like(error)
    if error.shape[2] > 1:
        flips += _flips(error)
    error_of_kernel = (error - flips).sum(axis=2)
    turned = _flips(error_of_kernel)
    # of a kernel that is to move, the weight that is nearest to moving anyway
    nearest = np.argmax((error - flips) * turned[:, :, None], axis=2)[:, :, None]
    moved = np.take_along_axis(flips, nearest, axis=2) + turned[:, :, None]
    np.put_along_axis(flips, nearest, moved, axis=2)
    result: NDArray[np.float64] = np.clip(symbols + flips.reshape(ideal.shape), first, last)
    return result


def _flips(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """Which entries of the last axis to move by one step, -1, 0 or 1, so that its errors sum to at most a half."""
    total = error.sum(axis=-1, keepdims=True)
    sign = np.sign(total)
    rank = np.argsort(np.argsort(-error * sign, axis=-1, kind="stable"), axis=-1, kind="stable")
    flips: NDArray[np.float64] = np.where(rank < np.rint(np.abs(total)), sign, 0.0)
    return flips
