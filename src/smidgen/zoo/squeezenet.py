"""SqueezeNet with its bypass variants, under the parameter names of torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.errors import ModelError

__all__ = ["Fire", "SqueezeNet"]

_BYPASSES = ("none", "simple", "complex")

# Version: width and kernel of the first convolution, and the fire modules after which a maximum pool follows.
_VERSIONS = {"1.0": (96, 7, (4, 8)), "1.1": (64, 3, (3, 5))}

# Squeeze width and width of each expand half of the fire modules 2 to 9, and what the last of them gives.
_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
_LAST_WIDTH = 512


class Fire(nn.Module):
    """A 1x1 convolution that squeezes the channels, then 1x1 and 3x3 convolutions side by side that expand them.

    Input of shape (batch, channels, height, width), output of shape (batch, 2 * expand, height, width).

    Args:
        channels: of the input.
        squeeze: channels between the two stages.
        expand: channels of each half of the output.

    Source:
        Iandola et al. 2016, arXiv 1602.07360, section 3.2.

    Example:
        >>> Fire(8, 2, 4)(torch.zeros(1, 8, 5, 5)).shape
        torch.Size([1, 8, 5, 5])
    """

    def __init__(self, channels: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, expand, 1)
        self.expand3x3 = nn.Conv2d(squeeze, expand, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """The output, both halves rectified and joined along the channels."""
        squeezed = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.expand1x1(squeezed)), torch.relu(self.expand3x3(squeezed))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet: pictures of shape (batch, 3, height, width) to scores of shape (batch, classes).

    Without padding, a side has 21 pixels or more in version 1.0, and 17 or more in 1.1.

    Args:
        version: "1.0", the network of the paper, or "1.1", its authors' later one with 2.4 times less computation.
        bypass: "none"; "simple" adds the input of the fire modules 3, 5, 7 and 9 to their output; "complex" adds it
            around the others, too, through a 1x1 convolution ``bypass.N`` beside the fire module ``features.N``.
        classes: number of scores, at least 1.
        first_padding: zeros around the picture, in pixels, that the first convolution sees.

    Raises:
        ModelError: an argument is not one of these.

    Source:
        Iandola et al. 2016, arXiv 1602.07360, table 1 and figure 2; parameter names: torchvision.

    Example:
        >>> SqueezeNet("1.1", classes=10).eval()(torch.zeros(2, 3, 64, 48)).shape
        torch.Size([2, 10])
    """

    def __init__(self, version: str = "1.0", bypass: str = "none", classes: int = 1000, first_padding: int = 0) -> None:
        super().__init__()
        if version not in _VERSIONS or bypass not in _BYPASSES:
            raise ModelError(
                f"SqueezeNet: no version {version!r} with bypass {bypass!r}; versions are {', '.join(_VERSIONS)}, "
                f"bypasses {', '.join(_BYPASSES)}"
            )
        for name, value, least in (("classes", classes, 1), ("first_padding", first_padding, 0)):
            if not isinstance(value, int) or value < least:
                raise ModelError(f"SqueezeNet: {name} must be a whole number of at least {least}, not {value!r}")
        channels, kernel, pooled = _VERSIONS[version]
        layers: list[nn.Module] = [nn.Conv2d(3, channels, kernel, stride=2, padding=first_padding), nn.ReLU(), _pool()]
        self.bypass = nn.ModuleDict()
        self._identities: set[int] = set()
        for number, (squeeze, expand) in enumerate(_FIRES, 2):
            if bypass != "none" and channels == 2 * expand:
                self._identities.add(len(layers))
            elif bypass == "complex":
                self.bypass[str(len(layers))] = nn.Conv2d(channels, 2 * expand, 1)
            layers.append(Fire(channels, squeeze, expand))
            channels = 2 * expand
            if number in pooled:
                layers.append(_pool())
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Conv2d(_LAST_WIDTH, classes, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )
        self._initialize_()

    def _initialize_(self) -> None:
        """Biases zero; weights uniform after He et al. 2015 (arXiv 1502.01852), those of the scores nearly zero."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]  # every convolution here has one
        scores = self.classifier[1]
        nn.init.normal_(scores.weight, std=0.01)  # type: ignore[arg-type]  # indexing forgets that it is a Conv2d

    def forward(self, x: Tensor) -> Tensor:
        """The scores."""
        for index, layer in enumerate(self.features):
            y = layer(x)
            if index in self._identities:
                y = y + x
            elif str(index) in self.bypass:
                y = y + self.bypass[str(index)](x)
            x = y
        return torch.flatten(self.classifier(x), 1)


def _pool() -> nn.Module:
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)
