"""What operators do to each number on its own, in float64: the entries of lookups follow from it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

__all__ = ["ELEMENTWISE", "Function", "Numbers"]

Numbers = Any  # NDArray[np.float64], or one number
Function = Callable[[Numbers], Numbers]
"""Of numbers, each on its own."""

Attributes = Mapping[str, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Numbers) -> Numbers:
    return np.exp(-np.logaddexp(0, -x))


def _clip(a: Attributes, x: Numbers, low: Any = None, high: Any = None) -> Numbers:
    low, high = a.get("min", low), a.get("max", high)  # attributes before opset 11
    return np.clip(x, -np.inf if low is None else low, np.inf if high is None else high)


def _elu(a: Attributes, x: Numbers) -> Numbers:
    return np.where(x > 0, x, a.get("alpha", 1.0) * np.expm1(np.minimum(x, 0)))


def _selu(a: Attributes, x: Numbers) -> Numbers:
    return a.get("gamma", 1.0507010221481323) * _elu({"alpha": a.get("alpha", 1.6732631921768188)}, x)


def _gelu(a: Attributes, x: Numbers) -> Numbers:
    if a.get("approximate", b"none") == b"tanh":
        return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x / 2 * (1 + _erf(x / math.sqrt(2)))


def _hard_sigmoid(a: Attributes, x: Numbers) -> Numbers:
    return np.clip(a.get("alpha", 0.2) * x + a.get("beta", 0.5), 0, 1)


ELEMENTWISE: Mapping[str, Callable[..., Numbers]] = {
    "Abs": lambda a, x: np.abs(x),
    "Add": lambda a, x, y: x + y,
    "Clip": _clip,
    "Div": lambda a, x, y: x / y,
    "Elu": _elu,
    "Erf": lambda a, x: _erf(x),
    "Exp": lambda a, x: np.exp(x),
    "Gelu": _gelu,
    "Greater": lambda a, x, y: 1.0 * (x > y),
    "GreaterOrEqual": lambda a, x, y: 1.0 * (x >= y),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": lambda a, x: x * np.clip(x / 6 + 0.5, 0, 1),
    "LeakyRelu": lambda a, x: np.where(x > 0, x, a.get("alpha", 0.01) * x),
    "Less": lambda a, x, y: 1.0 * (x < y),
    "LessOrEqual": lambda a, x, y: 1.0 * (x <= y),
    "Log": lambda a, x: np.log(x),
    "Max": lambda a, *x: np.maximum.reduce(np.broadcast_arrays(*x)),
    "Min": lambda a, *x: np.minimum.reduce(np.broadcast_arrays(*x)),
    "Mish": lambda a, x: x * np.tanh(np.logaddexp(0, x)),
    "Mul": lambda a, x, y: x * y,
    "Neg": lambda a, x: -x,
    "Not": lambda a, x: 1.0 * np.logical_not(x),
    "PRelu": lambda a, x, y: np.where(x > 0, x, x * y),
    "Pow": lambda a, x, y: x**y,
    "Reciprocal": lambda a, x: 1 / x,
    "Relu": lambda a, x: np.maximum(x, 0),
    "Round": lambda a, x: np.rint(x),
    "Selu": _selu,
    "Sigmoid": lambda a, x: _sigmoid(x),
    "Sign": lambda a, x: np.sign(x),
    "Softplus": lambda a, x: np.logaddexp(0, x),
    "Softsign": lambda a, x: x / (1 + np.abs(x)),
    "Sqrt": lambda a, x: np.sqrt(x),
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: np.tanh(x),
    "ThresholdedRelu": lambda a, x: np.where(x > a.get("alpha", 1.0), x, 0),
    "Where": lambda a, x, y, z: np.where(x, y, z),
}
"""ONNX's operators: attributes, then inputs; an input that is left out is None."""
