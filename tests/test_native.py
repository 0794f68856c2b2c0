"""The engine of the core: every way to compute gives the bits of the plain interpreter in tests/reference."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper
from smidgen._core import ffi, lib

from smidgen.archive import Archive
from smidgen.code import Affine, Code, Table, Trellis
from smidgen.errors import InputError, ModelError
from smidgen.file import write
from smidgen.run.native import WAYS, Native, ways
from smidgen.run.program import (
    NO_RECORD,
    Average,
    Convolution,
    Join,
    Lookup,
    Maximum,
    Mean,
    Move,
    Operation,
    Product,
    Program,
    Resize,
    Signs,
    SignsConvolution,
    Sum,
    Tensor,
)
from tests.reference.program import run

Record = Code | np.ndarray
SLACK = 64


def program_of(shapes: Sequence[dict[str, object]], operations: Sequence[Operation], **settings: object) -> Program:
    """A program of tensors that lie one after another, each with a border where it asks for one."""
    tensors, place = [], SLACK
    for shape in shapes:
        given = {"pitch": -(-int(shape["channels"]) // 4) * 4, **shape}  # type: ignore[call-overload]
        if given.get("numbers"):
            given["pitch"] = 4 * given["channels"]
        tensor = Tensor(0, **given)  # type: ignore[arg-type]
        tensors.append(Tensor(place - tensor.start, **given))  # type: ignore[arg-type]
        place = -(-(tensors[-1].end + SLACK) // SLACK) * SLACK
    last = len(tensors) - 1
    return Program(tuple(tensors), tuple(operations), arena=place, **{"output": last, **settings})  # type: ignore[arg-type]


def file_of(program: Program, records: Sequence[Record]) -> bytes:
    """A file that has the program, and a graph that has nothing to do with it."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values[:1], values[1:])
    tensors = {str(number): record for number, record in enumerate(records)}
    return write(Archive(helper.make_model(graph).SerializeToString(), tensors, program=program.to_bytes()), ("raw",))


def check(program: Program, records: Sequence[Record], seed: int = 0) -> np.ndarray:
    """The answers of all ways, which must be the bits of the interpreter's; with one thread and with three."""
    program = Program.from_bytes(program.to_bytes())  # scales are float32
    first = program.tensors[0]
    shape = first.channels, first.height, first.width
    low, high = -first.scale * first.zero, first.scale * (255 - first.zero)
    x = np.random.default_rng(seed).uniform(1.1 * low, 1.1 * high, (2, *shape)).astype(np.float32)
    expected = np.stack([run(program, records, one) for one in x])
    data = file_of(program, records)
    for way in ways():
        for threads in (1, 3):
            np.testing.assert_array_equal(Native(data, threads, way)(x), expected, err_msg=f"{way}, {threads} threads")
    return expected


def weights(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> Record:
    """A weight of this kind, of which all ways must make the same."""
    if kind == "floats":
        return rng.normal(size=shape).astype(np.float32)
    if kind == "table":
        return Code(rng.integers(0, 5, shape).astype(np.int16), Table(rng.normal(size=(1, 5)).astype(np.float32)))
    if kind == "trellis":
        return Code(np.round(rng.laplace(0, 2, shape)).clip(-60, 60).astype(np.int16), Trellis(0.125))
    if kind == "large":  # more than 8 bits hold, so that steps are split
        return Code(rng.integers(-127, 128, shape).astype(np.int16), Trellis(0.125, 8))
    if kind == "signs":
        return Code((2 * rng.integers(0, 2, shape) - 1).astype(np.int16), Affine.per_tensor(0.125))
    scale, zero = rng.uniform(0.01, 0.1, (shape[0], 1)), rng.integers(-9, 9, (shape[0], 1))
    symbols = rng.integers(-128, 128, shape).astype(np.int16)
    return Code(symbols, Affine(scale.astype(np.float32), zero.astype(np.int16), 0))


KINDS = ("floats", "table", "trellis", "large", "signs", "affine")


@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(KINDS),
    groups=st.sampled_from([1, 1, 1, 2, 3]),
    inputs=st.integers(1, 9),
    outputs=st.integers(1, 20),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    size=st.tuples(st.integers(3, 9), st.integers(3, 16)),
    padding=st.integers(0, 1),
)
@settings(deadline=None, max_examples=120)
def test_convolutions(
    seed: int,
    kind: str,
    groups: int,
    inputs: int,
    outputs: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    size: tuple[int, int],
    padding: int,
) -> None:
    rng = np.random.default_rng(seed)
    out = [
        (side + 2 * padding - (k - 1) * d - 1) // s + 1
        for side, k, s, d in zip(size, kernel, stride, dilation, strict=True)
    ]
    if min(out) < 1:
        return
    shape = {"height": size[0], "width": size[1], "channels": groups * inputs, "border": padding}
    wide = {"height": out[0], "width": out[1], "channels": groups * outputs, "border": int(rng.integers(0, 3))}
    zeros = rng.integers(0, 200, 2)
    low, high = sorted(map(int, rng.integers(0, 256, 2)))
    convolution = Convolution(0, 1, 0, 1, kernel, stride, dilation, padding, padding, groups, low, high)
    program = program_of(
        [{**shape, "zero": int(zeros[0]), "scale": 0.02}, {**wide, "zero": int(zeros[1]), "scale": 0.11}],
        [convolution],
    )
    records = [weights(rng, (groups * outputs, inputs, *kernel), kind), rng.normal(size=groups * outputs)]
    check(program, [records[0], records[1].astype(np.float32)], seed)


