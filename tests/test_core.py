"""The C core keeps its rules: no warnings, no library, no globals, one prefix."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "core" / "src").glob("*.c"))
STRICT = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wno-sign-conversion", "-Werror"]
CROSS = ("aarch64-linux-gnu-gcc", "arm-linux-gnueabihf-gcc", "clang")


def build(folder: Path, compiler: str, *options: str) -> list[Path]:
    """Objects of every source, compiled without a standard library."""
    objects = []
    for source in SOURCES:
        objects.append(folder / f"{source.stem}.o")
        command = [compiler, *STRICT, "-ffreestanding", *options, "-c", str(source), "-o", str(objects[-1])]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return objects


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return build(tmp_path_factory.mktemp("core"), "cc")


def symbols(objects: list[Path]) -> list[tuple[str, str]]:
    """(name, kind) of every symbol, as nm names the kinds."""
    done = subprocess.run(["nm", "-P", *map(str, objects)], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines() if not line.endswith(":")]
    return [(line[0], line[1]) for line in lines if len(line) > 1]


def test_no_warnings_without_a_library(objects: list[Path]) -> None:
    assert len(objects) == len(SOURCES) > 5


@pytest.mark.parametrize("compiler", CROSS)
def test_no_warnings_with_other_compilers(compiler: str, tmp_path: Path) -> None:
    if not shutil.which(compiler):
        pytest.skip(f"{compiler} is not installed")
    build(tmp_path, compiler)


def test_links_with_four_functions(objects: list[Path], tmp_path: Path) -> None:
    command = ["cc", *STRICT, "-ffreestanding", "-nostdlib", "-shared", "-fPIC", "-Wl,--no-undefined"]
    sources = [str(ROOT / "tests" / "freestanding.c"), *map(str, SOURCES)]
    done = subprocess.run([*command, *sources, "-o", str(tmp_path / "core.so")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_one_prefix_and_no_globals(objects: list[Path]) -> None:
    found = symbols(objects)
    assert not [name for name, kind in found if kind.isupper() and kind != "U" and not name.startswith("smidgen_")]
    # b, d: data that could change; static functions (t) and constants (r) are fine
    assert not [name for name, kind in found if kind.lower() in ("b", "d", "c")]
