"""How far answers lie apart: what is counted, for any task."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import jaccard_score

from smidgen.run.outputs import Output
from smidgen.run.tally import Tally

RNG = np.random.default_rng(0)


def tallied(output: Output, ours: np.ndarray, theirs: np.ndarray, batch: int = 3) -> Tally:
    tally = Tally(output)
    for place in range(0, len(ours), batch):
        tally.add(ours[place : place + batch], theirs[place : place + batch])
    return tally


@given(st.floats(0.01, 0.45), st.floats(0, 0.2), st.integers(0, 99))
def test_of_masks_it_is_the_intersection_over_the_union(part: float, wrong: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((7, 1, 12, 12)) < part
    other = mask ^ (rng.random(mask.shape) < wrong)
    expected = jaccard_score(mask.reshape(-1), other.reshape(-1), zero_division=1.0)
    chances = [np.where(each, 0.9, 0.1) for each in (mask, other)]
    assert tallied(Output("y", "chances"), *chances).agreement == pytest.approx(expected)
    scores = [np.concatenate([-chance, chance - 1], 1) for chance in chances]
    assert tallied(Output("y", "scores", 1), *scores).agreement == pytest.approx(expected)


def test_a_mask_of_nothing_agrees_in_nothing() -> None:
    mask = np.zeros((4, 1, 20, 20))
    mask[:, :, 3:5, 3:5] = 1.0
    assert tallied(Output("y", "chances"), mask, np.zeros_like(mask)).agreement == 0
    assert tallied(Output("y", "chances"), mask, mask).agreement == 1
    assert tallied(Output("y", "chances"), np.zeros_like(mask), np.zeros_like(mask)).agreement == 1


def test_a_background_does_not_count_whatever_its_number() -> None:
    """Classes 0, 1 and 2 for each of many pixels; 2 is the background."""
    ours = np.full((2, 100), 2)
    ours[:, :10], ours[:, 10:15] = 0, 1
    theirs = ours.copy()
    theirs[:, 8:12] = 2  # of 15 pixels that are something four are lost
    one_hot = [np.moveaxis(np.eye(3)[each], 2, 1) for each in (ours, theirs)]
    assert tallied(Output("y", "probabilities", 1), *one_hot).agreement == pytest.approx(11 / 15)


def test_one_class_for_each_input_is_counted_plainly() -> None:
    ours, theirs = (np.eye(3)[classes] for classes in ([0, 0, 0, 1, 2], [0, 0, 1, 1, 0]))
    assert tallied(Output("y", "scores", 1), ours, theirs).agreement == pytest.approx(3 / 5)
    chances = np.array([[0.9], [0.1], [0.2], [0.6]])
    assert tallied(Output("y", "chances"), chances, chances[[0, 1, 1, 1]]).agreement == pytest.approx(3 / 4)
    numbers = np.array([[1, 2], [3, 4]])
    assert tallied(Output("y", "values"), numbers, np.array([[1, 2], [3, 5]])).agreement == pytest.approx(3 / 4)


def test_another_number_of_things_is_another_answer() -> None:
    """As boxes are chosen by their chances: three of four times as many were found."""
    tally = Tally(Output("boxes", "values", 2, variance=(1.0, 1.0), examples=None))
    for count in (5, 5, 5, 4):
        tally.add(np.zeros((5, 2)), np.zeros((count, 2)))
    assert (tally.agreement, tally.divergence, tally.examples) == (0.75, 0.25, 4)
    tally = Tally(Output("classes", "scores", 2, examples=None))
    for count in (5, 4):
        tally.add(np.eye(5), np.eye(5)[:count])
    assert (tally.agreement, tally.divergence) == (0.5, 0.5)
