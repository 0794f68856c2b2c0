"""SQuant's rounding against its definition, computed plainly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import PlanError
from smidgen.methods import Prune, Quantize
from smidgen.methods.rounding import squant


@given(st.integers(0, 2**32 - 1), st.sampled_from([(3, 5, 3, 3), (4, 7), (2, 3, 1, 1), (1, 1, 5)]))
def test_errors_of_kernels_and_filters_nearly_cancel(seed: int, shape: tuple[int, ...]) -> None:
    ideal = np.random.default_rng(seed).normal(0, 5, shape)
    error = (ideal - squant(ideal, -100, 100)).reshape(*shape[:2], -1)
    assert np.abs(error).max() <= 1 + 1e-9
    # a kernel is within half a step of its own, and one more flip may serve its filter
    assert np.abs(error.sum(axis=2)).max() <= 1 + 1e-9
    assert np.abs(error.sum(axis=(1, 2))).max() <= 0.5 + 1e-9


def test_nothing_leaves_the_range_and_integers_stay() -> None:
    ideal = np.array([[-9.0, 7.6, 0.0, 0.0, 3.4, 3.4, 3.4]])
    symbols = squant(ideal, -7, 7)
    assert (symbols.min(), symbols.max()) == (-7, 7)
    assert (symbols[0, 2:4] == 0).all()


def test_pruned_weights_stay_zero() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 6, 3, 3)).astype(np.float32)
    pruned = Prune(0.3)(weight)
    assert isinstance(pruned, np.ndarray)
    code = Quantize(step=0.1, rounding="squant")(pruned)
    assert (code.values()[pruned == 0] == 0).all()


def test_the_output_for_equal_inputs_is_kept_better() -> None:
    weight = np.random.default_rng(1).normal(size=(64, 32, 3, 3)).astype(np.float32)
    worst = {
        rounding: np.abs((Quantize(4, rounding=rounding)(weight).values() - weight).sum(axis=(1, 2, 3))).max()
        for rounding in ("nearest", "squant")
    }
    assert worst["squant"] < worst["nearest"] / 5


def test_groups_have_no_common_step_to_move_by() -> None:
    with pytest.raises(PlanError, match="rounding"):
        Quantize(granularity="group", rounding="squant")
