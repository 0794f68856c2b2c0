"""The engine on other processors, emulated: the same answers, bit for bit, as on this one."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from smidgen.code import Code, Trellis
from smidgen.run.program import NO_RECORD, Convolution, Maximum
from tests.test_native import file_of, program_of, weights

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [str(ROOT / "tests" / "answers.c"), *map(str, sorted((ROOT / "core" / "src").glob("*.c")))]
FLAGS = ["-std=c99", "-O3", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'core'}"]
MACHINES = {
    "aarch64": (["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"]),
    "arm": (["arm-linux-gnueabihf-gcc", "-static", "-mfpu=neon"], ["qemu-arm"]),
    "arm without vectors": (["arm-linux-gnueabihf-gcc", "-static", "-mfpu=vfpv3-d16"], ["qemu-arm"]),
    "wasm": (
        ["clang", "--target=wasm32-wasi", "-msimd128"],
        ["node", "--no-warnings", str(ROOT / "tests/run_wasm.mjs")],
    ),
    "wasm without vectors": (
        ["clang", "--target=wasm32-wasi"],
        ["node", "--no-warnings", str(ROOT / "tests/run_wasm.mjs")],
    ),
}
WAYS = {"aarch64": 2, "arm": 2, "arm without vectors": 1, "wasm": 2, "wasm without vectors": 1}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose program has most kinds of kernels, and ends in probabilities."""
    rng = np.random.default_rng(1)
    large = {"height": 9, "width": 11, "channels": 37, "border": 1}
    shapes = [
        {"height": 9, "width": 11, "channels": 3, "border": 1, "zero": 128, "scale": 0.02},
        {**large, "zero": 7, "scale": 0.11},
        {**large, "border": 0, "zero": 9, "scale": 0.21},
        {"height": 4, "width": 5, "channels": 37, "zero": 9, "scale": 0.21},
        {"height": 1, "width": 1, "channels": 21, "numbers": True},
    ]
    operations = [
        Convolution(0, 1, 0, 1, (3, 3), top=1, left=1),
        Convolution(1, 2, 2, NO_RECORD, (3, 3), top=1, left=1, groups=37),
        Maximum(2, 3, (2, 2), (2, 2)),
        Convolution(3, 4, 3, NO_RECORD, (4, 5)),
    ]
    records = [
        weights(rng, (37, 3, 3, 3), "large"),
        rng.normal(size=37).astype(np.float32),
        weights(rng, (37, 1, 3, 3), "affine"),
        Code(np.round(rng.laplace(0, 2, (21, 37, 4, 5))).clip(-60, 60).astype(np.int16), Trellis(2.0**-11)),
    ]
    path = tmp_path_factory.mktemp("machines") / "network.smidgen"
    path.write_bytes(file_of(program_of(shapes, operations, softmax=True), records))
    return path


def answers(program: Path, starter: list[str], file: Path) -> list[str]:
    """What each way gives, as the bits of floats."""
    wasm = program.suffix == ".wasm"
    command = [*starter, str(program), *([str(file.parent), f"/files/{file.name}"] if wasm else [str(file)])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split(": ")[1] for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def expected(file: Path) -> str:
    program = file.parent / "here"
    subprocess.run(["cc", *FLAGS, *SOURCES, "-o", str(program), "-lpthread"], check=True)
    found = answers(program, [], file)
    assert len(found) >= 4
    assert len(set(found)) == 1
    bits = np.array([int(word, 16) for word in found[0].split()], np.uint32)
    assert len(set(bits.view(np.float32))) > 30  # no two classes of the same probability
    return found[0]


@pytest.mark.parametrize("machine", MACHINES)
def test_other_machines_give_the_same_bits(machine: str, file: Path, expected: str) -> None:
    compiler, starter = MACHINES[machine]
    for tool in (compiler[0], starter[0]):
        if not shutil.which(tool):
            pytest.skip(f"{tool} is not installed")
    if "wasm" in machine and not Path("/usr/lib/wasm32-wasi").is_dir():
        pytest.skip("wasi-libc is not installed")
    program = file.parent / (machine.replace(" ", "_") + (".wasm" if "wasm" in machine else ""))
    subprocess.run([*compiler, *FLAGS, *SOURCES, "-o", str(program)], check=True)
    found = answers(program, starter, file)
    assert len(set(found)) == 1
    assert found[0] == expected
    threads = 1 if "wasm" in machine else 2
    assert len(found) == threads * WAYS[machine]
