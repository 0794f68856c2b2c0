"""A SqueezeNet for pictures of 32 x 32 pixels, such as CIFAR-10's, with batch normalization and simple bypass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.errors import ModelError

__all__ = ["NormalizedFire", "SqueezeNet32"]

# Squeeze width and width of each expand half of the fire modules 2 to 9, and before which of them a pool is.
_FIRES = ((16, 32), (16, 32), (32, 64), (32, 64), (64, 128), (64, 128), (96, 192), (96, 192))
_FIRST_WIDTH = 32
_POOLED = (2, 4)


class NormalizedFire(nn.Module):
    """A fire module whose convolutions have a batch normalization in place of a bias.

    Input of shape (batch, channels, height, width), output of shape (batch, 2 * expand, height, width). Where these
    shapes are equal the input is added to the output, before it is rectified.

    Args:
        channels: of the input.
        squeeze: channels between the two stages.
        expand: channels of each half of the output.

    Source:
        Iandola et al. 2016, arXiv 1602.07360, sections 3.2 and 6 (simple bypass); normalization: Ioffe and Szegedy
        2015, arXiv 1502.03167.

    Example:
        >>> NormalizedFire(8, 2, 4)(torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1, bias=False)
        self.squeeze_norm = nn.BatchNorm2d(squeeze)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1, bias=False)
        self.expand1x1_norm = nn.BatchNorm2d(expand)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1, bias=False)
        self.expand3x3_norm = nn.BatchNorm2d(expand)
        self._bypass = channels == 2 * expand

    def forward(self, x: Tensor) -> Tensor:
        """The output, both halves joined along the channels."""
        squeezed = torch.relu(self.squeeze_norm(self.squeeze(x)))
        halves = [self.expand1x1_norm(self.expand1x1(squeezed)), self.expand3x3_norm(self.expand3x3(squeezed))]
        expanded = torch.cat(halves, 1)
        return torch.relu(expanded + x if self._bypass else expanded)


class SqueezeNet32(nn.Module):
    """SqueezeNet for small pictures: of shape (batch, 3, height, width), 4 pixels or more a side.

    Eight fire modules as in SqueezeNet 1.1, half as wide and squeezed to a quarter, not to an eighth; two see the whole
    picture, and there are two pools in place of three.

    Args:
        classes: number of scores, at least 1.

    Raises:
        ModelError: ``classes`` is not such a number.

    Source:
        Iandola et al. 2016, arXiv 1602.07360, table 1 and figure 2.

    Example:
        >>> SqueezeNet32(classes=10).eval()(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 10])
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        if not isinstance(classes, int) or classes < 1:
            raise ModelError(f"SqueezeNet32: classes must be a whole number of at least 1, not {classes!r}")
        first = nn.Conv2d(3, _FIRST_WIDTH, 3, padding=1, bias=False)
        layers: list[nn.Module] = [first, nn.BatchNorm2d(_FIRST_WIDTH), nn.ReLU()]
        channels = _FIRST_WIDTH
        for number, (squeeze, expand) in enumerate(_FIRES):
            if number in _POOLED:
                layers.append(nn.MaxPool2d(2))
            layers.append(NormalizedFire(channels, squeeze, expand))
            channels = 2 * expand
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        """The scores, of shape (batch, classes)."""
        return torch.flatten(self.classifier(self.features(x)), 1)
