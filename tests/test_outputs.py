"""What outputs are taken for, and what is said of them: for any task."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
import torch
from sklearn.metrics import r2_score
from torch import Tensor, nn

import smidgen
from smidgen.archive import Label
from smidgen.budget import Budget, Outcome
from smidgen.errors import InputError
from smidgen.given import examples_from
from smidgen.pipeline import Settings, squeeze_to_budget
from smidgen.read import from_module
from smidgen.reporter import Reporter
from smidgen.run.compare import compare
from smidgen.run.kinds import kinds_in, outputs_of
from smidgen.run.outputs import Output, divergence
from smidgen.run.session import Engine
from smidgen.run.tally import Tally

RNG = np.random.default_rng(3)


def agreement(output: Output, ours: np.ndarray, theirs: np.ndarray) -> float:
    tally = Tally(output)
    tally.add(ours, theirs)
    return tally.agreement


def test_outputs_are_told_by_what_they_are() -> None:
    def kind(module: nn.Module, shape: tuple[int, ...], given: str | None = None) -> Output:
        archive = from_module(module, shape)
        model = archive.onnx()
        return outputs_of(model, Engine(model)({"image": RNG.normal(size=(2, *shape)).astype(np.float32)}), kind=given)[
            0
        ]

    assert kind(nn.Linear(3, 4), (3,)).kind == "scores"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)), (3,)).kind == "probabilities"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), (3,)).kind == "chances"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (3,)).kind == "values"
    assert kind(nn.Conv2d(3, 4, 1), (3, 5, 5)).kind == "values"
    assert kind(nn.Linear(3, 1), (3,)).kind == "values"
    assert kind(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)), (3, 5, 5)) == Output("scores", "scores", 1)
    assert kind(nn.Linear(3, 4), (3,), "values").kind == "values"
    assert kind(nn.Conv2d(3, 4, 1), (3, 5, 5), "scores") == Output("scores", "scores", 1)
    assert kind(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Softmax(1)), (3, 5, 5)).axis == 1
    with pytest.raises(InputError, match="cannot be probabilities"):
        kind(nn.Linear(3, 1), (3,), "probabilities")


class Boxed(nn.Module):
    """Where a thing is, and which of two it is, as face detectors give it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.box, self.which, self.last = nn.Linear(6, 4), nn.Linear(6, 2), last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(x), self.last(self.which(x))


@pytest.mark.parametrize(
    ("last", "kinds"),
    [
        (nn.Softmax(1), ["values", "probabilities"]),
        (nn.Sigmoid(), ["values", "chances"]),
        (nn.Identity(), ["scores", "scores"]),
    ],
)
def test_what_is_linear_beside_probabilities_is_no_scores(last: nn.Module, kinds: list[str]) -> None:
    archive = from_module(Boxed(last), (6,))
    sample = Engine(archive.onnx())({"image": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)})
    outputs = outputs_of(onnx.load_from_string(archive.graph), sample)
    assert [output.kind for output in outputs] == kinds
    first = outputs_of(onnx.load_from_string(archive.graph), sample, labelled=True)[0]
    assert first.kind == "scores"


