from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from methods_contract import CONFIGURATIONS, assert_contract, squared_error, stats_for, values, weights

from smidgen.code import Stats
from smidgen.errors import PlanError, WeightError
from smidgen.methods import METHODS, Binarize, Cluster, Method, Prune, Quantize, Squeeze
from smidgen.methods.base import importance_of
from smidgen.methods.cluster import EXACT_POINTS

normal = np.random.default_rng(7).normal(size=(12, 5, 3, 3)).astype(np.float32)
small = hnp.arrays(np.float32, st.integers(1, 11), elements=st.integers(-9, 9).map(float))


@pytest.mark.parametrize("method", CONFIGURATIONS, ids=repr)
@given(weight=weights(), measured=st.booleans())
@settings(max_examples=60, deadline=None)
def test_contract(method: Method, weight: np.ndarray, measured: bool) -> None:
    assert_contract(method, weight, stats_for(weight) if measured else None)


def test_every_method_is_in_the_contract() -> None:
    assert {type(method) for method in CONFIGURATIONS} == set(METHODS.values())


@pytest.mark.parametrize("method", [Prune(), Cluster(), Quantize(), Binarize(), Squeeze()], ids=repr)
@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (np.zeros((3, 0), np.float32), "holds no weights"),
        (np.array([1, np.nan], np.float32), "NaN or infinity"),
        (np.array([1, -np.inf], np.float32), "NaN or infinity"),
        (np.array([1, 2]), "not int64"),
        (np.array([1e39]), "magnitude"),
    ],
)
def test_weights_that_no_method_takes(method: Method, weight: np.ndarray, reason: str) -> None:
    with pytest.raises(WeightError, match=reason):
        method(weight)


@pytest.mark.parametrize("method", [Prune(), Cluster(), Quantize(range="mse"), Binarize(), Squeeze()], ids=repr)
def test_statistics_that_do_not_fit(method: Method) -> None:
    with pytest.raises(WeightError, match="do not fit"):
        method(normal, Stats(np.eye(3), 1.0, 1))
    with pytest.raises(WeightError, match=r"second moments|a moment is not"):
        method(normal, Stats(-np.eye(45), 1.0, 1))


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Prune, {"density": 0}),
        (Prune, {"density": 1.5}),
        (Prune, {"density": float("nan")}),
        (Prune, {"density": True}),
        (Prune, {"scope": "all"}),
        (Prune, {"pattern": "4:2"}),
        (Prune, {"pattern": "2/4"}),
        (Prune, {"pattern": 24}),
        (Prune, {"filters": 1}),
        (Prune, {"threshold": float("inf")}),
        (Prune, {"pattern": "2:4", "density": 0.3}),
        (Prune, {"pattern": "2:4", "filters": True}),
        (Prune, {"pattern": "2:4", "scope": "global"}),
        (Prune, {"filters": True, "scope": "global"}),
        (Prune, {"filters": True, "threshold": 1.0}),
        (Cluster, {"levels": 1}),
        (Cluster, {"levels": 257}),
        (Cluster, {"levels": 4.0}),
        (Cluster, {"init": "kmeans"}),
        (Cluster, {"keep_zeros": "yes"}),
        (Cluster, {"iterations": -1}),
        (Cluster, {"seed": -1}),
        (Quantize, {"bits": 1}),
        (Quantize, {"bits": 9}),
        (Quantize, {"bits": "8"}),
        (Quantize, {"symmetric": None}),
        (Quantize, {"granularity": "filter"}),
        (Quantize, {"axis": -1, "granularity": "axis"}),
        (Quantize, {"axis": 1}),
        (Quantize, {"group": 32}),
        (Quantize, {"group": 0, "granularity": "group"}),
        (Quantize, {"range": "kl"}),
        (Quantize, {"step": 0.0}),
        (Quantize, {"step": 0.5, "granularity": "axis"}),
        (Quantize, {"step": 0.5, "range": "mse"}),
        (Quantize, {"step": 0.5, "symmetric": False}),
        (Binarize, {"ternary": "true"}),
    ],
)
def test_fields_that_are_not_allowed(kind: type[Method], fields: dict[str, object]) -> None:
    with pytest.raises(PlanError) as caught:
        kind(**fields)
    message = str(caught.value)
    assert message.startswith(f"{kind.__name__}: ")
    assert any(f"{field}={value!r}" in message for field, value in fields.items())
    assert "\n" not in message


def test_importance_never_vanishes() -> None:
    weight = np.ones((2, 3), np.float32)
    assert importance_of(weight, Stats(np.zeros((3, 3)), 1.0, 1)).min() > 0
    uneven = importance_of(weight, Stats(np.diag([0.0, 1.0, 2.0]), 1.0, 1))
    assert np.allclose(uneven, [[1e-6, 1, 2]] * 2)


