"""Where a network looked: the map whose mean is the greatest number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from native import program_archive
from smidgen._core import ffi, lib
from torch import nn

from smidgen.api import compress_by_plan
from smidgen.archive import Preprocessing
from smidgen.file import write
from smidgen.pipeline import with_program
from smidgen.plan import Plan
from smidgen.read import from_module
from smidgen.run.native import Native, ways


def pixels(network: Native, seed: int) -> bytes:
    return np.random.default_rng(seed).integers(0, 256, (*network.shape[2:], 3), np.uint8).tobytes()


def linear_at_the_end(activation: nn.Module) -> nn.Module:
    """A module whose mean over all pixels goes through a linear layer; biases are large beside the weights."""
    layers = [nn.Conv2d(3, 40, 3, 2), activation, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, 7)]
    module = nn.Sequential(*layers)
    rng = np.random.default_rng(1)
    for parameter in module.parameters():
        parameter.data = parameter.data.new_tensor(rng.normal(0, 0.3, parameter.shape))
    module.preprocessing = Preprocessing(16, 18, mean=(120, 110, 100), std=(60, 61, 62))
    return module


@pytest.mark.parametrize("way", ways())
def test_the_mean_of_the_map_is_the_number(way: str) -> None:
    network = Native(write(program_archive()), 1, way)
    given = pixels(network, 0)
    numbers, found = network.explained(given)
    assert numbers == network.picture(given)
    assert len(found) == network.map_shape[0] * network.map_shape[1] > 1
    assert np.mean(found) == pytest.approx(max(numbers), rel=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Identity(), nn.Hardswish()])
def test_a_linear_layer_after_the_mean_is_told_by_pixels(activation: nn.Module) -> None:
    module = linear_at_the_end(activation)
    original = replace(from_module(module, (3, 16, 18)), preprocessing=module.preprocessing)
    rng = np.random.default_rng(2)
    seen = [rng.integers(0, 256, (16, 18, 3), np.uint8) for _ in range(9)]
    archive = with_program(compress_by_plan(original, Plan.find("int8")), seen)
    network = Native(write(archive), 1)
    assert network.map_shape == (7, 8)
    given = pixels(network, 4)
    numbers, found = network.explained(given)
    assert network.explained(given) == (numbers, found)  # telling changes nothing

    import torch

    kind = module.preprocessing
    picture = (np.frombuffer(given, np.uint8).reshape(16, 18, 3) - np.array(kind.mean)) / np.array(kind.std)
    seen = module[:2](torch.tensor(picture.transpose(2, 0, 1)[None], dtype=torch.float32))
    weight, bias = (parameter[np.argmax(numbers)] for parameter in module[4].parameters())
    wanted = (torch.einsum("chw,c->hw", seen[0], weight) + bias).detach().numpy()
    spread = float(wanted.std())
    assert np.abs(np.reshape(found, (7, 8)) - wanted).max() < 0.1 * spread
    assert np.mean(found) == pytest.approx(max(numbers), abs=0.02 * spread)


def test_no_map_where_there_is_no_mean() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 5))
    seen = [np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)]
    original = replace(from_module(module, (3, 8, 8)), preprocessing=Preprocessing(8, 8))
    network = Native(write(with_program(compress_by_plan(original, Plan.find("int8")), seen)), 1)
    numbers, found = network.explained(pixels(network, 0))
    assert (network.map_shape, found) == ((0, 0), [])
    assert len(numbers) == 5
    assert lib.smidgen_map(network._network, 0, ffi.new("float[]", 1)) == lib.SMIDGEN_USAGE


def test_a_single_place_is_no_map() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    original = replace(from_module(module, (3, 8, 8)), preprocessing=Preprocessing(8, 8))
    seen = [np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)]
    network = Native(write(with_program(compress_by_plan(original, Plan.find("int8")), seen)), 1)
    assert network.explained(pixels(network, 0))[1] == []


def test_outputs_that_are_not_there_are_refused() -> None:
    network = Native(write(program_archive()), 1)
    room = ffi.new("float[]", network.map_shape[0] * network.map_shape[1])
    assert lib.smidgen_map(network._network, len(network.picture(pixels(network, 0))), room) == lib.SMIDGEN_USAGE
