"""Binary and ternary networks: weights of one bit, and activations of one bit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen import methods
from smidgen.code import Affine, Code
from smidgen.errors import RecipeError
from smidgen.methods.base import check_choice, check_flag, check_int
from smidgen.methods.binarize import TERNARY_THRESHOLD
from smidgen.train.family import (
    Family,
    original,
    parametrized,
    plain_,
    put_before_,
    seen_inputs,
    straight_through,
)

__all__ = ["Binarize"]

SIGN = "input_sign"
"""Name of the module within a layer that its input goes through."""

WEIGHTS = ("real", "binary", "ternary")
GRADIENTS = ("clipped", "polynomial")


class _Sign(torch.autograd.Function):
    """1 from zero on, -1 below. The gradient passes where inputs are within -1..1: as it is (Hubara et al., arXiv
    1602.02830, equation 4), or times 2 - 2 |x| (Bi-Real Net, equation 5)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, polynomial: bool) -> Tensor:
        ctx.save_for_backward(x)
        ctx.polynomial = polynomial
        return torch.copysign(torch.ones((), dtype=x.dtype, device=x.device), x + 0.0)  # -0.0 counts as 0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        near = (1 - x.abs()).clamp(min=0)
        return gradient * (2 * near if ctx.polynomial else (near > 0)), None


class Sign(nn.Module):
    """Activations of one bit; in the file it stays, as a comparison and a choice."""

    def __init__(self, gradient: str) -> None:
        super().__init__()
        self.polynomial = gradient == "polynomial"

    def forward(self, x: Tensor) -> Tensor:
        """1 or -1."""
        if self.training:
            signs: Tensor = _Sign.apply(x, self.polynomial)  # type: ignore[no-untyped-call]
            return signs
        return torch.where(x >= 0, 1.0, -1.0)


class Signed(nn.Module):
    """A weight of signs, with or without a scale for each output, or with zeros between them."""

    def __init__(self, kind: str, scaled: bool) -> None:
        super().__init__()
        self.ternary, self.scaled = kind == "ternary", scaled

    def forward(self, weight: Tensor) -> Tensor:
        """Signs times scales."""
        signs, scale = self.parts(weight)
        return straight_through(signs * scale, weight)

    def parts(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Symbols as floats, and the scale of each output, of shape (outputs, 1, ...)."""
        rows = weight.detach().reshape(len(weight), -1)
        size = rows.abs()
        scale = size.mean(1, keepdim=True)
        signs = torch.where(rows >= 0, 1.0, -1.0)
        if self.ternary:
            above = size > TERNARY_THRESHOLD * scale
            signs = signs * above
            scale = (size * above).sum(1, keepdim=True) / above.sum(1, keepdim=True).clamp(min=1)
        if not self.scaled:
            scale = torch.ones_like(scale)
        return signs.reshape(weight.shape), scale.reshape(-1, *[1] * (weight.dim() - 1))

    def code(self, weight: Tensor) -> Code:
        """The symbols, and the scales."""
        signs, scale = self.parts(weight)
        factors = scale.reshape(-1, 1).cpu().numpy().astype(np.float32)
        return Code(signs.cpu().numpy().astype(np.int16), Affine(factors, np.zeros(factors.shape, np.int16), 0))


@dataclass(frozen=True)
class Binarize(Family):
    """Trains weights of one bit, and activations of one bit, through the signs straight to real numbers behind them.

    A normalization after each layer is part of what makes this work, so it stays while the network is trained; in the
    file it is part of the scales and biases. The first layer and the last are not binary; they have ``edges`` bits.

    Args:
        weights: "binary", "ternary", or "real", to make activations binary first.
        scaled: with the mean magnitude of each filter as its scale (BWN, XNOR-Net); without, weights are 1 and -1
            (BinaryConnect), which wants a normalization after each layer.
        activations: whether the inputs of the inner layers are signs, too (XNOR-Net, without its scales of inputs). The
            network then needs ways for real numbers around the layers, or it loses much: ``bypass = "layer"`` of
            resnet20.
        gradient: of the signs of activations: "clipped", as in XNOR-Net, or "polynomial", as in Bi-Real Net.
        edges: bits of the weights of the first and the last layer, 2..8; 0 to leave them as they are; 1 to make them
            binary like the others.

    Raises:
        PlanError: a field is not allowed.
        RecipeError: when it begins: activations that are to be signs have only one.

    Source:
        Courbariaux et al., "BinaryConnect", arXiv 1511.00363; Rastegari et al., "XNOR-Net", arXiv 1603.05279; Liu et
        al., "Bi-Real Net", arXiv 1808.00278; Li et al., "Ternary Weight Networks", arXiv 1605.04711.
    """

    weights: Literal["real", "binary", "ternary"] = "binary"
    scaled: bool = True
    activations: bool = False
    gradient: Literal["clipped", "polynomial"] = "polynomial"
    edges: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self, "weights", WEIGHTS)
        check_choice(self, "gradient", GRADIENTS)
        check_flag(self, "scaled")
        check_flag(self, "activations")
        check_int(self, "edges", 0, 8)

    def restructure(self, module: nn.Module) -> None:
        """Puts signs before the inner layers."""
        for layer in self.inner(module).values() if self.activations else ():
            put_before_(layer, SIGN, Sign(self.gradient))

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Makes the weights of the inner layers signs."""
        if self.activations:
            for name, seen in seen_inputs(module, self.inner(module), pictures, SIGN).items():
                if bool((seen >= 0).all()) or bool((seen < 0).all()):
                    raise RecipeError(
                        f"Binarize: what {name} is given has one sign (after a ReLU?), which as a bit says nothing; a "
                        "normalization must come last before it, and ways around the layers for real numbers, as in "
                        'resnet20 with bypass = "layer"'
                    )
        within = self.layers(module) if self.edges == 1 else self.inner(module)
        if self.weights != "real":
            for layer in within.values():
                parametrize.register_parametrization(layer, "weight", Signed(self.weights, self.scaled))

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Keeps what is behind signs without a scale within -1..1, or no gradient could turn it (BinaryConnect,
        algorithm 1)."""
        del part, turn
        for _, layer, signed in parametrized(module, Signed):
            if not signed.scaled:
                original(layer).data.clamp_(-1, 1)

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """Signs and scales; the first layer and the last in ``edges`` bits."""
        layers = self.layers(module)
        codes = {name: signed.code(original(layer)) for name, layer, signed in parametrized(module, Signed)}
        plain_(module)
        for name, layer in layers.items() if self.edges > 1 and self.weights != "real" else ():
            if name not in codes:
                method = methods.Quantize(bits=self.edges, granularity="axis", range="mse")
                codes[name] = method(layer.weight.detach().cpu().numpy())
        return codes
