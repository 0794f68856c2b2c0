"""Distillation on two processes gives what one gives, and no process waits for one that is gone."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_cli
import tiny_network
from PIL import Image

import smidgen
from smidgen import distributed, repair
from smidgen.cli import main

SCRIPT = """
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from test_pipeline import model

from smidgen import distributed, repair
from smidgen.arrange import arranged
from smidgen.errors import InputError, SmidgenError
from smidgen.examples import split
from smidgen.file import write
from smidgen.network import Network
from smidgen.reporter import SILENT
from smidgen.squeezer import Squeezer
from smidgen.survey import measured
from smidgen.repair import Lesson
from smidgen.run.outputs import Output
from smidgen.run.pictures import find_pictures

OUTPUTS = [Output("scores", "scores", 1)]
repair.STEP = 0.2  # so that many symbols change


def gradients(items, original, state):
    lesson, student = Lesson(items, OUTPUTS, 1, 0), repair._Student(state)
    found = []
    for batch in repair._augmented(lesson, original, 0):
        repair._differentiate(lesson, Network(original), student, batch)
        found.append(torch.cat([parameter.grad.reshape(-1) for parameter in student.trained()]).numpy())
    return np.stack(found)


def strayed(state):
    student = repair._Student(state)
    for tensor in (*student.trained(), *student.ideals.values()):
        with torch.no_grad():
            tensor += 0.02 * distributed.rank()
    student.choose()
    found = [tensor.detach().clone() for tensor in (*student.trained(), *student.ideals.values())]
    square = [(tensor - distributed.broadcast(tensor)).square().sum() for tensor in found]
    distributed.add_up(square)
    return float(sum(square))


def distilled(original, archive, pictures):
    # the values after two epochs, at once and after a kill between them
    def killed(archive):
        raise KeyboardInterrupt

    found = []
    lesson = Lesson(pictures, OUTPUTS, 2, 0, Path(sys.argv[1] + ".checkpoint"))
    repair.repair(lesson, original, archive, SILENT.progress, found.append)
    try:
        repair.repair(lesson, original, archive, SILENT.progress, killed)
    except KeyboardInterrupt:
        repair.repair(lesson, original, archive, SILENT.progress, found.append)
    assert len(found) == 4
    assert not lesson.checkpoint.exists()
    return [np.concatenate([w.ravel() for w in each.weights().values()]) for each in (archive, found[1], found[3])]


def failing():
    if not distributed.is_first():
        raise InputError("x.png: not a picture")
    distributed.add_up([torch.zeros(1)])


def first():
    original = arranged(model())
    pictures = find_pictures("photos")
    archive, _ = Squeezer(original, measured(original, split(pictures, None, 20, 0)))(1e-6)
    state, _ = repair._resumed(Lesson([], OUTPUTS, 1, 0), "", original, archive)
    arrays = [{"image": np.random.default_rng(n).normal(size=(n, 3, 12, 10)).astype(np.float32)} for n in (1, 5, 2)]
    found = {}
    for name, items in (("pictures", pictures), ("few", pictures[:1]), ("arrays", arrays)):
        work = partial(gradients, items, original, state)
        distributed.broadcast(work)
        found[name] = work()
    work = partial(strayed, state)
    distributed.broadcast(work)
    found["strayed"] = work()
    turns, files = [], []
    # the time is asked for once before the epoch, and after each of the five batches that follow until it is up
    lesson = Lesson(pictures[:20] * 10, OUTPUTS, 2, 0, over=lambda: turns.append(0) or len(turns) > 5)
    repair.repair(lesson, original, archive, SILENT.progress, lambda archive: files.append(write(archive)))
    found["turns"], found["files"] = len(turns), len(files)
    found["before"], found["whole"], found["resumed"] = distilled(original, archive, pictures)
    np.savez(sys.argv[1], **found)
    distributed.broadcast(failing)
    failing()


distributed.join()
try:
    first() if distributed.is_first() else distributed.follow()
except SmidgenError as error:
    print(error, flush=True)
