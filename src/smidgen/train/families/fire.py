"""SqueezeNet as a transformation: the 3x3 convolutions of a plain network become fire modules."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from smidgen.errors import RecipeError
from smidgen.methods.base import check_number
from smidgen.train.family import Family

__all__ = ["Fire"]


class FireConvolution(nn.Module):
    """What stands for a 3x3 convolution: it squeezes the channels, and expands them by 1x1 and 3x3 convolutions."""

    def __init__(self, old: nn.Conv2d, ratio: float) -> None:
        super().__init__()
        squeezed, half = max(1, round(ratio * old.out_channels)), old.out_channels // 2
        stride: tuple[int, int] = old.stride  # type: ignore[assignment]
        self.squeeze = nn.Conv2d(old.in_channels, squeezed, 1, bias=False)
        self.squeeze_norm = nn.BatchNorm2d(squeezed)
        self.expand1x1 = nn.Conv2d(squeezed, half, 1, stride, bias=old.bias is not None)
        self.expand3x3 = nn.Conv2d(squeezed, old.out_channels - half, 3, stride, 1, bias=old.bias is not None)

    def forward(self, x: Tensor) -> Tensor:
        """Both halves, joined along the channels."""
        squeezed = torch.relu(self.squeeze_norm(self.squeeze(x)))
        return torch.cat([self.expand1x1(squeezed), self.expand3x3(squeezed)], 1)


@dataclass(frozen=True)
class Fire(Family):
    """Replaces 3x3 convolutions by fire modules with new weights, which the original then teaches.

    Args:
        ratio: channels after squeezing, as a part of those of the output. SqueezeNet has 1/8.

    Raises:
        PlanError: the ratio is not allowed.

    Source:
        Iandola et al. 2016, arXiv 1602.07360, sections 3.1 and 3.2; the squeeze ratio: section 5.
    """

    ratio: float = 0.125

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "ratio", 1.0)

    def restructure(self, module: nn.Module) -> None:
        """Replaces every 3x3 convolution with a padding of 1, without groups, but that of the picture."""
        replaced = False
        for name, layer in list(self.layers(module).items()):
            path = name.removesuffix(".weight")
            if isinstance(layer, nn.Conv2d) and _plain(layer) and layer.in_channels > 3:
                parent, _, last = path.rpartition(".")
                setattr(module.get_submodule(parent), last, FireConvolution(layer, self.ratio))
                replaced = True
        if not replaced:
            raise RecipeError("Fire: the network has no 3x3 convolution with a padding of 1 to replace")


def _plain(layer: nn.Conv2d) -> bool:
    return (layer.kernel_size, layer.padding, layer.dilation, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
