"""What each ONNX operator computes, in PyTorch: arithmetic and reductions here, and the table of all."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.network.call import Call, Operator, text
from smidgen.network.grids import GRIDS
from smidgen.network.layers import LAYERS
from smidgen.network.recurrent import RECURRENT
from smidgen.network.shapes import SHAPES

__all__ = ["OPERATORS"]


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0])


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda call: function(call[0], call[1])


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    def operator(call: Call) -> Tensor:
        result = call[0]
        for index in range(1, len(call.inputs)):
            result = function(result, call[index])
        return result

    return operator


def _divide(call: Call) -> Tensor:
    if call[0].is_floating_point():
        return call[0] / call[1]
    return torch.div(call[0], call[1], rounding_mode="trunc")


def _modulo(call: Call) -> Tensor:
    return torch.fmod(call[0], call[1]) if call.attributes.get("fmod") else torch.remainder(call[0], call[1])


def _clip(call: Call) -> Tensor:
    low, high = (call.optional(1), call.optional(2)) if call.opset >= 11 else (None, None)
    if call.opset < 11:
        low, high = call.attributes.get("min"), call.attributes.get("max")
    return call[0] if low is None and high is None else torch.clamp(call[0], low, high)


def _hard_sigmoid(call: Call) -> Tensor:
    alpha, beta = float(call.attributes.get("alpha", 0.2)), float(call.attributes.get("beta", 0.5))
    return (alpha * call[0] + beta).clamp(0, 1)


def _gelu(call: Call) -> Tensor:
    approximate = call.attributes.get("approximate", b"none")
    return functional.gelu(call[0], approximate=text(approximate))


def _prelu(call: Call) -> Tensor:
    return torch.where(call[0] < 0, call[0] * call[1], call[0])


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def operator(call: Call) -> Tensor:
        axes = call.numbers(1, "axes")
        if not axes:
            if call.attributes.get("noop_with_empty_axes"):
                return call[0]
            axes = list(range(call[0].ndim))
        return function(call[0], axes, bool(call.attributes.get("keepdims", 1))) if axes else call[0]

    return operator


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted((axis % x.ndim for axis in axes), reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _log_softmax(call: Call) -> Tensor:
    return _along(call, torch.log_softmax)


def _softmax(call: Call) -> Tensor:
    return _along(call, torch.softmax)


def _along(call: Call, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before version 13 all axes from the given one on were taken together."""
    if call.opset >= 13:
        return function(call[0], call.attributes.get("axis", -1))
    axis = call.attributes.get("axis", 1) % call[0].ndim
    return function(call[0].flatten(axis), axis).reshape(call[0].shape)


OPERATORS: dict[str, Operator] = {
    **GRIDS,
    **LAYERS,
    **RECURRENT,
    **SHAPES,
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "CastLike": lambda call: call[0].to(call[1].dtype),
    "Ceil": _unary(torch.ceil),
    "Celu": lambda call: functional.celu(call[0], call.attributes.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "Div": _divide,
    "Dropout": _unary(lambda x: x),
    "Elu": lambda call: functional.elu(call[0], call.attributes.get("alpha", 1.0)),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "GlobalAveragePool": _unary(lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True)),
    "GlobalMaxPool": _unary(lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True)),
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": _unary(lambda x: x),
    "IsInf": _unary(torch.isinf),
    "IsNaN": _unary(torch.isnan),
    "LeakyRelu": lambda call: functional.leaky_relu(call[0], call.attributes.get("alpha", 0.01)),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "Max": _fold(torch.maximum),
    "Mean": lambda call: _fold(torch.add)(call) / len(call.inputs),
    "Min": _fold(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mod": _modulo,
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "NonZero": _unary(lambda x: torch.nonzero(x).t()),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(torch.pow),
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceL1": _reduce(lambda x, axes, keep: x.abs().sum(axes, keep)),
    "ReduceL2": _reduce(lambda x, axes, keep: x.square().sum(axes, keep).sqrt()),
    "ReduceLogSumExp": _reduce(lambda x, axes, keep: x.logsumexp(axes, keep)),
    "ReduceMax": _reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduce(lambda x, axes, keep: x.square().sum(axes, keep)),
    "Relu": _unary(torch.relu),
    "Round": _unary(torch.round),
    "Selu": _unary(functional.selu),
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Size": lambda call: torch.tensor(call[0].numel()),
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _unary(torch.tanh),
    "Where": lambda call: torch.where(call[0], call[1], call[2]),
    "Xor": _binary(torch.logical_xor),
}
