"""Weight sharing with trained values: entries of a codebook move by the gradients of all weights that share them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen import methods
from smidgen.code import Code, Table
from smidgen.methods.base import check_flag, check_int, check_number
from smidgen.train.family import Family, original, parametrized, plain_
from smidgen.train.fold import fold_normalization_

__all__ = ["Cluster"]


class _Gather(torch.autograd.Function):
    """Entries of a codebook; the gradient of each is the sum over the weights that share it."""

    @staticmethod
    def forward(ctx: Any, levels: Tensor, symbols: Tensor) -> Tensor:
        ctx.save_for_backward(symbols)
        ctx.count = len(levels)
        return levels[symbols]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (symbols,) = ctx.saved_tensors
        summed = torch.bincount(symbols.reshape(-1), gradient.reshape(-1).double(), ctx.count)
        return summed.to(gradient.dtype), None


class Shared(nn.Module):
    """A weight of shared values. Its level of zeros, if pruned weights have one, stays zero."""

    symbols: Tensor
    moves: Tensor

    def __init__(self, code: Code) -> None:
        super().__init__()
        assert isinstance(code.rule, Table)
        levels = torch.from_numpy(code.rule.levels[0].copy())
        self.levels = nn.Parameter(levels)
        self.register_buffer("symbols", torch.from_numpy(code.symbols.astype(np.int64)))
        self.register_buffer("moves", (levels != 0).to(levels.dtype))

    def forward(self, weight: Tensor) -> Tensor:
        """The values of the codebook, in the places of the weights."""
        del weight
        shared: Tensor = _Gather.apply(self.levels * self.moves, self.symbols)  # type: ignore[no-untyped-call]
        return shared

    def values(self, weight: Tensor) -> Tensor:
        """The values of the codebook, in the places of the weights."""
        return self(weight).detach()  # type: ignore[no-any-return]


class Attended(nn.Module):
    """A weight between shared values: the mean of the codebook, in which the nearest entries count most. Pruned weights
    stay zero."""

    moves: Tensor
    kept: Tensor
    distance: Tensor
    hardness: Tensor

    def __init__(self, weight: Tensor, code: Code, temperature: float) -> None:
        super().__init__()
        assert isinstance(code.rule, Table)
        levels = torch.from_numpy(code.rule.levels[0].copy())
        self.levels = nn.Parameter(levels)
        self.register_buffer("moves", (levels != 0).to(levels.dtype))
        self.register_buffer("kept", (weight.detach() != 0).to(levels.dtype))
        spread = (levels.max() - levels.min()) / max(1, len(levels) - 1)
        self.register_buffer("distance", (spread * temperature).clamp(min=1e-8))
        self.register_buffer("hardness", torch.ones(()))

    def forward(self, weight: Tensor) -> Tensor:
        """The attention of each weight to the codebook."""
        levels = self.levels * self.moves
        far = (weight.reshape(-1, 1) - levels).abs() * (-self.hardness / self.distance)
        return (torch.softmax(far, 1) @ levels).reshape(weight.shape) * self.kept

    def values(self, weight: Tensor) -> Tensor:
        """The entry of the codebook that is nearest to each weight."""
        levels = (self.levels * self.moves).detach()
        nearest = (weight.detach().reshape(-1, 1) - levels).abs().argmin(1).reshape(weight.shape)
        return levels[nearest] * self.kept


@dataclass(frozen=True)
class Cluster(Family):
    """Shares a codebook of ``levels`` values in each layer, and trains them.

    Normalization is folded first, so that there are no scales beside the codebook.

    Args:
        levels: of the codebook, 2..256, the zero of pruned weights included.
        differentiable: weights choose their entry anew as they are trained, by attention, which becomes harder to the
            end of the stage; otherwise they keep the entry that was nearest at the beginning.
        temperature: of the attention at the beginning, as a part of the mean distance of two levels.

    Raises:
        PlanError: a field is not allowed.

    Source:
        Han et al., "Deep Compression", arXiv 1510.00149, section 3.3; Cho et al., "DKM", arXiv 2108.12659,
        section 3.2, with the codebook trained by its gradients and not by iterations within each update.
    """

    LEARNING_RATE: ClassVar[float] = 0.002  # the gradient of a shared value is a sum over all its weights

    levels: int = 16
    differentiable: bool = False
    temperature: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_int(self, "levels", 2, 256)
        check_flag(self, "differentiable")
        check_number(self, "temperature", 100)

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Folds normalization, and finds the codebooks."""
        fold_normalization_(module, pictures)
        for layer in self.layers(module).values():
            code = self._code(layer.weight)
            shared = Attended(layer.weight, code, self.temperature) if self.differentiable else Shared(code)
            parametrize.register_parametrization(layer, "weight", shared, unsafe=True)

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Makes the attention harder, to a tenth of its temperature."""
        del turn
        for _, _, attended in parametrized(module, Attended):
            attended.hardness.fill_(10.0**part)

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """The codes."""
        codes = {}
        for name, layer, shared in parametrized(module, (Shared, Attended)):
            codes[name] = methods.Cluster(self.levels)(shared.values(original(layer)).cpu().numpy())
        plain_(module)
        for name, code in codes.items():
            _set(module, name, code)
        return codes

    def _code(self, weight: Tensor) -> Code:
        return methods.Cluster(self.levels)(weight.detach().cpu().numpy())


def _set(module: nn.Module, name: str, code: Code) -> None:
    parameter = module.get_parameter(name)
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(code.values()))
