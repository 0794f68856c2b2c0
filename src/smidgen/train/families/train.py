"""Training as such: weights stay floats."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from smidgen import methods
from smidgen.code import Code
from smidgen.methods.base import check_int
from smidgen.train.family import Family

__all__ = ["Train"]


@dataclass(frozen=True)
class Train(Family):
    """Trains the network as it is. The file of a network of the zoo can be rebuilt as its class, and trained again.

    Args:
        bits: that weights are rounded to in the file, after they were trained, 2..8; 0 to keep them without loss.

    Raises:
        PlanError: a field is not allowed.

    Example:
        >>> Train(bits=8)
        Train(match=('*',), keep=(), bits=8)
    """

    bits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits != 0:
            check_int(self, "bits", 2, 8)

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """Nothing, or the weights of layers in few bits."""
        if not self.bits:
            return {}
        method = methods.Quantize(bits=self.bits, granularity="axis", range="mse", rounding="squant")
        return {name: method(layer.weight.detach().cpu().numpy()) for name, layer in self.layers(module).items()}
