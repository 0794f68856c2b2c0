"""The ResNet of 20 layers for pictures of 32 x 32 pixels, and its variant for binary networks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen.errors import ModelError

__all__ = ["ResNet20"]

_BYPASSES = ("block", "layer")
_WIDTHS = (16, 32, 64)
_BLOCKS = 3


class _Slope(torch.autograd.Function):
    """A ReLU with one slope below zero, trained: PyTorch's own takes five times as long for the gradient on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = float(slope)
        return functional.leaky_relu(x, ctx.slope)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (x,) = ctx.saved_tensors
        by_slope = (gradient * x.clamp(max=0)).sum(dtype=torch.float32).reshape(1)
        return torch.ops.aten.leaky_relu_backward(gradient, x, ctx.slope, False), by_slope


class _PReLU(nn.PReLU):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        found: Tensor = _Slope.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return found


class _Bypassed(nn.Module):
    """A 3x3 convolution, its normalization, and the input added: what a binary network keeps of real numbers."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(channels, outputs, stride, pooled=True)
        self.act = _PReLU()

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = self.act(self.norm(self.conv(x)) + self.downsample(x))
        return added


class _Block(nn.Module):
    """Two 3x3 convolutions, and the input added."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _downsample(channels, outputs, stride, pooled=False)

    def forward(self, x: Tensor) -> Tensor:
        inner = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(inner)) + self.downsample(x))


class ResNet20(nn.Module):
    """ResNet-20: pictures of shape (batch, 3, height, width) to scores.

    Args:
        classes: number of scores, at least 1.
        bypass: "block": around every two convolutions, through a 1x1 convolution where the shape changes (option B);
            "layer": around each, so that real numbers pass by convolutions that are binary, with a parametric ReLU.

    Raises:
        ModelError: an argument is not one of these.

    Source:
        He et al. 2016, arXiv 1512.03385, section 4.2; bypass around each layer: Liu et al. 2018, Bi-Real Net, arXiv
        1808.00278, figure 1.

    Example:
        >>> ResNet20(classes=10).eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10, bypass: str = "block") -> None:
        super().__init__()
        if not isinstance(classes, int) or classes < 1:
            raise ModelError(f"ResNet20: classes must be a whole number of at least 1, not {classes!r}")
        if bypass not in _BYPASSES:
            raise ModelError(f"ResNet20: no bypass {bypass!r}; there are {', '.join(_BYPASSES)}")
        block, count = (_Block, _BLOCKS) if bypass == "block" else (_Bypassed, 2 * _BLOCKS)
        channels = _WIDTHS[0]
        self.conv1 = nn.Conv2d(3, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.act1 = nn.ReLU() if bypass == "block" else _PReLU()  # of what is never negative a sign says nothing
        for number, width in enumerate(_WIDTHS, 1):
            layers = []
            for place in range(count):
                layers.append(block(channels, width, 2 if number > 1 and place == 0 else 1))
                channels = width
            self.add_module(f"layer{number}", nn.Sequential(*layers))
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """The scores, of shape (batch, classes)."""
        x = self.act1(self.bn1(self.conv1(x)))
        for number in range(1, len(_WIDTHS) + 1):
            x = self.get_submodule(f"layer{number}")(x)
        scores: Tensor = self.fc(x.mean((2, 3)))
        return scores


def _downsample(channels: int, outputs: int, stride: int, pooled: bool) -> nn.Module:
    """What brings the input to the shape of the output."""
    if channels == outputs and stride == 1:
        return nn.Identity()
    pool = [nn.AvgPool2d(stride)] if pooled else []
    return nn.Sequential(
        *pool, nn.Conv2d(channels, outputs, 1, 1 if pooled else stride, bias=False), nn.BatchNorm2d(outputs)
    )
