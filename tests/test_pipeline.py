"""From a network and pictures to a file: sizes, losses, repair, and what is left after a Ctrl-C."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_network
import torch
from torch import Tensor, nn

import smidgen
from smidgen import pipeline, repair, survey
from smidgen.archive import Archive, Label, Preprocessing
from smidgen.budget import Budget, Fidelity, Outcome, Point
from smidgen.code import Affine, Code, Trellis
from smidgen.errors import InputError, ModelError
from smidgen.examples import Examples, batches, split
from smidgen.file import inspect, write
from smidgen.given import examples_in
from smidgen.measure import measure
from smidgen.network import Network
from smidgen.pipeline import Settings, squeeze_to_budget
from smidgen.read import from_module
from smidgen.reporter import Reporter
from smidgen.squeezer import Squeezer

PREPROCESSING = Preprocessing(12, 10, "BGR", (110.0, 115.0, 120.0), (60.0, 60.0, 60.0))
PICTURES = tiny_network.pictures(30, seed=4)
LABELS = tuple(Label(f"n{i}", f"kind {i}") for i in range(5))


class Net(nn.Sequential):
    """Some 9,000 weights, of which 40 belong to no layer that is squeezed."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 16, 3, stride=2),
            nn.ReLU(),
            nn.Conv2d(16, 48, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(48, 32),
            nn.ReLU(),
            nn.Linear(32, 5, bias=False),
        )
        self.factor = nn.Parameter(torch.linspace(20, 60, 40).reshape(5, 8))

    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x)[:, :, None] * self.factor).mean(2)


def model(seed: int = 0) -> Archive:
    torch.manual_seed(seed)
    return from_module(Net(), (3, 12, 10), PREPROCESSING, LABELS)


@pytest.fixture(scope="module")
def examples() -> Examples:
    return split(PICTURES, None, 1000, 0)


SQUEEZED = ("0.weight", "2.weight", "6.weight", "8.weight")
PLAIN = Settings()
PARTS = {"0.bias", "2.bias", "6.bias", "factor", *SQUEEZED}


def compressed(examples: Examples, settings: Settings = PLAIN, **limit: float) -> Outcome:
    outcome = Outcome(Budget(**limit))
    squeeze_to_budget(model(), examples, outcome, settings)
    return outcome


@pytest.fixture(scope="module")
def small(examples: Examples) -> Outcome:
    return compressed(examples, size=6_000)


def test_split_holds_a_fifth_out() -> None:
    numbers = [np.full((1, 1, 3), i, np.uint8) for i in range(50)]
    truth = list(range(50))
    found = split(numbers, truth, 30, seed=1)
    held, used = ([int(p[0, 0, 0]) for p in part] for part in (found.held_out, found.calibration))
    assert (len(held), len(used)) == (10, 30)
    assert not set(held) & set(used)
    assert found.truth == held
    again, other = split(numbers, truth, 30, seed=1), split(numbers, truth, 30, seed=2)
    assert again.truth == found.truth != other.truth
    many = split([numbers[0]] * 5000, None, 10_000, 0)
    assert (len(many.held_out), len(many.calibration), many.truth) == (400, 4600, None)


def test_split_of_few_pictures_uses_all_twice() -> None:
    found = split([np.full((1, 1, 3), i, np.uint8) for i in range(19)], None, 100, 0)
    assert (len(found.held_out), len(found.calibration)) == (19, 19)
    with pytest.raises(InputError, match="no pictures"):
        split([], None, 10, 0)


def test_examples_in_folders(tmp_path: Path) -> None:
    from PIL import Image

    for i in range(25):
        folder = tmp_path / f"n{i % 5}"
        folder.mkdir(exist_ok=True)
        Image.fromarray(PICTURES[i]).save(folder / f"{i}.png")
    found = examples_in(tmp_path, model(), 1000, 0)
    assert found.truth == [int(path.parent.name[1:]) for path in found.held_out]
    alone = examples_in(tmp_path / "n0", model(), 1000, 0)
    assert (len(alone.held_out), alone.truth) == (5, None)


def test_size_is_used_and_never_exceeded(small: Outcome, tmp_path: Path) -> None:
    assert small.reached
    assert small.archive
    assert small.best
    size = small.archive.save(tmp_path / "x.smidgen")
    assert 0.99 * 6_000 <= size <= 6_000
    assert small.best.bytes == size
    found = smidgen.open(tmp_path / "x.smidgen")
    assert found.tensors.keys() == PARTS
    for name, tensor in found.tensors.items():
        rule = tensor.rule if isinstance(tensor, Code) else None
        assert type(rule) is (Trellis if name in SQUEEZED else Affine if name.endswith("bias") else type(None))
    np.testing.assert_array_equal(found.tensors["factor"], model().tensors["factor"])
    assert (found.preprocessing, found.labels) == (PREPROCESSING, LABELS)
    assert found.runner(1)(np.zeros((2, 3, 12, 10), np.float32)).shape == (2, 5)


