"""What training does to the layers of a network: normalization folded, filters cut out, all else as before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from digits import PICTURES, moved, small
from torch import nn

from smidgen.arrange import arranged
from smidgen.code import Affine, Code
from smidgen.errors import ModelError
from smidgen.graph import export_graph
from smidgen.lower import lower
from smidgen.network import Network
from smidgen.read import from_module
from smidgen.train.channels import channels_of
from smidgen.train.families.binarize import Binarize
from smidgen.train.families.cut import Cut, _cut_, cost
from smidgen.train.families.quantize import Quantize, Stepped
from smidgen.train.family import Family, layers_of
from smidgen.train.fold import fit_, fold_normalization_


def test_folding_leaves_the_answers() -> None:
    network = moved()
    before = network(PICTURES)
    fold_normalization_(network, PICTURES)
    torch.testing.assert_close(network(PICTURES), before, rtol=1e-4, atol=1e-4)
    assert not [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    again = small().eval()
    fit_(again, network.state_dict())
    torch.testing.assert_close(again(PICTURES), network(PICTURES), rtol=0, atol=0)


def test_a_convolution_that_is_used_twice_is_not_folded() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
            self.norm.running_var.fill_(9.0)  # type: ignore[union-attr, operator]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return torch.as_tensor(self.norm(y) + y)

    with pytest.raises(ModelError, match="used elsewhere"):
        fold_normalization_(Twice(), PICTURES)


def test_what_is_changed_in_place_before_normalization_is_not_folded() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(inplace=True), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    fold_normalization_(network.eval(), PICTURES)
    assert isinstance(network[2], nn.BatchNorm2d)


def test_normalization_without_statistics_stays_when_a_state_is_loaded() -> None:
    def made() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False, track_running_stats=False))

    network = made()
    fit_(network, made().state_dict())
    assert isinstance(network[1], nn.BatchNorm2d)


def test_normalization_goes_into_the_steps_of_a_code() -> None:
    network = moved()
    code = Stepped(network.passed.weight, 4).code(network.passed.weight)
    with torch.no_grad():
        network.passed.weight.copy_(torch.from_numpy(code.values()))
    archive = from_module(network, (3, 8, 8))
    ready = arranged(replace(archive, tensors={**archive.tensors, "passed.weight": code}))
    folded = ready.tensors["passed.weight"]
    assert isinstance(folded, Code)
    np.testing.assert_array_equal(folded.symbols, code.symbols)
    assert not any(node.op_type == "BatchNormalization" for node in ready.onnx().graph.node)
    np.testing.assert_allclose(
        Network(ready)(PICTURES)[0].detach().numpy(), network(PICTURES).detach().numpy(), atol=1e-4
    )


def test_normalization_goes_through_a_join() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 2, 1, bias=False)
            self.norm = nn.BatchNorm2d(6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.as_tensor(self.norm(torch.cat([self.one(x), self.two(x)], 1)))

    torch.manual_seed(0)
    network = Joined().train()
    for _ in range(3):
        network(PICTURES)
    ready = arranged(from_module(network.eval(), (3, 8, 8)))
    assert not any(node.op_type == "BatchNormalization" for node in ready.onnx().graph.node)
    np.testing.assert_allclose(
        Network(ready)(PICTURES)[0].detach().numpy(), network(PICTURES).detach().numpy(), atol=1e-5
    )


def test_a_graph_that_rounds_its_activations_is_no_other_network() -> None:
    network = moved()
    family = Quantize(bits=2, activations=2)
    family.restructure(network)
    family.begin(network, PICTURES)
    family.finish(network)
    export_graph(network.eval(), (3, 8, 8))


def test_channels_that_do_nothing_can_be_cut_without_a_change() -> None:
    network = moved()
    channels = channels_of(from_module(network, (3, 8, 8)), layers_of(network))
    with torch.no_grad():
        for norm, places in ((network.right_norm, [1, 5]), (network.first_norm, [0, 7]), (network.passed_norm, [3, 9])):
            norm.weight[places] = 0
            norm.bias[places] = 0
        network.left.weight[3] = network.left.bias[3] = 0
        network.right_norm.weight[1] = network.right_norm.bias[1] = 0
    before = network(PICTURES)
    # what is added goes together: channel 9 of the sum is channel 1 of the right half
    gone = {*channels.norms["first_norm"][[0, 7]].tolist(), *channels.norms["passed_norm"][[3, 9]].tolist()}
    every = {channels.root(i) for layer in channels.layers for i in (*layer.inputs.tolist(), *layer.outputs.tolist())}
    kept = every - {channels.root(i) for i in gone}
    whole = cost(channels, every)
    _cut_(network, channels, kept)
    assert (network.left.out_channels, network.right.out_channels) == (7, 7)
    assert (network.passed.in_channels, network.passed.out_channels, network.last.in_features) == (14, 14, 14)
    torch.testing.assert_close(network(PICTURES), before, rtol=1e-4, atol=1e-4)
    assert cost(channels, kept) < whole


def multiply_adds(network: nn.Module) -> int:
    """As the layers themselves see it."""
    seen = []

    def count(layer: nn.Module, given: object, output: torch.Tensor) -> None:
        weight: torch.Tensor = layer.weight  # type: ignore[assignment]
        seen.append(weight[0].numel() * output[0].numel())

    handles = [layer.register_forward_hook(count) for layer in layers_of(network).values()]
    network(PICTURES[:1])
    for handle in handles:
        handle.remove()
    return sum(seen)


@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_a_cut_reaches_what_was_asked_for(share: float) -> None:
    network = moved()
    before = multiply_adds(network)
    Cut(multiply_adds=share, align=1).begin(network, PICTURES)
    assert 0.8 * share * before < multiply_adds(network) <= share * before


def test_a_cut_starves_no_layer_and_gives_back_what_went_too_far() -> None:
    """A layer of which nothing matters keeps an eighth. And where eight channels of a bypass go at once, the layer
    after it, which lost most before, gets back what there is room for."""
    network = moved()
    with torch.no_grad():
        network.first_norm.weight *= 1e-6
        network.first_norm.bias *= 1e-6
    Cut(multiply_adds=0.3, align=1).begin(network, PICTURES)
    assert len(network.first.weight) >= 2

    class Passed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1)
            self.third, self.last = nn.Conv2d(24, 64, 3, padding=1), nn.Linear(64, 10)
            with torch.no_grad():
                self.third.weight *= 1e-4
                nn.init.zeros_(self.third.bias)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.first(x))
            scores: torch.Tensor = self.last(torch.relu(self.third(torch.relu(self.second(x) + x))).mean((2, 3)))
            return scores

    passed = Passed().eval()
    before = multiply_adds(passed)
    Cut(multiply_adds=0.5, align=8).begin(passed, PICTURES)
    assert 0.475 * before < multiply_adds(passed) <= 0.5 * before


def test_a_cut_takes_what_harms_least() -> None:
    network = moved()
    with torch.no_grad():
        network.first_norm.weight[:8] *= 1e-4
        network.first_norm.bias[:8] *= 1e-4
    useful = network.first.weight[8:].clone()
    Cut(multiply_adds=0.75, align=1).begin(network, PICTURES)
    left = network.first.weight
    assert len(left) < 16
    assert sum(any(torch.equal(row, kept) for kept in left) for row in useful) >= min(8, len(left) - 1)


class UsedTwice(nn.Module):
    """A convolution that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.twice, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 8)
        self.free = nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return torch.flatten(self.last(torch.relu(self.free(self.twice(self.twice(x))))), 1)