@pytest.mark.parametrize("channels", [2, 16, 37])
@pytest.mark.parametrize("kind", KINDS)
def test_depthwise_convolutions(channels: int, kind: str) -> None:
    rng = np.random.default_rng(channels)
    shape = {"height": 7, "width": 9, "channels": channels, "border": 2, "zero": 30, "scale": 0.02}
    made = {"height": 4, "width": 5, "channels": channels, "border": 1, "zero": 3, "scale": 0.07}
    convolution = Convolution(0, 1, 0, NO_RECORD, (5, 5), (2, 2), top=2, left=2, groups=channels)
    check(program_of([shape, made], [convolution]), [weights(rng, (channels, 1, 5, 5), kind)])


@pytest.mark.parametrize("softmax", [False, True])
def test_numbers_at_the_end(softmax: bool) -> None:
    rng = np.random.default_rng(1)
    shape = {"height": 4, "width": 3, "channels": 5, "zero": 100, "scale": 0.02}
    whole = Convolution(0, 1, 0, 1, (4, 3))
    end = {"height": 1, "width": 1, "channels": 21, "numbers": True}
    records = [weights(rng, (21, 60), "trellis"), rng.normal(size=21).astype(np.float32)]
    program = program_of([shape, end], [whole], softmax=softmax)
    x = rng.normal(size=(1, 5, 4, 3)).astype(np.float32)
    expected = run(program, records, x[0])
    found = [Native(file_of(program, records), 1, way)(x)[0] for way in ways()]
    for one in found:
        np.testing.assert_array_equal(one, found[0])
        np.testing.assert_allclose(one, expected, rtol=2e-6)


SQUARE = {"height": 6, "width": 7, "channels": 5, "zero": 128, "scale": 0.02}


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    before=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    out=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    channels=st.sampled_from([1, 5, 16, 35]),
    kind=st.sampled_from(["maximum", "average", "padded"]),
)
@settings(deadline=None, max_examples=60)
def test_pools(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    before: tuple[int, int],
    out: tuple[int, int],
    channels: int,
    kind: str,
) -> None:
    sides = zip((6, 7), out, kernel, stride, before, strict=True)
    if any(b >= k or (o - 1) * s >= side + b for side, o, k, s, b in sides):
        return
    made = {"height": out[0], "width": out[1], "channels": channels, "border": 1, "zero": 128, "scale": 0.02}
    if kind == "maximum":
        operation: Operation = Maximum(0, 1, kernel, stride, *before)
    else:
        operation = Average(0, 1, kernel, stride, *before, padded=kind == "padded")
        made |= {"zero": 110, "scale": 0.017}
    check(program_of([{**SQUARE, "channels": channels}, made], [operation]), [])


@pytest.mark.parametrize("numbers", [True, False])
def test_mean(numbers: bool) -> None:
    end = {"height": 1, "width": 1, "channels": 5, **({"numbers": True} if numbers else {"zero": 9, "scale": 0.003})}
    check(program_of([SQUARE, end], [Mean(0, 1)]), [])


@pytest.mark.parametrize("kind", [Sum, Product])
@pytest.mark.parametrize("single", [True, False])
@pytest.mark.parametrize("channels", [3, 32, 40])
def test_two_inputs(kind: type[Sum] | type[Product], single: bool, channels: int) -> None:
    shape = {**SQUARE, "channels": channels}
    one = {**shape, **({"height": 1, "width": 1} if single else {}), "zero": 40, "scale": 0.031}
    table = bytes(np.random.default_rng(0).permutation(256).astype(np.uint8))
    other: Operation = Mean(0, 1) if single else Lookup(0, 1, table)
    made = {**shape, "zero": 70, "scale": 0.05, "border": 1}
    check(program_of([shape, one, made], [other, kind(0, 1, 2, low=5, high=250)]), [])


