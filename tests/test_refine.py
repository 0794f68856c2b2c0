"""Targets for the inputs that a layer gets in a squeezed network."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest
import tiny_network
import torch
from torch import nn

from smidgen import pipeline, refine
from smidgen.archive import Archive
from smidgen.budget import Budget, Fidelity, Outcome, Point
from smidgen.examples import Examples, split
from smidgen.network import Network
from smidgen.pipeline import squeeze_to_budget
from smidgen.read import from_module
from smidgen.refine import targets

NAMES = ("0.weight", "2.weight", "5.weight")
PREPROCESSING = tiny_network.PREPROCESSING


def model(groups: int = 2) -> Archive:
    torch.manual_seed(1)
    layers = nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3, groups=groups), nn.ReLU(), nn.Flatten()
    return from_module(nn.Sequential(*layers, nn.Linear(6 * 4 * 2, 5)), (3, 8, 6), PREPROCESSING)


def inputs(count: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(2)
    return [{"image": rng.normal(size=(10, 3, 8, 6)).astype(np.float32)} for _ in range(count)]


def changed(archive: Archive, name: str) -> Archive:
    weight = np.asarray(archive.tensors[name])
    noise = np.random.default_rng(3).normal(size=weight.shape).astype(np.float32)
    return replace(archive, tensors={**archive.tensors, name: weight + np.float32(0.2) * noise})


@pytest.mark.parametrize("groups", [1, 2])
def test_targets_are_those_of_least_squares(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions are rows of a least-squares problem, the damping adds rows of its own."""
    original = model(groups)
    squeezed = changed(original, "0.weight")
    monkeypatch.setattr(refine, "ACTIVITY", 1.0)  # so that positions count as their layer does
    found = targets(Network(original), Network(squeezed), inputs(1), NAMES)
    assert found.keys() == {"2.weight"}, "every second one"
    images = torch.from_numpy(inputs(1)[0]["image"])
    before, after = (
        torch.nn.functional.conv2d(
            images, *(torch.from_numpy(np.asarray(a.tensors[f"0.{n}"])) for n in ("weight", "bias"))
        )
        .relu()
        .unfold(2, 3, 1)
        .unfold(3, 3, 1)
        .permute(0, 2, 3, 1, 4, 5)
        .reshape(-1, groups, 72 // groups)
        .double()
        .numpy()
        for a in (original, squeezed)
    )
    weight = np.asarray(original.tensors["2.weight"]).reshape(groups, 6 // groups, -1).astype(np.float64)
    for group in range(groups):
        x, y, w = before[:, group], after[:, group], weight[group]
        added = np.sqrt(refine.DAMPING / 10 * (y**2).sum() / y.shape[1]) * np.eye(y.shape[1])
        wanted = np.linalg.lstsq(np.concatenate([y, added]), np.concatenate([x @ w.T, added @ w.T]), rcond=None)[0].T
        rows = slice(group * 6 // groups, (group + 1) * 6 // groups)
        np.testing.assert_allclose(found["2.weight"][rows].reshape(w.shape), wanted, rtol=1e-3, atol=1e-4)


def test_a_weight_whose_inputs_are_the_same_is_kept() -> None:
    original = model()
    assert not targets(Network(original), Network(original), inputs(), NAMES)
    assert not targets(Network(original), Network(changed(original, "5.weight")), inputs(), NAMES)


def test_targets_bring_the_outputs_nearer() -> None:
    original = model()
    squeezed, batches = changed(original, "0.weight"), inputs(12)
    found = targets(Network(original), Network(squeezed), batches, NAMES)
    aimed = replace(squeezed, tensors={**squeezed.tensors, **found})
    x = torch.from_numpy(np.random.default_rng(9).normal(size=(50, 3, 8, 6)).astype(np.float32))
    with torch.no_grad():
        one, two, three = (Network(archive)(x)[0] for archive in (original, squeezed, aimed))
    assert float((one - three).square().sum()) < 0.9 * float((one - two).square().sum())


def test_few_inputs_change_little() -> None:
    original = model()
    squeezed = changed(original, "0.weight")
    few, many = (targets(Network(original), Network(squeezed), inputs(count), NAMES) for count in (1, 100))
    before = original.weights()["2.weight"]
    assert np.abs(few["2.weight"] - before).mean() < 0.5 * np.abs(many["2.weight"] - before).mean()


@pytest.fixture(scope="module")
def examples() -> Examples:
    return split(tiny_network.pictures(60, seed=4), None, 1000, 0)


def test_the_best_file_is_kept(examples: Examples) -> None:
    outcome = Outcome(Budget(size=1_500))
    squeeze_to_budget(model(), examples, outcome)
    assert outcome.best
    assert outcome.best.fidelity
    assert outcome.reached
    (refined,) = [point for point in outcome.curve if point.refined]
    assert refined.fidelity
    plain = max((p for p in outcome.curve if not p.refined and outcome.budget.allows(p)), key=lambda p: p.bytes)
    assert plain.fidelity
    assert outcome.best.fidelity.kl == min(refined.fidelity.kl, plain.fidelity.kl)
    assert "(refined)" in pipeline.describe(refined)


def test_refined_file_counts_by_its_divergence() -> None:
    budget = Budget(size=1000)
    plain, worse, better = (
        Point(1, size, Fidelity(9, kl, 90, 10, "agreement"), refined=refined)
        for size, kl, refined in ((990, 0.2, False), (999, 0.3, True), (980, 0.1, True))
    )
    assert budget.better(better, plain)
    assert not budget.better(worse, plain)


def test_time_that_is_up_ends_refining(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(Budget(size=1_500))

    def late(*arguments: object) -> dict[str, object]:
        outcome.budget = replace(outcome.budget, deadline=time.monotonic())
        return {"2.weight": model().tensors["2.weight"]}

    monkeypatch.setattr(pipeline, "targets", late)
    squeeze_to_budget(model(), examples, outcome)
    assert outcome.reached
    assert not any(point.refined for point in outcome.curve)
