"""Families of training, against the equations that they stand for."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import hypothesis
import numpy as np
import pytest
import torch
from digits import PICTURES, moved
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from smidgen import methods
from smidgen.code import Affine, Code
from smidgen.lower import lower
from smidgen.network import Network
from smidgen.read import from_module
from smidgen.run.program import Program
from smidgen.train.families.binarize import Binarize, Sign, Signed
from smidgen.train.families.cluster import Attended, Cluster, Shared
from smidgen.train.families.prune import Prune
from smidgen.train.families.quantize import Grid, Quantize, Stepped, _OnGrid
from smidgen.train.families.squeeze import Rated, Squeeze
from smidgen.train.family import Family, parametrized, steps_of
from smidgen.train.recipe import Recipe
from smidgen.zoo import build


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


@hypothesis.given(
    st.lists(st.lists(st.integers(-128, 127), min_size=3, max_size=3), min_size=1, max_size=4),
    st.floats(2**-14, 8.0, width=32),
)
def test_the_step_of_a_grid_is_found_from_what_lies_on_it(symbols: list[list[int]], step: float) -> None:
    rows = torch.tensor(symbols).float() * step
    found = steps_of(rows, -128, 127)
    for row, one in zip(symbols, found.tolist(), strict=True):
        assert one == pytest.approx(step * math.gcd(*row), rel=1e-3)


def test_weights_that_were_never_on_a_grid_have_no_step() -> None:
    assert not steps_of(torch.randn(8, 100, generator=torch.Generator().manual_seed(0)), -128, 127).any()


def layers_with(family: Quantize | Squeeze, layers: nn.Sequential, before: Family | None, part: float) -> list[Any]:
    """Convolutions after an untrained stage, whose steps become a part of what they were."""
    family.restructure(layers)
    family.begin(layers, PICTURES, before)
    for _, _, found in parametrized(layers, (Stepped, Rated)):
        with torch.no_grad():
            for step in found.parameters():
                step.mul_(part)
    family.finish(layers)
    return [layer.weight.detach().clone() for layer in layers[::2]]


@pytest.mark.parametrize(
    ("family", "other"), [(Quantize(bits=2, activations=2), Quantize(bits=4, activations=3)), (Squeeze(bits=2), None)]
)
def test_a_second_stage_goes_on_with_the_grids_of_the_first(family: Quantize | Squeeze, other: Quantize | None) -> None:
    """Weights come out of it untrained as they went in; with other bits there are other grids."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    first = layers_with(family, layers, None, 0.9)
    grid = getattr(layers[2], "input_grid", None)
    for one, same in zip(first, layers_with(family, layers, family, 1.0), strict=True):
        torch.testing.assert_close(one, same, rtol=2e-3, atol=1e-6)
    assert getattr(layers[2], "input_grid", None) is grid
    assert not torch.allclose(first[0], layers_with(family, layers, Prune(), 1.0)[0], rtol=2e-3)
    if other:
        new = layers_with(other, copy.deepcopy(layers), None, 1.0)
        torch.testing.assert_close(layers_with(other, layers, family, 1.0)[1], new[1])
        assert layers[2].get_submodule("input_grid") is not grid


def test_weights_at_the_ends_of_a_known_grid_are_trained() -> None:
    weight = torch.tensor([[-2.0, -1.0, 0.0, 1.0]], requires_grad=True)
    Stepped(weight, 2, known=True)(weight).sum().backward()
    assert weight.grad is not None
    assert bool((weight.grad != 0).all())


