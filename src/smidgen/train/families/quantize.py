"""Quantization-aware training: weights and activations on grids whose steps are learned."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen.code import Affine, Code
from smidgen.methods.base import check_int
from smidgen.train.family import Family, original, parametrized, plain_, put_before_, seen_inputs, steps_of

__all__ = ["Quantize"]

SMALLEST = 1e-8
"""Step; one that becomes negative counts without its sign."""

WIDER = 1.001
"""A step that is known is multiplied with this: weights at the ends of the grid are then within it, and are trained."""

GRID = "input_grid"
"""Name of the module within a layer that its input goes through."""


class _OnGrid(torch.autograd.Function):
    """The nearest points of a grid, with the gradients of Esser et al., arXiv 1902.08153, equations 3 and 5, in one
    piece: as a chain of operations it takes four times as long."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, ends: tuple[float, float]) -> Tensor:
        ideal = x / step.to(x.dtype)
        points = ideal.clamp(*ends).round()
        ctx.save_for_backward(points - _within(ideal, ideal, ends), ideal)
        ctx.shape, ctx.ends = step.shape, ends
        return points.mul_(step.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        by_step, ideal = ctx.saved_tensors
        moved = gradient * by_step
        whole = moved.sum(dtype=torch.float32) if not ctx.shape else moved.float().sum_to_size(ctx.shape)
        return _within(gradient, ideal, ctx.ends), whole, None


def _within(values: Tensor, ideal: Tensor, ends: tuple[float, float]) -> Tensor:
    """Values where ``ideal`` is between the ends, zero elsewhere; ten times as fast as with a mask."""
    found: Tensor = torch.ops.aten.hardtanh_backward(values, ideal, *ends)
    return found


class Stepped(nn.Module):
    """A weight on a grid with a trained step for each output: that of the grid where it lies, if it is ``known`` to."""

    def __init__(self, weight: Tensor, bits: int, known: bool = False) -> None:
        super().__init__()
        self.low, self.high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        rows = weight.detach().reshape(len(weight), -1)
        steps = 2 * rows.abs().mean(1).clamp(min=1e-8) / math.sqrt(self.high)
        if known:
            found = steps_of(rows, self.low, self.high)
            steps = torch.where(found > 0, WIDER * found, steps)
        self.step = nn.Parameter(steps)
        self.slowness = 1 / math.sqrt(rows.shape[1] * self.high)

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest points of the grid."""
        step = _slowed(self.step, self.slowness).reshape(-1, *[1] * (weight.dim() - 1))
        found: Tensor = _OnGrid.apply(weight, step, (self.low, self.high))  # type: ignore[no-untyped-call]
        return found

    def code(self, weight: Tensor) -> Code:
        """The numbers of the points, and the steps."""
        steps = _slowed(self.step.detach(), 1.0)
        symbols = (weight.detach() / steps.reshape(-1, *[1] * (weight.dim() - 1))).clamp(self.low, self.high).round()
        scale = steps.cpu().numpy().astype(np.float32)[:, None]
        return Code(symbols.cpu().numpy().astype(np.int16), Affine(scale, np.zeros(scale.shape, np.int16), 0))


class Grid(nn.Module):
    """Activations on a grid with one trained step; in the file it stays, as a division, a rounding and a product."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits = bits
        self.step = nn.Parameter(torch.zeros(()))
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.tensor(2.0**bits - 1))

    def begin(self, seen: Tensor) -> None:
        """Takes its step from activations, and learns whether they are negative, too; unless an earlier stage did."""
        if float(self.step.detach()):
            return
        if bool((seen < 0).any()):
            self.get_buffer("low").fill_(-(2.0 ** (self.bits - 1)))
            self.get_buffer("high").fill_(2.0 ** (self.bits - 1) - 1)
        mean = float(seen.abs().mean())
        with torch.no_grad():
            self.step.fill_(max(1e-6, 2 * mean / math.sqrt(float(self.get_buffer("high")))))

    def forward(self, x: Tensor) -> Tensor:
        """The nearest points of the grid."""
        low, high = float(self.get_buffer("low")), float(self.get_buffer("high"))
        if not self.training:
            if not float(self.step.detach()):  # activations are looked at before it begins
                return x
            step = _slowed(self.step, 1.0).detach()
            return (x / step).round().clamp(low, high) * step
        step = _slowed(self.step, 1 / math.sqrt(x[0].numel() * high))
        found: Tensor = _OnGrid.apply(x, step, (low, high))  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True)
class Quantize(Family):
    """Trains weights and activations on grids of few points; the step of each is trained like a weight.

    Weights have a step for each output, activations one for each layer's input. The first layer and the last, where
    every bit counts and few bytes are, have ``edges`` bits, and their inputs are left as they are. A stage right
    after another of as many bits goes on with its grids.

    Args:
        bits: of weights, 2..8.
        activations: bits of activations, 2..8; 0 to leave them as they are.
        edges: bits of the weights of the first and the last layer, 2..8; 0 to leave them as they are.

    Raises:
        PlanError: a field is not allowed.

    Source:
        Esser et al., "Learned Step Size Quantization", arXiv 1902.08153, section 2.
    """

    bits: int = 4
    activations: int = 4
    edges: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "bits", 2, 8)
        for name in ("activations", "edges"):
            if getattr(self, name) != 0:
                check_int(self, name, 2, 8)

    def restructure(self, module: nn.Module) -> None:
        """Puts grids before the inner layers, where none of so many bits are."""
        for layer in self.inner(module).values() if self.activations else ():
            there = getattr(layer, GRID, None)
            if not isinstance(there, Grid) or there.bits != self.activations:
                put_before_(layer, GRID, Grid(self.activations))

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Lays the grids, by what weights and activations are."""
        layers, within = self.layers(module), self.inner(module)
        if self.activations:
            for name, seen in seen_inputs(module, within, pictures, GRID).items():
                layers[name].get_submodule(GRID).begin(seen)
        for name, layer in layers.items():
            bits = self.bits if name in within else self.edges
            if bits:
                known = isinstance(before, Quantize) and bits == (before.bits if name in within else before.edges)
                parametrize.register_parametrization(layer, "weight", Stepped(layer.weight, bits, known))

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """The symbols, and their steps."""
        codes = {name: stepped.code(original(layer)) for name, layer, stepped in parametrized(module, Stepped)}
        plain_(module)
        return codes


def _slowed(step: Tensor, slowness: float) -> Tensor:
    """A step that moves as one weight does, not as the sum of all that it scales."""
    slow = step * slowness
    return (slow + (step - slow).detach()).abs().clamp(min=SMALLEST)
