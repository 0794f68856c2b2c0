"""The short way to an answer gives the answers of the long one, and loads next to nothing."""

from __future__ import annotations

import os
import shlex
import struct
import subprocess
import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_network as tiny
from native import program_archive
from PIL import Image

import smidgen
from smidgen.errors import FormatError, InputError, ModelError
from smidgen.run.answer import lines
from smidgen.run.recognizer import Recognizer, open_recognizer
from smidgen.run.runner import Runner, open_runner

SIDES = ((32, 32), (200, 31), (45, 333), (9, 7), (480, 640))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of several sizes, forms and modes; endings do not always tell the truth."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(3)
    forms = (("JPEG", "jpg"), ("PNG", "png"), ("JPEG", "png"), ("GIF", "gif"), ("WEBP", "webp"))
    paths = []
    for (height, width), (form, ending) in zip(SIDES, forms, strict=True):
        smooth = Image.fromarray(rng.integers(0, 256, (5, 6, 3), np.uint8)).resize((width, height))
        paths.append(folder / f"{form}-{height}.{ending}")
        smooth.save(paths[-1], form)
    Image.fromarray(rng.integers(0, 256, (40, 50, 4), np.uint8)).save(folder / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    smooth.save(folder / "turned.jpg", exif=turned)
    return [*paths, folder / "clear.png", folder / "turned.jpg"]


def test_the_answers_are_those_of_a_runner(program_file: Path, photos: list[Path]) -> None:
    short, runner = open_recognizer(program_file), open_runner(program_file)
    assert isinstance(short, Recognizer)
    for photo in photos:
        assert short.recognize(photo, 10) == runner.recognize(photo, 10)
    assert open_recognizer(program_file, "native").recognize(photo, 1) == runner.recognize(photo, 1)


def test_other_files_and_engines_get_a_runner(program_file: Path, photos: list[Path], tmp_path: Path) -> None:
    tiny.archive().save(tmp_path / "tiny.smidgen")
    assert isinstance(open_recognizer(tmp_path / "tiny.smidgen"), Runner)
    other = open_recognizer(program_file, "onnxruntime")
    assert other.recognize(photos[0]) == open_runner(program_file, engine="onnxruntime").recognize(photos[0])
    with pytest.raises(ModelError, match="no program"):
        open_recognizer(tmp_path / "tiny.smidgen", "native")


def test_what_is_wrong_is_said(program_file: Path, photos: list[Path], tmp_path: Path) -> None:
    path = tmp_path / "few.smidgen"
    replace(program_archive(), labels=program_archive().labels[:3]).save(path)
    with pytest.raises(ModelError, match=r"few\.smidgen: the file has 3 labels, but its network gives 10 scores"):
        open_recognizer(path).recognize(photos[0])
    data = program_file.read_bytes()
    poor = data[:84] + bytes(8) + data[92:]  # it claims no memory
    path.write_bytes(poor[:12] + struct.pack("<I", zlib.crc32(poor[16:], zlib.crc32(poor[:12]))) + poor[16:])
    with pytest.raises(FormatError, match=r"few\.smidgen: invalid: it claims less memory than its network needs"):
        open_recognizer(path).recognize(photos[0])
    path.write_bytes(data[:-1])
    with pytest.raises(FormatError, match=r"few\.smidgen: truncated"):
        open_recognizer(path)
    short = open_recognizer(program_file)
    with pytest.raises(InputError, match="top: 0"):
        short.recognize(photos[0], 0)
    with pytest.raises(InputError, match=r"nowhere\.jpg: no such file"):
        short.recognize("nowhere.jpg")


def run(*words: object) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it, and then the names of all modules that it loaded."""
    code = "import sys; from smidgen.__main__ import main; main(); print(*sys.modules)"
    return subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True)


@pytest.mark.parametrize("number", range(3))
def test_the_command_loads_next_to_nothing(number: int, program_file: Path, photos: list[Path]) -> None:
    *answers, loaded = run("recognize", program_file, photos[number]).stdout.splitlines()
    assert "smidgen.run.recognizer" in loaded.split()
    heavy = {"numpy", "onnx", "torch", "pathlib", "click", "inspect", "dataclasses", "concurrent.futures"}
    assert not set(loaded.split()) & {*heavy, "smidgen.cli", "smidgen.archive", "PIL.TiffImagePlugin"}
    assert answers == list(lines({"": open_recognizer(program_file).recognize(photos[number])}))


def test_several_pictures_and_words_that_need_the_command_line(program_file: Path, photos: list[Path]) -> None:
    plain, longer = run("recognize", program_file, *photos), run("recognize", program_file, *photos, "--top", 5)
    assert plain.stdout.splitlines()[:-1] == longer.stdout.splitlines()[:-1]
    assert plain.stdout.count(f"{photos[0]}:") == 1
    assert "smidgen.cli" not in plain.stdout.split()
    assert "smidgen.cli" in longer.stdout.split()


def test_other_files_and_what_is_wrong(program_file: Path, photos: list[Path], tmp_path: Path) -> None:
    tiny.archive().save(tmp_path / "tiny.smidgen")
    done = run("recognize", tmp_path / "tiny.smidgen", photos[0])  # it has no program
    assert done.stdout.splitlines()[:-1] == list(
        lines({"": open_runner(tmp_path / "tiny.smidgen").recognize(photos[0])})
    )
    for words, status, said in (
        ((program_file, "nowhere.jpg"), 1, "smidgen: nowhere.jpg: no such file"),
        (("nowhere.smidgen", photos[0]), 1, "smidgen: nowhere.smidgen: cannot be read: No such file or directory"),
        ((program_file,), 2, "Missing argument 'PICTURES...'"),
    ):
        done = run("recognize", *words)
        assert (done.returncode, done.stdout) == (status, "")
        assert said in done.stderr


def test_letters_that_a_terminal_does_not_have(program_file: Path, photos: list[Path], tmp_path: Path) -> None:
    copies = [tmp_path / "caf\u00e9.jpg", tmp_path / "other.jpg"]
    for copy in copies:
        copy.write_bytes(photos[0].read_bytes())
    command = [sys.executable, "-m", "smidgen", "recognize", str(program_file), *map(str, copies)]
    done = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf?.jpg:" in done.stdout


@pytest.mark.parametrize("options", [[], ["--top", "1"], ["--json"]])
@pytest.mark.parametrize(
    ("redirected", "status", "said"), [(">&-", 0, ""), (">/dev/full", 1, "smidgen: standard output")]
)
def test_an_output_that_takes_nothing(
    redirected: str, status: int, said: str, options: list[str], program_file: Path, photos: list[Path]
) -> None:
    command = [sys.executable, "-m", "smidgen", "recognize", *options, str(program_file), str(photos[0])]
    done = subprocess.run(f"{shlex.join(command)} {redirected}", shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr.startswith(said), done.stderr.count("\n")) == (status, True, status)


def test_decoding_waits_for_nothing_that_it_does_not_need() -> None:
    code = "import sys, smidgen.run.recognizer; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "smidgen.run.native" in loaded
    assert not {"PIL", "smidgen.label", "smidgen.run.answer", "inspect", "logging", "click"} & set(loaded)


def test_a_reader_that_goes_away(program_file: Path, photos: list[Path]) -> None:
    command = [sys.executable, "-m", "smidgen", "recognize", str(program_file), *map(str, photos)]
    shell = f"{shlex.join(command)} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.returncode in (0, 1)


def test_the_version() -> None:
    command = [sys.executable, "-m", "smidgen", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(smidgen.__version__)
