"""Pictures to train on: where they come from, and how they are varied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from digits import write_digits
from torch import nn

from smidgen.archive import Label, Preprocessing
from smidgen.errors import InputError
from smidgen.train.families.train import Train
from smidgen.train.loop import Lesson, Teacher, _Training
from smidgen.train.network import measured, shown
from smidgen.train.pictures import Labelled, Pictures, batches, pictures_in
from smidgen.train.recipe import Schedule, Stage


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
        return list(batches(pictures, Schedule(batch=16, shift=2), np.random.default_rng(5), part))

    whole, even, odd = all_of(slice(None)), all_of(slice(0, None, 2)), all_of(slice(1, None, 2))
    assert len(whole) == 5
    for (x, y), (x0, y0), (x1, y1) in zip(whole, even, odd, strict=True):
        assert torch.equal(x[0::2], x0)
        assert torch.equal(x[1::2], x1)
        assert torch.equal(y, torch.stack([y0, y1], 1).reshape(-1))


def first(pictures: Labelled, shift: int, mirror: bool, erase: int) -> torch.Tensor:
    """The pictures of a batch of 40, in the same order each time."""
    schedule = Schedule(batch=40, shift=shift, mirror=mirror, erase=erase)
    return next(batches(pictures, schedule, np.random.default_rng(0), slice(None)))[0]


def test_a_picture_is_moved_and_mirrored(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 40, 20), (), (8, 8), "bilinear", 0).training
    still = next(
        batches(pictures, Schedule(batch=40, shift=0, mirror=False, erase=0), np.random.default_rng(0), slice(None))
    )[0]
    mirrored = next(
        batches(pictures, Schedule(batch=40, shift=0, mirror=True, erase=0), np.random.default_rng(0), slice(None))
    )[0]
    same = [torch.equal(a, b) for a, b in zip(still, mirrored, strict=True)]
    flipped = [torch.equal(a.flip(2), b) for a, b in zip(still, mirrored, strict=True)]
    assert all(a or b for a, b in zip(same, flipped, strict=True))
    assert 5 < sum(same) < 35
    moved_ones = next(
        batches(pictures, Schedule(batch=40, shift=1, mirror=False, erase=0), np.random.default_rng(0), slice(None))
    )[0]
    assert torch.equal(torch.unique(moved_ones), torch.unique(still))


def test_squares_are_erased(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 40, 20), (), (8, 8), "bilinear", 0).training
    still = next(
        batches(pictures, Schedule(batch=40, shift=0, mirror=False, erase=0), np.random.default_rng(0), slice(None))
    )[0]
    erased = next(
        batches(pictures, Schedule(batch=40, shift=0, mirror=False, erase=4), np.random.default_rng(0), slice(None))
    )[0]
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
    lesson = Lesson(Pictures(labelled, labelled, (), ""), Preprocessing(4, 4, std=(255.0,) * 3), [], (0, 0), Path())
    with_half = _Training(Given(), Stage("x", Train(), Schedule()), lesson).loss(pictures, classes, 0.5)
    scores = torch.tensor([[0.5, 0.5, 0.0]] * 2)
    wanted = torch.nn.functional.cross_entropy(scores, classes)  # both classes are as likely
    torch.testing.assert_close(with_half, wanted, atol=1e-2, rtol=1e-2)


def test_pictures_that_show_ranges_are_of_all_classes(tmp_path: Path) -> None:
    pictures = pictures_in(write_digits(tmp_path / "digits", 600, 20), (), (8, 8), "bilinear", 0).training
    first = [tuple(picture.reshape(-1).tolist()) for picture in shown(pictures)]
    whole = {tuple(pictures[torch.tensor([i])].reshape(-1).tolist()): int(pictures.classes[i]) for i in range(600)}
    assert {whole[each] for each in first} == set(range(10))
    seen = pictures[torch.arange(600)].double()
    assert measured(pictures, (8, 8)).mean == pytest.approx(seen.mean((0, 2, 3)).tolist(), abs=0.01)
    assert measured(pictures, (8, 8)).std == pytest.approx(seen.std((0, 2, 3)).tolist(), abs=0.01)


def test_a_teacher_sees_pictures_as_it_was_trained_to() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale, self.given = nn.Parameter(torch.ones(())), torch.zeros(0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.given = x
            return x.mean((2, 3)) * self.scale

    pictures = torch.tensor([[10.0, 20.0, 30.0]]).reshape(1, 3, 1, 1).expand(2, 3, 4, 4)
    labelled = Labelled(pictures.byte(), torch.tensor([0, 1]), (4, 4))
    student, teacher = Seen(), Teacher(Seen(), Preprocessing(4, 4, "BGR", mean=(1.0, 2.0, 3.0)))
    lesson = Lesson(Pictures(labelled, labelled, (), ""), Preprocessing(4, 4), [teacher], (0, 0), Path())
    _Training(student, Stage("x", Train(), Schedule()), lesson).loss(pictures, labelled.classes, 1.0)
    assert student.given[0, :, 0, 0].tolist() == [10, 20, 30]
    assert isinstance(teacher.module, Seen)
    assert teacher.module.given[0, :, 0, 0].tolist() == [29, 18, 7]


def test_of_several_teachers_the_mean_of_scores_teaches() -> None:
    class Fixed(nn.Module):
        def __init__(self, *scores: float) -> None:
            super().__init__()
            self.scores = nn.Parameter(torch.tensor([scores], dtype=torch.float32))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.scores.expand(len(x), 2)

    labelled = Labelled(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), (4, 4))
    plain = Preprocessing(4, 4)

    def loss(*teachers: nn.Module) -> float:
        pictures = Pictures(labelled, labelled, (), "")
        lesson = Lesson(pictures, plain, [Teacher(each, plain) for each in teachers], (0, 0), Path())
        stage = Stage("x", Train(), Schedule(distill=1.0))
        found = _Training(Fixed(0.5, 2), stage, lesson).loss(torch.zeros(2, 3, 4, 4), labelled.classes, 1.0)
        return float(found.detach())

    assert loss(Fixed(1, 3), Fixed(3, 0)) == pytest.approx(loss(Fixed(2, 1.5)))
    assert loss(Fixed(1, 3), Fixed(0, 1)) == pytest.approx(0, abs=1e-5)
    assert loss(Fixed(1, 3)) > 0.01