# Prune


@given(weight=weights(), density=st.floats(0.01, 1))
@settings(deadline=None)
def test_density_is_exact(weight: np.ndarray, density: float) -> None:
    pruned = Prune(density)(weight)
    kept = round(density * weight.size)
    assert np.count_nonzero(pruned) == min(kept, np.count_nonzero(weight))
    assert np.isin(pruned, np.append(weight, 0)).all()
    gone = np.abs(weight[pruned == 0])
    if kept and gone.size and pruned.any():
        assert gone.max() <= np.abs(pruned[pruned != 0]).min()


def test_ties_keep_the_first() -> None:
    assert Prune(0.5)(np.array([2, -1, 1, 1], np.float32)).tolist() == [2, -1, 0, 0]


def test_importance_decides() -> None:
    stats = Stats(np.diag([100.0, 1.0]), 1.0, 1)
    assert Prune(0.5)(np.array([[1, 5]], np.float32), stats).tolist() == [[1, 0]]


@pytest.mark.parametrize(("kept", "run"), [(2, 4), (1, 4), (3, 8)])
def test_pattern(kept: int, run: int) -> None:
    pruned = Prune(pattern=f"{kept}:{run}")(normal).reshape(12, -1)
    rows = np.abs(normal.reshape(12, -1))
    for start in range(0, 45, run):
        part = pruned[:, start : start + run]
        assert (np.count_nonzero(part, axis=1) == min(kept, part.shape[1])).all()
        largest = np.sort(rows[:, start : start + run], axis=1)[:, ::-1][:, :kept]
        assert np.array_equal(np.sort(np.abs(part), axis=1)[:, ::-1][:, :kept], largest)


def test_filters() -> None:
    pruned = Prune(0.25, filters=True)(normal).reshape(12, -1)
    norms = np.linalg.norm(normal.reshape(12, -1), axis=1)
    alive = pruned.any(axis=1)
    assert alive.sum() == 3
    assert norms[alive].min() > norms[~alive].max()
    assert np.array_equal(pruned[alive], normal.reshape(12, -1)[alive])
    assert Prune(0.01, filters=True)(normal).any()


@given(density=st.floats(0.01, 1))
def test_global_density(density: float) -> None:
    tensors = {"small": 0.1 * normal, "large": normal[:5].reshape(5, -1), "one": normal[0, 0, 0]}
    method = Prune(density, scope="global").resolve(tensors)
    pruned = [method(tensor) for tensor in tensors.values()]
    total = sum(tensor.size for tensor in tensors.values())
    # float32 draws hold few ties, but copies of the large tensor's weights come in pairs
    kept = sum(np.count_nonzero(tensor) for tensor in pruned)
    assert 0 <= kept - round(density * total) <= 1
    assert min(np.abs(p[p != 0]).min(initial=np.inf) for p in pruned) >= method.threshold
    assert eval(repr(method), dict(METHODS)) == method


def test_global_scope_sees_all_tensors() -> None:
    tensors = {"small": np.array([1, 2], np.float32), "large": np.array([3, 4], np.float32)}
    method = Prune(0.5, scope="global").resolve(tensors)
    assert method(tensors["small"]).tolist() == [0, 0]
    assert method(tensors["large"]).tolist() == [3, 4]
    assert Prune(0.5).resolve(tensors) == Prune(0.5)
    assert not any(Prune(0.1, scope="global").resolve(tensors)(tensor).any() for tensor in tensors.values())
    with pytest.raises(PlanError, match="small has none"):
        Prune(0.5, scope="global").resolve(tensors, {"large": Stats(np.eye(1), 1.0, 1)})


# Cluster


def least_error(weight: np.ndarray, mass: np.ndarray, levels: int) -> float:
    """The error of the best codebook: every way to cut the sorted values is tried."""
    order = np.argsort(weight, kind="stable")
    weight, mass = weight[order].astype(np.float64), mass[order]

    def cost(part: slice) -> float:
        center = np.average(weight[part], weights=mass[part])
        return float((mass[part] * (weight[part] - center) ** 2).sum())

    cuts = combinations(range(1, weight.size), min(levels, weight.size) - 1)
    return min(sum(cost(slice(a, b)) for a, b in zip((0, *cut), (*cut, weight.size), strict=True)) for cut in cuts)


