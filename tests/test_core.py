"""The C core keeps its rules: no warnings, no library, no globals, one prefix."""

from __future__ import annotations

import ctypes
import math
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cffi import FFI

from smidgen import _core
from smidgen.core_build import declarations

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


class Core:
    """A build of the core: encodes planes of symbols around 127, and decodes them."""

    def __init__(self, ffi: Any, lib: Any) -> None:
        self.ffi, self.lib = ffi, lib

    def plane(self, codec: int, shape: tuple[int, ...]) -> tuple[Any, Any]:
        plane = self.ffi.new("smidgen_plane *", (*shape[:2], math.prod(shape[2:]), 255, 127))
        return plane, self.ffi.new("uint64_t[]", self.lib.smidgen_scratch(codec, plane) // 8 + 1)

    def encode(self, codec: int, shape: tuple[int, ...], symbols: bytes) -> bytes:
        plane, scratch = self.plane(codec, shape)
        out = self.ffi.new("uint8_t[]", self.lib.smidgen_bound(codec, plane))
        size = self.lib.smidgen_encode(codec, plane, symbols, out, len(out), scratch)
        assert size > 0
        return bytes(self.ffi.buffer(out, size))

    def decode(self, codec: int, shape: tuple[int, ...], data: bytes) -> tuple[int, bytes]:
        plane, scratch = self.plane(codec, shape)
        out = self.ffi.new("uint8_t[]", math.prod(shape))
        return self.lib.smidgen_decode(codec, plane, data, len(data), out, scratch), bytes(out)


@pytest.fixture(scope="module")
def native() -> Core:
    """The core as it is here."""
    if not _core.lib.smidgen_can(_core.lib.SMIDGEN_AVX2):
        pytest.skip("this processor has no AVX2")
    return Core(_core.ffi, _core.lib)


def changed(folder: Path, **files: str) -> Core:
    """The core with other files in place of some of its own."""
    sources = [str(source) for source in SOURCES if source.stem not in files]
    for stem, text in files.items():
        (folder / f"{stem}.c").write_text(f'#include "{ROOT}/core/src/internal.h"\n{text}\n')
        sources.append(str(folder / f"{stem}.c"))
    command = ["cc", "-std=c99", "-O1", "-shared", "-fPIC", "-pthread", *sources, "-o", str(folder / "core.so")]
    subprocess.run(command, check=True)
    ffi = FFI()
    ffi.cdef(declarations((ROOT / "core" / "smidgen.h").read_text()))
    return Core(ffi, ffi.dlopen(str(folder / "core.so")))


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Core:
    """The core as it is where the processor has no vectors."""
    return changed(tmp_path_factory.mktemp("portable"), processor="int smidgen_processor_can(int way) { return !way; }")


def test_vectors_are_used(native: Core, tmp_path: Path) -> None:
    """Where their twins do nothing, nothing is decoded, but for planes too small to ask for them."""
    plane = "void *m, const smidgen_plane *p, uint8_t *s, int32_t spread, uint32_t states"
    idle = changed(
        tmp_path,
        mixed_avx2=f"int smidgen_mixed_encode_avx2({plane}) {{ return 1; }}\n"
        f"int smidgen_mixed_decode_avx2({plane}) {{ return 1; }}",
        lines_avx2="int smidgen_lines_encode_avx2(void *m, size_t n, uint8_t *b) { return 1; }\n"
        "int smidgen_lines_decode_avx2(void *m, size_t n, uint8_t *b) { return 1; }",
    )
    for codec, shape, left in (
        (_core.lib.SMIDGEN_MIXED, (64, 64), True),
        (_core.lib.SMIDGEN_MIXED64, (64, 64), True),
        (_core.lib.SMIDGEN_MIXED64, (64, 63), False),
        (_core.lib.SMIDGEN_LINES, (1, 100), True),
    ):
        symbols = np.random.default_rng(4).integers(120, 134, math.prod(shape), np.uint8).tobytes()
        data = native.encode(codec, shape, symbols)
        assert (idle.decode(codec, shape, data)[1] == bytes(len(symbols))) is left


@pytest.mark.skipif(not _core.lib.smidgen_can(_core.lib.SMIDGEN_AVX512_VNNI), reason="needs a processor with VNNI")
def test_bits_are_counted_where_the_processor_can(tmp_path: Path) -> None:
    """What Linux says that it has, against what the core finds out."""
    probe = f'#include "{ROOT}/core/src/engine.h"\nint probe(void) {{ smidgen_kernels k; '
    probe += "return smidgen_kernels_of(SMIDGEN_AVX512_VNNI, &k) && k.packed_differences; }"
    changed(tmp_path, probe=probe)
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    counts = {"bmi2", "avx512vbmi", "avx512_vpopcntdq"} <= set(flags)
    assert ctypes.CDLL(str(tmp_path / "core.so")).probe() == counts


@pytest.mark.parametrize("codec", [_core.lib.SMIDGEN_MIXED, _core.lib.SMIDGEN_MIXED64])
@pytest.mark.parametrize("shape", [(70, 60), (5, 92, 3, 3), (2, 70_000), (3, 2, 900)])
@pytest.mark.parametrize("width", [0.3, 2.0, 40.0])
def test_vectors_give_the_same_bytes(
    codec: int, shape: tuple[int, ...], width: float, native: Core, portable: Core
) -> None:
    rng = np.random.default_rng(1)
    scales = np.exp(rng.normal(size=(*shape[:2], *[1] * (len(shape) - 2))))
    symbols = np.clip(np.rint(rng.laplace(0, width * scales, shape)) + 127, 0, 254).astype(np.uint8).tobytes()
    data = native.encode(codec, shape, symbols)
    assert portable.encode(codec, shape, symbols) == data
    assert native.decode(codec, shape, data) == portable.decode(codec, shape, data) == (0, symbols)


@pytest.mark.parametrize("kind", ["labels", "noise", "one letter"])
def test_vectors_give_the_same_lines(kind: str, native: Core, portable: Core) -> None:
    rng, codec = np.random.default_rng(3), _core.lib.SMIDGEN_LINES
    words = ["tabby", "cat", "Egyptian", "r\u00f6d", "n", "lynx,", "of"]
    text = {
        "labels": "".join(f"n{i * 37:08}\t{' '.join(rng.choice(words, 3))}\n" for i in range(700)).encode(),
        "noise": rng.integers(0, 255, 9000, np.uint8).tobytes(),
        "one letter": b"a" * 9000,  # all counts reach their ends
    }[kind]
    data = native.encode(codec, (1, len(text)), text)
    assert portable.encode(codec, (1, len(text)), text) == data
    assert native.decode(codec, (1, len(text)), data) == portable.decode(codec, (1, len(text)), data) == (0, text)
    noise = rng.integers(0, 256, 900, np.uint8).tobytes()
    assert native.decode(codec, (1, 5000), noise) == portable.decode(codec, (1, 5000), noise)


@pytest.mark.parametrize("codec", [_core.lib.SMIDGEN_MIXED, _core.lib.SMIDGEN_MIXED64])
@pytest.mark.parametrize("scale", [3, 60, 100, 119, 131, 200, 247])
def test_vectors_make_the_same_of_noise(codec: int, scale: int, native: Core, portable: Core) -> None:
    """What is damaged decodes to something, and the checks afterwards must not depend on the processor."""
    noise = bytes([scale]) + np.random.default_rng(scale).integers(0, 256, 4000, np.uint8).tobytes()
    assert native.decode(codec, (64, 80), noise) == portable.decode(codec, (64, 80), noise)
