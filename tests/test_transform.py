from __future__ import annotations

import numpy as np
import pytest
from methods_contract import stats_for

from smidgen.code import Code, Stats
from smidgen.errors import PlanError, WeightError
from smidgen.methods import Binarize, Cluster, Method, Prune, Quantize
from smidgen.plan import Plan
from smidgen.transform import transform

rng = np.random.default_rng(3)


def make_weights() -> dict[str, np.ndarray]:
    return {
        "first.weight": rng.normal(size=(4, 3, 3, 3)).astype(np.float32),
        "first.bias": rng.normal(size=4).astype(np.float32),
        "last.weight": rng.normal(size=(5, 8)),
        "steps": np.array(3),
    }


def plan_of(*steps: tuple[str, Method]) -> Plan:
    return Plan(steps)


def test_steps_apply_in_order_and_finished_weights_are_passed_by() -> None:
    weights = make_weights()
    before = {name: weight.copy() for name, weight in weights.items()}
    done = transform(
        weights, plan_of(("*.weight", Prune(0.5)), ("first.weight", Cluster(4)), ("*.weight", Quantize(4)))
    )
    assert list(done) == list(weights)
    assert done["first.weight"] == Cluster(4)(Prune(0.5)(weights["first.weight"]))
    assert done["last.weight"] == Quantize(4)(Prune(0.5)(weights["last.weight"].astype(np.float32)))
    assert done["first.bias"] is weights["first.bias"]
    assert done["steps"] is weights["steps"]
    assert all(np.array_equal(weights[name], before[name]) for name in weights)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_float_types_are_computed_as_float32(kind: type) -> None:
    weight = np.array([[1, -2], [3, 4]], kind)
    done = transform({"w": weight, "same": weight}, plan_of(("w", Prune(0.5))))
    assert done["w"].dtype == np.float32
    assert done["same"].dtype == kind


def test_integers_are_never_touched() -> None:
    weights = make_weights()
    done = transform(weights, plan_of(("*", Binarize())))
    assert done["steps"] is weights["steps"]
    assert all(isinstance(done[name], Code) for name in weights if name != "steps")


def test_global_pruning_sees_all_tensors_of_its_step() -> None:
    weights = {"a": np.array([[1, 2]], np.float32), "b": np.array([[3, 4]], np.float32), "c": np.ones(2, np.float32)}
    done = transform(weights, plan_of(("[ab]", Prune(0.5, scope="global"))))
    assert [done[name].tolist() for name in weights] == [[[0, 0]], [[3, 4]], [1, 1]]
    # an input ten times as strong outweighs a weight a third as large
    stats = {"a": Stats(np.eye(2) * 100, 1.0, 1), "b": Stats(np.eye(2), 1.0, 1)}
    done = transform(weights, plan_of(("[ab]", Prune(0.5, scope="global"))), stats)
    assert [done[name].tolist() for name in "ab"] == [[[1, 2]], [[0, 0]]]
    with pytest.raises(PlanError, match=r"step 1 \('\*'\): .*c has none"):
        transform(weights, plan_of(("*", Prune(0.5, scope="global"))), stats)


def test_statistics_reach_the_method() -> None:
    weights = make_weights()
    stats = {"first.weight": stats_for(weights["first.weight"])}
    done = transform(weights, plan_of(("*.weight", Cluster(4))), stats)
    assert done["first.weight"] == Cluster(4)(weights["first.weight"], stats["first.weight"])
    assert done["last.weight"] == Cluster(4)(weights["last.weight"])
    with pytest.raises(WeightError, match=r"last\.weight: .*do not fit"):
        transform(weights, plan_of(("last.*", Cluster(4))), {"last.weight": stats["first.weight"]})
    wrong = {"last.weight": stats["first.weight"]}
    with pytest.raises(WeightError, match=r"step 1 .*do not fit"):
        transform(weights, plan_of(("last.*", Prune(scope="global"))), wrong)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("*.gamma", Prune())], r"step 1 \('\*\.gamma'\): matches none of the 4 weights; the first .*'first\.weight'"),
        ([("*", Quantize()), ("*.bias", Prune())], r"step 2 .*finished by earlier steps"),
        ([("steps", Prune())], "no float weight.*int64"),
        ([("last.*", Quantize(granularity="axis", axis=3))], r"step 1 .*last\.weight: .*only 2 axes"),
    ],
)
def test_steps_that_match_nothing(steps: list, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        transform(make_weights(), Plan(tuple(steps)))
    if len(steps) == 1:
        with pytest.raises(PlanError, match="none of the 0 weights"):
            transform({}, Plan(tuple(steps)))


def test_weights_that_are_not_finite_are_named() -> None:
    weights = make_weights()
    weights["first.bias"][1] = np.nan
    with pytest.raises(WeightError, match=r"first\.bias: .*NaN"):
        transform(weights, plan_of(("*", Quantize())))
    # what no step touches may hold anything, such as a mask of -inf
    transform(weights, plan_of(("*.weight", Quantize())))
