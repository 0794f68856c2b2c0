"""The trellis: its levels after docs/format.md, its file, and that the path that is found is the cheapest."""

from __future__ import annotations

import struct
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from smidgen._core import ffi, lib

from smidgen.archive import Archive
from smidgen.code import TRELLIS_LIMIT, Code, Trellis
from smidgen.errors import WeightError
from smidgen.file import FAST, SMALLEST, inspect, read, write
from tests.reference import container as reference

AFTER_EVEN = {8: (0, 5, 1, 6, 2, 4, 3, 7), 64: tuple(t // 2 ^ (33 if t % 2 else 0) for t in range(64))}
AFTER_ODD = {8: (2, 7, 3, 4, 0, 6, 1, 5), 64: tuple(t ^ 10 for t in AFTER_EVEN[64])}

symbols = hnp.arrays(
    np.int16,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=7),
    elements=st.integers(-4, 4) | st.integers(-TRELLIS_LIMIT, TRELLIS_LIMIT),
)


def slow_path(column: list[int], states: int = 64) -> list[tuple[int, int]]:
    """The levels of one column and the grids that they are on, symbol by symbol."""
    state, found = 0, []
    for symbol in column:
        level = 2 * symbol
        if state % 2 == 1:
            level -= (symbol > 0) - (symbol < 0)
        found.append((level, state % 2))
        state = (AFTER_ODD if symbol % 2 else AFTER_EVEN)[states][state]
    return found


def slow_levels(array: NDArray[np.int16], states: int = 64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    columns = array.reshape(len(array), -1).T
    paths = np.array([slow_path(column.tolist(), states) for column in columns])
    return paths[..., 0].T.reshape(array.shape), paths[..., 1].T.reshape(array.shape)


@given(symbols, st.sampled_from([8, 64]))
def test_levels_are_those_of_the_plain_twin(array: NDArray[np.int16], states: int) -> None:
    levels, grids = Trellis(1.0, states).levels(array)
    expected, on = slow_levels(array, states)
    np.testing.assert_array_equal(levels, expected)
    np.testing.assert_array_equal(grids, on)


@given(symbols, st.floats(2.0**-100, 2.0**100, width=32))
def test_values_are_levels_times_the_scale(array: NDArray[np.int16], scale: float) -> None:
    values = Trellis(scale).values(array)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, slow_levels(array)[0].astype(np.float32) * np.float32(scale))


def test_memory_order_does_not_matter() -> None:
    array = np.random.default_rng(0).integers(-5, 6, (6, 4, 3)).astype(np.int16)
    for view in (np.asfortranarray(array), array[:, ::-1], array.transpose(2, 0, 1)):
        np.testing.assert_array_equal(Trellis(1.0).levels(view)[0], slow_levels(view)[0])


@pytest.mark.parametrize("scale", [0.0, -0.5, float("nan"), float("inf"), 0.1, 1e-50])
def test_scales_that_are_refused(scale: float) -> None:
    with pytest.raises(WeightError, match="the scale must be a positive float32"):
        Trellis(scale)


@pytest.mark.parametrize("states", [0, 4, 16, 65, "8"])
def test_states_that_are_refused(states: int) -> None:
    with pytest.raises(WeightError, match="there are 8 or 64 states"):
        Trellis(0.5, states)


def test_every_state_has_two_before_it_and_they_lie_on_one_grid() -> None:
    for states in (8, 64):
        after = [(AFTER_EVEN[states][t], AFTER_ODD[states][t]) for t in range(states)]
        for t in range(states):
            before = [s for s in range(states) if t in after[s]]
            assert len(before) == 2
            assert before[0] % 2 == before[1] % 2


def test_symbols_that_are_refused() -> None:
    with pytest.raises(WeightError, match="needs an axis"):
        Code(np.array(1, np.int16), Trellis(1.0))
    for far in (TRELLIS_LIMIT + 1, -TRELLIS_LIMIT - 1):
        with pytest.raises(WeightError, match=r"within -16383\.\.16383"):
            Code(np.array([0, far], np.int16), Trellis(1.0))
    with pytest.raises(WeightError, match="at most 256 levels"):
        Code(np.arange(257, dtype=np.int16), Trellis(1.0))
    widest = Code(np.array([TRELLIS_LIMIT, -TRELLIS_LIMIT], np.int16), Trellis(1.0))
    assert widest.values().tolist() == [32766, -32766]


def test_equal_only_with_the_same_scale_and_rule() -> None:
    array = np.array([[1, 2]], np.int16)
    assert Code(array, Trellis(0.5)) == Code(array.copy(), Trellis(0.5))
    assert Code(array, Trellis(0.5)) != Code(array, Trellis(0.25))
    assert Code(array, Trellis(0.5)) != Code(array, Trellis(0.5, 8))


@settings(max_examples=50)
@given(
    hnp.arrays(np.int16, hnp.array_shapes(min_dims=1, max_dims=4, max_side=6), elements=st.integers(-9, 9)),
    st.floats(2.0**-140, 2.0**100, width=32),
    st.sampled_from([SMALLEST, FAST, ("mixed",), ("mixed64",)]),
    st.sampled_from([8, 64]),
)
def test_file_keeps_code_and_values(
    array: NDArray[np.int16], scale: float, codecs: tuple[str, ...], states: int
) -> None:
    code = Code(array, Trellis(scale, states))
    data = write(Archive(b"", {"w": code}), codecs)
    found = read(data).tensors["w"]
    assert found == code
    np.testing.assert_array_equal(found.values(), code.values())
    (record,) = reference.records(data)
    assert (record.rule, record.axis, record.rows, record.columns, len(record.planes)) == (
        3 if states == 8 else 4,
        255,
        1,
        1,
        5,
    )
    assert [record.first + record.step * p for p in record.planes[0]] == array.reshape(-1).tolist()
    stored = struct.unpack("<f", bytes(plane[0] for plane in record.planes[1:]))[0]
    np.testing.assert_array_equal(
        found.values(), (slow_levels(array, states)[0] * np.float32(stored)).astype(np.float32)
    )
    (info,) = inspect(data)
    assert (info.kind, info.levels, info.shape) == ("trellis", code.alphabet[2], array.shape)


# The search for a path. All arrays hold columns one after another: shape (columns, rows).


def squeeze(
    weights: NDArray[Any],
    costs: NDArray[Any],
    scale: float = 1.0,
    column_feedback: NDArray[Any] | None = None,
    row_feedback: NDArray[Any] | None = None,
    harm: NDArray[Any] | None = None,
    row_harm: NDArray[Any] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]:
    """Symbols, errors and targets that the core gives; feedback is none and harm 1 where not said."""
    columns, rows = weights.shape
    given_ = [
        costs,
        np.eye(columns) if column_feedback is None else column_feedback,
        np.ones(columns) if harm is None else harm,
        np.eye(rows) if row_feedback is None else row_feedback,
        np.ones(rows) if row_harm is None else row_harm,
    ]
    held = [np.ascontiguousarray(array, np.float32) for array in (*given_, weights)]
    targets, errors, aims = held[-1].copy(), np.empty_like(held[-1]), np.empty(rows, np.float32)
    found, paths = np.empty(weights.shape, np.int16), np.empty((rows, 64), np.int16)
    pointers = [ffi.from_buffer("float[]", array) for array in held]
    limit = (costs.shape[1] - 1) // 2
    settings_ = ffi.new("smidgen_squeeze *", (rows, columns, scale, limit, *pointers[:-1]))
    lib.smidgen_trellis_squeeze(
        settings_,
        pointers[-1],
        ffi.from_buffer("float[]", targets),
        ffi.from_buffer("int16_t[]", found),
        ffi.from_buffer("float[]", errors),
        ffi.from_buffer("float[]", aims),
        ffi.from_buffer("int16_t[]", paths),
    )
    return found, errors, targets


def rising_costs(rng: np.random.Generator, limit: int) -> NDArray[np.float64]:
    """Costs of both grids that are the same for k and -k, and rise with |k|: those that ``Squeeze`` starts from."""
    half = np.sort(rng.uniform(0, 6, (2, limit + 1)), axis=1)
    return np.concatenate([half[:, :0:-1], half], axis=1)


def cost_of(path: tuple[int, ...], aims: NDArray[Any], harm: NDArray[Any], costs: NDArray[Any], scale: float) -> float:
    limit = (costs.shape[1] - 1) // 2
    found = slow_path(list(path))
    return sum(
        float(h * (aim - scale * level) ** 2 + costs[grid, symbol + limit])
        for h, aim, symbol, (level, grid) in zip(harm, aims, path, found, strict=True)
    )


@pytest.mark.parametrize("seed", range(12))
def test_path_is_the_cheapest_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scale, harm = float(np.float32(rng.uniform(0.3, 2))), rng.uniform(0.2, 3, 1)
    weights = np.float32(rng.normal(0, 2 * scale, (1, 5)))
    row_harm, costs = np.float32(rng.uniform(0.3, 3, 5)), np.float32(rising_costs(rng, 2))
    (path,), (errors,), _ = squeeze(weights, costs, scale, harm=harm, row_harm=row_harm)
    total = harm * row_harm
    found = cost_of(tuple(path.tolist()), weights[0], total, costs, scale)
    least = min(cost_of(tried, weights[0], total, costs, scale) for tried in product(range(-2, 3), repeat=5))
    assert found == pytest.approx(least, rel=1e-5)
    np.testing.assert_allclose(errors, weights[0] - scale * slow_levels(path)[0], atol=1e-5)


def test_weights_beyond_the_last_level_get_the_last_symbol() -> None:
    costs = np.zeros((2, 2 * 3 + 1))
    (path,), _, _ = squeeze(np.array([[1e3, -1e3, 100.0, 0.0]]), costs, harm=np.array([1e-6]))
    assert (np.abs(path[:3]) >= 2).all()
    assert np.sign(path[:3]).tolist() == [1, -1, 1]


@pytest.mark.parametrize("rows", [1, 63, 64, 65, 130])
def test_feedback_adds_up_as_the_header_says(rows: int) -> None:
    """More rows than survivors may differ in included."""
    rng = np.random.default_rng(rows)
    columns = 3
    weights = np.float32(rng.normal(0, 2, (columns, rows)))
    column_feedback = np.triu(rng.normal(0, 0.4, (columns, columns)), 1) + np.eye(columns)
    row_feedback = np.triu(rng.normal(0, 0.05, (rows, rows)), 1) + np.eye(rows)
    costs = rising_costs(rng, 9)
    found, errors, targets = squeeze(weights, costs, 0.5, column_feedback, row_feedback)
    values = 0.5 * slow_levels(np.ascontiguousarray(found.T))[0].T
    np.testing.assert_allclose(errors, weights - values, atol=1e-4)
    np.testing.assert_allclose(targets, weights + np.triu(column_feedback, 1).T @ errors, atol=1e-4)
    assert np.abs(found).max() <= 9
    again = squeeze(weights, costs, 0.5, column_feedback, row_feedback)
    np.testing.assert_array_equal(found, again[0])


def test_survivors_that_never_meet() -> None:
    """Where nothing costs or harms they all go on, and rows leave the window with those of the best one."""
    weights = np.float32(np.random.default_rng(6).normal(0, 2, (2, 200)))
    row_feedback = np.triu(np.full((200, 200), 1e-3), 1) + np.eye(200)
    found, errors, _ = squeeze(weights, np.zeros((2, 9)), 0.5, row_feedback=row_feedback, harm=np.full(2, 1e-40))
    values = 0.5 * slow_levels(np.ascontiguousarray(found.T))[0].T
    np.testing.assert_allclose(errors, weights - values, atol=1e-5)


def test_columns_without_feedback_are_on_their_own() -> None:
    rng = np.random.default_rng(3)
    weights, costs = np.float32(rng.normal(0, 3, (4, 20))), rising_costs(rng, 12)
    together = squeeze(weights, costs)[0]
    for column, expected in zip(weights, together, strict=True):
        np.testing.assert_array_equal(squeeze(column[None], costs)[0][0], expected)


@pytest.mark.parametrize("outputs", [12, 100])
def test_row_feedback_lowers_the_harm_of_correlated_outputs(outputs: int) -> None:
    rng = np.random.default_rng(4)
    mixing = rng.normal(size=(outputs, outputs)) / outputs**0.5 + np.eye(outputs)
    form = mixing @ mixing.T + 0.05 * np.eye(outputs)
    upper = np.linalg.cholesky(form[::-1, ::-1])[::-1, ::-1]
    remaining, feedback = np.diagonal(upper) ** 2, upper / np.diagonal(upper)
    weights, free = np.float32(rng.normal(0, 3, (40, outputs))), np.zeros((2, 41))
    plain = squeeze(weights, free)[1]
    answered = squeeze(weights, free, row_feedback=feedback, row_harm=remaining)[1]
    assert np.einsum("cr,rs,cs->", answered, form, answered) < 0.8 * np.einsum("cr,rs,cs->", plain, form, plain)


def test_trellis_beats_one_grid_of_double_steps() -> None:
    """What the two grids are for: symbols of the same number, at less than 0.7 of the error (8 states gave 0.73)."""
    weights = np.float32(np.random.default_rng(5).uniform(-8, 8, (1, 4000)))
    (path,), (errors,), _ = squeeze(weights, np.zeros((2, 41)))
    assert np.unique(path).size <= 11
    single = weights - 2 * np.rint(weights / 2)
    assert (errors.astype(float) ** 2).mean() < 0.7 * (single.astype(float) ** 2).mean()