@given(weight=small, levels=st.integers(2, 5), measured=st.booleans())
@settings(deadline=None)
def test_exact_is_the_optimum(weight: np.ndarray, levels: int, measured: bool) -> None:
    mass = np.random.default_rng(weight.size).uniform(0.1, 3, weight.size) if measured else np.ones(weight.size)
    stats = Stats(np.diag(mass), 1.0, 1) if measured else None
    result = Cluster(levels, init="exact", iterations=0, keep_zeros=False)(weight[None], stats)
    error = squared_error(weight[None], result, mass)
    assert error == pytest.approx(least_error(weight, mass, levels), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("levels", [2, 7, 32])
def test_exact_is_never_worse_than_the_others(levels: int) -> None:
    error = {
        init: squared_error(normal, Cluster(levels, init=init, iterations=1000)(normal))
        for init in ("linear", "density", "random", "exact")
    }
    assert error["exact"] <= min(error.values()) * (1 + 1e-6)


def test_exact_on_more_values_than_it_can_take() -> None:
    many = np.random.default_rng(1).standard_t(3, size=(3 * EXACT_POINTS,)).astype(np.float32)
    exact = squared_error(many, Cluster(16, init="exact")(many))
    for init in ("linear", "density", "random"):
        assert exact <= squared_error(many, Cluster(16, init=init, iterations=1000)(many)) * 1.001


@given(weight=weights())
@settings(deadline=None)
def test_zeros_have_a_level_of_their_own(weight: np.ndarray) -> None:
    pruned = Prune(0.5)(weight)
    code = Cluster(3)(pruned)
    assert (code.values()[pruned == 0] == 0).all()
    assert code.rule.levels.size <= 3


def test_pruned_and_clustered_keeps_its_pattern() -> None:
    pruned = Prune(0.3)(normal)
    assert np.array_equal(Cluster(16)(pruned).values() != 0, pruned != 0)


@given(weight=weights())
@settings(deadline=None)
def test_few_values_are_coded_without_loss(weight: np.ndarray) -> None:
    few = np.sign(weight)
    for init in ("linear", "density", "random", "exact"):
        assert np.array_equal(Cluster(3, init=init)(few).values(), few)


def test_iterations_improve_and_seeds_differ() -> None:
    errors = [squared_error(normal, Cluster(8, iterations=n)(normal)) for n in (0, 1, 5, 50)]
    assert errors == sorted(errors, reverse=True)
    assert Cluster(8, init="random", iterations=0)(normal) != Cluster(8, init="random", iterations=0, seed=1)(normal)


def test_cluster_weighs_by_importance() -> None:
    stats = stats_for(normal)
    importance = importance_of(normal, stats)
    weighted = squared_error(normal, Cluster(4, init="exact")(normal, stats), importance)
    assert weighted < squared_error(normal, Cluster(4, init="exact")(normal), importance)


# Quantize


@given(weight=weights(), symmetric=st.booleans(), bits=st.integers(2, 8))
@settings(deadline=None)
def test_minmax_rounds_to_the_nearest(weight: np.ndarray, symmetric: bool, bits: int) -> None:
    code = Quantize(bits, symmetric)(weight)
    step = float(code.rule.scale[0, 0])
    # an asymmetric zero point is rounded, so that the ends may lie half a step outside
    bound = step * (0.5 if symmetric else 1.0)
    assert np.abs(weight.astype(np.float64) - code.values()).max() <= bound * (1 + 1e-5) + np.abs(weight).max() * 1e-6
    assert (code.values()[weight == 0] == 0).all()
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if symmetric else (0, 2**bits - 1)
    assert low <= code.symbols.min()
    assert code.symbols.max() <= high


@given(
    weight=weights(),
    bits=st.integers(2, 8),
    symmetric=st.booleans(),
    granularity=st.sampled_from(["tensor", "axis", "group"]),
    measured=st.booleans(),
)
@settings(deadline=None)
def test_mse_is_never_worse_than_minmax(
    weight: np.ndarray, bits: int, symmetric: bool, granularity: str, measured: bool
) -> None:
    stats = stats_for(weight) if measured else None
    importance = importance_of(weight, stats)
    minmax, mse = (Quantize(bits, symmetric, granularity, range=kind)(weight, stats) for kind in ("minmax", "mse"))
    # values are multiplied in float32, whose rounding is all that may differ
    slack = float((importance * (1e-6 * weight.astype(np.float64)) ** 2).sum())
    assert squared_error(weight, mse, importance) <= squared_error(weight, minmax, importance) * (1 + 1e-5) + slack


def test_mse_is_near_the_best_scale() -> None:
    flat = normal.reshape(1, -1)
    scales = np.linspace(0.01, np.abs(flat).max(), 2000)[:, None]
    grid = (np.clip(np.rint(flat / scales), -3, 3) * scales - flat) ** 2
    best = grid.sum(axis=1).min()
    assert squared_error(normal, Quantize(3, range="mse")(normal)) <= best * 1.005


@pytest.mark.parametrize("axis", [0, 1])
def test_int8_agrees_with_torch(axis: int) -> None:
    torch = pytest.importorskip("torch")
    code = Quantize(granularity="axis", axis=axis)(normal)
    rule = code.rule
    expected = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(normal),
        torch.from_numpy(rule.scale[:, 0].copy()),
        torch.zeros(normal.shape[axis], dtype=torch.int32),
        axis,
        -127,
        127,
    ).numpy()
    assert np.allclose(code.values(), expected, rtol=1e-6, atol=0)
    other = tuple(i for i in range(4) if i != axis)
    assert np.allclose(rule.scale[:, 0], np.abs(normal).max(axis=other) / 127)