def test_joined_parts_are_slices() -> None:
    rng = np.random.default_rng(2)
    shape = {**SQUARE, "border": 1}
    parts = {"height": 6, "width": 7, "channels": 13, "pitch": 16, "border": 1, "zero": 12, "scale": 0.3}
    program = program_of([shape, parts, {**SQUARE, "channels": 4, "scale": 0.9}], [])
    whole = program.tensors[1]
    slices = [
        Tensor(whole.offset + start, 6, 7, count, 16, border=1, zero=12, scale=0.3)
        for start, count in ((0, 3), (3, 10))
    ]
    operations = (
        Convolution(0, 3, 0, NO_RECORD, (1, 1)),
        Convolution(3, 4, 1, NO_RECORD, (3, 3), top=1, left=1),  # reads one slice and writes the other
        Join(1, (3, 4)),
        Convolution(1, 2, 2, NO_RECORD, (3, 3), top=1, left=1),
    )
    joined = Program((*program.tensors, *slices), operations, 2, program.arena)
    shapes = ((3, 5, 1, 1), (10, 3, 3, 3), (4, 13, 3, 3))
    check(joined, [weights(rng, shape, "trellis") for shape in shapes])


def test_moves_and_resizes() -> None:
    channels = [(5, 1, 1), (7, 8, 5), (6, 56, 35)]  # to one pixel for each row, its channels all columns' channels
    flat = {**SQUARE, "height": 6, "width": 1, "channels": 35, "pitch": 35}
    check(program_of([SQUARE, flat], [Move(0, 1, tuple(channels))]), [])
    rng = np.random.default_rng(3)
    places = [
        tuple((int(rng.integers(0, n)), int(rng.integers(0, 256))) for _ in range(m)) for n, m in ((6, 9), (7, 4))
    ]
    larger = {**SQUARE, "height": 9, "width": 4, "border": 1}
    check(program_of([SQUARE, larger], [Resize(0, 1, *places)]), [])


def test_weights_in_two_parts_are_added() -> None:
    rng = np.random.default_rng(4)
    parts = [weights(rng, (7, 5, 3, 3), kind) for kind in ("trellis", "table")]
    made = {**SQUARE, "height": 4, "width": 5, "channels": 7, "scale": 0.2}
    check(program_of([SQUARE, made], [Convolution(0, 1, 0, NO_RECORD, (3, 3), more=1)]), parts)


class SignsLayer(NamedTuple):
    """A convolution of the signs of 4 rows of pixels; these lie ``gap`` bytes apart."""

    channels: int
    outputs: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    width: int = 5
    gap: int = 0


@given(
    seed=st.integers(0, 99),
    layer=st.builds(
        SignsLayer,
        channels=st.sampled_from([1, 3, 8, 16, 37, 64, 300]),
        outputs=st.sampled_from([1, 16, 20, 32, 33, 70]),
        kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
        stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
        padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
        width=st.integers(1, 14),
        gap=st.integers(0, 2),
    ),
)
@settings(deadline=None, max_examples=60)
def test_convolutions_of_signs(seed: int, layer: SignsLayer) -> None:
    check_signs(layer, seed)


@pytest.mark.parametrize(
    "layer",
    [
        SignsLayer(21, 20, (3, 3), padding=(1, 1), width=120),  # a row in several parts
        SignsLayer(16, 16, (3, 3), padding=(1, 1), width=99),
        SignsLayer(5, 6, (1, 1), stride=(3, 3), width=130),  # pixels far apart
        SignsLayer(21, 6, (9, 9), stride=(1, 3), padding=(4, 4), width=33),
        SignsLayer(300, 3, (9, 9), padding=(4, 4), width=48),  # rows of the kernel in several turns
        SignsLayer(21, 33, (5, 9), dilation=(60, 40), padding=(121, 160), width=20),  # hardly a place within the input
        SignsLayer(65532, 2, (1, 1), width=3),  # hardly room for a pixel, and none for two as one
        SignsLayer(33000, 3, (1, 1)),
        SignsLayer(9000, 2, (1, 7), padding=(0, 3)),
        SignsLayer(1, 2, (120, 130), padding=(60, 65), width=9),
    ],
)
def test_convolutions_of_signs_of_any_size(layer: SignsLayer) -> None:
    check_signs(layer, 5)