def test_outputs_are_told_by_name() -> None:
    archive = from_module(Boxed(nn.Identity()), (6,))
    first, second = (value.name for value in archive.onnx().graph.output)
    sample = Engine(archive.onnx())({"image": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)})

    def kinds(told: str | None) -> list[str]:
        return [output.kind for output in outputs_of(archive.onnx(), sample, kind=told)]

    assert kinds(None) == ["scores", "scores"]
    assert kinds("values") == ["values", "scores"]
    assert kinds(f"{second}=values") == ["scores", "values"]
    assert kinds(f"{second}=chances,{first}=values") == ["values", "chances"]
    with pytest.raises(InputError, match=f"gives no 'third'; there are '{first}', '{second}'"):
        kinds("third=values")
    with pytest.raises(InputError, match="'boxes' is none of scores, probabilities"):
        kinds(f"{first}=boxes")


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("values,scores", "of which one is 'scores' said"),
        ("a=values,a=chances", "'a' is said to be values and chances"),
        ("a=values,scores", "of which one is 'scores' said"),
        ("=values", "gives no ''"),
        ("a=values,", "'' is none of"),
    ],
)
def test_what_is_said_of_outputs_must_be_clear(told: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        kinds_in(told, ["a", "a,b=c", "scores"])


def test_names_of_outputs_may_hold_what_separates_them() -> None:
    assert kinds_in("a,b=c=values,a=scores", ["a", "a,b=c"]) == {"a,b=c": "values", "a": "scores"}


class Sure(nn.Module):
    """Gives scores, and how likely they make each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.layer(x)
        return scores, scores.softmax(1)


def test_scores_beside_their_own_probabilities_are_scores() -> None:
    archive = from_module(Sure(), (6,))
    sample = Engine(archive.onnx())({"image": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)})
    outputs = outputs_of(onnx.load_from_string(archive.graph), sample)
    assert [output.kind for output in outputs] == ["scores", "probabilities"]


class Placed(nn.Module):
    """Four numbers with a large mean, as boxes in pixels, alone or beside probabilities."""

    def __init__(self, beside: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.box, self.hidden = nn.Linear(16, 4), nn.Linear(6, 16)
        self.which = nn.Linear(16, 2) if beside else None
        nn.init.constant_(self.box.bias, 30.0)
        if self.which is not None:
            self.which.bias.data = torch.tensor([3.0, -3.0])  # no class changes

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        hidden = self.hidden(x).relu()
        box = self.box(hidden).relu()
        return (box,) if self.which is None else (self.which(hidden).softmax(1), box)


@pytest.mark.parametrize("beside", [False, True])
def test_a_drop_of_values_is_one_of_what_they_differ_by(beside: bool) -> None:
    """Though an output far from zero has a cosine of nearly one whatever it says."""
    archive = from_module(Placed(beside), (6,))
    data = [np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)]
    examples, outcome = examples_from(data, archive, 100, 0), Outcome(Budget(max_drop=2.0))
    squeeze_to_budget(archive, examples, outcome)
    assert outcome.reached
    assert outcome.archive is not None
    assert outcome.best is not None
    assert outcome.best.fidelity is not None
    fresh = np.random.default_rng(1).normal(size=(200, 6)).astype(np.float32)
    results = compare([archive, outcome.archive], [{"image": fresh}], None)
    boxes = results[1][-1]
    assert (boxes.kind, outcome.best.fidelity.measure) == ("values", "R squared")
    assert 95 < boxes.agreement < 100
    assert boxes.cosine is not None
    assert boxes.cosine > 0.9999
    assert outcome.best.fidelity.output == (boxes.output if beside else "")
    assert ("loses most" in outcome.verdict()) is beside
    ours, theirs = (Engine(each.onnx())({"image": fresh})[-1] for each in (archive, outcome.archive))
    expected = r2_score(ours, theirs)
    assert boxes.agreement == pytest.approx(100 * expected, abs=0.05)


def test_what_a_linear_output_is_taken_for_is_said() -> None:
    def said(kind: str | None, labels: tuple[Label, ...] = ()) -> list[str]:
        archive = from_module(nn.Linear(6, 3), (6,), labels=labels)
        lines: list[str] = []
        data = [np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)]
        outcome = Outcome(Budget(size=500))
        examples = examples_from(data, archive, 10, 0)
        squeeze_to_budget(archive, examples, outcome, Settings(outputs=kind), Reporter(say=lines.append))
        return [line for line in lines if "taken for" in line]

    assert said(None) == [
        "'scores' is taken for scores of 3 classes; if that is wrong, say what it is, as with --outputs values "
        "(outputs='values')"
    ]
    assert not said("values")
    assert not said(None, tuple(Label(name, name) for name in "abc"))


class Finding(nn.Module):
    """For each place two coordinates and three chances, in one tensor, as detectors are exported."""

    def __init__(self, last: bool, order: int) -> None:
        super().__init__()
        self.layer, self.last, self.order = nn.Conv2d(3, 5, 1), last, order

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = torch.cat([(80 + 9 * y[:, :2]).flatten(2), y[:, 2:].sigmoid().flatten(2)][:: self.order], 1)
        return y.transpose(1, 2) if self.last else y


@pytest.mark.parametrize(("order", "coordinates"), [(1, (0, 2)), (-1, (3, 5))])
@pytest.mark.parametrize("last", [False, True])
def test_coordinates_beside_chances_are_detections(last: bool, order: int, coordinates: tuple[int, int]) -> None:
    module = Finding(last, order)
    model = from_module(module, (3, 5, 5)).onnx()
    (answer,) = Engine(model)({"image": RNG.normal(size=(2, 3, 5, 5)).astype(np.float32)})
    (output,) = outputs_of(model, [answer])
    assert output == Output("scores", "detections", 2 if last else 1, coordinates)
    boxes, chances = output.detections(answer)
    assert boxes.shape == (2, 2, 25)
    assert chances.shape == (2, 3, 25)
    assert boxes.min() > 1
    lost = answer.copy()
    lost[(answer > 0.25) & (answer <= 1)] = 0.1  # all that was found is not found any more, and all boxes are as before
    assert agreement(output, answer, lost) == 0
    assert (divergence(output, answer, lost) > 0.05).all()
    moved = answer.copy()
    moved[answer > 1] *= 1.5  # boxes alone, and of what is there
    assert (divergence(output, answer, moved) > 1).all()
    if not last:
        nothing = np.where(answer > 1, answer, np.float32(1e-6))
        where = np.where(answer > 1, 3 * answer, nothing)
        assert (divergence(output, nothing, where) < 0.1).all()  # boxes of nothing say nothing


@pytest.mark.parametrize("last", [nn.ReLU(), nn.SiLU(), nn.Sigmoid()])
def test_what_is_not_beside_sigmoids_is_no_detection(last: nn.Module) -> None:
    answer = RNG.uniform(0, 1, (2, 5, 25)).astype(np.float32)
    answer[:, :2] += 80
    plain = from_module(nn.Sequential(nn.Conv2d(3, 5, 1), last, nn.Flatten(2)), (3, 5, 5)).onnx()
    assert outputs_of(plain, [answer])[0].kind in ("values", "chances")


class Detector(nn.Module):
    """Coordinates and chances from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.found = (
            nn.Sequential(
                nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, n, 1)
            )
            for n in (4, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(80 + 9 * self.boxes(x)).flatten(2), (9 * self.found(x) - 2).sigmoid().flatten(2)], 1)


