"""Sweeps: what is kept and resumed, also after kill -9; what is refused; the Pareto front; a real Dask cluster."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny_network
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from test_cli import SQUEEZABLE, fails, run

import smidgen
from smidgen import tradeoff
from smidgen.budget import Fidelity
from smidgen.errors import InputError
from smidgen.reporter import SILENT
from smidgen.tradeoff import Row, front, open_rows, plot, schedulers
from smidgen.tradeoff import store as rows_store
from smidgen.tradeoff import workers as doing
from smidgen.tradeoff.points import Result, Target, Work

SWEEP = ("sweep", "nets:small", "--data", "photos", "--jobs", "1")
FEW = ("--size", "3KB", "--size", "5KB", "--max-drop", "30", "--plan", "int8")
FOUR = ["size-3000-seed-0", "size-5000-seed-0", "drop-30.0-seed-0", "plan-int8-seed-0"]
WORK = Work("nets:small", "photos", 2000, 0, weights="w", contents="c", smidgen="0.1.0")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network that says what its pictures are, a folder of 24 pictures, and a sweep that was not disturbed."""
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "nets.py").write_text(SQUEEZABLE)
    (folder / "photos").mkdir()
    for number, picture in enumerate(tiny_network.pictures(24)):
        Image.fromarray(picture).save(folder / "photos" / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        sys.modules.pop("nets", None)
        result = run(*SWEEP, *FEW, "-o", "undisturbed")
        assert result.status == 0, result.err
    return folder


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    sys.modules.pop("nets", None)
    return folder


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    """A sweep in a process of its own."""
    command = [sys.executable, "-m", "smidgen", *arguments]
    return subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def same(one: Path, other: Path) -> bool:
    """Whether two sweeps ended with the same table, and the same files."""
    rows = open_rows(one)
    return rows == open_rows(other) and all(
        row.file is None or (one / row.file).read_bytes() == (other / row.file).read_bytes() for row in rows
    )


def test_every_point_has_its_file_and_is_judged(here: Path) -> None:
    rows = open_rows(here / "undisturbed")
    assert [row.name for row in rows] == FOUR
    for row in rows:
        assert row.file == f"{row.name}.smidgen"
        path = here / "undisturbed" / row.file
        assert row.bytes == path.stat().st_size
        assert (row.judged, row.labelled) == (4, False)
        assert row.kl is not None
        assert row.kl >= 0
        assert row.agreement == 100 - row.lost
        assert smidgen.open(path).tensors
    assert [row.bytes <= row.size for row in rows[:2]] == [True, True]


def test_a_point_is_what_compress_makes(here: Path, tmp_path: Path) -> None:
    for flag, value, point in (("--size", "3KB", FOUR[0]), ("--max-drop", "30", FOUR[2])):
        path = tmp_path / "one.smidgen"
        with doing.one_thread():
            assert run("compress", "nets:small", "--data", "photos", flag, value, "-o", str(path)).status == 0
        assert path.read_bytes() == (here / "undisturbed" / f"{point}.smidgen").read_bytes()


def test_the_same_command_again_makes_nothing(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedulers, "attempt", None)
    result = run(*SWEEP, *FEW, "-o", "undisturbed", "--json")
    assert result.status == 0
    assert "0 points to make, 4 are there already" in result.err
    report = json.loads(result.out)
    assert [point["name"] for point in report["points"]] == FOUR
    assert (report["failed"], report["interrupted"]) == (0, False)
    best = json.loads(Path("undisturbed/pareto.json").read_text())["front"]
    assert {row["name"] for row in best} == {point["name"] for point in report["points"] if point["front"]}
    assert Path("undisturbed/pareto.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_and_further_targets_join_what_is_there(here: Path, tmp_path: Path) -> None:
    assert run(*SWEEP, "--plan", "small", "-o", str(tmp_path)).status == 0
    (Path("own.toml")).write_text('[[step]]\nmatch = "*"\nmethod = "Binarize"\n')
    for _ in range(2):
        assert run(*SWEEP, "--plan", "small", "--plan", "own.toml", "--seed", "0", "--seed", "1", "-o", str(tmp_path))
    names = [row.name for row in open_rows(tmp_path)]
    assert [name.partition("-seed")[0].rpartition("-")[0] for name in names] == ["plan-own", "plan-own", "plan", "plan"]
    assert [row.seed for row in open_rows(tmp_path)] == [0, 1, 0, 1]


def test_a_deleted_file_is_made_again(here: Path, tmp_path: Path) -> None:
    assert run(*SWEEP, "--plan", "int8", "-o", str(tmp_path)).status == 0
    path = tmp_path / "plan-int8-seed-0.smidgen"
    before = path.read_bytes()
    path.unlink()
    assert "1 points to make" in run(*SWEEP, "--plan", "int8", "-o", str(tmp_path)).err
    assert path.read_bytes() == before


def test_without_targets_there_are_twelve_sizes(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Target] = []

    def give(jobs: int, work: Work, targets: list[Target]) -> Iterator[Result]:
        asked.extend(targets)
        return iter(())

    monkeypatch.setattr(tradeoff, "on_this_machine", give)
    assert run(*SWEEP, "-o", str(tmp_path)).status == 0
    original = 4 * 6_453
    assert len(asked) == 12
    assert (asked[0].size, asked[-1].size) == (round(original / 16), round(original / 6))


def test_what_is_impossible_fails_alone(here: Path, tmp_path: Path) -> None:
    arguments = (*SWEEP, "--size", "100B", "--plan", "int8", "-o", str(tmp_path))
    for _ in range(2):
        result = run(*arguments)
        assert result.status == 1
        assert "failed: size-100-seed-0: not reached: 100 bytes; the nearest is" in result.out
        assert result.out.splitlines()[-1] == f"{tmp_path}: 2 points, 1 on the Pareto front, 1 failed"
    assert "0 points to make" in result.err
    row = open_rows(tmp_path)[0]
    assert (row.file, row.bytes, row.kl) == (None, None, None)
    assert json.loads(run(*arguments, "--json").out)["failed"] == 1
    assert not (tmp_path / "size-100-seed-0.smidgen").exists()


def test_a_sweep_of_something_else_is_refused(here: Path, tmp_path: Path) -> None:
    start = ("sweep", "nets:small", "--jobs", "1", "--plan", "int8")
    assert "other --pictures (2000, not 7)" in fails(
        1, *start, "--data", "photos", "--pictures", "7", "-o", "undisturbed"
    )
    assert "other finetune" in fails(1, *start, "--data", "photos", "--finetune", "1", "-o", "undisturbed")
    assert "other model (nets:small, not squeezenet1_1)" in fails(
        1, "sweep", "squeezenet1_1", "--data", "photos", "--plan", "int8", "-o", "undisturbed"
    )
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "photos" / "one.png")
    message = fails(1, *start, "--data", str(tmp_path / "photos"), "-o", "undisturbed")
    assert "holds a sweep with other pictures" in message


def test_a_database_that_is_no_sweep_is_refused(here: Path, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "sweep.sqlite").write_text("no database, but long enough to be looked at " * 30)
    assert "cannot be used: file is not a database" in fails(1, *SWEEP, *FEW, "-o", str(tmp_path / "text"))
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / "sweep.sqlite") as store:
        store.execute("CREATE TABLE songs (title TEXT)")
    store.close()
    assert "is no database of a sweep" in fails(1, *SWEEP, *FEW, "-o", str(tmp_path / "other"))
    with pytest.raises(InputError, match="holds no sweep"):
        open_rows(tmp_path)


