"""Entropy-aware training: what the symbols cost, once they are coded, is a term of the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen.code import Affine, Code
from smidgen.methods.base import check_number
from smidgen.train.family import Family, original, parametrized, plain_, steps_of, straight_through
from smidgen.train.fold import fold_normalization_

__all__ = ["Squeeze"]

EVERY = 16
"""Updates between two looks at how often each symbol occurs."""

COUNTED, LARGEST = 15, 127
"""Symbols beyond the first are counted as it; there are none beyond the second."""

GAIN = 0.02
"""How much the price of a bit changes in one update at most; where bits are a quarter too many it does."""

REACH = 12.0
"""Logarithm of the price's range in a stage of few updates."""

FIRST_PRICE = 0.01
"""Loss that one bit per weight is worth at first."""

DEAREST = 1e6
"""The price is no more than that, and no less than one by that."""

RARE = 0.1
"""How often a symbol counts more than it occurs, so that one that does not has a cost."""

PRICE, FIRST = "bit_price", "first_bits"
"""Buffers of the module while it is trained: the price, and the bits for each weight at first."""


class Rated(nn.Module):
    """A weight on a grid, and what its symbols cost. What is trained of the step is its logarithm."""

    bits: Tensor
    taken: Tensor

    def __init__(self, weight: Tensor, step: float) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.tensor(math.log(step)))
        # the step moves as one weight does, not as the sum of all: Esser et al., arXiv 1902.08153, section 2.2
        self.slowness = 1 / math.sqrt(weight.numel())
        self.register_buffer("bits", torch.zeros(2 * COUNTED + 1))
        self.register_buffer("taken", torch.zeros(()))
        self.count(weight)

    def forward(self, weight: Tensor) -> Tensor:
        """The nearest points of the grid."""
        step = self.step()
        ideal = (weight / step).clamp(-LARGEST, LARGEST)
        return straight_through(ideal.round(), ideal) * step

    def step(self) -> Tensor:
        """The distance of two points."""
        slow = self.log_step * self.slowness
        return (slow + (self.log_step - slow).detach()).exp()

    def code(self, weight: Tensor) -> Code:
        """The numbers of the points, and their distance."""
        step = float(self.step().detach())
        symbols = (weight.detach() / step).round().clamp(-LARGEST, LARGEST)
        return Code(symbols.cpu().numpy().astype(np.int16), Affine.per_tensor(step))

    def count(self, weight: Tensor) -> None:
        """Looks how often each symbol occurs, and so what it costs, and what all take together."""
        with torch.no_grad():
            places = (weight / self.step()).reshape(-1).round().clamp(-COUNTED, COUNTED)
            counts = torch.bincount(places.long() + COUNTED, minlength=2 * COUNTED + 1).float()
            self.bits.copy_(((counts + RARE).sum() / (counts + RARE)).log2())
            self.taken.copy_((counts * self.bits).sum())

    def cost(self, weight: Tensor) -> Tensor:
        """Bits of all weights together as the loss sees them: in proportion between two points, so more than the
        symbols take."""
        ideal = (weight / self.step()).clamp(-COUNTED, COUNTED - 1e-3)
        below = ideal.detach().floor()
        place = below.long() + COUNTED
        return torch.lerp(self.bits[place], self.bits[place + 1], ideal - below).sum()


@dataclass(frozen=True)
class Squeeze(Family):
    """Trains weights to be cheap: the entropy of their symbols is held to ``bits`` for each weight.

    Each layer has a grid of equal steps, which are trained too. A symbol costs what its frequency in the layer says;
    between two points of the grid the cost is a straight line, whose slope moves weights to points that are cheaper.
    A stage right after another one goes on with its grids.
    The price of a bit, one for all layers, rises or falls until the network costs what was asked for. Normalization is
    folded first.

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
        """Folds normalization, and lays the grids."""
        fold_normalization_(module, pictures)
        for layer in self.layers(module).values():
            weight = layer.weight.detach()
            known = float(steps_of(weight.reshape(1, -1), -LARGEST, LARGEST)) if isinstance(before, Squeeze) else 0.0
            step = known or self.step * float(weight.std()) or 1.0
            parametrize.register_parametrization(layer, "weight", Rated(weight, step))
        for name, value in ((PRICE, FIRST_PRICE), (FIRST, _mean_bits(module))):
            module.register_buffer(name, torch.tensor(value))

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Counts symbols, and sets the price of a bit."""
        if turn % EVERY == 0:
            for _, layer, rated in parametrized(module, Rated):
                rated.count(original(layer))
        first, now = float(module.get_buffer(FIRST)), _mean_bits(module)
        wanted = self.bits * (first / self.bits) ** (1 - min(1.0, part / self.until))
        gain = max(GAIN, REACH * part / turn) if turn else GAIN
        change = math.exp(gain * max(-1.0, min(1.0, 4 * (now / wanted - 1))))
        module.get_buffer(PRICE).mul_(change).clamp_(1 / DEAREST, DEAREST)

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
        """The symbols, and the steps of their grids."""
        codes = {name: rated.code(original(layer)) for name, layer, rated in parametrized(module, Rated)}
        plain_(module)
        for name in (PRICE, FIRST):
            delattr(module, name)
        return codes


def _mean_bits(module: nn.Module) -> float:
    """What the symbols take for each weight."""
    rated = list(parametrized(module, Rated))
    taken = sum(float(each.taken) for _, _, each in rated)
    return taken / sum(original(layer).numel() for _, layer, _ in rated)
