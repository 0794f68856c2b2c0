"""examples/c/recognize.c, built by the commands of its README: it prints what the core says in this process."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from smidgen._core import ffi, lib

from smidgen.archive import open_archive

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "examples" / "c" / "README.md").read_text()
BUILDS = {line.split()[0]: line.strip() for line in README.splitlines() if "recognize.c core/src" in line}
EMULATORS = {"gcc": [], "aarch64-linux-gnu-gcc": ["qemu-aarch64"], "arm-linux-gnueabihf-gcc": ["qemu-arm"]}
WARNINGS = " -Wall -Wextra -Wpedantic -Werror"

PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
BODY = PIXELS.tobytes()
HEADER = "is not a binary PPM picture (P6)"
NUMBERS = "has not sides of 1 to 16384 pixels and 255 as its greatest value"
SHORT = "ends before its last pixel"


@pytest.fixture(scope="module", params=BUILDS)
def recognize(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """How to call the program that was built for one machine."""
    compiler = request.param
    for tool in (compiler, *EMULATORS[compiler]):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed: examples/c/recognize.c is NOT tested with {compiler}")
    program = tmp_path_factory.mktemp(compiler) / "recognize"
    command = BUILDS[compiler].replace("-o recognize", f"-o {program}") + WARNINGS
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [*EMULATORS[compiler], str(program)]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.ppm"
    path.write_bytes(b"P6\n# with # a comment\n70 50\n255\n" + BODY)
    return path


def run(recognize: list[str], *arguments: object) -> tuple[int, str, str]:
    """Exit status, what was printed, and the errors."""
    done = subprocess.run([*recognize, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def aligned(size: int) -> NDArray[np.uint8]:
    memory = np.zeros(size + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def probabilities(path: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """What the core says in this process, of a picture that Pillow resized."""
    data = path.read_bytes()
    file, network, facts = ffi.new("smidgen_file *"), ffi.new("smidgen_network **"), ffi.new("smidgen_facts *")
    assert lib.smidgen_open(data, len(data), file) == 0
    memory, work = aligned(file.memory), aligned(file.work)
    buffers = (ffi.from_buffer(memory), file.memory, ffi.from_buffer(work), file.work)
    assert lib.smidgen_load(data, len(data), lib.SMIDGEN_PORTABLE, *buffers, network) == 0
    lib.smidgen_about(network[0], facts)
    resample = Image.Resampling.BICUBIC if facts.bicubic else Image.Resampling.BILINEAR
    image = Image.fromarray(pixels)
    image = image.resize((facts.width, image.height), resample).resize((facts.width, facts.height), resample)
    scores = np.empty(facts.outputs, np.float32)
    out = ffi.from_buffer("float[]", scores)
    assert lib.smidgen_run_picture(network[0], ffi.NULL, image.tobytes(), out) == 0
    if not facts.probabilities:
        lib.smidgen_softmax(out, facts.outputs)
    return scores


def test_prints_what_the_core_says(recognize: list[str], program_file: Path, picture: Path) -> None:
    found = probabilities(program_file, PIXELS)
    labels = open_archive(program_file).labels
    names = [label.name for label in labels] or [f"class {index}" for index in range(len(found))]
    best = np.argsort(-found, kind="stable")[:5]
    expected = "".join(f"{np.float32(100) * found[index]:7.2f} %  {names[index]}\n" for index in best)
    for threads in ([], [1], [3]):
        assert run(recognize, program_file, picture, *threads) == (0, expected, "")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", HEADER),
        (b"P", HEADER),
        (b"P5 1 1 255\n" + BODY, HEADER),
        (b"P3 1 1 255\n0 0 0", HEADER),
        (b"P6", NUMBERS),
        (b"P6 1 1", NUMBERS),
        (b"P6 1 1 255", NUMBERS),
        (b"P6 0 1 255\n" + BODY, NUMBERS),
        (b"P6 -1 1 255\n" + BODY, NUMBERS),
        (b"P6 16385 1 255\n" + BODY, NUMBERS),
        (b"P6 4294967297 1 255\n" + BODY, NUMBERS),
        (b"P6 1 " + b"9" * 10_000, NUMBERS),
        (b"P6 1\0 1 255\n" + BODY, NUMBERS),
        (b"P6 1 1 65535\n" + BODY, NUMBERS),
        (b"P6 1 1 # without an end", NUMBERS),
        (b"P6" + b"#" * 10_000, NUMBERS),
        (b"P6 70 50 255\n" + BODY[:-1], SHORT),
        (b"P6 16384 16384 255\n" + BODY, SHORT),
    ],
)
def test_refuses_in_one_line(
    recognize: list[str], program_file: Path, tmp_path: Path, content: bytes, complaint: str
) -> None:
    path = tmp_path / "bad.ppm"
    path.write_bytes(content)
    assert run(recognize, program_file, path) == (1, "", f"{path}: {complaint}\n")


def test_refuses_other_files(recognize: list[str], program_file: Path, picture: Path, tmp_path: Path) -> None:
    damaged, missing = tmp_path / "damaged.smidgen", tmp_path / "missing"
    damaged.write_bytes(program_file.read_bytes()[:-1])
    old = ROOT / "tests" / "golden" / "v1-raw.smidgen"
    for path, complaint in [
        (missing, "cannot be read"),
        (tmp_path, "cannot be read"),
        (picture, "is not a file of smidgen, or is damaged"),
        (damaged, "is not a file of smidgen, or is damaged"),
        (old, "has no program to run"),
    ]:
        assert run(recognize, path, picture) == (1, "", f"{path}: {complaint}\n")
    assert run(recognize, program_file, missing) == (1, "", f"{missing}: cannot be read\n")


@pytest.mark.parametrize("threads", [["0"], ["65"], ["-1"], ["2x"], [""], ["1", "1"]])
def test_wrong_usage(recognize: list[str], program_file: Path, picture: Path, threads: list[str]) -> None:
    status, printed, errors = run(recognize, program_file, picture, *threads)
    assert (status, printed) == (2, "")
    assert errors.startswith("usage: recognize FILE.smidgen PICTURE.ppm")
    assert run(recognize) == (status, printed, errors)
