"""What every method promises, checked on every configuration; a new method adds its configurations here."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from smidgen.code import Code, Stats, Table, Trellis
from smidgen.errors import PlanError
from smidgen.methods import METHODS, Binarize, Cluster, Method, Prune, Quantize, Squeeze

CONFIGURATIONS: list[Method] = [
    Prune(),
    Prune(0.25),
    Prune(1),
    Prune(0.3, scope="global"),
    Prune(pattern="2:4"),
    Prune(0.25, pattern="1:4"),
    Prune(0.4, filters=True),
    Prune(threshold=0.1),
    Cluster(),
    Cluster(2),
    Cluster(5, init="density"),
    Cluster(4, init="random", seed=3),
    Cluster(3, init="exact"),
    Cluster(3, init="exact", iterations=0),
    Cluster(256, keep_zeros=False),
    Quantize(),
    Quantize(2),
    Quantize(3, symmetric=False),
    Quantize(4, granularity="axis"),
    Quantize(5, granularity="group", group=3),
    Quantize(4, range="mse"),
    Quantize(2, symmetric=False, granularity="axis", range="mse"),
    Quantize(3, granularity="group", group=4, range="mse"),
    Quantize(5, step=0.3),
    Quantize(6, step=0.2, rounding="squant"),
    Quantize(3, symmetric=False, granularity="axis", rounding="squant"),
    Binarize(),
    Binarize(ternary=True),
    Squeeze(),
    Squeeze(0.01),
    Squeeze(1e-12),
]

# applied to their own output these change nothing: their levels are reproduced exactly, or kept as they are
IDEMPOTENT = (Prune, Cluster)

# refuse a single number with a PlanError
NEEDS_AN_AXIS = (Squeeze,)


def weights() -> st.SearchStrategy[np.ndarray]:
    """Small weights of one to four axes: random, repeated, constant, all zero, tiny and huge."""
    shapes = hnp.array_shapes(min_dims=0, max_dims=4, max_side=6)
    magnitudes = st.sampled_from([1e-45, 1e-38, 1e-20, 1.0, 1e20, 0.99e38])
    units = st.one_of(st.floats(-1, 1, width=32), st.sampled_from([0.0, -0.0, 0.5, -1.0]))

    def scaled(shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
        varied = hnp.arrays(np.float32, shape, elements=units)
        constant = units.map(lambda value: np.full(shape, value, np.float32))
        return st.tuples(varied | constant, magnitudes).map(lambda pair: np.float32(pair[1]) * pair[0])

    return shapes.flatmap(scaled).map(lambda array: np.asarray(array, np.float32))


def stats_for(weight: np.ndarray, seed: int = 0) -> Stats:
    """Statistics that fit, with one input that was never active."""
    inputs = weight.size // weight.shape[0] if weight.ndim else 1
    active = np.random.default_rng(seed).normal(size=(20, inputs))
    active[:, 0] = 0
    return Stats(active.T @ active / 20, 1.0, 20)


def values(result: np.ndarray | Code) -> np.ndarray:
    return result.values() if isinstance(result, Code) else result


def assert_contract(method: Method, weight: np.ndarray, stats: Stats | None) -> None:
    if weight.ndim == 0 and isinstance(method, NEEDS_AN_AXIS):
        with pytest.raises(PlanError, match="no axis"):
            method(weight, stats)
        return
    before = weight.copy()
    result = method(weight, stats)
    assert np.array_equal(weight, before), "the input was changed"
    again = method(weight, stats)
    same = result == again if isinstance(result, Code) else np.array_equal(result, again)
    assert same, "two runs differ"
    assert result.shape == weight.shape
    out = values(result)
    assert out.dtype == np.float32
    assert np.isfinite(out).all()
    assert eval(repr(method), dict(METHODS)) == method
    if isinstance(result, Code):
        assert_code(result)
    if isinstance(method, IDEMPOTENT):
        assert np.array_equal(values(method(out, stats)), out)


def assert_code(code: Code) -> None:
    if isinstance(code.rule, Table):
        levels = code.rule.levels[0]
        assert (np.diff(levels) > 0).all()
        assert np.array_equal(np.unique(code.symbols), np.arange(levels.size)), "unused levels"
    elif isinstance(code.rule, Trellis):
        assert 0 < code.rule.scale < np.inf
        assert np.abs(code.symbols).max() <= 127, "more than 255 levels"
    else:
        assert code.rule.scale.dtype == np.float32
        assert code.rule.zero.dtype == np.int16
        assert np.isfinite(code.rule.scale).all()
        assert (code.rule.scale >= 0).all()


def squared_error(weight: np.ndarray, result: np.ndarray | Code, importance: np.ndarray | float = 1.0) -> float:
    return float((importance * (weight.astype(np.float64) - values(result)) ** 2).sum())
