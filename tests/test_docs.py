"""The README is true: its Python runs, its plan parses, its commands and plans exist, every command is documented."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from smidgen.cli import cli
from smidgen.methods import METHODS
from smidgen.plan import Plan
from smidgen.train import Recipe
from smidgen.train.families import FAMILIES

README = (Path(__file__).parent.parent / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(block, names)
    (tmp_path / "readme_nets.py").write_text(next(block for block in blocks("python") if "def build" in block))
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save("black.png")
    monkeypatch.syspath_prepend(str(tmp_path))
    for command in (
        ["compress", "readme_nets:build", "--plan", "small", "-o", "own.smidgen"],
        ["recognize", "own.smidgen", "black.png"],
    ):
        assert CliRunner().invoke(cli, command).exit_code == 0
    assert names["scores"].shape == (2, 10)  # type: ignore[attr-defined]
    assert names["size"] == Path("net.smidgen").stat().st_size


def test_the_plan_parses() -> None:
    assert len(Plan.parse(blocks("toml")[0]).steps) == 3


def test_the_recipe_parses() -> None:
    assert [stage.name for stage in Recipe.parse(blocks("toml")[1]).stages] == ["prune", "cluster"]


def test_commands_plans_and_methods_are_all_there() -> None:
    for command in re.findall(r"^\$ smidgen (\w+)", "\n".join(blocks("console")), re.MULTILINE):
        assert command in cli.commands
    for command in set(cli.commands) - {"demo"}:
        assert f"smidgen {command}" in README
    for plan in Plan.shipped():
        assert f"`{plan}`" in README
    for recipe in Recipe.shipped():
        assert f"`{recipe}`" in README
    for method in (*METHODS, *FAMILIES):
        assert f"| `{method}` |" in README