def test_a_detector_is_squeezed_for_what_it_finds() -> None:
    torch.manual_seed(0)
    module, given = Detector(), RNG.uniform(-1, 1, (40, 3, 32, 32)).astype(np.float32)
    seen = [given[i : i + 1] for i in range(30)]
    answer = Engine(from_module(module, (3, 32, 32)).onnx())({"image": given})[0]
    harm = {}
    for outputs, epochs in ((None, 0), ("values", 0), (None, 1)):
        archive = smidgen.compress(module, seen, size=4_000, input_shape=(3, 32, 32), outputs=outputs, finetune=epochs)
        other = Engine(archive.onnx())({"image": given})[0]
        harm[outputs, epochs] = divergence(Output("scores", "detections", 1, (0, 4)), answer, other).mean()
    assert 4 * max(harm[None, 0], harm[None, 1]) < harm["values", 0]


ANSWERS = [
    (Output("y", "scores", 1), lambda y: y),
    (Output("y", "probabilities", 1), lambda y: y.softmax(1)),
    (Output("y", "chances", 1), lambda y: y.sigmoid()),
    (Output("y", "values", 1), lambda y: y),
    (
        Output("y", "detections", 1, (0, 2)),
        lambda y: torch.cat([50 * y[:, :2], y[:, 2:].sigmoid()], 1)[..., None].repeat(1, 1, 2),
    ),
    (
        Output("y", "detections", 2, (4, 6)),
        lambda y: torch.cat([y[:, :4].sigmoid(), 50 * y[:, 4:]], 1)[:, None].repeat(1, 2, 1),
    ),
]


@pytest.mark.parametrize(("output", "made"), ANSWERS)
def test_votes_expect_the_divergence(output: Output, made: Callable[[Tensor], Tensor]) -> None:
    """Half the mean square of a vote times a small error is the divergence; and both halves agree on that."""
    from smidgen import answers

    torch.manual_seed(0)
    y = made(torch.randn(3, 6))
    error = 1e-3 * torch.randn(y.shape)
    error = error - error.mean(1, keepdim=True)
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(3)
    for _ in range(1500):
        vote = answers.vote(output, y, generator)
        assert vote is not None
        expected += (vote * error).flatten(1).sum(1).square() / 2 / 1500
    found = divergence(output, y.double().numpy(), (y.double() + error.double()).numpy())
    np.testing.assert_allclose(expected, found, rtol=0.2)
    both = answers.divergence(output, y.double(), y.double() + error.double())
    assert float(both) == pytest.approx(found.mean(), rel=1e-3)
    assert agreement(output, y.numpy(), y.numpy()) > 0.999
