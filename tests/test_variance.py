"""What answers differ by, and errors in parts of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from smidgen.answers import divergence as divergence_in_torch
from smidgen.answers import vote
from smidgen.run.outputs import Output, divergence
from smidgen.run.tally import Tally
from smidgen.run.variance import Apart, Variance

SEEDS = st.integers(0, 2**32 - 1)


def variance_of(*batches: np.ndarray, axis: int = 0) -> tuple[float, ...]:
    added = Variance(axis)
    for batch in batches:
        added.add(batch)
    return added.found


@given(st.lists(st.integers(1, 4), min_size=2, max_size=6), SEEDS, st.sampled_from([0.0, 1e4, 3e9]))
def test_it_adds_up_as_numpy_says(sizes: list[int], seed: int, shift: float) -> None:
    answers = np.random.default_rng(seed).normal(shift, 2.0 + shift / 1e2, (sum(sizes), 3, 2))
    batches = np.split(answers, np.cumsum(sizes)[:-1])
    places = answers.var(0, ddof=1)
    for axis, found in (0, [places.mean()]), (1, places.mean(1)), (2, places.mean(0)):
        np.testing.assert_allclose(variance_of(*batches, axis=axis), found, rtol=1e-6)


@given(st.lists(st.integers(1, 5), min_size=2, max_size=6), SEEDS)
def test_of_sequences_the_mean_is_that_of_all_their_places(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    answers = [rng.normal([1.0, 50.0, -3.0], 2.0, (2, length, 3)) for length in [*lengths, 7]]
    if len({len(batch[0]) for batch in answers}) == 1:
        return
    places = np.concatenate([batch.reshape(-1, 3) for batch in answers])
    np.testing.assert_allclose(variance_of(*answers, axis=2), places.var(0, ddof=1))
    apart = Apart(2)
    for batch in answers:  # who guesses the mean
        apart.add(batch, np.broadcast_to(places.mean(0), batch.shape))
    np.testing.assert_allclose(apart.over(variance_of(*answers, axis=2)), 1 - 1 / len(places))


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((4,), 1), ((70,), 0), ((9, 3), 2), ((3, 5, 6), 1), ((2, 3, 4, 5), 1), ((100, 2, 2), 0), ((), 0)],
)
@pytest.mark.parametrize("examples", [0, 1, None])
def test_errors_are_those_of_sklearn_and_of_both_divergences(
    shape: tuple[int, ...], axis: int, examples: int | None
) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(7.0, rng.uniform(0.1, 30, shape), (40, *shape))
    others = rows + rng.normal(0.0, 1.0, rows.shape)
    apart = Apart(axis)
    for place in range(0, 40, 16):
        apart.add(rows[place : place + 16], others[place : place + 16])
    variance = variance_of(rows, axis=axis)
    output = Output("y", "values", axis, variance=variance, examples=examples if shape else 0)
    raw = [
        (each[None].squeeze(0) if output.examples is None else each.swapaxes(0, output.examples))
        for each in (rows, others)
    ]
    if output.examples is None:
        output = Output("y", "values", axis and axis + 1, variance=variance, examples=None)
    lost = apart.over(variance)
    np.testing.assert_allclose(2 * divergence(output, *raw).mean(), lost)
    for known in (output, replace(output, variance=None)):
        tally = Tally(known)
        tally.add(*raw)
        if examples is not None:
            np.testing.assert_allclose([2 * tally.divergence, 1 - tally.agreement], lost)
    np.testing.assert_allclose(2 * divergence_in_torch(output, *map(torch.from_numpy, raw)), lost)
    if len(shape) == 1:
        how = "uniform_average" if axis else "variance_weighted"
        np.testing.assert_allclose(lost, (1 - r2_score(rows, others, multioutput=how)) * 39 / 40)  # Bessel


@pytest.mark.parametrize("examples", [0, 1, 2, None])
def test_the_vote_has_the_second_derivative_of_the_divergence_as_its_power(examples: int | None) -> None:
    """Along each direction, for answers wherever they lie."""
    y = torch.randn(3, 4, 5, dtype=torch.float64)
    output = Output("y", "values", 2, variance=(1.0, 4.0, 9.0, 16.0, 25.0), examples=examples)
    count = 1 if examples is None else y.shape[examples]
    drawn = vote(output, y, torch.Generator())
    assert drawn is not None
    step = torch.zeros_like(y)
    for place in ((0, 0, 0), (2, 1, 4), (1, 3, 2)):
        step.zero_()[place] = 1.0
        curvature = 2 * divergence_in_torch(output, y, y + step) * count  # that is a mean over examples
        torch.testing.assert_close(drawn[place] ** 2, curvature)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), SEEDS)
def test_of_vectors_that_differ_in_length_all_numbers_are_one_thing(lengths: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    batches = [rng.normal(9.0, 2.0, (3, length)) for length in [6, *lengths]]
    apart = Apart(1)
    for batch in batches:
        apart.add(batch, batch + 1)
    numbers = np.concatenate([batch.reshape(-1) for batch in batches])
    np.testing.assert_allclose(variance_of(*batches, axis=1), numbers.var(ddof=1))
    np.testing.assert_allclose(apart.over(variance_of(*batches, axis=1)), 1 / numbers.var(ddof=1))


def test_each_of_few_numbers_counts_whatever_its_unit() -> None:
    """Of temperatures and pressures in one vector, too."""
    rows = np.random.default_rng(0).normal([290.0, 1e5], [5.0, 1e3], (500, 2))
    apart = Apart(1)
    apart.add(rows, np.stack([np.full(500, 290.0), rows[:, 1]], 1))
    np.testing.assert_allclose(apart.over(variance_of(rows, axis=1)), 0.5, rtol=0.05)


@pytest.mark.parametrize(
    ("answers", "axis", "found"),
    [
        ([[3.0, 4.0]] * 5, 1, (9.0, 16.0)),
        ([[3.0, 4.0]] * 5, 0, (12.5,)),
        ([[3.0, 0.0]], 1, (9.0, 4.5)),
        ([[0.0]] * 3, 1, (1.0,)),
        ([[2.45e6], [2.45e6 + 10]], 1, (50.0,)),
        ([[1e6, 1.0], [1e6, 3.0]], 0, (1.0,)),  # what never differs adds nothing
    ],
)
def test_answers_that_are_all_the_same_vary_by_their_square(
    answers: list[list[float]], axis: int, found: tuple[float, ...]
) -> None:
    np.testing.assert_allclose(variance_of(np.array(answers, np.float32), axis=axis), found)


def test_answers_without_numbers_are_not_apart() -> None:
    none, apart = np.zeros((4, 0)), Apart()
    apart.add(none, none)
    assert (variance_of(none), apart.over((1.0,))) == ((1.0,), 0.0)
    for kind in ("values", "scores", "chances"):
        assert divergence(Output("y", kind, 1), none, none).tolist() == [0.0] * 4
        tally = Tally(Output("y", kind, 1))
        tally.add(none, none)
        assert (tally.agreement, tally.divergence) == (1.0, 0.0)
