"""Whether a limit on what may be lost keeps its promise on fresh inputs, for outputs of any shape and task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn

from smidgen.archive import Archive
from smidgen.budget import Budget, Fidelity, Outcome
from smidgen.examples import Examples, batches
from smidgen.given import examples_from
from smidgen.pipeline import squeeze_to_budget
from smidgen.read import from_module
from smidgen.reporter import Reporter
from smidgen.run.compare import Comparison, compare
from smidgen.run.session import Engine


def squeezed(archive: Archive, data: Sequence[Any], drop: float = 2.0) -> tuple[Archive, Fidelity]:
    outcome = Outcome(Budget(max_drop=drop))
    squeeze_to_budget(archive, examples_from(data, archive, 100, 0), outcome)
    assert outcome.reached
    assert outcome.archive
    assert outcome.best
    assert outcome.best.fidelity
    return outcome.archive, outcome.best.fidelity


def compared(archive: Archive, small: Archive, data: Sequence[Any], batch: int) -> list[Comparison]:
    items = examples_from(data, archive, 1000, 0)
    both = [*items.calibration, *items.held_out]
    return compare([archive, small], batches(both, archive, batch))[1]


class Recurrent(nn.Module):
    """Gives what it says at each step, and its state, in which answers lie along the second axis."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.memory, self.last = nn.GRU(3, 12, layers, batch_first=True), nn.Linear(12, 3)
        with torch.no_grad():  # of different units
            self.last.weight *= torch.tensor([[0.1], [20.0], [1.0]])
            self.last.bias.copy_(torch.tensor([7.0, -300.0, 0.0]))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y, state = self.memory(x)
        return {"said": self.last(y), "state": state}


def steps(count: int, seed: int) -> list[np.ndarray]:
    """Sequences of 1 to 9 steps."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 1 + number % 9, 3)).astype(np.float32) for number in range(count)]


@pytest.mark.parametrize("layers", [1, 2])
def test_sequences_of_any_length_and_states(layers: int) -> None:
    examples = [(torch.zeros(1, length, 3),) for length in (4, 6)]
    archive = from_module(Recurrent(layers).eval(), examples=examples)
    small, fidelity = squeezed(archive, steps(100, 0))
    assert fidelity.output in ("said", "state")
    fresh = steps(120, 1)
    ours, theirs = ([Engine(each.onnx())({"x": x}) for x in fresh] for each in (archive, small))
    said = [np.concatenate([answers[0][0] for answers in each]) for each in (ours, theirs)]
    state = [np.concatenate([answers[1].swapaxes(0, 1).reshape(1, -1) for answers in each]) for each in (ours, theirs)]
    told = r2_score(*said), r2_score(*state, multioutput="variance_weighted")
    assert min(told) > 0.95
    for batch in (1, 7):
        results = compared(archive, small, fresh, batch)
        assert [one.kind for one in results] == ["values", "values"]
        np.testing.assert_allclose([one.agreement / 100 for one in results], told, atol=0.004)


class Unbatched(nn.Module):
    """Takes one input alone, without an axis of examples, and gives a box in pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.hidden, self.box = nn.Linear(6, 16), nn.Linear(16, 4)
        self.box.bias.data = torch.tensor([60.0, 60.0, 120.0, 120.0])

    def forward(self, x: Tensor) -> Tensor:
        assert x.ndim == 1
        return self.box(self.hidden(x).relu()).relu()


def test_answers_without_an_axis_of_examples() -> None:
    archive = from_module(Unbatched().eval(), examples=[(torch.zeros(6),)])
    data = [{"x": x} for x in np.random.default_rng(0).normal(size=(80, 6)).astype(np.float32)]
    small, _ = squeezed(archive, data)
    fresh = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    boxes = [np.stack([Engine(each.onnx())({"x": x})[0] for x in fresh]) for each in (archive, small)]
    assert r2_score(*boxes) > 0.94