def check_signs(layer: SignsLayer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, channels, outputs = layer.width, layer.channels, layer.outputs
    shape = {"height": 4, "width": width, "channels": channels, "zero": 128, "scale": 0.02, "border": 1}
    count, border = -(-channels // 4), int(rng.integers(0, 2))
    fours = {"height": 4, "width": width, "channels": count, "pitch": count + layer.gap, "border": border}
    sides = zip((4, width), layer.kernel, layer.stride, layer.dilation, layer.padding, strict=True)
    high, wide = (max(1, (side + 2 * pad - (k - 1) * d - 1) // s + 1) for side, k, s, d, pad in sides)
    made = {"height": high, "width": wide, "channels": outputs, "zero": 99, "scale": 0.4, "border": 1}
    window = layer.kernel, layer.stride, layer.dilation, *layer.padding
    convolution = SignsConvolution(1, 2, 0, 1, channels, *window, low=3, high=240)
    records = [weights(rng, (outputs, channels, *layer.kernel), "signs"), rng.normal(size=outputs).astype(np.float32)]
    check(program_of([shape, fours, made], [Signs(0, 1), convolution]), records, seed)


@pytest.mark.parametrize("symbol", [0, 3])
def test_weights_that_are_nothing_leave_their_biases(symbol: int) -> None:
    """Filters that died in training have weights of any small size, and a bias that counts."""
    rule = Trellis(float(np.float32(1e-40)))
    code = Code(np.full((3, 5, 1, 1), symbol, np.int16), rule)
    biases = np.array([0.5, -0.3, 0], np.float32)
    made = {**SQUARE, "channels": 3, "scale": 0.01}
    found = check(program_of([SQUARE, made], [Convolution(0, 1, 0, 1, (1, 1))]), [code, biases])
    np.testing.assert_allclose(found.reshape(2, 3, -1), np.tile(biases[:, None], (2, 1, 42)), atol=1e-6)


def test_not_a_number_is_the_lowest() -> None:
    program = program_of([SQUARE, {"height": 1, "width": 1, "channels": 5, "numbers": True}], [Mean(0, 1)])
    x = np.full((1, 5, 6, 7), np.nan, np.float32)
    for way in ways():
        np.testing.assert_allclose(Native(file_of(program, []), 1, way)(x), -128 * 0.02, rtol=1e-6)


def test_teams_end_with_their_networks() -> None:
    program = program_of([SQUARE, {"height": 1, "width": 1, "channels": 5, "numbers": True}], [Mean(0, 1)])
    data, x = file_of(program, []), np.ones((3, 5, 6, 7), np.float32)
    for threads in (2, 5, 0):
        network = Native(data, threads)
        assert network(x).shape == (3, 5)
        del network
        gc.collect()


def test_what_cannot_be_run() -> None:
    program = program_of([SQUARE, {"height": 1, "width": 1, "channels": 5, "numbers": True}], [Mean(0, 1)])
    data = file_of(program, [])
    with pytest.raises(InputError, match=r"way 'mmx': this processor has portable"):
        Native(data, 1, "mmx")
    with pytest.raises(InputError, match="threads"):
        Native(data, -1)
    with pytest.raises(InputError, match=r"takes \(n, 5, 6, 7\), not \(1, 5, 6, 6\)"):
        Native(data, 1)(np.zeros((1, 5, 6, 6), np.float32))
    with pytest.raises(ModelError, match="no program"):
        Native(b"no file", 1)


def test_threads_that_load_together_make_the_same_network(program_file: Path) -> None:
    data = program_file.read_bytes()
    file, facts = ffi.new("smidgen_file *"), ffi.new("smidgen_facts *")
    assert lib.smidgen_open(data, len(data), file) == 0
    batch = np.random.default_rng(5).normal(size=(2, 3, 32, 32)).astype(np.float32)
    expected = Native(data, threads=1)(batch)
    part = -(-file.work // 64) * 64
    for way in ways():
        for threads, parts in ((1, 1), (2, 1), (2, 2), (5, 3), (9, 9)):
            space, beside, network = aligned(file.memory), aligned(parts * part), ffi.new("smidgen_network **")
            room = aligned(lib.smidgen_team_size(threads))
            team = lib.smidgen_team_start(ffi.from_buffer(room), threads)
            status = lib.smidgen_load_with(data, len(data), WAYS[way], team, *buffer(space), *buffer(beside), network)
            assert status == 0
            lib.smidgen_about(network[0], facts)
            assert facts.memory <= file.memory
            assert facts.work <= file.work
            found = np.empty((2, facts.outputs), np.float32)
            for one, out in zip(batch, found, strict=True):
                lib.smidgen_run(network[0], team, ffi.from_buffer("float[]", one), ffi.from_buffer("float[]", out))
            np.testing.assert_array_equal(found, expected)
            short = lib.smidgen_load_with(
                data, len(data), WAYS[way], team, *buffer(space[: file.memory // 2]), *buffer(beside), network
            )
            assert short == lib.SMIDGEN_SPACE
            lib.smidgen_team_stop(team)


def aligned(size: int) -> NDArray[np.uint8]:
    memory = np.zeros(size + 64, np.uint8)
    return memory[-memory.ctypes.data % 64 :][:size]


def buffer(memory: NDArray[np.uint8]) -> tuple[object, int]:
    return ffi.from_buffer(memory), memory.size
