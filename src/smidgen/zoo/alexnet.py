"""AlexNet, which the papers on pruning and weight sharing measure by, under the parameter names of torchvision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.errors import ModelError

__all__ = ["AlexNet"]


class AlexNet(nn.Module):
    """AlexNet in one column: pictures of shape (batch, 3, height, width), 63 pixels or more a side, to scores.

    As a graph it takes sides of 223 to 254 pixels only, where its average pool changes nothing.

    Args:
        classes: number of scores, at least 1.

    Raises:
        ModelError: ``classes`` is not such a number.

    Source:
        Krizhevsky 2014, arXiv 1404.5997, the one-column network; parameter names: torchvision.

    Example:
        >>> with torch.device("meta"):
        ...     sum(parameter.numel() for parameter in AlexNet().parameters())
        61100840
    """

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        if not isinstance(classes, int) or classes < 1:
            raise ModelError(f"AlexNet: classes must be a whole number of at least 1, not {classes!r}")
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, stride=2)),
        )
        self.avgpool = nn.AdaptiveAvgPool2d(6)
        self.classifier = nn.Sequential(
            *(nn.Dropout(), nn.Linear(256 * 6 * 6, 4096), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU()),
            nn.Linear(4096, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """The scores, of shape (batch, classes)."""
        scores: Tensor = self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))
        return scores
