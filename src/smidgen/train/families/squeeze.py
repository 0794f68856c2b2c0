"""Entropy-aware training: what the symbols cost, once they are coded, is a term of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen.code import Affine, Code
from smidgen.methods.base import check_number
from smidgen.train.family import Family, original, parametrized, plain_, steps_of, straight_through
from smidgen.train.fold import fold_, foldable

__all__ = ["Squeeze"]

EVERY = 4
"""Updates between two looks at how often each symbol occurs."""

COUNTED, LARGEST = 15, 127
"""Symbols beyond the first are counted as it; there are none beyond the second."""

GAIN = 0.02
"""How much the price of a bit changes for good in one update at most; where bits are a quarter too many it does."""

AT_ONCE = 8.0
"""How much of it there is at once, for as long as bits are too many: times the part of them, a quarter at most. So it
does not rise until it is far too high."""

REACH = 12.0
"""Logarithm of the price's range in a stage of few updates."""

FIRST_PRICE = 0.1
"""Loss that one bit per weight is worth at first."""

RARE = 0.1
"""How often a symbol counts more than it occurs, so that one that does not has a cost."""

PRICE, LASTING, FIRST = "bit_price", "lasting_price", "first_bits"
"""Buffers of the module while it is trained: the price, what of it lasts, and the bits for each weight at first."""

LEAST_FACTOR = 1e-6
"""Of a normalization, where channels that it silences have one of zero."""