distributed.leave()
"""

COMMAND = ("compress", "nets:small", "--data", "photos", "--size", "2KB", "--finetune", "12", "-o")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A network in ``nets.py``, and 60 pictures, not all of the same size."""
    (tmp_path / "nets.py").write_text(test_cli.SQUEEZABLE)
    (tmp_path / "photos").mkdir()
    for number, picture in enumerate(tiny_network.pictures(60)):
        Image.fromarray(picture[: 5 + number % 5]).save(tmp_path / "photos" / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets", None)
    return tmp_path


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}


def on_two(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a module or a script on two processes; if it hangs the test fails."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=120)


def curve(path: str) -> list[dict[str, Any]]:
    return list(json.loads(Path(f"{path}.curve.json").read_text())["curve"])


def test_two_processes_make_the_file_of_one(folder: Path) -> None:
    del folder
    main([*COMMAND, "one.smidgen"])
    done = on_two("-m", "smidgen", *COMMAND, "two.smidgen")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.smidgen: ") == done.stdout.count("reached: ") == 1
    assert done.stderr.count("distilling 12 epochs on 48 examples") == 1
    assert "Traceback" not in done.stderr
    points = list(zip(curve("one.smidgen"), curve("two.smidgen"), strict=True))
    for ours, theirs in points:  # symbols that lie between two may fall to either side
        assert ours["repaired"] == theirs["repaired"]
        assert ours["bytes"] == pytest.approx(theirs["bytes"], rel=0.01)
        assert ours["fidelity"]["kl"] == pytest.approx(theirs["fidelity"]["kl"], rel=0.05)
    assert len({ours["fidelity"]["kl"] for ours, _ in points if ours["repaired"]}) > 1, "nothing was learnt"
    assert 1_900 < Path("two.smidgen").stat().st_size <= 2_000
    assert smidgen.open("two.smidgen").runner(1)(np.zeros((1, 3, 12, 10), np.float32)).shape == (1, 5)
    assert sorted(path.name for path in Path().glob("two*")) == ["two.smidgen", "two.smidgen.curve.json"]


def test_parts_of_batches_add_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients are those of one process, what drifts is put right, the end of time is agreed on, a kill does not
    matter, failures are told."""
    (folder / "script.py").write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", ["script.py", "one.npz"])
    monkeypatch.setattr(repair, "STEP", repair.STEP)  # which the script changes
    runpy.run_path("script.py", run_name="__main__")
    two = on_two("script.py", "two.npz")
    assert two.stdout.splitlines() == ["process 1: x.png: not a picture"], two.stderr
    ours, theirs = np.load("one.npz"), np.load("two.npz")
    assert ours["pictures"].shape[0] == 4
    for name in ("pictures", "few", "arrays"):
        scale = np.abs(ours[name]).max()
        assert scale > 0
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-5 * scale)
    np.testing.assert_array_equal(theirs["whole"], theirs["resumed"])
    learnt, apart = (np.linalg.norm(ours["whole"] - other) for other in (ours["before"], theirs["whole"]))
    assert apart < 0.05 * learnt
    assert ours["strayed"] == theirs["strayed"] == 0
    assert ours["turns"] == theirs["turns"]
    assert ours["files"] == theirs["files"] == 1


def test_an_error_is_one_line_and_ends_all(folder: Path) -> None:
    del folder
    done = on_two("-m", "smidgen", "compress", "nets:small", "--data", "nowhere", "--size", "2KB", "-o", "x.smidgen")
    assert done.returncode == 1
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if line.startswith("smidgen: ")] == [
        "smidgen: nowhere: no such folder"
    ]


@pytest.mark.parametrize(("name", "value"), [("RANK", "one"), ("WORLD_SIZE", "")])
def test_numbers_of_processes_must_be_numbers(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    assert "RANK and WORLD_SIZE are set, but are no numbers" in test_cli.fails(1, "inspect", "x.smidgen")


def test_processes_that_do_not_find_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert "do not find each other" in test_cli.fails(1, "inspect", "x.smidgen")


def test_parts_are_all_of_a_batch_and_pairs_stay_together() -> None:
    for count in range(18):
        for processes in (1, 2, 3, 8, 20):
            parts = [distributed.part(count, number, processes) for number in range(processes)]
            assert sorted(index for part in parts for index in part) == list(range(count))
            assert all(sorted(count - 1 - index for index in part) == part for part in parts)