def test_grids_begin_with_what_activations_are_without_them() -> None:
    """Also behind others that have not begun, which must not change what passes."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Conv2d(3, 3, 1, bias=False) for _ in range(4)))
    wanted = [PICTURES]
    for layer in layers:
        wanted.append(layer(wanted[-1]).detach())
    family = Quantize(bits=4, activations=4)
    family.restructure(layers)
    family.begin(layers, PICTURES)
    for place in (1, 2):
        step = 2 * float(wanted[place].abs().mean()) / math.sqrt(7)
        assert float(layers[place].get_submodule("input_grid").step.detach()) == pytest.approx(step, rel=1e-4)


@pytest.mark.parametrize("ends", [(0.0, 3.0), (-2.0, 1.0)])
def test_the_gradients_of_a_grid_are_those_of_the_paper(ends: tuple[float, float]) -> None:
    """Equations 3 and 5, element by element; what is at an end of the grid counts as beyond it."""
    x = torch.tensor([-9.0, -1.0, -0.7, 0.0, 0.2, 0.5, 0.9, 1.5, 1.6, 9.0], requires_grad=True)
    step = torch.tensor(0.5, requires_grad=True)
    points = _OnGrid.apply(x, step, ends)  # type: ignore[no-untyped-call]
    (points * torch.arange(10)).sum().backward()
    slopes, by_step = x.grad, 0.0
    assert slopes is not None
    assert step.grad is not None
    for place, value in enumerate(x.tolist()):
        ideal = value / 0.5
        within = ends[0] < ideal < ends[1]
        assert points[place].item() == 0.5 * round(min(max(ideal, ends[0]), ends[1]))
        assert slopes[place].item() == (place if within else 0)
        by_step += place * (round(ideal) - ideal if within else ends[ideal >= ends[1]])
    assert float(step.grad) == pytest.approx(by_step, rel=1e-5)


def test_the_binary_network_gives_its_layers_numbers_of_both_signs() -> None:
    """A ReLU before the first of them would make its bits all alike, which is refused."""
    network = build("resnet20", bypass="layer")
    stage = Binarize(activations=True, keep=("*downsample*",))
    stage.restructure(network)
    stage.begin(network, torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))


def test_a_stage_that_does_not_say_has_the_rate_of_its_family() -> None:
    text = 'network = "x"\n[[stage]]\nmethod = "{}"\n{}'
    for family, more, rate in (("Cluster", "", 0.002), ("Prune", "", 0.02), ("Cluster", "learning_rate = 0.3", 0.3)):
        assert Recipe.parse(text.format(family, more)).stages[0].schedule.learning_rate == rate
    assert Recipe.parse("learning_rate = 0.4\n" + text.format("Cluster", "")).stages[0].schedule.learning_rate == 0.4


def test_the_gradient_of_a_slope_is_that_of_pytorch() -> None:
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    quick = type(build("resnet20", bypass="layer").get_submodule("layer1.0.act"))
    found = []
    for kind in (quick, nn.PReLU):
        module, given = kind().train(), x.clone().requires_grad_()
        made = module(given)
        (made * torch.arange(4.0)).sum().backward()
        found.append((made, given.grad, module.weight.grad))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
    layer = quick()
    torch.testing.assert_close(layer.train()(x), layer.eval()(x))


@pytest.mark.parametrize(
    ("gradient", "wanted"), [("clipped", [0.0, 1.0, 1.0, 1.0, 0.0]), ("polynomial", [0.0, 1.0, 2.0, 1.0, 0.0])]
)
def test_the_gradient_of_a_sign(gradient: str, wanted: list[float]) -> None:
    x = torch.tensor([-1.5, -0.5, -0.0, 0.5, 1.5], requires_grad=True)
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


@pytest.mark.parametrize("importance", ["magnitude", "gradient", "second-order"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_pruning_that_has_seen_no_gradient_goes_by_magnitude(importance: str, scope: str) -> None:
    layer = nn.Sequential(nn.Linear(8, 8))
    largest = layer[0].weight.detach().abs().reshape(-1).topk(16).indices
    family = Prune(density=0.25, importance=importance, scope=scope)  # type: ignore[arg-type]
    family.begin(layer, PICTURES)
    family.finish(layer)
    assert set(torch.nonzero(layer[0].weight.detach().reshape(-1)).flatten().tolist()) == set(largest.tolist())


def test_the_price_of_a_bit_can_always_rise_again() -> None:
    """However long bits were fewer than asked for."""
    network = nn.Sequential(nn.Linear(40, 50), nn.ReLU(), nn.Linear(50, 40))
    family = Squeeze(bits=4.0)
    family.begin(network, torch.zeros(4, 40))
    network.get_buffer("bit_price").fill_(0)
    family.update(network, 1.0, 0)
    assert float(network.get_buffer("bit_price")) == pytest.approx(1e-6)