def test_asymmetric_agrees_with_torch() -> None:
    torch = pytest.importorskip("torch")
    code = Quantize(4, symmetric=False)(normal + 1)
    scale, zero = float(code.rule.scale[0, 0]), int(code.rule.zero[0, 0])
    expected = torch.fake_quantize_per_tensor_affine(torch.from_numpy(normal + 1), scale, zero, 0, 15).numpy()
    assert np.allclose(code.values(), expected, rtol=1e-6, atol=0)


@given(rest=st.integers(1, 40), group=st.integers(1, 45))
@settings(deadline=None)
def test_groups_that_do_not_divide(rest: int, group: int) -> None:
    weight = np.random.default_rng(rest).normal(size=(3, rest)).astype(np.float32)
    code = Quantize(8, granularity="group", group=group)(weight)
    groups = -(-rest // group)
    run = -(-rest // groups)
    assert code.rule.scale.shape == (3, groups)
    assert run <= group
    for number in range(groups):
        part = weight[:, number * run : (number + 1) * run]
        assert np.allclose(code.rule.scale[:, number], np.abs(part).max(axis=1) / 127)
    assert np.abs(code.values() - weight).max() <= code.rule.scale.max() * 0.51


def test_group_of_a_bias_and_axis_out_of_range() -> None:
    bias = np.arange(1, 101, dtype=np.float32)
    assert Quantize(granularity="group", group=30)(bias).rule.scale.shape == (1, 4)
    assert Quantize(granularity="axis", axis=1)(bias).rule.scale.shape == (1, 1)
    with pytest.raises(PlanError, match="only 2 axes"):
        Quantize(granularity="axis", axis=2)(normal[0, 0])


def test_symmetric_minmax_keeps_its_symbols() -> None:
    for method in (Quantize(4), Quantize(3, granularity="axis"), Quantize(5, granularity="group")):
        code = method(normal)
        assert np.array_equal(method(code.values()).symbols, code.symbols)


def test_zeros_and_steps() -> None:
    zeros = Quantize(4, granularity="axis", range="mse")(np.zeros((2, 3), np.float32))
    assert zeros.rule.scale.tolist() == [[1], [1]]
    code = Quantize(4, step=0.5)(normal)
    assert code.rule.scale[0, 0] == pytest.approx(normal.std() / 2, rel=1e-5)
    assert np.abs(code.symbols).max() <= 7
    constant = np.full((2, 3), 0.3, np.float32)
    assert np.allclose(Quantize(4, step=0.5)(constant).values(), constant)
    assert not Quantize(4, step=1e300)(normal).symbols.any()


# Binarize


def test_binary_scales() -> None:
    code = Binarize()(normal)
    rows = normal.reshape(12, -1)
    assert np.array_equal(code.symbols.reshape(12, -1), np.where(rows < 0, -1, 1))
    assert np.allclose(code.rule.scale[:, 0], np.abs(rows).mean(axis=1))
    assert code.alphabet == (-1, 2, 2)
    for factor in (0.99, 1.01):
        assert squared_error(normal, code) < squared_error(normal, values(code) * np.float32(factor))


def test_ternary_scales() -> None:
    code = Binarize(ternary=True)(normal)
    rows = np.abs(normal.reshape(12, -1))
    above = rows > 0.7 * rows.mean(axis=1, keepdims=True)
    assert np.array_equal(np.abs(code.symbols.reshape(12, -1)), above)
    assert np.allclose(code.rule.scale[:, 0], (rows * above).sum(axis=1) / above.sum(axis=1))
    assert squared_error(normal, code) < squared_error(normal, Binarize()(normal))


def test_binary_bias_is_one_filter_and_importance_counts() -> None:
    assert Binarize()(np.array([1, -3], np.float32)).values().tolist() == [2, -2]
    stats = Stats(np.diag([3.0, 1.0]), 1.0, 1)
    assert Binarize()(np.array([[1, -3]], np.float32), stats).values().tolist() == [[1.5, -1.5]]