def test_wrong_usage(here: Path, tmp_path: Path) -> None:
    assert "--data" in fails(2, "sweep", "nets:small", "-o", "x")
    assert "size '4 apples'" in fails(2, *SWEEP, "--size", "4 apples", "-o", "x")
    assert "max-drop" in fails(2, *SWEEP, "--max-drop", "-1", "-o", "x")
    assert "--scheduler" in fails(2, *SWEEP, "--scheduler", "tcp://127.0.0.1:1", "-o", "x")
    assert "nowhere.toml" in fails(1, *SWEEP, "--plan", "nowhere.toml", "-o", "x")
    assert "photos/out: lies in the folder of pictures" in fails(1, *SWEEP, "-o", "photos/out")
    assert "no such folder" in fails(1, "sweep", "nets:small", "--data", "nowhere", "-o", "x")
    (tmp_path / "file").touch()
    assert "cannot be made" in fails(1, *SWEEP, "-o", str(tmp_path / "file" / "x"))
    assert not Path("x").exists()


def test_without_matplotlib_a_line_says_so(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = run(*SWEEP, "--plan", "int8", "-o", str(tmp_path))
    assert result.status == 0
    assert "pareto.png is left out: it needs matplotlib, which pip install 'smidgen[plots]' brings" in result.err
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pareto.json",
        "plan-int8-seed-0.smidgen",
        "sweep.sqlite",
    ]


