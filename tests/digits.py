"""The digits of scikit-learn as a folder of pictures, and a very small network with all that cutting has to mind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor, nn

__all__ = [
    *("MADE", "PICTURES", "Small", "broken", "few", "image", "moved", "pair", "plain", "scores", "small", "unseeded"),
    *("viewed", "write_digits"),
]


def write_digits(folder: Path, training: int = 600, measuring: int = 200) -> Path:
    """``folder/train/<digit>`` and ``folder/test/<digit>``, 8 x 8 pixels."""
    digits = load_digits()
    for number, (pixels, digit) in enumerate(zip(digits.images, digits.target, strict=True)):
        if number >= training + measuring:
            break
        path = folder / ("train" if number < training else "test") / str(digit)
        path.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels * 15.9).astype(np.uint8)).convert("RGB").save(path / f"{number:04}.png")
    return folder


class Small(nn.Module):
    """Convolutions that are joined, then one that is passed by."""

    input_shape = (3, 8, 8)

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(16)
        self.left = nn.Conv2d(16, 8, 1)
        self.right = nn.Conv2d(16, 8, 3, padding=1, bias=False)
        self.right_norm = nn.BatchNorm2d(8)
        self.passed = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.passed_norm = nn.BatchNorm2d(16)
        self.last = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        x = torch.relu(torch.cat([self.left(x), self.right_norm(self.right(x))], 1))
        x = torch.relu(self.passed_norm(self.passed(x)) + x)
        scores: Tensor = self.last(nn.functional.max_pool2d(x, 2).mean((2, 3)))
        return scores


def small() -> Small:
    """The network with the same weights each time."""
    torch.manual_seed(0)
    return Small()


class Broken(Small):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("inf")


def broken() -> Broken:
    """A network whose loss is not finite."""
    return Broken()


PICTURES = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def moved() -> Small:
    """The network after some training, so that its normalizations say something."""
    network = small().train()
    generator = torch.Generator().manual_seed(2)
    for norm in (network.first_norm, network.right_norm, network.passed_norm):
        nn.init.uniform_(norm.weight, -1.5, 1.5, generator=generator)
        nn.init.uniform_(norm.bias, -0.5, 0.5, generator=generator)
    for _ in range(5):
        network(PICTURES)
    return network.eval()


def plain() -> nn.Module:
    """A network without normalization, in which each picture is answered on its own."""
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(256, 10)),
    )
    vars(network)["input_shape"] = (3, 8, 8)
    return network


MADE: list[nn.Module] = []
"""What ``unseeded`` has made in this process."""


def unseeded() -> Small:
    """The network with weights that are drawn anew."""
    MADE.append(Small())
    return MADE[-1]  # type: ignore[return-value]


class Viewed(Small):
    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first_norm(self.first(x)))
        return super().forward(x.view(x.size(0), -1).view(x.size(0), 16, 8, 8)[:, :3])


def viewed() -> Viewed:
    """A network that channels last would stop."""
    torch.manual_seed(0)
    return Viewed()


class Scores(nn.Module):
    """Whatever scores a test wants."""

    def __init__(self, give: object) -> None:
        super().__init__()
        self.layer, self.give = nn.Linear(3, 10), give

    def forward(self, x: Tensor) -> object:
        return self.give(self.layer(x.mean((2, 3))))  # type: ignore[operator]


def scores(kind: str = "few") -> Scores:
    """Networks that do not fit pictures of ten classes."""
    return Scores({"few": lambda y: y[:, :7], "pair": lambda y: (y, y), "image": lambda y: y[..., None]}[kind])


def few() -> Scores:
    return scores("few")


def pair() -> Scores:
    return scores("pair")


def image() -> Scores:
    return scores("image")


def chances() -> nn.Module:
    """A network that gives probabilities."""
    return nn.Sequential(small(), nn.Softmax(1))
