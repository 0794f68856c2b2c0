"""The commands on files with a program, and on those that can have none: which engine runs, and that it is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from native import program_archive
from test_cli import fails, nets, run, squeezable

import smidgen
from smidgen.arrange import arranged
from smidgen.run.native import Native
from smidgen.run.runner import Graph

__all__ = ["nets", "squeezable"]


def scores_of(text: str, picture: str) -> dict[str, float]:
    return {answer["id"]: answer["score"] for answer in json.loads(text)[picture]}


@pytest.mark.parametrize("made", [("--size", "4KB"), ("--plan", "int8")])
def test_pictures_bring_a_program_and_every_command_takes_the_engine(made: tuple[str, str], squeezable: Path) -> None:
    assert run("compress", "nets:small", "--data", "photos", *made, "-o", "x.smidgen").status == 0
    if made[0] == "--size":
        assert 3_960 <= Path("x.smidgen").stat().st_size <= 4_000  # the program counts
    assert "\nRuns by itself, in integers of 8 bits" in run("inspect", "x.smidgen").out
    assert json.loads(run("inspect", "x.smidgen", "--json").out)["running"].startswith("Runs by itself")

    archive = smidgen.open("x.smidgen")
    runner = archive.runner(1)
    batch = runner.prepare("photos/0.png")[None]
    exact, program = Graph(archive, 1)(batch), Native(Path("x.smidgen").read_bytes(), 1)(batch)
    assert not np.array_equal(exact, program)
    np.testing.assert_array_equal(runner(batch), program)
    np.testing.assert_array_equal(archive.runner(1, "onnxruntime")(batch), exact)

    for engine, expected in (((), program), (("--engine", "native"), program), (("--engine", "onnxruntime"), exact)):
        found = scores_of(run("recognize", "x.smidgen", "photos/0.png", *engine, "--json").out, "photos/0.png")
        softmax = np.exp(expected[0] - expected[0].max())
        np.testing.assert_allclose([found[f"class {i}"] for i in range(5)], softmax / softmax.sum(), atol=1e-6)

    assert run("export", "x.smidgen", "--to", "onnx", "-o", "x.onnx").status == 0
    for engine, ways in ((None, ["float32", "integers"]), ("native", ["integers"]), ("onnxruntime", ["float32"])):
        words = ("evaluate", "x.onnx", "x.smidgen", "--data", "photos", "--preprocessing", "unit", "--json")
        original, *rows = json.loads(run(*words, *(("--engine", engine) if engine else ())).out)
        assert [row["computed"] for row in (original, *rows)] == ["float32", *ways]
        assert {row["computed"]: row["kl"] > 0 for row in rows} == {way: way == "integers" for way in ways}
    assert "integers" in run("evaluate", "x.smidgen", "--data", "photos").out


def test_a_network_without_a_program_says_why(squeezable: Path) -> None:
    assert run("compress", "nets:small", "--plan", "int8", "-o", "x.smidgen").status == 0
    assert "Runs by ONNX Runtime only: what ranges activations have is not known" in run("inspect", "x.smidgen").out
    assert "no program" in fails(1, "recognize", "x.smidgen", "photos/0.png", "--engine", "native")

    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x).cumsum(2).mean((2, 3))

    smidgen.compress(Odd(), plan="int8", input_shape=(3, 12, 10)).save("odd.smidgen")
    assert "Runs by ONNX Runtime only: CumSum" in run("inspect", "odd.smidgen").out


def test_a_program_does_not_outlive_the_tensors_that_it_names() -> None:
    archive = program_archive()
    assert archive.program
    assert not arranged(replace(archive, tensors=archive.weights())).program
    plan = smidgen.Plan((("first", smidgen.Quantize()),))
    assert not smidgen.compress(archive, plan=plan).program
