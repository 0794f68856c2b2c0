from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from methods_contract import CONFIGURATIONS

from smidgen.errors import PlanError
from smidgen.methods import Prune, Quantize
from smidgen.plan import LAYERS, Plan

TEXT = """
[[step]]
match = "*.weight"
method = "Prune"
density = 1

[[step]]
match = "head.*"
method = "Quantize"
bits = 5
symmetric = false
"""

names = st.text(st.characters(codec="utf-8"), min_size=1)
steps = st.lists(st.tuples(names, st.sampled_from(CONFIGURATIONS)), min_size=1, max_size=4).map(tuple)


@given(steps=steps)
def test_dumps_parses_back(steps: tuple) -> None:
    plan = Plan(steps)
    assert Plan.parse(plan.dumps()) == plan


def test_parse_and_load(tmp_path: Path) -> None:
    expected = Plan((("*.weight", Prune(1.0)), ("head.*", Quantize(5, symmetric=False))))
    assert Plan.parse(TEXT) == expected
    path = tmp_path / "a.toml"
    path.write_text(TEXT, encoding="utf-8")
    assert Plan.load(path) == expected
    assert Plan.load(str(path)) == expected


def table(body: str) -> str:
    return f'[[step]]\nmatch = "*"\nmethod = "Prune"\n\n[[step]]\n{body}\n'


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["no [[step]]", "step = []"]),
        ("[[step]", ["not valid TOML"]),
        ("speed = 1", ["unknown key 'speed'", "[[step]]"]),
        ("step = 1", ["[[step]] tables"]),
        ("step = [1]", ["[[step]] tables"]),
        (table('mach = "*"\nmethod = "Prune"'), ["step 2", "no field 'mach'"]),
        (table('match = ""\nmethod = "Prune"'), ["step 2", "match is ''"]),
        (table('match = "*"'), ["step 2", "method is missing"]),
        (table('match = "*"\nmethod = 3'), ["step 2", "method is 3"]),
        (table('match = "*"\nmethod = "Quantise"'), ["step 2", "did you mean 'Quantize'", "Binarize, Cluster"]),
        (table('match = "*"\nmethod = "Zip"'), ["step 2", "unknown method 'Zip'; allowed: Binarize"]),
        (table('match = "*"\nmethod = "Prune"\ndensty = 0.1'), ["step 2", "did you mean 'density'"]),
        (table('match = "*"\nmethod = "Prune"\ndensity = "low"'), ["step 2", "density='low'", "above 0"]),
        (table('match = "*"\nmethod = "Quantize"\nbits = 9'), ["step 2", "bits=9", "2..8"]),
        (table('match = "*"\nmethod = "Quantize"\nrange = [1]'), ["step 2", "range=[1]", "minmax, mse"]),
    ],
)
def test_texts_that_are_no_plan(text: str, parts: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        Plan.parse(text, "here.toml")
    message = str(caught.value)
    assert message.startswith("here.toml: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_files_that_are_no_plan(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"missing\.toml: cannot be read: No such file"):
        Plan.load(tmp_path / "missing.toml")
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.load(tmp_path)
    path = tmp_path / "binary.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(PlanError, match="UTF-8"):
        Plan.load(path)


def test_steps_that_are_no_plan() -> None:
    with pytest.raises(PlanError, match="step 2"):
        Plan((("*", Prune()), ("", Prune())))
    with pytest.raises(PlanError, match="step 1"):
        Plan((("*", "Prune"),))  # type: ignore[arg-type]


def test_a_plan_without_steps_says_so() -> None:
    assert Plan(()).dumps() == "step = []\n"
    assert Plan.parse("step = []") == Plan(())


def test_shipped_plans_parse_and_others_are_refused() -> None:
    assert "lossless" in Plan.shipped()
    for name in Plan.shipped():
        Plan.find(name)
    with pytest.raises(PlanError, match=r"nowhere\.toml: no such file.*lossless"):
        Plan.find("nowhere.toml")


def test_a_step_without_match_is_for_layers() -> None:
    plan = Plan.parse('[[step]]\nmethod = "Prune"')
    assert plan == Plan(((LAYERS, Prune()),))
    assert plan.dumps() == '[[step]]\nmethod = "Prune"\n'