def test_ctrl_c_keeps_what_is_done(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempt, made = doing.attempt, []

    def interrupting(target: Target, work: Work, stats: object) -> Result:
        if made:
            raise KeyboardInterrupt
        made.append(target)
        return attempt(target, work, None)

    monkeypatch.setattr(schedulers, "attempt", interrupting)
    arguments = (*SWEEP, "--plan", "small", "--plan", "int8", "--plan", "share", "-o", str(tmp_path / "out"))
    result = run(*arguments)
    assert result.status == 1
    assert f"interrupted, the same command goes on: {tmp_path}/out: 1 points" in result.out
    monkeypatch.setattr(schedulers, "attempt", attempt)
    assert "2 points to make, 1 are there already" in run(*arguments).err


def test_other_weights_on_a_worker_are_no_row(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = doing.described
    found = iter("ab")
    monkeypatch.setattr(doing, "described", lambda *args: replace(described(*args), weights=next(found)))
    result = run(*SWEEP, "--plan", "int8", "-o", str(tmp_path))
    assert result.status == 1
    assert "are not what they were when the sweep started" in result.err
    assert open_rows(tmp_path) == []


def test_it_survives_kill_9(here: Path, tmp_path: Path) -> None:
    command, rng, moments = [*SWEEP[:4], *FEW, "-o", str(tmp_path), "--jobs"], random.Random(time.time_ns()), []
    for jobs in ("2", "1", "1"):
        process = start(*command, jobs)
        moments.append(rng.uniform(2, 5))
        with suppress(subprocess.TimeoutExpired):
            process.wait(moments[-1])
        process.kill()
        finish(process)  # workers hold the same pipes, so this ends when they have ended with their parent
    status, _, err = finish(start(*command, "1"))
    assert status == 0, err
    assert same(here / "undisturbed", tmp_path), moments
    assert not list(tmp_path.glob(".*"))


def test_a_row_is_written_after_its_file(here: Path, tmp_path: Path) -> None:
    """Killed between the two, it is made again; what was torn is swept away."""
    result = Result(Target(size=9), 1.5, b"12345", Fidelity(4, 0.25, 75.0, 25.0, "top-1"))
    (tmp_path / ".size-9-seed-0.smidgen.torn").touch()
    with rows_store.opened_store(tmp_path, WORK) as store:
        store.set_trace_callback(lambda statement: seen.append((tmp_path / "size-9-seed-0.smidgen").is_file()))
        seen: list[bool] = []
        rows_store.keep(store, tmp_path, result)
        assert all(seen)
        assert seen
        with pytest.raises(sqlite3.IntegrityError):  # noqa: SIM117
            with store:
                store.execute("INSERT INTO points (name, seed, seconds) VALUES ('torn', 0, 0), ('torn', 0, 0)")
    row = Row("size-9-seed-0", 9, None, None, 0, None, "size-9-seed-0.smidgen", 5, 0.25, 75.0, 25.0, True, 4)
    assert open_rows(tmp_path) == [row]
    assert not list(tmp_path.glob(".*"))
    with rows_store.opened_store(tmp_path, replace(WORK, data="/elsewhere")) as store:
        rows_store.keep(store, tmp_path, Result(Target(max_drop=0.5), 0.0, failed="no"))
    assert open_rows(tmp_path) == [row, Row("drop-0.5-seed-0", None, 0.5, None, 0, "no")]


def test_a_torn_picture_of_the_front_is_swept_away(tmp_path: Path) -> None:
    for name in (".pareto.png.torn", ".pareto.json.torn"):
        (tmp_path / name).touch()
    plot.write_front(tmp_path, [Row("a", 9, None, None, 0, None, "a", 5, 0.25, 75.0, 25.0, True, 4)], SILENT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pareto.json", "pareto.png"]


POINTS = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 5)), max_size=12)