def test_two_runs_give_the_same_bytes(small: Outcome, examples: Examples) -> None:
    again = compressed(examples, size=6_000)
    assert small.archive
    assert again.archive
    assert write(small.archive) == write(again.archive)
    assert small.curve == again.curve


def test_file_explains_itself(small: Outcome) -> None:
    assert small.archive
    assert small.best
    assert small.best.fidelity
    noted = small.archive.metadata["squeezed"]
    assert noted["pictures"] == small.best.fidelity.pictures == 6
    assert noted["kl"] == pytest.approx(small.best.fidelity.kl, rel=0.01)
    assert [info.name for info in inspect(write(small.archive)) if info.harm is not None] == list(SQUEEZED)


def test_larger_files_do_less_harm(small: Outcome, examples: Examples) -> None:
    smaller = compressed(examples, size=2_500)
    assert small.best
    assert smaller.best
    assert small.best.fidelity
    assert smaller.best.fidelity
    assert 3 * small.best.fidelity.kl < smaller.best.fidelity.kl


def test_impossible_size_keeps_the_smallest(examples: Examples) -> None:
    outcome = compressed(examples, size=500)
    assert not outcome.reached
    assert outcome.archive
    assert outcome.best
    assert outcome.best.bytes <= min(point.bytes for point in outcome.curve) + 10  # what explains it
    assert len(write(outcome.archive)) == outcome.best.bytes
    assert outcome.verdict().startswith("not reached: 500 bytes; the nearest is ")


@pytest.mark.parametrize("limit", [0.0, 40.0])
def test_max_drop_is_kept(limit: float, examples: Examples) -> None:
    outcome = compressed(examples, max_drop=limit)
    assert outcome.reached
    assert outcome.best
    assert outcome.best.fidelity
    assert outcome.best.fidelity.drop <= limit
    assert outcome.archive
    assert len(write(outcome.archive)) == outcome.best.bytes
    passed = [p.bytes for p in outcome.curve if p.fidelity and p.fidelity.drop <= limit]
    assert outcome.best.bytes <= 1.01 * min(passed) + outcome.budget.margin  # where every layer is explained


def test_known_classes_are_judged_by_top1() -> None:
    truth = np.random.default_rng(0).integers(0, 5, 30).tolist()
    outcome = Outcome(Budget(max_drop=20))
    squeeze_to_budget(model(), split(PICTURES, truth, 1000, 0), outcome)
    assert outcome.best
    assert outcome.best.fidelity
    assert outcome.best.fidelity.measure == "top-1"
    assert "top-1" in outcome.verdict() or outcome.reached


def test_expected_harm_is_near_the_true_one(examples: Examples) -> None:
    """To second order, on the pictures that were measured; a factor of 3 either way for a coarse estimate of 24."""
    wanted = model()
    inputs = list(batches(examples.calibration, wanted, 10))
    network = Network(wanted)
    stats = measure(network, inputs)
    archive, size = Squeezer(wanted, stats)(1e-5)
    assert size == len(write(archive))
    x = torch.from_numpy(np.concatenate([batch["image"] for batch in inputs]))
    with torch.no_grad():
        before = network(x)[0].double().log_softmax(1)
        for name in SQUEEZED[:2]:
            code = archive.tensors[name]
            assert isinstance(code, Code)
            after = Network(replace(wanted, tensors={**wanted.tensors, name: code}))(x)[0].double().log_softmax(1)
            true = float((before.exp() * (before - after)).sum(1).mean())
            error = (wanted.weights()[name] - code.values()).reshape(len(code.symbols), -1)
            moment, sensitivity = stats[name].second_moment, stats[name].sensitivity
            assert true / 3 < sensitivity / 2 * np.trace(error @ moment @ error.T) < 3 * true


def test_squeezer_leaves_codes_alone(examples: Examples) -> None:
    wanted = model()
    stats = measure(Network(wanted), batches(examples.calibration, wanted, 10))
    squeezer = Squeezer(wanted, stats)
    fine, coarse = squeezer(1e-7)[0], squeezer(1e-2)[0]
    mixed = replace(squeezer.original, tensors={**squeezer.original.tensors, "2.weight": fine.tensors["2.weight"]})
    found = replace(squeezer, original=mixed)(1e-2)[0]
    assert found.tensors["2.weight"] == fine.tensors["2.weight"]
    assert all(found.tensors[name] == coarse.tensors[name] for name in SQUEEZED if name != "2.weight")


