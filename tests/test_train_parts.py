"""What recipes are made of, each against the formula or the plain way that it stands for."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digits import Small, small, write_digits
from torch import nn
from torch.nn.utils import parametrize

from smidgen import methods
from smidgen.archive import Label, Preprocessing
from smidgen.arrange import arranged
from smidgen.code import Affine, Code
from smidgen.errors import InputError, ModelError
from smidgen.graph import export_graph
from smidgen.lower import lower
from smidgen.network import Network
from smidgen.read import from_module
from smidgen.run.program import Program
from smidgen.train.channels import channels_of
from smidgen.train.families.binarize import Binarize, Sign, Signed
from smidgen.train.families.cluster import Attended, Cluster, Shared
from smidgen.train.families.cut import Cut, _cut_, cost
from smidgen.train.families.prune import Prune
from smidgen.train.families.quantize import Grid, Quantize, Stepped
from smidgen.train.families.squeeze import Rated
from smidgen.train.families.train import Train
from smidgen.train.family import layers_of
from smidgen.train.fold import fit_, fold_normalization_
from smidgen.train.loop import Lesson, _Training
from smidgen.train.network import measured, shown
from smidgen.train.pictures import Labelled, Pictures, batches, pictures_in
from smidgen.train.recipe import Schedule, Stage

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


# normalization


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


# gradients, against the equations of the papers


def test_the_gradient_of_a_shared_value_is_the_sum_over_its_weights() -> None:
    code = Code(
        np.array([[0, 1], [1, 2]], np.int16), Cluster(levels=3)._code(torch.tensor([[0.0, 1.0], [1.0, 2.0]])).rule
    )
    shared = Shared(code)
    gradient = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (shared(torch.zeros(2, 2)) * gradient).sum().backward()
    # Deep Compression, equation 3; the level of zeros does not move
    torch.testing.assert_close(shared.levels.grad, torch.tensor([0.0, 5.0, 4.0]))


def test_the_gradient_of_a_step_is_that_of_lsq() -> None:
    weight = torch.linspace(-1, 1, 24).reshape(2, 3, 4)
    stepped = Stepped(weight, 3)
    with torch.no_grad():
        stepped.step.copy_(torch.tensor([0.2, 0.3]))
    stepped(weight).sum().backward()
    wanted = []
    for row, step in zip(weight.reshape(2, -1), (0.2, 0.3), strict=True):
        ideal = row / step
        inner = (ideal > -4) & (ideal < 3)
        each = torch.where(inner, ideal.round() - ideal, ideal.clamp(-4, 3))  # Esser et al., equation 3
        wanted.append(float(each.sum()) / math.sqrt(12 * 3))  # and section 2.2
    torch.testing.assert_close(stepped.step.grad, torch.tensor(wanted))


def test_a_grid_of_activations_is_in_the_graph() -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    family = Quantize(bits=3, activations=3)
    family.restructure(layers)
    family.begin(layers, PICTURES)
    family.finish(layers)
    given = layers.eval()[1](layers[0](PICTURES))
    grid = layers[2].get_submodule("input_grid")
    assert len(torch.unique(grid(given))) <= 8
    assert not any(hasattr(layers[place], "input_grid") for place in (0, 4))
    archive = from_module(layers, (3, 8, 8))
    assert "Round" in [node.op_type for node in archive.onnx().graph.node]
    np.testing.assert_allclose(
        Network(archive)(PICTURES)[0].detach().numpy(), layers(PICTURES).detach().numpy(), atol=0.05
    )


def test_a_grid_learns_that_activations_are_negative_too() -> None:
    grid = Grid(4)
    grid.begin(torch.tensor([-1.0, 2.0]))
    assert (float(grid.get_buffer("low")), float(grid.get_buffer("high"))) == (-8.0, 7.0)


@pytest.mark.parametrize(
    ("gradient", "wanted"), [("clipped", [0.0, 1.0, 1.0, 1.0, 0.0]), ("polynomial", [0.0, 1.0, 2.0, 1.0, 0.0])]
)
def test_the_gradient_of_a_sign(gradient: str, wanted: list[float]) -> None:
    x = torch.tensor([-1.5, -0.5, 0.0, 0.5, 1.5], requires_grad=True)
    signs = Sign(gradient).train()(x)
    signs.sum().backward()
    assert signs.tolist() == [-1, -1, 1, 1, 1]
    assert x.grad is not None
    assert x.grad.tolist() == wanted


@pytest.mark.parametrize(("kind", "scaled"), [("binary", True), ("binary", False), ("ternary", True)])
def test_signs_are_those_of_the_method(kind: str, scaled: bool) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    signed = Signed(kind, scaled)
    code = signed.code(weight)
    wanted = methods.Binarize(ternary=kind == "ternary")(weight.numpy())
    np.testing.assert_array_equal(code.symbols, wanted.symbols)
    assert isinstance(code.rule, Affine)
    assert isinstance(wanted.rule, Affine)
    scale = wanted.rule.scale if scaled else np.ones((4, 1))
    np.testing.assert_allclose(code.rule.scale, scale, rtol=1e-5)
    np.testing.assert_allclose(code.values(), signed(weight).numpy(), rtol=1e-5)


def test_bits_are_the_entropy_at_the_points_and_a_line_between() -> None:
    weight = torch.tensor([0.0, 0.0, 0.0, 1.0, 1.0, -2.0, 0.0, 0.0])
    rated = Rated(weight, 1.0)
    counts = np.array([1, 5, 2]) + 0.1
    total = 8 + 31 * 0.1
    wanted = float((np.array([1, 5, 2]) * np.log2(total / counts)).sum())
    assert float(rated.cost(weight).detach()) == pytest.approx(wanted, rel=1e-5)
    half = torch.tensor([0.25], requires_grad=True)
    rated.cost(half).backward()
    assert half.grad is not None
    assert float(half.grad) == pytest.approx(math.log2(5.1 / 2.1), rel=1e-4)


def test_attention_becomes_the_nearest_level() -> None:
    weight = torch.tensor([[0.1, 0.9, -1.2, 0.4]])
    attended = Attended(weight, Cluster(levels=3)._code(weight), 0.2)
    attended.hardness.fill_(1e4)  # type: ignore[operator, union-attr]
    distances = (weight.reshape(-1, 1) - attended.levels).abs()
    torch.testing.assert_close(attended(weight).reshape(-1), attended.levels[distances.argmin(1)])


def test_pruning_in_steps_follows_the_cubic_law() -> None:
    family = Prune(density=0.2, until=0.5)
    network = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 40))
    family.begin(network, PICTURES)
    for turn, part in enumerate(np.linspace(0, 1, 65)):
        family.update(network, float(part), turn)
        left = [float((layer.weight != 0).float().mean()) for layer in (network[0], network[2])]
        if turn % 32 == 0 and part < 0.5:
            assert left == pytest.approx([family.density_at(float(part))] * 2, abs=1e-3)
    assert left == pytest.approx([0.2, 0.2], abs=1e-3)
    family.finish(network)
    assert not parametrize.is_parametrized(network[0])


@pytest.mark.parametrize("importance", ["gradient", "second-order"])
def test_pruning_by_gradients_keeps_what_the_loss_needs(importance: str) -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        layer[0].weight.copy_(torch.eye(4) + 0.1)
    family = Prune(density=0.25, schedule="one-shot", importance=importance)  # type: ignore[arg-type]
    family.begin(layer, PICTURES)
    for turn in range(20):
        layer.zero_grad()
        layer(torch.tensor([[0.0, 0.0, 1.0, 0.0]])).square().sum().backward()  # only one input is ever there
        family.update(layer, turn / 20, turn)
    assert torch.equal((layer[0].weight != 0).any(0), torch.tensor([False, False, True, False]))


def test_pruning_by_a_pattern() -> None:
    layer = nn.Sequential(nn.Linear(8, 4))
    family = Prune(pattern="2:4")
    family.begin(layer, PICTURES)
    for turn in range(20):
        family.update(layer, turn / 20, turn)
    assert ((layer[0].weight.reshape(-1, 4) != 0).sum(1) == 2).all()


# cutting


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


# pictures


def test_training_folders_and_held_out_pictures(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", 300, 100)
    both = pictures_in(folder, (), (8, 8), "bilinear", 0)
    assert (len(both.training), len(both.measuring), both.where) == (300, 100, "test")
    assert [label.name for label in both.labels] == list("0123456789")
    one = pictures_in(folder / "train", (), (8, 8), "bilinear", 0)
    again = pictures_in(folder / "train", (), (8, 8), "bilinear", 0)
    assert len(one.training) + len(one.measuring) == 300
    assert set(torch.bincount(one.measuring.classes).tolist()) <= {2, 3}
    assert torch.equal(one.measuring.classes, again.measuring.classes)
    with pytest.raises(InputError, match="no class"):
        pictures_in(folder, (Label("0", "0"), Label("1", "1")), (8, 8), "bilinear", 0)


def test_pictures_that_are_read_when_needed_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_digits(tmp_path / "digits", 60, 20)
    kept = pictures_in(folder, (), (12, 10), "bilinear", 0).training
    monkeypatch.setattr("smidgen.train.pictures.AT_ONCE", 100)
    read = pictures_in(folder, (), (12, 10), "bilinear", 0).training
    assert not isinstance(read.source, torch.Tensor)
    places = torch.tensor([5, 3, 50])
    assert torch.equal(kept[places], read[places])


def test_parts_of_batches_make_the_whole(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 90, 20), (), (8, 8), "bilinear", 0).training

    def all_of(part: slice) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return list(batches(pictures, 16, np.random.default_rng(5), 2, True, part))

    whole, even, odd = all_of(slice(None)), all_of(slice(0, None, 2)), all_of(slice(1, None, 2))
    assert len(whole) == 5
    for (x, y), (x0, y0), (x1, y1) in zip(whole, even, odd, strict=True):
        assert torch.equal(x[0::2], x0)
        assert torch.equal(x[1::2], x1)
        assert torch.equal(y, torch.stack([y0, y1], 1).reshape(-1))


def test_a_picture_is_moved_and_mirrored(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 40, 20), (), (8, 8), "bilinear", 0).training
    still = next(batches(pictures, 40, np.random.default_rng(0), 0, False, slice(None)))[0]
    mirrored = next(batches(pictures, 40, np.random.default_rng(0), 0, True, slice(None)))[0]
    same = [torch.equal(a, b) for a, b in zip(still, mirrored, strict=True)]
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(still, mirrored, strict=True)]
    assert all(a or b for a, b in zip(same, flipped, strict=True))
    assert 5 < sum(same) < 35
    moved_ones = next(batches(pictures, 40, np.random.default_rng(0), 1, False, slice(None)))[0]
    assert torch.equal(torch.unique(moved_ones), torch.unique(still))


def test_squares_are_erased(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 40, 20), (), (8, 8), "bilinear", 0).training
    still = next(batches(pictures, 40, np.random.default_rng(0), 0, False, slice(None)))[0]
    erased = next(batches(pictures, 40, np.random.default_rng(0), 0, False, slice(None), 4))[0]
    changed = (still != erased).any(1)
    for picture, where in zip(erased, changed, strict=True):
        rows, columns = torch.nonzero(where.any(1)).flatten(), torch.nonzero(where.any(0)).flatten()
        assert 1 <= len(rows) <= 4
        assert 1 <= len(columns) <= 4
        assert bool((picture[:, rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] == 124).all())


def test_mixed_pictures_have_mixed_classes() -> None:
    class Given(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3)) * self.scale

    pictures, classes = 255 * torch.eye(3)[:2, :, None, None].expand(2, 3, 4, 4), torch.tensor([0, 1])
    labelled = Labelled(pictures.byte(), classes, (4, 4))
    lesson = Lesson(Pictures(labelled, labelled, (), ""), Preprocessing(4, 4, std=(255.0,) * 3), None, (0, 0), Path())
    with_half = _Training(Given(), Stage("x", Train(), Schedule()), lesson).loss(pictures, classes, 0.5)
    scores = torch.tensor([[0.5, 0.5, 0.0]] * 2)
    wanted = torch.nn.functional.cross_entropy(scores, classes)  # both classes are as likely
    torch.testing.assert_close(with_half, wanted, atol=1e-2, rtol=1e-2)


# graphs


def test_a_graph_that_rounds_its_activations_is_no_other_network() -> None:
    network = moved()
    family = Quantize(bits=2, activations=2)
    family.restructure(network)
    family.begin(network, PICTURES)
    family.finish(network)
    export_graph(network.eval(), (3, 8, 8))


def test_signs_stay_in_the_graph_and_run_as_bits() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(), nn.Linear(512, 4))
    family = Binarize(activations=True)
    family.restructure(network)
    family.begin(network, PICTURES)
    codes = family.finish(network)
    archive = from_module(network.eval(), (3, 8, 8))
    archive = replace(archive, tensors={**archive.tensors, **codes})
    program = Program.from_bytes(lower(archive, [{"image": PICTURES.numpy()}]))
    assert [type(each).__name__ for each in program.operations][:4] == [
        "Convolution",
        "Signs",
        "SignsConvolution",
        "Convolution",
    ]


def test_a_second_stage_of_steps_has_one_grid() -> None:
    network = moved()
    for bits in (4, 2):
        family = Quantize(bits=bits, activations=bits)
        family.restructure(network)
        family.begin(network, PICTURES)
        family.finish(network)
    layer = network.passed
    assert len(layer._forward_pre_hooks) == 1
    assert layer.get_submodule("input_grid").bits == 2


def test_attention_leaves_pruned_weights_alone() -> None:
    layer = nn.Sequential(nn.Linear(6, 6))
    with torch.no_grad():
        layer[0].weight[:, ::2] = 0
    Cluster(levels=3, differentiable=True).begin(layer, PICTURES[0, 0, :, :6])
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(20):
        optimizer.zero_grad()
        (layer(torch.ones(4, 6)) - 3).square().mean().backward()
        optimizer.step()
    assert bool((layer[0].weight[:, ::2] == 0).all())
    assert bool((layer[0].weight[:, 1::2] != 0).any())


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


def test_pictures_that_show_ranges_are_of_all_classes(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 600, 20), (), (8, 8), "bilinear", 0).training
    first = [tuple(picture.reshape(-1).tolist()) for picture in shown(pictures)]
    whole = {tuple(pictures[torch.tensor([i])].reshape(-1).tolist()): int(pictures.classes[i]) for i in range(600)}
    assert {whole[each] for each in first} == set(range(10))
    seen = pictures[torch.arange(600)].double()
    assert measured(pictures, (8, 8)).mean == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=0.01)
    assert measured(pictures, (8, 8)).std == pytest.approx(seen.std((0, 2, 3)).tolist(), abs=0.01)


# processes


ALIKE = """
import sys
from pathlib import Path
import digits, torch
from smidgen import distributed
from smidgen.train import train
distributed.join()
train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
own = torch.cat([p.detach().reshape(-1) for p in digits.MADE[-1].parameters()])
first = own.clone()
distributed.share([first])
assert torch.equal(own, first), float((own - first).abs().max())
distributed.leave()
"""


def test_two_processes_have_the_same_weights(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", 200, 50)
    (tmp_path / "alike.py").write_text(ALIKE)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "digits:unseeded"\n[[stage]]\nepochs = 1\nbatch = 50\n'
        '[[stage]]\nmethod = "Fire"\nepochs = 1\nbatch = 50\n[[stage]]\nmethod = "Quantize"\nepochs = 1\nbatch = 50\n'
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, str(tmp_path / "alike.py"), str(recipe), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", 300, 100)
    recipe = tmp_path / "recipe.toml"
    common = "batch = 50\nshift = 1\nmirror = false\n"
    recipe.write_text(
        f'network = "digits:plain"\n[[stage]]\nepochs = 10\nlearning_rate = 0.05\n{common}'
        f'[[stage]]\nmethod = "Prune"\ndensity = 0.5\nepochs = 2\n{common}'
        f'[[stage]]\nmethod = "Cluster"\nepochs = 2\nlearning_rate = 0.001\n{common}'
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "smidgen"]
    for start, out in (([sys.executable, "-m", "smidgen"], "one"), (together, "two")):
        command = [*start, "train", str(recipe), "--data", str(folder), "-o", str(tmp_path / out), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / out / "curves.json").read_text()) for out in ("one", "two")]
    losses = [[epoch["loss"] for epoch in each["epochs"] if epoch["stage"] != "train"] for each in found]
    accuracies = [[stage["accuracy"] for stage in each["stages"]] for each in found]
    assert found[0]["epochs"][9]["accuracy"] > 60
    # each process knows the loss of its own half of every batch; their sum moves the weights, up to rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert accuracies[1] == pytest.approx(accuracies[0], abs=2)
