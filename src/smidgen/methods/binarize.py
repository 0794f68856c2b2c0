"""Binary and ternary weights: a sign, and one scale per filter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from smidgen.code import Affine, Code, Stats
from smidgen.methods.base import FloatArray, Method, check_flag, checked, importance_of

__all__ = ["Binarize"]

TERNARY_THRESHOLD = 0.7
"""Threshold over the mean magnitude: Li et al., arXiv 1605.04711, equation 6."""


@dataclass(frozen=True)
class Binarize(Method):
    """One bit per weight, or three levels, with one scale per filter (axis 0).

    Forward, binary: ``a sign(w)``, ``a = mean |w|`` of the filter, and sign(0) = +1: the pair that minimises
    ``|w - a s|^2`` over s in {-1, +1}. Rastegari et al., "XNOR-Net", arXiv 1603.05279, equation 6.
    Forward, ternary: ``a sign(w) [|w| > t]``, ``t = 0.7 mean |w|``, ``a`` = mean of the ``|w|`` above t. Li et al.,
    "Ternary Weight Networks", arXiv 1605.04711, equations 5 and 6.
    With statistics the means are weighted by importance, which minimises the weighted squared error in ``a``.
    A 1-D tensor (a bias) is one filter. A filter of zeros has scale 0.

    Args:
        ternary: the levels -1, 0, +1 in place of -1, +1.

    Raises:
        PlanError: ``ternary`` is not true or false.

    Example:
        >>> code = Binarize()(np.array([[1, -3], [0, 0.5]], np.float32))
        >>> code.symbols
        array([[ 1, -1], [ 1,  1]], dtype=int16)
        >>> code.values()
        array([[ 2.  , -2.  ], [ 0.25,  0.25]], dtype=float32)
    """

    ternary: bool = False

    def __post_init__(self) -> None:
        check_flag(self, "ternary")

    def __call__(self, weight: FloatArray, stats: Stats | None = None) -> Code:
        """Signs as symbols, in the shape of the weight, with an affine rule of scale (filters, 1) and zero 0."""
        weight = checked(weight)
        axis = 0 if weight.ndim > 1 else None
        filters = weight.shape[0] if axis == 0 else 1
        rows = weight.reshape(filters, -1).astype(np.float64)
        mass = importance_of(weight, stats).reshape(filters, -1)
        magnitude = np.abs(rows)
        scale = (mass * magnitude).sum(axis=1, keepdims=True) / mass.sum(axis=1, keepdims=True)
        symbols = np.where(rows < 0, -1, 1)
        if self.ternary:
            above = magnitude > TERNARY_THRESHOLD * scale
            symbols = symbols * above
            total = (mass * above).sum(axis=1, keepdims=True)
            # nothing lies above the threshold only where all is zero, and there the scale is zero already
            scale = (mass * above * magnitude).sum(axis=1, keepdims=True) / np.where(total > 0, total, 1.0)
        rule = Affine(scale.astype(np.float32), np.zeros(scale.shape, np.int16), axis)
        return Code(symbols.astype(np.int16).reshape(weight.shape), rule)
