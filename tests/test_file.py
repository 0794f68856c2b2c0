"""An archive to bytes and back: exact, deterministic, for ever, and read alike by the plain twin."""

from __future__ import annotations

import pickle
import struct
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from smidgen._core import ffi, lib

import smidgen
from smidgen.archive import Archive, Label, Preprocessing
from smidgen.code import Affine, Code, Rule, Table, Trellis
from smidgen.codecs import CODECS
from smidgen.errors import FormatError, InputError, WeightError
from smidgen.file import FAST, SMALLEST, TYPES, inspect, read, section_sizes, write
from tests.reference import container as reference

GOLDEN = Path(__file__).parent / "golden"
KINDS = ("array", "table tensor", "table axis", "signs axis", "affine tensor", "affine axis", "trellis")


def code(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Code:
    """A code of each form that a rule can have."""
    axis = None if kind.endswith("tensor") or not shape else int(rng.integers(len(shape)))
    rows = 1 if axis is None else shape[axis]
    per_row = int(np.prod(shape)) // rows
    rule: Rule
    if kind == "trellis":
        rule = Trellis(float(np.float32(rng.lognormal())), int(rng.choice([8, 64])))
        return Code(rng.integers(-20, 21, shape).astype(np.int16), rule)
    if kind.startswith("table"):
        levels = int(rng.integers(1, 40))
        rule = Table(np.sort(rng.normal(size=(rows, levels)).astype(np.float32), axis=1), axis)
        return Code(rng.integers(0, levels, shape).astype(np.int16), rule)
    groups = 1 if axis is None else int(rng.integers(1, per_row + 1))
    scale = rng.lognormal(size=(rows, groups)).astype(np.float32)
    if kind.startswith("signs"):
        return Code(
            (rng.integers(0, 2, shape) * 2 - 1).astype(np.int16), Affine(scale, np.zeros_like(scale, int), axis)
        )
    zero = rng.integers(0, 9, (rows, groups)).astype(np.int16)
    return Code(rng.integers(-100, 100, shape).astype(np.int16), Affine(scale, zero, axis))


@st.composite
def archives(draw: st.DrawFn) -> Archive:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tensors: dict[str, Code | NDArray[Any]] = {}
    names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
    for name in draw(st.lists(names, max_size=4, unique=True)):
        kind = draw(st.sampled_from(KINDS))
        if kind == "array":
            shape = tuple(draw(st.lists(st.integers(0, 4), max_size=8)))
            dtype = np.dtype(draw(st.sampled_from(TYPES[1:])))
            raw = rng.integers(0, 2 if dtype.kind == "b" else 256, (int(np.prod(shape)), dtype.itemsize))
            tensors[name] = raw.astype(np.uint8).reshape(-1).view(dtype).reshape(shape)
        else:
            least = 1 if kind == "trellis" else 0
            tensors[name] = code(rng, tuple(draw(st.lists(st.integers(1, 4), min_size=least, max_size=6))), kind)
    plain = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\t\n"), max_size=12)
    labels = draw(st.lists(st.builds(Label, plain, plain), max_size=3))
    sizes, numbers = st.integers(1, 999), st.tuples(*[st.floats(-300, 300)] * 3)
    settings_ = st.none() | st.builds(
        Preprocessing, sizes, sizes, st.sampled_from(["RGB", "BGR"]), numbers, st.just((1.0, 2.0, 3.0))
    )
    graph = draw(st.binary(max_size=300))
    return Archive(graph, tensors, draw(settings_), tuple(labels), {"note": draw(plain)})


def assert_same(one: Archive, other: Archive) -> None:
    assert list(one.tensors) == list(other.tensors)
    for name, tensor in one.tensors.items():
        found = other.tensors[name]
        if isinstance(tensor, Code):
            assert found == tensor
            np.testing.assert_array_equal(found.values(), tensor.values())
        else:
            assert isinstance(found, np.ndarray)
            assert (found.dtype, found.shape, found.tobytes()) == (tensor.dtype, tensor.shape, tensor.tobytes())
    parts = ("graph", "preprocessing", "labels", "metadata", "program")
    assert all(getattr(one, part) == getattr(other, part) for part in parts)


@settings(deadline=None)
@given(archives(), st.sampled_from([SMALLEST, FAST, *[(name,) for name in CODECS]]))
def test_round_trip(archive: Archive, codecs: tuple[str, ...]) -> None:
    data = write(archive, codecs)
    assert data == write(archive, codecs)
    assert_same(archive, read(data))
    assert sum(section_sizes(data).values()) == len(data)
    assert [info.name for info in inspect(data)] == list(archive.tensors)
    assert sum(info.stored for info in inspect(data)) == section_sizes(data)["payload"]


@settings(deadline=None, max_examples=30)
@given(archives())
def test_the_plain_twin_reads_the_same(archive: Archive) -> None:
    for record, (name, tensor) in zip(reference.records(write(archive)), archive.tensors.items(), strict=True):
        assert record.name == name
        if isinstance(tensor, Code):
            symbols = [record.first + record.step * p for p in record.planes[0]]
            assert symbols == tensor.symbols.reshape(-1).tolist()
        else:
            assert bytes(np.array(record.planes, np.uint8).T.reshape(-1)) == tensor.tobytes()


def repaired(data: bytes) -> bytes:
    return data[:12] + struct.pack("<I", zlib.crc32(data[16:], zlib.crc32(data[:12]))) + data[16:]


@settings(deadline=None, max_examples=150)
@given(archives(), st.integers(0, 2**32 - 1))
def test_the_plain_twin_refuses_the_same(archive: Archive, seed: int) -> None:
    """Damage with a repaired checksum, anywhere but in texts whose content only the Python reader looks at."""
    rng = np.random.default_rng(seed)
    sound = write(Archive(archive.graph, archive.tensors), ("raw",))
    damaged = bytearray(sound)
    for _ in range(int(rng.integers(1, 4))):
        damaged[rng.integers(len(damaged))] = rng.integers(256)
    data = repaired(bytes(damaged))
    try:
        reference.records(data)
        accepted = True
    except ValueError:
        accepted = False
    if accepted and reference.sections(data)[:2] != reference.sections(sound)[:2]:
        return
    if accepted:
        read(data)
    else:
        with pytest.raises(FormatError):
            read(data)


def with_program(archive: Archive, program: bytes, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """A file with any bytes for a program, which the engine need not accept."""
    monkeypatch.setattr("smidgen.run.native.claims", lambda data: (1 << 20, 4096))
    return write(replace(archive, program=program))


def test_a_file_with_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    program = bytes(range(200)) * 7
    data = with_program(small_archive(), program, monkeypatch)
    assert (data[4], struct.unpack_from("<II", data, 84)) == (2, (1 << 20, 4096))
    assert_same(replace(small_archive(), program=program), read(data))
    assert reference.sections(data)[5] == program
    assert [record.name for record in reference.records(data)] == list(small_archive().tensors)
    sizes = section_sizes(data)
    assert list(sizes)[-2:] == ["payload", "program"]
    assert (sizes["header"], sum(sizes.values())) == (92, len(data))
    assert "program" not in section_sizes(write(small_archive()))


def test_the_core_decodes_sections(monkeypatch: pytest.MonkeyPatch) -> None:
    data = with_program(small_archive(), bytes(range(256)), monkeypatch)
    for whole in (data, write(small_archive())):
        header, scratch = ffi.new("smidgen_file *"), ffi.new("uint64_t[]", 3 << 17)
        given_ = ffi.from_buffer("uint8_t[]", whole)
        assert lib.smidgen_open(given_, len(whole), header) == 0
        assert (header.version, header.memory, header.work) == ((2, 1 << 20, 4096) if whole is data else (1, 0, 0))
        for kind, expected in enumerate(reference.sections(whole)):
            out = ffi.new("uint8_t[]", len(expected) + 1)
            status = lib.smidgen_read_section(given_, header, kind, out, scratch)
            assert status == (lib.SMIDGEN_USAGE if kind == lib.SMIDGEN_PAYLOAD else 0)
            assert status or bytes(out)[:-1] == expected
        assert lib.smidgen_read_section(given_, header, 6, ffi.NULL, scratch) == lib.SMIDGEN_USAGE
        assert lib.smidgen_read_section(given_, header, -1, ffi.NULL, scratch) == lib.SMIDGEN_USAGE


def test_the_plain_twin_refuses_the_same_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    sound = with_program(Archive(b"graph", {"w": np.zeros(3, np.float32)}), b"program", monkeypatch)
    for _ in range(600):
        damaged = bytearray(sound)
        for _ in range(int(rng.integers(1, 3))):
            damaged[rng.integers(92)] = rng.choice([0, 1, 2, 3, 6, 9, 255])
        data = repaired(bytes(damaged[: len(damaged) - int(rng.integers(0, 8) == 0)]))
        try:
            accepted = reference.records(data) is not None
        except ValueError:
            accepted = False
        if not accepted:
            with pytest.raises(FormatError):
                read(data)
        elif reference.sections(data)[:2] == reference.sections(sound)[:2]:
            read(data)


def small_archive() -> Archive:
    """Every rule, some arrays, everything else; recomputed alike for ever: no random numbers are drawn."""
    i = np.arange(4 * 3 * 3 * 3, dtype=np.int64).reshape(4, 3, 3, 3)
    wave = ((i * 37) % 23 - 11).astype(np.int16)
    ones = np.ones((4, 1), np.float32)
    tensors: dict[str, Code | NDArray[Any]] = {
        "affine": Code(wave, Affine.per_tensor(0.125)),
        "axis": Code(wave, Affine(ones * 0.5, np.arange(4, dtype=np.int16).reshape(4, 1), 0)),
        "groups": Code(wave, Affine(np.array([[1, 2, 3]] * 4, np.float32), np.zeros((4, 3), np.int16), 0)),
        "signs": Code(np.where(wave > 0, 1, -1).astype(np.int16), Affine(ones, np.zeros((4, 1), np.int16), 0)),
        "table": Code((i % 5).astype(np.int16), Table(np.array([[-1, -0.5, 0, 0.25, 2]], np.float32))),
        "tables": Code((i % 2).astype(np.int16), Table(np.array([[0, 1], [2, 3], [4, 5]], np.float32), 1)),
        "large": Code(((i.reshape(1, -1).repeat(40, 0) * 7) % 31).astype(np.int16), Affine.per_tensor(1.0)),
        "constant": Code(np.full((5, 6), 3, np.int16), Affine.per_tensor(2.0)),
        "bias": (np.arange(100, dtype=np.float32) / 8 - 3),
        "half": np.linspace(-1, 1, 9, dtype=np.float16).reshape(3, 3),
        "step": np.array(7, np.int64),
        "mask": np.array([True, False, True]),
        "empty": np.zeros((0, 3), np.float32),
    }
    labels = tuple(Label(f"n{1440764 + 3001 * k:08}", f"kind {k} of fish") for k in range(30))
    preprocessing = Preprocessing(227, 227, "BGR", (103.939, 116.779, 123.68))
    return Archive(b"graph " * 40, tensors, preprocessing, labels, {"zoo": {"name": "squeezenet1_1"}})


def trellis_archive(states: int) -> Archive:
    """The rules that came after the others, whose golden files stay as they were."""
    i = np.arange(70 * 3 * 3, dtype=np.int64).reshape(70, 3, 3)
    wave = np.rint(6 * np.sin(i * 0.7) * np.cos(i * i)).astype(np.int16)
    tensors = {
        "trellis": Code(wave, Trellis(0.0625, states)),
        "trellis of a bias": Code(wave[:, 0, 0] * 3, Trellis(2.0**-130, states)),
        "constant": Code(np.full((4, 2), -3, np.int16), Trellis(1.5, states)),
        "widest": Code(np.array([[-16383, 16383]], np.int16), Trellis(1.0, states)),
    }
    return Archive(b"", tensors)


# what was the smallest before there were codecs 7 and 8
FIRST_SMALLEST = ("raw", "bitpack", "rans", "adaptive")
CHOICES = {"smallest": FIRST_SMALLEST, "trellis": (*FIRST_SMALLEST, "mixed"), "trellis64": SMALLEST}


@pytest.mark.parametrize("name", [*CODECS, *CHOICES])
def test_golden_files_decode_for_ever(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written once, by version 1; a file that is missing is made, and must then be committed."""
    if name != "lines":  # the others were there before it
        monkeypatch.setattr("smidgen.file.TEXT_CODECS", ("text",))
    path = GOLDEN / f"v1-{name}.smidgen"
    archives = {"trellis": trellis_archive(8), "trellis64": trellis_archive(64)}
    archive = archives.get(name) or small_archive()
    data = write(archive, CHOICES.get(name, (name,)))
    if not path.exists():
        GOLDEN.mkdir(exist_ok=True)
        path.write_bytes(data)
    assert_same(archive, smidgen.open(path))
    assert path.read_bytes() == data


def header(stored: tuple[int, ...], sizes: tuple[int, ...], body: bytes = b"") -> bytes:
    start = b"\x89SMG" + bytes([1, 0, 0, 0, 0, 0, 0, 0]) + b"\0\0\0\0"
    return repaired(start + struct.pack("<5Q4I", *stored, *sizes) + body)


@pytest.mark.parametrize(
    "data",
    [
        header((0, 0, 0, 0, 2**40), (0, 0, 0, 0)),
        header((2**64 - 1, 1, 0, 0, 0), (0, 0, 0, 0)),
        header((0, 0, 0, 0, 0), (2**32 - 1,) * 4),
        header((0, 0, 0, 20, 0), (0, 0, 0, 20), b"\1a\0\1\2" + struct.pack("<II", 2**31, 2**31) + bytes(7)),
        header((0, 0, 0, 24, 0), (0, 0, 0, 24), b"\1a\0\1\1" + struct.pack("<I", 2**30) + bytes(15)),
    ],
)
def test_terabytes_are_refused_before_anything_is_allocated(data: bytes) -> None:
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(FormatError, match=r"^x\.smidgen: "):
        read(data, "x.smidgen")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000
    assert time.perf_counter() - started < 5


def test_saving_is_all_or_nothing(tmp_path: Path) -> None:
    archive = small_archive()
    size = archive.save(tmp_path / "a.smidgen")
    assert size == (tmp_path / "a.smidgen").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["a.smidgen"]
    with pytest.raises(WeightError, match="complex"):
        Archive(b"", {"w": np.zeros(3, np.complex64)}).save(tmp_path / "a.smidgen")
    assert_same(archive, smidgen.open(tmp_path / "a.smidgen"))
    with pytest.raises(InputError, match="cannot be written: No such file"):
        archive.save(tmp_path / "missing" / "a.smidgen")
    with pytest.raises(InputError, match="cannot be written: Is a directory"):
        archive.save(tmp_path)


def test_what_cannot_be_kept() -> None:
    with pytest.raises(WeightError, match="1 to 255 bytes"):
        write(Archive(b"", {"n" * 256: np.zeros(3, np.float32)}))
    with pytest.raises(WeightError, match="8 dimensions"):
        write(Archive(b"", {"w": np.zeros((1,) * 9, np.float32)}))
    with pytest.raises(InputError, match="tab"):
        Label("a", "b\tc")
    with pytest.raises(InputError, match="channels"):
        Preprocessing(10, 10, "GRB")


def test_a_step_beyond_int16() -> None:
    """-32768 and 32767 are two levels, a step of 65535 apart."""
    archive = Archive(b"", {"w": Code(np.array([[-32768, 32767]], np.int16), Affine.per_tensor(1.0))})
    assert_same(archive, read(write(archive)))


def test_inspect() -> None:
    found = {info.name: info for info in inspect(write(small_archive(), ("bitpack",)))}
    signs, bias, tables, empty = (found[name] for name in ("signs", "bias", "tables", "empty"))
    assert (signs.kind, signs.levels, signs.codec, signs.shape) == ("affine", 2, "bitpack", (4, 3, 3, 3))
    assert signs.stored == -(-108 // 8) + 4 * 4  # a bit a sign, four bytes a scale
    assert (tables.kind, tables.levels, tables.elements) == ("table", 2, 108)
    assert (bias.kind, bias.levels, bias.codec, bias.stored) == ("float32", 0, "raw", 400)
    assert (empty.kind, empty.elements, empty.stored) == ("float32", 0, 0)


def test_an_error_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.smidgen"
    path.write_bytes(write(small_archive())[:-1])
    with pytest.raises(FormatError, match=r"broken\.smidgen: truncated"):
        smidgen.open(path)


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.smidgen"
    path.write_bytes(b"old")

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(InputError, match=r"a\.smidgen: cannot be written: No space left"):
        small_archive().save(path)
    assert [(found.name, found.read_bytes()) for found in tmp_path.iterdir()] == [("a.smidgen", b"old")]


def test_more_than_256_groups() -> None:
    """A table has at most 256 columns; an affine rule has as many as there are groups."""
    scale = np.arange(1, 301, dtype=np.float32).reshape(1, 300)
    rule = Affine(scale, np.zeros((1, 300), np.int16))
    archive = Archive(b"", {"w": Code((np.arange(600) % 5).astype(np.int16).reshape(2, 300), rule)})
    assert_same(archive, read(write(archive)))


def test_nothing_is_written_that_cannot_be_read() -> None:
    with pytest.raises(WeightError, match="groups"):
        Code(np.zeros((2, 3), np.int16), Affine(np.ones((2, 4), np.float32), np.zeros((2, 4), np.int16), 0))
    with pytest.raises(WeightError, match="8 dimensions"):
        write(Archive(b"", {"w": Code(np.zeros((1,) * 9, np.int16), Affine.per_tensor(1.0))}))
    with pytest.raises(WeightError, match="attack"):
        write(Archive(b"", {"w": Code(np.zeros((5000, 5000), np.int16), Affine.per_tensor(1.0))}))
    for metadata in ({"a": float("nan")}, {"a": {1, 2}}, {"a": "\ud800"}):
        with pytest.raises(InputError, match="JSON"):
            write(Archive(b"", {}, metadata=metadata))


def test_a_label_is_one_line_however_it_is_made() -> None:
    label = Label("n1", "tabby")
    assert label == pickle.loads(pickle.dumps(label))
    for make in (lambda: Label("n1", "a\tb"), lambda: label._replace(name="a\nb"), lambda: Label._make(("\t", ""))):
        with pytest.raises(InputError, match="neither id nor name may hold a tab"):
            make()
