"""The comparison of engines: what is in it, what is left out and why; never how fast anything is."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_network as tiny
from PIL import Image
from test_cli import fails, run
from test_halves import imported_by

from smidgen.run import bench, engines
from smidgen.run.program import Convolution, Mean, Program, Tensor
from smidgen.run.timing import interleaved

QUICK = ("--rounds", "2", "--threads", "1")


def program() -> bytes:
    """The tiny network in integers: weight and bias are the first and the second record of the index."""
    tensors = (
        Tensor(128, 8, 6, 3, 4, border=1, zero=128, scale=4 / 128),
        Tensor(512, 8, 6, 3, 4, scale=0.1),
        Tensor(768, 1, 1, 3, 12, numbers=True),
    )
    operations = (Convolution(0, 1, 0, 1, (3, 3), top=1, left=1), Mean(1, 2))
    return Program(tensors, operations, output=2, arena=1024).to_bytes()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with a program, one without, and pictures; one start of each engine is enough, and none is optional."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "STARTS", 1)
    for package in ("openvino", "ncnn"):
        monkeypatch.setitem(sys.modules, package, None)
    tiny.archive(program=program()).save("net.smidgen")
    tiny.archive().save("plain.smidgen")
    Path("photos").mkdir()
    for number, picture in enumerate(tiny.pictures(3)):
        Image.fromarray(picture).save(f"photos/{number}.png")
    return tmp_path


def report(*arguments: str) -> dict[str, object]:
    done = run("bench", *arguments, "--json")
    assert done.status == 0, done.err
    return json.loads(done.out)


def test_everything_is_in_the_table(folder: Path) -> None:
    arguments = ("net.smidgen", "--data", "photos", "--rounds", "2")
    found = report(*arguments)
    assert (found["file"], found["input"], found["rounds"]) == ("net.smidgen", [1, 3, 8, 6], 2)
    rows = {row["engine"]: row for row in found["engines"]}
    assert list(rows) == ["native", "onnxruntime", "onnxruntime-int8"]
    assert rows["native"]["bytes"] == Path("net.smidgen").stat().st_size
    assert rows["onnxruntime"]["bytes"] == len(tiny.archive().onnx().SerializeToString())
    assert rows["native"]["runtime_bytes"] < rows["onnxruntime"]["runtime_bytes"]
    for row in rows.values():
        assert [time["threads"] for time in row["latency"]] == [1, 2]
        assert all(0 < time["minimum"] <= time["median"] for time in row["latency"])
        assert row["cold_start"] > 0
        assert 10**7 < row["peak_memory"] < 10**9
    for fastest in found["fastest"]:
        assert {fastest["engine"], fastest["second"]} <= set(rows)
        assert fastest["times_as_fast"] >= 1
    lines = run("bench", *arguments).out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["engine", *rows]
    assert [line for line in lines if line.startswith("left out: ")] == [
        "left out: openvino: openvino is not installed (pip install openvino)",
        "left out: openvino-int8: openvino is not installed (pip install openvino)",
        "left out: ncnn: ncnn is not installed (pip install ncnn)",
    ]
    assert lines[-2].startswith("1 thread: use ")
    assert lines[-1].startswith("2 threads: use ")


def test_what_cannot_take_part_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str, threads: int, shape: tuple[int, ...]) -> None:
        raise ValueError("no\nway")

    monkeypatch.setattr(engines, "_NEEDS", engines._NEEDS | {"openvino": ()})
    monkeypatch.setitem(engines.RUNTIMES, "openvino", refuse)
    found = report("plain.smidgen", *QUICK)
    assert [row["engine"] for row in found["engines"]] == ["onnxruntime"]
    assert found["left_out"] == {
        "native": "the file has no program, which running without ONNX Runtime needs",
        "onnxruntime-int8": "it needs --data to calibrate on",
        "openvino": "ValueError: no",
        "openvino-int8": "it needs --data to calibrate on",
        "ncnn": "ncnn is not installed (pip install ncnn)",
    }
    assert found["fastest"][0].keys() == {"threads", "engine", "minimum", "by_median"}
    error = run("bench", "plain.smidgen", *QUICK, "--engines", "native,onnxruntime-against")
    assert (error.status, error.out) == (1, "")
    assert error.err.splitlines()[-1] == (
        "smidgen: plain.smidgen: no engine can run it: native: the file has no program, which running without ONNX "
        "Runtime needs; onnxruntime-against: it needs --against, another ONNX file"
    )


def test_a_program_for_other_inputs_is_left_out(folder: Path) -> None:
    wide = tiny.archive(graph=tiny.graph(size=("h", "w")), program=program())
    replace(wide, preprocessing=replace(tiny.PREPROCESSING, height=9)).save("wide.smidgen")
    found = report("wide.smidgen", *QUICK, "--data", "photos", "--engines", "native,onnxruntime")
    assert found["left_out"] == {"native": "ValueError: its program takes inputs of (3, 8, 6), not (3, 9, 6)"}
    assert report("wide.smidgen", *QUICK, "--engines", "native")["input"] == [1, 3, 8, 6]


def test_against_another_model(folder: Path) -> None:
    other = onnx.load_from_string(tiny.archive(seed=1).onnx().SerializeToString())
    other.graph.node[0].input[0] = other.graph.input[0].name = "another name"
    onnx.save(other, "other.onnx", save_as_external_data=True, location="weights", size_threshold=0)
    found = report("net.smidgen", *QUICK, "--against", "other.onnx")
    (row,) = (row for row in found["engines"] if row["engine"] == "onnxruntime-against")
    assert row["bytes"] == Path("other.onnx").stat().st_size + Path("weights").stat().st_size
    assert found["left_out"]["openvino-against"] == "openvino is not installed (pip install openvino)"


def test_against_what_does_not_fit(folder: Path) -> None:
    onnx.save(tiny.archive(graph=tiny.graph(size=(9, 6))).onnx(), "other.onnx")
    Path("text.onnx").write_text("hello")
    command = ("bench", "net.smidgen", *QUICK, "--against")
    assert "other.onnx: input 'picture': the network takes float32 (any, 3, 9, 6)" in fails(1, *command, "other.onnx")
    assert "text.onnx: is not an ONNX model" in fails(1, *command, "text.onnx")
    assert "missing.onnx: cannot be read" in fails(1, *command, "missing.onnx")


def test_bad_files_and_inputs(folder: Path) -> None:
    tiny.archive(graph=tiny.graph(size=("h", "w")), preprocessing=None).save("free.smidgen")
    Path("text.smidgen").write_text("hello")
    assert "float32 (any, 3, any, any); give an example of it with --data" in fails(1, "bench", "free.smidgen")
    assert "not known how pictures become" in fails(1, "bench", "free.smidgen", "--data", "photos")
    assert "not a smidgen file" in fails(1, "bench", "text.smidgen")
    assert "nowhere: no such folder" in fails(1, "bench", "net.smidgen", "--data", "nowhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engines", "native,tflite"), f"engine 'tflite' is unknown; choose from {', '.join(engines.ENGINES)}"),
        (("--engines", ""), "engine '' is unknown"),
        (("--threads", "1,many"), "'1,many' is no list of numbers of threads"),
        (("--threads", "0"), "'0' is no list of numbers of threads"),
        (("--rounds", "0"), "--rounds"),
    ],
)
def test_wrong_usage(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    assert message in " ".join(fails(2, "bench", "net.smidgen", *arguments).split())


def test_a_runtime_that_is_no_installed_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "packages_distributions", dict)
    command = ("plain.smidgen", *QUICK, "--engines", "onnxruntime")
    assert report(*command)["engines"][0]["runtime_bytes"] is None
    assert run("bench", *command).out.splitlines()[1].split()[2] == "-"


def test_an_engine_that_does_not_start_is_one_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("script.py").write_text("raise ValueError('no way')")
    monkeypatch.setattr(engines, "__file__", "script.py")
    error = run("bench", "net.smidgen", *QUICK, "--engines", "native").err.splitlines()[-1]
    assert error == "smidgen: native cannot start in a process of its own: ValueError: no way"


@pytest.mark.parametrize("runtime", engines.RUNTIMES)
def test_all_runtimes_give_the_answer(runtime: str, tmp_path: Path) -> None:
    if engines.missing(runtime):
        pytest.skip(str(engines.missing(runtime)))
    path, batch = tmp_path / "net.onnx", np.random.default_rng(1).normal(size=(1, 3, 8, 6)).astype(np.float32)
    path.write_bytes(tiny.archive().onnx().SerializeToString())
    if runtime == "native":
        path = tmp_path / "net.smidgen"
        tiny.archive(program=program()).save(path)
    elif runtime == "ncnn":
        path = bench.to_ncnn(path, batch.shape)[0]
    scores = engines.RUNTIMES[runtime](str(path), 1, batch.shape)(batch)
    expected = tiny.slow_scores(tiny.weights(), batch)
    np.testing.assert_allclose(scores, expected, rtol=0.05 if runtime == "native" else 1e-3)


def test_an_engine_pays_for_no_other() -> None:
    loaded = imported_by(f"import runpy; runpy.run_path({engines.__file__!r})")
    assert not loaded & {"smidgen", "onnxruntime", "openvino", "ncnn", "onnx"}


def test_settled_runs_are_preceded_by_one_that_is_not_counted() -> None:
    turns: list[tuple[str, int]] = []
    runs = [lambda turn, name=name: turns.append((name, turn)) for name in "ab"]
    assert interleaved(runs, 3, settle=0.0).shape == (3, 2)
    assert turns[:2] == [("a", 0), ("b", 0)]
    assert turns[2::2] == turns[3::2]
    assert sorted(turns[2::2]) == [(name, turn) for name in "ab" for turn in range(3)]