@given(POINTS, st.integers(0, 2))
def test_the_front_is_what_no_point_beats(points: list[tuple[int, int]], failed: int) -> None:
    rows = [Row(f"{number}", None, None, None, 0, bytes=size, kl=float(kl)) for number, (size, kl) in enumerate(points)]
    rows += [Row(f"failed {number}", None, None, None, 0, "no") for number in range(failed)]
    best = front(rows)

    def beaten(row: Row) -> bool:
        return any(
            other.bytes <= row.bytes and other.kl <= row.kl and (other.bytes < row.bytes or other.kl < row.kl)
            for other in rows
            if other.failed is None
        )

    assert {row.name for row in best} == {row.name for row in rows if not row.failed and not beaten(row)}
    assert [row.bytes for row in best] == sorted(row.bytes for row in best)


cluster = pytest.mark.skipif(find_spec("distributed") is None, reason="needs the extra cluster")


@contextmanager
def processes(*commands: list[str], **environment: str) -> Iterator[None]:
    with open(os.devnull, "w") as nothing:
        started = [
            subprocess.Popen(command, stdout=nothing, stderr=nothing, env={**os.environ, **environment})
            for command in commands
        ]
        try:
            yield
        finally:
            for process in started:
                process.send_signal(signal.SIGTERM)
            for process in started:
                process.wait(30)


def dask(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dask", *arguments]


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = dask("scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard", "--no-show")
    with processes(command):
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def workers(scheduler: str, local: Path, *names: str, **environment: str) -> Iterator[None]:
    """Workers that are ready."""
    options = ["--no-dashboard", "--no-nanny", "--nthreads", "1", "--local-directory", str(local)]
    commands = [dask("worker", scheduler, *options, "--name", name) for name in names]
    code = "import sys; from distributed import Client; Client(sys.argv[1]).wait_for_workers(int(sys.argv[2]), 60)"
    with processes(*commands, **environment):
        subprocess.run([sys.executable, "-c", code, scheduler, str(len(names))], check=True, capture_output=True)
        yield


@cluster
def test_a_cluster_makes_the_same_table(here: Path, tmp_path: Path, scheduler: str) -> None:
    command = ["sweep", "nets:small", "--data", "photos", *FEW, "--scheduler", scheduler, "-o", str(tmp_path / "out")]
    with workers(scheduler, tmp_path, "a", "b"):
        status, _, err = finish(start(*command))
        assert status == 0, err
        assert same(here / "undisturbed", tmp_path / "out")


@cluster
def test_a_worker_of_another_version_is_refused(here: Path, tmp_path: Path, scheduler: str) -> None:
    (tmp_path / "smidgen-9.9.9.dist-info").mkdir()
    (tmp_path / "smidgen-9.9.9.dist-info" / "METADATA").write_text("Name: smidgen\nVersion: 9.9.9\n")
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    with workers(scheduler, tmp_path, "old", PYTHONPATH=path):
        command = ["sweep", "nets:small", "--data", "photos", "--plan", "int8", "--scheduler", scheduler]
        status, out, err = finish(start(*command, "-o", str(tmp_path / "out")))
    assert (status, out) == (1, "")
    last = err.splitlines()[-1]
    assert last.startswith("smidgen: tcp://127.0.0.1:")
    assert last.endswith(f"this worker has smidgen 9.9.9, and {smidgen.__version__} is needed; install it there")


ONE_AFTER_THE_OTHER = """
import sys
from smidgen.cli import main
from smidgen.tradeoff import schedulers

schedulers.PATIENCE = 3
for address in sys.argv[1:]:
    try:
        main(["sweep", "nets:small", "--data", "photos", "--plan", "int8", "--scheduler", address, "-o", "unreached"])
    except SystemExit as stop:
        print(stop.code)
"""


@cluster
def test_what_is_wrong_with_a_scheduler_is_one_line(here: Path, scheduler: str) -> None:
    nobody = "tcp://127.0.0.1:9"
    command = [sys.executable, "-c", ONE_AFTER_THE_OTHER, "pigeon", nobody, scheduler]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1", "1"]
    lines = [
        line for line in done.stderr.splitlines() if line not in ("1 points to make, 0 are there already", "points")
    ]
    none = "no Dask scheduler answers: "
    assert lines[0] == f"smidgen: pigeon: {none}missing port number in address 'pigeon'; `dask scheduler` starts one"
    assert lines[1].startswith(f"smidgen: {nobody}: {none}Timed out trying to connect")
    assert lines[2:] == [
        f"smidgen: {scheduler}: the scheduler has no workers; `dask worker {scheduler}` starts one",
    ]