class Mask(nn.Module):
    """Marks the few places that are bright, as a segmentation does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 1, 3, padding=1))
        with torch.no_grad():
            self.layers[0].weight[0] = 1.0
            self.layers[2].weight[0, 0] = 1.0
            self.layers[2].bias -= 25.0

    def forward(self, image: Tensor) -> Tensor:
        return (self.layers(image)).sigmoid()


def spots(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    images = rng.normal(0, 0.3, (count, 1, 24, 24))
    for image in images:
        y, x = rng.integers(2, 18, 2)
        image[0, y : y + 4, x : x + 4] += rng.uniform(1, 3)
    return images.astype(np.float32)


def test_a_mask_of_few_places_is_still_one() -> None:
    archive = from_module(Mask().eval(), (1, 24, 24))
    small, fidelity = squeezed(archive, [spots(100, 0)])
    assert fidelity.measure == "agreement"
    masks = [Engine(each.onnx())({"image": spots(100, 1)})[0] > 0.5 for each in (archive, small)]
    assert masks[0].mean() < 0.06
    assert (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum() > 0.95


def test_labels_of_the_first_output_do_not_let_others_go() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.hidden, self.which, self.where = nn.Linear(6, 16), nn.Linear(16, 2), nn.Linear(16, 4)
            self.which.bias.data = torch.tensor([9.0, -9.0])

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.hidden(x).relu()
            return {"which": self.which(y).softmax(1), "where": self.where(y).relu() + 50}

    archive = from_module(Both().eval(), examples=[(torch.zeros(1, 6),)])
    rows = np.random.default_rng(0).normal(size=(100, 1, 6)).astype(np.float32)
    items = [{"x": row} for row in rows]
    outcome = Outcome(Budget(max_drop=2.0))
    squeeze_to_budget(archive, Examples(items[:60], items[60:], [0] * 40), outcome)
    assert outcome.best
    assert outcome.best.fidelity
    assert (outcome.best.fidelity.output, outcome.best.fidelity.measure) == ("where", "R squared")
    assert outcome.archive
    assert compared(archive, outcome.archive, [rows[:, 0]], 8)[1].agreement > 95


@pytest.mark.parametrize(("count", "noise"), [(60, 0.0), (1, 1.0)])
def test_it_is_said_where_all_answers_are_the_same(count: int, noise: float) -> None:
    rows = np.ones((count, 6), np.float32) + noise
    archive = from_module(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3), nn.Tanh()).eval(), (6,))
    lines: list[str] = []
    examples = examples_from([rows], archive, 100, 0)
    squeeze_to_budget(archive, examples, Outcome(Budget(max_drop=1.0)), reporter=Reporter(say=lines.append))
    assert sum("are the same ('scores'), so nothing is known of others" in line for line in lines) == 1


def test_what_an_output_is_does_not_hang_on_how_it_is_made_ready() -> None:
    """A linear output in units, two numbers as two classes would be, becomes a part of the layer before it."""

    class Wind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.hidden, self.last = nn.Linear(6, 16), nn.Linear(16, 2)
            self.register_buffer("deviation", torch.tensor([3.0, 50.0]))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.hidden(x).relu()) * self.deviation

    archive = from_module(Wind().eval(), examples=[(torch.zeros(1, 6),)])
    rows = np.random.default_rng(0).normal(size=(100, 6)).astype(np.float32)
    small, fidelity = squeezed(archive, [rows])
    assert fidelity.measure == "R squared"
    assert compared(archive, small, [rows], 8)[0].kind == "values"


@pytest.mark.parametrize(("bias", "said"), [(0.0, False), (2.2, True), (9.0, True)])
def test_it_is_said_where_what_matters_is_rare(bias: float, said: bool) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 2), nn.Softmax(1))
    module[0].bias.data = torch.tensor([bias, 0.0])
    archive = from_module(module.eval(), (6,))
    rows = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    lines: list[str] = []
    examples = examples_from([rows], archive, 100, 0)
    squeeze_to_budget(archive, examples, Outcome(Budget(max_drop=1.0)), reporter=Reporter(say=lines.append))
    assert any("are the same one, and 1 points may be much of those" in line for line in lines) is said