class Rated(nn.Module):
    """A weight on a grid, and what its symbols cost. What is trained of the step is its logarithm.

    Where a normalization follows, the grid is that of the weight as it will be folded: times that one's factor.
    """

    bits: Tensor
    taken: Tensor

    def __init__(self, weight: Tensor, step: float, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norms = (norm,)  # within a tuple: it is no child of this one
        self.log_step = nn.Parameter(torch.tensor(math.log(step)))
        # the step moves as one weight does, not as the sum of all: Esser et al., arXiv 1902.08153, section 2.2
        self.slowness = 1 / math.sqrt(weight.numel())
        self.register_buffer("bits", torch.zeros(2 * COUNTED + 1))
        self.register_buffer("taken", torch.zeros(()))
        self.count(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest points of the grid."""
        step = self.step() / self.factor(weight)
        ideal = (weight / step).clamp(-LARGEST, LARGEST)
        return straight_through(ideal.round(), ideal) * step

    def factor(self, weight: Tensor) -> Tensor:
        """What the normalization multiplies each output with, of shape (outputs, 1, ...)."""
        norm: Any = self.norms[0]
        if norm is None:
            return torch.ones((), device=weight.device)
        factor = (norm.running_var + norm.eps).rsqrt()
        factor = factor if norm.weight is None else factor * norm.weight.detach()
        factor = torch.where(factor.abs() < LEAST_FACTOR, LEAST_FACTOR, factor)
        return factor.reshape(-1, *[1] * (weight.dim() - 1))

    def lay(self, weight: Tensor, step: float, known: bool) -> None:
        """Lays a grid, of a step in standard deviations unless the weight is known to lie on one; counts symbols."""
        folded = weight * self.factor(weight)
        found = float(steps_of(folded.reshape(1, -1), -LARGEST, LARGEST)) if known else 0.0
        with torch.no_grad():
            self.log_step.fill_(math.log(found or step * float(folded.std()) or 1.0))
        self.count(weight)

    def step(self) -> Tensor:
        """The distance of two points."""
        slow = self.log_step * self.slowness
        return (slow + (self.log_step - slow).detach()).exp()

    def code(self, weight: Tensor) -> Code:
        """The numbers of the points, and their distance."""
        step = float(self.step().detach())
        symbols = (weight.detach() * self.factor(weight) / step).round().clamp(-LARGEST, LARGEST)
        return Code(symbols.cpu().numpy().astype(np.int16), Affine.per_tensor(step))

    def count(self, weight: Tensor) -> None:
        """Looks how often each symbol occurs, and so what it costs, and what all take together."""
        with torch.no_grad():
            places = (weight * self.factor(weight) / self.step()).reshape(-1).round().clamp(-COUNTED, COUNTED)
            counts = torch.bincount(places.long() + COUNTED, minlength=2 * COUNTED + 1).float()
            self.bits.copy_(((counts + RARE).sum() / (counts + RARE)).log2())
            self.taken.copy_((counts * self.bits).sum())

    def cost(self, weight: Tensor) -> Tensor:
        """Bits of all weights together as the loss sees them: in proportion between two points, so more than the
        symbols take."""
        ideal = (weight * self.factor(weight) / self.step()).clamp(-COUNTED, COUNTED - 1e-3)
        below = ideal.detach().floor()
        place = below.long() + COUNTED
        return torch.lerp(self.bits[place], self.bits[place + 1], ideal - below).sum()


@dataclass(frozen=True)
class Squeeze(Family):
    """Trains weights to be cheap: the entropy of their symbols is held to ``bits`` for each weight.

    Each layer has a grid of equal steps, which are trained too. A symbol costs what its frequency in the layer says;
    between two points of the grid the cost is a straight line, whose slope moves weights to points that are cheaper.
    A stage right after another one goes on with its grids.
    The price of a bit, one for all layers, rises or falls until the network costs what was asked for. A normalization
    after a layer stays while the network is trained, and the grid is that of the weights times its factor, as which it
    is folded in the end.

    Args:
        bits: for each weight, in the mean over all layers, what the symbols take in the end, at most 4.
        step: of a new grid at the beginning, in standard deviations of the layer's weights.
        until: the part of the stage in which the bits fall to that.

    Raises:
        PlanError: a field is not allowed.

    Source:
        Entropy-coded quantization in training: Oktay et al., "Scalable Model Compression by Entropy Penalized
        Reparameterization", arXiv 1906.06624; trained steps: Esser et al., arXiv 1902.08153.
    """

    bits: float = 1.0
    step: float = 1.0
    until: float = 0.6

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "bits", 4)  # of more there would be symbols that are not counted
        check_number(self, "step", 10)
        check_number(self, "until", 1.0)

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Lays the grids."""
        norms = foldable(module, pictures)
        for layer in self.layers(module).values():
            weight = layer.weight.detach()
            rated = Rated(weight, 1.0, norms.get(layer))
            rated.lay(weight, self.step, known=isinstance(before, Squeeze))
            parametrize.register_parametrization(layer, "weight", rated)
        for name, value in ((PRICE, FIRST_PRICE), (LASTING, FIRST_PRICE), (FIRST, _mean_bits(module))):
            module.register_buffer(name, torch.tensor(value))

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Counts symbols, and sets the price of a bit."""
        if turn % EVERY == 0:
            for _, layer, rated in parametrized(module, Rated):
                rated.count(original(layer))
        first, now = float(module.get_buffer(FIRST)), _mean_bits(module)
        wanted = self.bits * (first / self.bits) ** (1 - min(1.0, part / self.until))
        gain = max(GAIN, REACH * part / turn) if turn else GAIN
        beyond = max(-0.25, min(0.25, now / wanted - 1))
        lasting = module.get_buffer(LASTING).mul_(math.exp(gain * 4 * beyond))
        module.get_buffer(PRICE).copy_(lasting * math.exp(AT_ONCE * beyond))

    def penalty(self, module: nn.Module) -> Tensor:
        """The price of all bits."""
        rated = list(parametrized(module, Rated))
        costs = torch.stack([each.cost(original(layer)) for _, layer, each in rated])
        return module.get_buffer(PRICE) * costs.sum() / sum(original(layer).numel() for _, layer, _ in rated)

    def remark(self, module: nn.Module) -> str:
        """How many bits the symbols take."""
        for _, layer, rated in parametrized(module, Rated):
            rated.count(original(layer))
        return f"symbols take {_mean_bits(module):.2f} bits of the {self.bits:g} asked for"

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """The symbols, and the steps of their grids; normalization is folded."""
        found = list(parametrized(module, Rated))
        codes = {name: rated.code(original(layer)) for name, layer, rated in found}
        plain_(module)
        fold_(module, {layer: rated.norms[0] for _, layer, rated in found if rated.norms[0] is not None})
        for name in (PRICE, LASTING, FIRST):
            delattr(module, name)
        return codes


def _mean_bits(module: nn.Module) -> float:
    """What the symbols take for each weight."""
    rated = list(parametrized(module, Rated))
    taken = sum(float(each.taken) for _, _, each in rated)
    return taken / sum(original(layer).numel() for _, layer, _ in rated)
