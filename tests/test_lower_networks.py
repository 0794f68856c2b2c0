"""Whole networks lowered: modules of PyTorch in the style of known ones, and the real SqueezeNet, run by the core."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from native import check_memory
from test_lower import RNG, answers, kinds
from tiny_network import slow_log_softmax

from smidgen.archive import Archive
from smidgen.arrange import arranged
from smidgen.examples import batches
from smidgen.file import write
from smidgen.lower import lower
from smidgen.photos import photographs
from smidgen.read import from_module, read_model
from smidgen.run.native import Native
from smidgen.run.pictures import prepare
from smidgen.run.program import Program
from tests.reference import program as reference


class Residual(torch.nn.Module):
    """A block as in ResNet, half as high and wide."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.first = torch.nn.Conv2d(channels, outputs, 3, 2, 1, bias=False)
        self.norm = torch.nn.BatchNorm2d(outputs)
        self.second = torch.nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = torch.nn.BatchNorm2d(outputs)
        self.short = torch.nn.Sequential(
            torch.nn.Conv2d(channels, outputs, 1, 2, bias=False), torch.nn.BatchNorm2d(outputs)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm2(self.second(torch.relu(self.norm(self.first(x)))))
        return torch.relu(y + self.short(x))


class Inverted(torch.nn.Module):
    """A block as in MobileNetV3: expanded, filtered, excited, projected."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.expand = torch.nn.Conv2d(channels, hidden, 1)
        self.filter = torch.nn.Conv2d(hidden, hidden, 5, 1, 2, groups=hidden)
        self.down, self.up = torch.nn.Conv2d(hidden, 8, 1), torch.nn.Conv2d(8, hidden, 1)
        self.project = torch.nn.Conv2d(hidden, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.nn.functional.hardswish(self.filter(torch.nn.functional.relu6(self.expand(x))))
        gate = torch.nn.functional.hardsigmoid(self.up(torch.relu(self.down(y.mean((2, 3), keepdim=True)))))
        return x + self.project(y * gate)


class Shuffled(torch.nn.Module):
    """Channels take turns, as in ShuffleNet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, c, h, w = x.shape
        return x.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def tail(channels: int) -> list[torch.nn.Module]:
    nn = torch.nn
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(channels, 10)]


NETWORKS: dict[str, list[torch.nn.Module]] = {
    "residual": [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), Residual(8, 12), Residual(12, 16), *tail(16)],
    "inverted": [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.Hardswish(), Inverted(8, 24), Inverted(8, 16), *tail(8)],
    "shuffled": [torch.nn.Conv2d(3, 8, 3), torch.nn.SiLU(), Shuffled(), torch.nn.Conv2d(8, 8, 3, groups=4), *tail(8)],
    "flattened": [
        torch.nn.Conv2d(3, 8, 5, padding=2),
        torch.nn.GELU(),
        torch.nn.MaxPool2d(2, ceil_mode=True),
        torch.nn.Upsample(scale_factor=2, mode="bilinear"),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 18 * 18, 20),
        torch.nn.ELU(),
        torch.nn.Linear(20, 10),
        torch.nn.Softmax(1),
    ],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_of_modules(name: str) -> None:
    torch.manual_seed(1)
    module = torch.nn.Sequential(*NETWORKS[name])
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.running_var, 0.5, 2)
            torch.nn.init.normal_(layer.running_mean)
    archive = arranged(from_module(module, (3, 17, 17)))
    given = [{"image": RNG(seed).normal(0, 1, (1, 3, 17, 17)).astype(np.float32)} for seed in range(24)]
    data = lower(archive, given[:20])
    program = Program.from_bytes(data)
    check_memory(program)
    core = Native(write(replace(archive, program=data), ("raw",)), 2)
    for batch in given[20:]:
        exact, found = answers(archive, program, batch)
        np.testing.assert_allclose(core(batch["image"])[0], found, rtol=2e-6, atol=1e-7)  # but for a softmax the same
        assert np.linalg.norm(found - exact) < 0.06 * np.linalg.norm(exact)


@pytest.fixture(scope="module")
def squeezenet() -> Archive:
    return arranged(read_model("squeezenet1_1"))


def test_squeezenet(squeezenet: Archive) -> None:
    shown = list(photographs().values())
    program = Program.from_bytes(lower(squeezenet, batches(shown[:6], squeezenet, 2)))
    counted = {kind: kinds(program).count(kind) for kind in ("Convolution", "Maximum", "Join", "Mean")}
    assert counted == {"Convolution": 26, "Maximum": 3, "Join": 8, "Mean": 1}
    assert len(program.operations) == 38
    assert program.arena < sum(tensor.end - tensor.start for tensor in program.tensors) / 6
    assert program.picture is not None
    assert (program.picture.channels, program.picture.resample) == ("BGR", "bilinear")
    check_memory(program)
    runner, records = squeezenet.runner(1), list(squeezenet.tensors.values())
    for picture in shown[6:]:
        x = prepare(picture, squeezenet.preprocessing)
        exact = slow_log_softmax(runner(x[None]))[0]
        found = slow_log_softmax(reference.run(program, records, x)[None])[0]
        assert (np.exp(exact) * (exact - found)).sum() < 0.03