def test_what_cannot_be_squeezed(examples: Examples) -> None:
    with pytest.raises(ModelError, match="no convolution and no linear layer"):
        squeeze_to_budget(from_module(nn.ReLU(), (3, 12, 10), PREPROCESSING), examples, Outcome(Budget(size=1)))
    with pytest.raises(ModelError, match="preprocessing"):
        squeeze_to_budget(from_module(Net(), (3, 12, 10)), examples, Outcome(Budget(size=1)))


def test_large_examples_are_measured_fewer_at_once(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def noting(network: Network, given: Iterator[dict[str, np.ndarray]], *others: Any) -> dict[str, Any]:
        kept = list(given)
        sizes.append(max(len(array) for batch in kept for array in batch.values()))
        return measure(network, kept, *others)

    monkeypatch.setattr(survey, "measure", noting)
    for kept in (1, survey.KEPT):
        monkeypatch.setattr(survey, "KEPT", kept)
        survey.measured(model(), examples)
    assert sizes == [1, 1, 1, survey.BATCH]  # the first of each two tries two pictures for their time


def test_user_is_told(examples: Examples) -> None:
    lines: list[str] = []
    squeeze_to_budget(model(), examples, Outcome(Budget(size=6_000)), reporter=Reporter(say=lines.append))
    assert lines[0].startswith("runs by ONNX Runtime only: Mul ")
    assert lines[1].startswith("measuring 9,040 weights on 24 pictures; judging on 6 others: about ")
    assert lines[2] == "kept without loss: factor, which belongs to no layer that can be measured"
    assert all("bytes: KL " in line for line in lines[3:])
    assert pipeline.describe(Point(1, 5, Fidelity(1, 0.5, 90, 10, "agreement"), True)).endswith("90.0 % (repaired)")


def test_ctrl_c_leaves_the_best_file_and_the_curve(examples: Examples, tmp_path: Path) -> None:
    path, lines = tmp_path / "x.smidgen", []

    def say(line: str) -> None:
        lines.append(line)
        if len([told for told in lines if "bytes: KL" in told]) == 4:
            raise KeyboardInterrupt

    def keep(archive: Archive, point: Point) -> None:
        assert archive.save(path) == point.bytes

    outcome = Outcome(Budget(size=6_000), on_better=keep)
    with pytest.raises(KeyboardInterrupt):
        squeeze_to_budget(model(), examples, outcome, reporter=Reporter(say=say))
    assert len(outcome.curve) == 4
    assert outcome.best
    assert path.stat().st_size == outcome.best.bytes
    assert outcome.verdict(interrupted=True).startswith("interrupted: ")
    assert smidgen.open(path).tensors.keys() == PARTS


def test_time_that_is_up_ends_before_repair(examples: Examples) -> None:
    outcome = Outcome(Budget(size=6_000, deadline=time.monotonic()))
    squeeze_to_budget(model(), examples, outcome, Settings(epochs=3))
    assert outcome.best == outcome.curve[0]
    assert len(outcome.curve) == 1
    assert outcome.verdict().startswith("time is up: ")


# Repair


@pytest.fixture
def one_thread() -> Iterator[None]:
    """So that sums of floats have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_repair_goes_on_where_it_was_stopped(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(epochs=2, checkpoint=tmp_path / "x.checkpoint")
    whole = compressed(examples, settings, size=6_000)
    assert not settings.checkpoint.exists()
    assert whole.archive
    assert whole.best
    assert len(write(whole.archive)) == whole.best.bytes <= 6_000
    last = whole.curve[-1]
    assert last.repaired
    # 46 bytes are kept free for what each layer costs, and so small a file grows in jumps
    assert 0.98 * 6_000 <= last.bytes <= 6_000
    keep = repair._keep

    def killed(*arguments: object) -> None:
        keep(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(repair, "_keep", killed)
    outcome = Outcome(Budget(size=6_000))
    with pytest.raises(KeyboardInterrupt):
        squeeze_to_budget(model(), examples, outcome, settings)
    assert settings.checkpoint.exists()
    assert outcome.reached  # the file of the search is there
    epochs: list[int] = []
    learn = repair._learn

    def counted(lesson: repair.Lesson, teacher: object, student: object, number: int, advance: object) -> None:
        epochs.append(number)
        learn(lesson, teacher, student, number, advance)

    monkeypatch.setattr(repair, "_keep", keep)
    monkeypatch.setattr(repair, "_learn", counted)
    resumed = compressed(examples, settings, size=6_000)
    assert epochs == [1]
    assert not settings.checkpoint.exists()
    assert resumed.archive
    assert resumed.curve == whole.curve
    assert write(resumed.archive) == write(whole.archive)


@pytest.mark.usefixtures("one_thread")
def test_checkpoint_of_other_work_is_not_taken(examples: Examples, tmp_path: Path) -> None:
    path = tmp_path / "x.checkpoint"
    expected = compressed(examples, Settings(epochs=1), size=6_000)
    for content in (b"no checkpoint", write(replace(from_module(Net(), (3, 12, 10)), metadata={"repair": {"key": 1}}))):
        path.write_bytes(content)
        found = compressed(examples, Settings(epochs=1, checkpoint=path), size=6_000)
        assert found.curve == expected.curve
        assert not path.exists()


@pytest.mark.usefixtures("one_thread")
def test_checkpoint_of_another_size_is_not_taken(
    examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(epochs=2, checkpoint=tmp_path / "x.checkpoint")

    def killed(*arguments: object) -> None:
        keep(*arguments)
        raise KeyboardInterrupt

    keep = repair._keep
    monkeypatch.setattr(repair, "_keep", killed)
    with pytest.raises(KeyboardInterrupt):
        compressed(examples, settings, size=6_000)
    monkeypatch.setattr(repair, "_keep", keep)
    smaller = compressed(examples, settings, size=2_500)
    assert all(point.bytes <= 2_600 for point in smaller.curve if point.repaired)


def test_biases_get_more_bits_where_these_are_worth_it(examples: Examples) -> None:
    wanted = model()
    stats = measure(Network(wanted), batches(examples.calibration, wanted, 10))
    squeezer = Squeezer(wanted, stats, biases=("2.bias",), bias_harm=(1e-3, 1e-5))
    fine, coarse = squeezer(1e-6)[0].tensors["2.bias"], squeezer(1e-3)[0].tensors["2.bias"]
    assert isinstance(squeezer(1e-9)[0].tensors["2.bias"], np.ndarray), "no bits are saved where none may be"
    assert isinstance(fine, Code)
    assert isinstance(coarse, Code)
    assert coarse.alphabet[2] <= 64 < fine.alphabet[2]


def test_repair_mends(examples: Examples, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty epochs, of two long steps each, on the pictures that are judged; the network itself is not changed."""
    wanted = model()
    before = {name: value.copy() for name, value in wanted.weights().items()}
    seen = Examples(examples.calibration, examples.calibration)
    monkeypatch.setattr(repair, "STEP", 0.02)
    outcome = Outcome(Budget(size=2_000))
    squeeze_to_budget(wanted, seen, outcome, Settings(epochs=40))
    plain = max((p for p in outcome.curve if not p.repaired and p.bytes <= 2_000), key=lambda p: p.bytes)
    mended = [p for p in outcome.curve if p.repaired][-1]
    assert plain.fidelity
    assert mended.fidelity
    assert mended.bytes <= 2_000
    assert mended.fidelity.kl < plain.fidelity.kl
    assert outcome.best
    assert outcome.best.repaired
    assert outcome.archive
    assert all(isinstance(outcome.archive.tensors[name], Code) for name in SQUEEZED)
    assert all(np.array_equal(value, before[name]) for name, value in wanted.weights().items())
    assert np.array_equal(outcome.archive.tensors["factor"], before["factor"]), "kept without loss"


def test_compress_in_one_call() -> None:
    archive = smidgen.compress(
        Net(), PICTURES, size=6_000, input_shape=(3, 12, 10), preprocessing=PREPROCESSING, pictures=10
    )
    assert 0.99 * 6_000 <= len(write(archive)) <= 6_000
    with pytest.raises(smidgen.LimitError, match="not reached: 300 bytes; the nearest is") as raised:
        smidgen.compress(Net(), PICTURES, size=300, input_shape=(3, 12, 10), preprocessing=PREPROCESSING)
    assert f"{len(write(raised.value.archive)):,} bytes" in str(raised.value)  # what was found is not lost
    again = pickle.loads(pickle.dumps(raised.value))
    assert str(again) == str(raised.value)
    with pytest.raises(InputError, match="pictures are needed"):
        smidgen.compress(Net(), size=300)
    with pytest.raises(InputError, match="one of plan, size and max_drop"):
        smidgen.compress(Net(), plan="int8", size=300)
    with pytest.raises(InputError, match="either a size or"):
        smidgen.compress(Net(), PICTURES, size=300, max_drop=1)
    with pytest.raises(InputError, match="either a size or"):
        smidgen.compress(Net(), PICTURES)