class Averaged(nn.Module):
    """A mean over the channels, and weights that are no layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.own = nn.Conv2d(3, 8, 1), nn.Parameter(torch.randn(8, 8, 1, 1))
        self.last, self.free, self.more = nn.Conv2d(8, 2, 8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.conv2d(torch.relu(self.first(x)), self.own)
        return torch.flatten(self.last(self.more(self.free(x)) + x.mean(1, keepdim=True)), 1)


@pytest.mark.parametrize(
    "network",
    [
        UsedTwice,
        Averaged,
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=4), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 8)),
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.Conv2d(8, 16, 1, groups=8), nn.Conv2d(16, 8, 1), nn.Conv2d(8, 2, 8)
        ),
        lambda: nn.Sequential(nn.Conv2d(3, 8, 1), nn.PReLU(8), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 2, 8)),
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 2, 8)
        ),
    ],
)
def test_what_cannot_be_cut_is_left_and_the_rest_runs(network: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(network(), nn.Flatten()).eval()
    before = multiply_adds(module)
    Cut(multiply_adds=0.95, align=1).begin(module, PICTURES)
    assert multiply_adds(module) < before


def test_depthwise_layers_go_with_what_feeds_them() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1, groups=8))
    network.append(nn.Conv2d(8, 4, 8))
    network.append(nn.Flatten())
    Cut(multiply_adds=0.6, align=1).begin(network.eval(), PICTURES)
    kept = network[0].out_channels
    assert kept < 8
    assert (network[1].in_channels, network[1].out_channels, network[1].groups, network[2].in_channels) == (kept,) * 4
    network(PICTURES)


@pytest.mark.parametrize("family", [Quantize(activations=0), Binarize()])
def test_steps_that_normalization_made_negative_are_computed_by_every_engine(family: Family) -> None:
    network = moved()
    family.begin(network, PICTURES)
    codes = family.finish(network)
    archive = from_module(network.eval(), (3, 8, 8))
    archive = arranged(replace(archive, tensors={**archive.tensors, **codes}))
    rules = [code.rule for code in archive.tensors.values() if isinstance(code, Code)]
    assert any((rule.scale < 0).any() for rule in rules if isinstance(rule, Affine))
    archive = replace(archive, program=lower(archive, [{"image": PICTURES.numpy()}]))
    wanted = archive.runner(engine="onnxruntime")(PICTURES.numpy())
    np.testing.assert_allclose(wanted, network(PICTURES).detach().numpy(), atol=2e-3 * np.abs(wanted).max())
    found = archive.runner(engine="native")(PICTURES.numpy())
    np.testing.assert_allclose(found, wanted, atol=0.01 * np.abs(wanted).max())
