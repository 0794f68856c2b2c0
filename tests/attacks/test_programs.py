"""The programs of README.md: each is refused with its reason, or computes the same bits in all ways."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from smidgen.archive import Archive
from smidgen.code import Affine, Code, Trellis
from smidgen.errors import FormatError, ModelError
from smidgen.file import read, write
from smidgen.run import native
from smidgen.run.native import Native, claims, ways
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
    Picture,
    Product,
    Program,
    Resize,
    Sum,
)
from tests.hostile import Parts, take_apart, with_raw_texts
from tests.programs import IDENTITY, NUMBERS, SQUARE
from tests.test_native import Record, program_of

MEMORY, WORK = 4 << 20, 4 << 20
CONTRADICTION = "its program contradicts itself or the weights"
ONES = np.ones((3, 3, 1, 1), np.float32)
NAN, INFINITY = float("nan"), float("inf")
HUGE, TINY = 3e38, 1e-45

Shape = dict[str, Any]
PIXEL: Shape = {"height": 1, "width": 1, "channels": 3, "zero": 120, "scale": 0.02}
PICTURE = Picture("RGB", "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def file_of(
    program: Program | bytes, records: tuple[Record, ...] = (), memory: int = MEMORY, work: int = WORK
) -> bytes:
    """A file with this program, whatever it is, which no writer would write."""
    parts = take_apart(with_raw_texts(write(Archive(b"", {str(i): r for i, r in enumerate(records)}), ("raw",))))
    section = program if isinstance(program, bytes) else program.to_bytes()
    return replace(parts, version=2, sections={**parts.sections, "program": section}, memory=memory, work=work).build()


def chain(*operations: Operation, shapes: tuple[Shape, ...] = (SQUARE, SQUARE, SQUARE), **settings: Any) -> Program:
    """A program of these operations and tensors, which lie apart."""
    return program_of(shapes, operations, **settings)


def lookups(**changes: Any) -> Program:
    """0 to 1 to 2, where ``changes`` are made to the tensor 1."""
    program = chain(Lookup(0, 1, IDENTITY), Lookup(1, 2, IDENTITY))
    first, second, third = program.tensors
    return replace(program, tensors=(first, replace(second, **changes), third))


def near(distance: int, pitch: int = 3) -> Program:
    """Like ``lookups``, with the tensor 1 so many bytes behind the input."""
    program = chain(Lookup(0, 1, IDENTITY), Lookup(1, 2, IDENTITY), shapes=({**SQUARE, "pitch": pitch},) * 3)
    first, second, third = program.tensors
    return replace(program, tensors=(first, replace(second, offset=first.offset + distance), third))


def shape_of(height: int, width: int, **changes: Any) -> Shape:
    return {**SQUARE, "height": height, "width": width, "border": 0, **changes}


def convolution(
    weight: Record | None = None, bias: Record | None = None, shapes: tuple[Shape, Shape] | None = None, **changes: Any
) -> bytes:
    """A convolution of 1 x 1 from 3 to 3 channels, unless told otherwise."""
    operation = Convolution(0, 1, 0, NO_RECORD if bias is None else 1, (1, 1))
    records = (ONES if weight is None else weight,) + (() if bias is None else (bias,))
    return file_of(chain(replace(operation, **changes), shapes=shapes or (SQUARE, SQUARE)), records)


def pool(kind: type[Maximum] | type[Average], *numbers: Any, scale: float = 0.02, **shape: Any) -> bytes:
    return file_of(chain(kind(0, 1, *numbers), shapes=(SQUARE, {**SQUARE, "scale": scale, **shape})))


def joined(*parts: tuple[int, int], **changes: Any) -> bytes:
    """Parts (first channel, channels) of a whole of 7 channels, all of them written."""
    program = chain(shapes=(SQUARE, {**SQUARE, "channels": 7, "pitch": 8}), output=1)
    whole = program.tensors[1]
    held = [replace(whole, offset=whole.offset + first, channels=count) for first, count in parts]
    held = [*held[:-1], replace(held[-1], **changes)] if held else []
    records = [np.ones((count, 3, 1, 1), np.float32) for _, count in parts]
    written = [Convolution(0, 2 + i, i, NO_RECORD, (1, 1)) for i in range(len(parts))]
    operations = (*written, Join(1, tuple(range(2, 2 + len(parts)))))
    return file_of(replace(program, tensors=(*program.tensors, *held), operations=operations), tuple(records))


def move(*axes: tuple[int, int, int], **changes: Any) -> bytes:
    """From rows of 28 bytes and pixels of 4 with 3 channels to the same, unless told otherwise."""
    return file_of(chain(Move(0, 1, axes), shapes=(SQUARE, {**SQUARE, **changes})))


def resize(rows: list[int], columns: list[int]) -> bytes:
    places = (tuple((y, 128) for y in rows), tuple((x, 128) for x in columns))
    return file_of(chain(Resize(0, 1, *places), shapes=(SQUARE, SQUARE)))


def pairs(kind: type[Sum] | type[Product], scales: tuple[float, float, float]) -> bytes:
    shapes = tuple({**SQUARE, "scale": scale} for scale in scales)
    between = Convolution(0, 1, 0, NO_RECORD, (1, 1))
    weight = np.float32(scales[1] / scales[0]) * np.eye(3, dtype=np.float32).reshape(3, 3, 1, 1)
    return file_of(chain(between, kind(0, 1, 2), shapes=shapes), (weight,))


def patched(program: Program, at: int, form: str, value: float, records: tuple[Record, ...] = ()) -> bytes:
    """The program with another number at one place of its bytes; a negative place counts from their end."""
    data = bytearray(program.to_bytes())
    struct.pack_into("<" + form, data, at % len(data), value)
    return file_of(bytes(data), records)


def pictures(picture: Picture = PICTURE, **shape: Any) -> bytes:
    shapes = ({**SQUARE, **shape}, {**NUMBERS, "channels": shape.get("channels", 3)})
    return file_of(chain(Mean(0, 1), shapes=shapes, picture=picture))


def large(rows: int, value: int) -> Code:
    return Code(np.full((3, 3, rows, 32), value, np.int16), Affine.per_tensor(0.01))


def affine(scale: float, value: int = 1, zero: int = 0) -> Code:
    rule = Affine(np.full((1, 1), scale, np.float32), np.full((1, 1), zero, np.int16))
    return Code(np.full((3, 3, 1, 1), value, np.int16), rule)


def wide(rows: int, channels: int = 3) -> Shape:
    return shape_of(rows, 32, channels=channels)


BIAS = np.zeros(3, np.float32)
ONE, LOOKUP = lookups(), Lookup(0, 1, IDENTITY)
SAME = ((4, 28, 28), (5, 4, 4), (3, 1, 1))
NUMBERED = chain(Mean(0, 1), shapes=(SQUARE, NUMBERS))
TENSOR, SIZE = 12, 19  # where the first tensor lies in a program without pictures, and the bytes of each
SCALE = 15  # where its scale lies in them

ATTACKS: dict[str, Callable[[], bytes]] = {
    # numbers of tensors and records
    "input that is not there": lambda: file_of(chain(Lookup(9, 1, IDENTITY))),
    "output of an operation that is not there": lambda: file_of(chain(Lookup(0, 65535, IDENTITY))),
    "output that is not there": lambda: file_of(replace(ONE, output=3)),
    "weight that is not there": lambda: file_of(chain(Convolution(0, 1, 1, NO_RECORD, (1, 1))), (ONES,)),
    "weight of number 65535": lambda: file_of(chain(Convolution(0, 1, 65535, NO_RECORD, (1, 1))), (ONES,)),
    "bias that is not there": lambda: file_of(chain(Convolution(0, 1, 0, 1, (1, 1))), (ONES,)),
    "part that is not there": lambda: file_of(chain(LOOKUP, Join(2, (1, 3)))),
    "operation of no kind": lambda: patched(ONE, -(5 + 256), "B", 10),
    # order
    "operation that reads itself": lambda: file_of(chain(Lookup(1, 1, IDENTITY))),
    "operation that reads what comes later": lambda: file_of(chain(Lookup(2, 1, IDENTITY), Lookup(0, 2, IDENTITY))),
    "operation that writes the input": lambda: file_of(chain(LOOKUP, Lookup(1, 0, IDENTITY), output=1)),
    "tensor that is written twice": lambda: file_of(chain(LOOKUP, LOOKUP, output=1)),
    "output that nothing wrote": lambda: file_of(chain(LOOKUP)),
    "join of what nothing wrote": lambda: file_of(chain(Join(1, (2,)), output=1)),
    "join of itself": lambda: file_of(chain(Join(1, (1,)), output=1)),
    "numbers in the middle": lambda: file_of(
        chain(Mean(0, 1), Lookup(1, 2, IDENTITY), shapes=(SQUARE, NUMBERS, PIXEL))
    ),
    "numbers that are the input": lambda: file_of(chain(Mean(0, 1), shapes=(NUMBERS, NUMBERS))),
    # places
    "output on its input": lambda: file_of(near(0)),
    "output a byte behind its input": lambda: file_of(near(1)),
    "output before the end of its input": lambda: file_of(near(125)),
    "output on its second input": lambda: file_of(
        replace(p := chain(LOOKUP, Sum(0, 1, 2)), tensors=(*p.tensors[:2], p.tensors[1]))
    ),
    "output among the channels of its input": lambda: file_of(near(2, pitch=8)),
    "output that runs into the next pixel of its input": lambda: file_of(near(6, pitch=8)),
    "tensor that begins before the arena": lambda: file_of(lookups(offset=20)),
    "tensor at the end of all addresses": lambda: file_of(lookups(offset=2**32 - 1)),
    "tensor a byte beyond the arena": lambda: file_of(replace(ONE, arena=ONE.tensors[2].end - 1)),
    "tensor whose size overflows": lambda: file_of(
        lookups(height=65535, width=65535, channels=65535, pitch=65535, border=255)
    ),
    "tensor of 2^32 bytes": lambda: file_of(lookups(height=2**15, width=2**15, channels=4, pitch=4, border=0)),
    "pixels that overlap": lambda: file_of(lookups(pitch=2)),
    "pixels that are one": lambda: file_of(lookups(pitch=0)),
    "no channels": lambda: file_of(lookups(channels=0, pitch=0)),
    "no rows": lambda: file_of(lookups(height=0)),
    "no columns": lambda: file_of(lookups(width=0)),
    "numbers with a border": lambda: file_of(chain(Mean(0, 1), shapes=(SQUARE, {**NUMBERS, "border": 1}))),
    "numbers at an odd address": lambda: file_of(
        replace(NUMBERED, tensors=(NUMBERED.tensors[0], replace(NUMBERED.tensors[1], offset=322)))
    ),
    "numbers on each other": lambda: patched(NUMBERED, TENSOR + SIZE + 11, "H", 11),
    "arena of more than 2^30": lambda: file_of(replace(ONE, arena=2**30 + 1)),
    "arena of 2^32 - 1": lambda: file_of(replace(ONE, arena=2**32 - 1)),
    # convolutions and windows
    "kernel above the border": lambda: convolution(top=2),
    "kernel left of the border": lambda: convolution(left=2),
    "kernel below the border": lambda: convolution(np.ones((3, 3, 4, 1), np.float32), kernel=(4, 1), top=1),
    "kernel right of the border": lambda: convolution(np.ones((3, 3, 1, 4), np.float32), kernel=(1, 4), left=1),
    "stride beyond the border": lambda: convolution(stride=(255, 1)),
    "largest kernel, stride and dilation": lambda: convolution(
        kernel=(255, 255), stride=(255, 255), dilation=(255, 255), top=255, left=255
    ),
    "kernel of nothing": lambda: convolution(kernel=(0, 1)),
    "stride of nothing": lambda: convolution(stride=(1, 0)),
    "dilation of nothing": lambda: convolution(dilation=(0, 1)),
    "no groups": lambda: convolution(groups=0),
    "groups that do not divide": lambda: convolution(groups=2),
    "more groups than channels": lambda: convolution(groups=65535),
    "low above high": lambda: convolution(low=9, high=8),
    "numbers that are clamped": lambda: convolution(shapes=({**PIXEL}, NUMBERS), low=1),
    "window beside the input": lambda: pool(Maximum, (1, 1), (2, 1)),
    "window before the input": lambda: pool(Average, (2, 2), (1, 1), 2, 0),
    "window of nothing": lambda: pool(Average, (0, 2)),
    "maximum of another scale": lambda: pool(Maximum, (1, 1), scale=0.03),
    "maximum of other channels": lambda: pool(Maximum, (1, 1), channels=4),
    "padded in another way": lambda: pool(Average, (1, 1), (1, 1), 0, 0, 2),
    "mean of more pixels than sums hold": lambda: file_of(
        chain(Mean(0, 1), shapes=(shape_of(2897, 2896, channels=1, pitch=1), {**PIXEL, "channels": 1}))
    ),
    "mean to many pixels": lambda: file_of(chain(Mean(0, 1), shapes=(SQUARE, SQUARE))),
    "product of other sizes": lambda: file_of(
        chain(Average(0, 1, (1, 1)), Product(0, 1, 2), shapes=(SQUARE, {**SQUARE, "height": 1}, SQUARE))
    ),
    "lookup of other sizes": lambda: file_of(chain(LOOKUP, shapes=(SQUARE, {**SQUARE, "width": 6}))),
    "more products than 2^38": lambda: file_of(
        chain(Average(0, 1, (255, 255)), shapes=(shape_of(66, 65535, channels=1, pitch=1),) * 2)
    ),
    "more products than 2^38 in all": lambda: file_of(
        chain(*(Average(0, i, (255, 255)) for i in range(1, 9)), shapes=(shape_of(9, 65535, channels=1, pitch=1),) * 9)
    ),
    # join, move, resize
    "parts that overlap": lambda: joined((0, 4), (3, 4)),
    "parts that leave a hole": lambda: joined((0, 3), (4, 3)),
    "parts that leave the end": lambda: joined((0, 3), (3, 3)),
    "parts beyond the whole": lambda: joined((0, 3), (3, 5)),
    "parts in another order": lambda: joined((4, 3), (0, 4)),
    "part of another scale": lambda: joined((0, 7), scale=0.5),
    "part of another zero": lambda: joined((0, 7), zero=0),
    "part of another border": lambda: joined((0, 7), border=0),
    "no parts": lambda: joined(),
    "move beyond the input": lambda: move((4, 56, 28), (5, 4, 4), (3, 1, 1)),
    "move beyond the output": lambda: move((4, 28, 56), (5, 4, 4), (3, 1, 1)),
    "move from the border": lambda: move((4, 28, 28), (5, 8, 4), (3, 1, 1)),
    "move to the border": lambda: move((4, 28, 28), (5, 4, 8), (3, 1, 1)),
    "move from between the pixels": lambda: move((4, 28, 28), (5, 4, 4), (3, 2, 1)),
    "move to between the pixels": lambda: move((4, 28, 28), (5, 4, 4), (3, 1, 2)),
    "move backwards": lambda: move((4, 28, 28), (5, -4, 4), (3, 1, 1)),
    "move to one place": lambda: move((4, 28, 0), (5, 4, 0), (3, 1, 0)),
    "move to the same places twice": lambda: move((4, 28, 28), (3, 4, 4), (5, 0, 4)),
    "move that leaves the rest": lambda: move((4, 28, 28), (5, 4, 4)),
    "move along no axis": lambda: move(),
    "move along seven axes": lambda: move(*SAME, *((1, 0, 0),) * 4),
    "move whose size overflows": lambda: move(*((65535, 1, 1),) * 6),
    "move of nothing": lambda: move((0, 1, 1), *SAME),
    "move by the longest steps": lambda: move((4, 2**31 - 1, 28), (5, 4, -(2**31)), (3, 1, 1)),
    "move of another scale": lambda: move(*SAME, scale=0.03),
    "row outside of the input": lambda: resize([0, 1, 2, 4], [0, 1, 2, 3, 4]),
    "column outside of the input": lambda: resize([0, 1, 2, 3], [0, 1, 2, 3, 65535]),
    # how a program begins and ends
    "no program": lambda: file_of(b"\0"),
    "no tensors": lambda: file_of(struct.pack("<BHHHIB", 0, 0, 1, 0, 64, 0)),
    "no operations": lambda: file_of(replace(ONE, operations=(), output=0)),
    "tensors by the thousand": lambda: file_of(replace(ONE, tensors=ONE.tensors[:1] * 4096 + ONE.tensors[1:])),
    "operations by the thousand": lambda: file_of(replace(ONE, operations=ONE.operations * 2049)),
    "operations that are not there": lambda: patched(ONE, 3, "H", 4096),
    "an unknown finish": lambda: patched(ONE, 0, "B", 2),
    "pictures of an unknown kind": lambda: patched(ONE, 11, "B", 2),
    "tensor of an unknown type": lambda: patched(ONE, TENSOR, "B", 2),
    "bytes after the program": lambda: file_of(ONE.to_bytes() + b"\0"),
    "picture of four channels": lambda: pictures(channels=4),
    "picture of 16385 columns": lambda: pictures(height=1, width=16385, border=0),
    "picture divided by nothing": lambda: pictures(replace(PICTURE, std=(1.0, 0.0, 1.0))),
    "picture whose mean is not a number": lambda: pictures(replace(PICTURE, mean=(1.0, NAN, 1.0))),
    # weights
    "weight of other outputs": lambda: convolution(np.ones((4, 3, 1, 1), np.float32)),
    "weight of more elements": lambda: convolution(np.ones((3, 4, 1, 1), np.float32)),
    "weight of no rank": lambda: convolution(np.array(1, np.float32)),
    "weight that is empty": lambda: convolution(np.ones((3, 0, 1, 1), np.float32)),
    "weight of integers": lambda: convolution(np.ones((3, 3, 1, 1), np.int8)),
    "weight of doubles": lambda: convolution(np.ones((3, 3, 1, 1), np.float64)),
    "weight that is not a number": lambda: convolution(np.full((3, 3, 1, 1), NAN, np.float32)),
    "bias that is infinite": lambda: convolution(bias=np.array([INFINITY, -INFINITY, 0], np.float32)),
    "weight that is infinite": lambda: convolution(np.full((3, 3, 1, 1), INFINITY, np.float32)),
    "weight of -32768": lambda: convolution(affine(0.1, -32768)),
    "weight less its zero of 32768": lambda: convolution(affine(0.1, 32767, -1)),
    "weight whose scale is not a number": lambda: convolution(affine(NAN)),
    "weight whose scale is infinite": lambda: convolution(affine(INFINITY)),
    "bias of another length": lambda: convolution(bias=np.zeros(4, np.float32)),
    "bias of integers": lambda: convolution(bias=np.zeros(3, np.int32)),
    "bias that is not a number": lambda: convolution(bias=np.full(3, NAN, np.float32)),
    "sums beyond 2^31": lambda: convolution(large(3, 32767), shapes=(wide(3), shape_of(1, 1)), kernel=(3, 32)),
    "sums beyond 2^31 by the bias": lambda: convolution(
        large(1, 32767), np.full(3, 1.6e5, np.float32), (wide(1), shape_of(1, 1)), kernel=(1, 32)
    ),
    # scales
    **{
        f"scale of a tensor that is {name}": lambda value=value: patched(ONE, TENSOR + SCALE, "f", value)
        for name, value in (("0", 0), ("negative", -1), ("not a number", NAN), ("infinite", INFINITY))
    },
    "input of a denormal scale": lambda: file_of(chain(LOOKUP, shapes=({**SQUARE, "scale": TINY}, SQUARE))),
    "factor that overflows": lambda: convolution(affine(HUGE), shapes=(SQUARE, {**SQUARE, "scale": TINY})),
    "numbers whose factor overflows": lambda: convolution(affine(HUGE), shapes=({**PIXEL, "scale": HUGE}, NUMBERS)),
    "average whose factor overflows": lambda: pool(Average, (1, 1), scale=TINY),
    "mean whose factor overflows": lambda: file_of(chain(Mean(0, 1), shapes=(SQUARE, {**PIXEL, "scale": TINY}))),
    "sum whose factor overflows": lambda: pairs(Sum, (0.02, 0.02, TINY)),
    "product whose factor overflows": lambda: pairs(Product, (HUGE, HUGE, 1.0)),
}

# What is odd but can be computed.
VALID: dict[str, Callable[[], bytes]] = {
    "weight of scale 0": lambda: convolution(affine(0.0), np.array([0, 1, -1], np.float32)),
    "weight of a negative scale": lambda: convolution(affine(-0.5)),
    "weight of a denormal scale": lambda: convolution(affine(TINY), np.array([1, 0, 2], np.float32)),
    "bias beside which weights are nothing": lambda: convolution(bias=np.array([1e30, -1e30, 0], np.float32)),
    "weights all 0": lambda: convolution(np.zeros((3, 3, 1, 1), np.float32)),
    "weights that are denormal": lambda: convolution(np.full((3, 3, 1, 1), 9 * TINY, np.float32)),
    "largest sums": lambda: convolution(large(1, 32767), shapes=(wide(1), shape_of(1, 1)), kernel=(1, 32)),
    "sum of infinities": lambda: pairs(Sum, (HUGE, HUGE, 1.0)),
    "product of infinities": lambda: pairs(Product, (1e19, 1e19, 1.0)),
    "output of a denormal scale": lambda: convolution(affine(1e-20), shapes=(SQUARE, {**SQUARE, "scale": TINY})),
    "output of the largest scale": lambda: convolution(affine(1e-20), shapes=(SQUARE, {**SQUARE, "scale": HUGE})),
    "numbers that are infinite": lambda: convolution(affine(1e38, 9), shapes=({**PIXEL, "scale": 3.0}, NUMBERS)),
    "softmax of infinite scores": lambda: file_of(
        chain(Convolution(0, 1, 0, NO_RECORD, (1, 1)), shapes=({**PIXEL, "scale": 3.0}, NUMBERS), softmax=True),
        (affine(1e38, 9),),
    ),
    "output that is the input": lambda: file_of(replace(ONE, output=0)),
    "tensor over one that is read no more": lambda: file_of(lookups_in_turn()),
    "claim of far too much memory": lambda: file_of(ONE, memory=1 << 28),
    "picture of a denormal std": lambda: pictures(replace(PICTURE, std=(TINY, -TINY, HUGE))),
    "picture of a huge mean": lambda: pictures(replace(PICTURE, mean=(HUGE, -HUGE, 0.0))),
    "unused records of any type": lambda: file_of(ONE, (np.ones(3, np.float64), np.zeros((0, 2), np.int8))),
}


def lookups_in_turn() -> Program:
    program = chain(LOOKUP, Lookup(1, 2, IDENTITY))
    first, second, third = program.tensors
    return replace(program, tensors=(first, second, replace(third, offset=first.offset + 1)))


def refusal(act: Callable[[], object]) -> str:
    """The one line that says why."""
    with pytest.raises(FormatError) as caught:
        act()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("name", ATTACKS)
def test_program_is_refused(name: str) -> None:
    data = ATTACKS[name]()
    for way in ways():
        assert CONTRADICTION in refusal(lambda way=way: Native(data, 1, way))
    assert CONTRADICTION in refusal(lambda: claims(data))


def answers(data: bytes) -> bytes:
    """The bits that all ways compute, alone and with a team, once and once more."""
    found = set()
    for way in ways():
        for threads in (1, 2):
            network = Native(data, threads, way)
            shape = (3, *network.shape[1:])
            with np.errstate(all="ignore"):
                x = np.random.default_rng(0).normal(0, 1e3, shape).astype(np.float32)
            x[1].ravel()[::3], x[1].ravel()[1::3] = np.nan, -np.inf
            x[2] /= 1e3
            found |= {network(x).tobytes(), network(x[::-1])[::-1].tobytes()}
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("name", VALID)
def test_odd_program_runs_alike(name: str) -> None:
    data = VALID[name]()
    read(data)
    assert answers(data)
    assert claims(data) <= (1 << 28, WORK)


def test_trellis_without_a_scale_is_refused_by_both_readers() -> None:
    trellis = Code(np.ones((3, 3, 1, 1), np.int16), Trellis(0.5))
    data = convolution(trellis)
    assert answers(data)
    parts = take_apart(data)
    for value in (0.0, -1.0, NAN, INFINITY):
        payload = parts.sections["payload"][:-4] + struct.pack("<f", value)
        forged = replace(parts, sections={**parts.sections, "payload": payload}).build()
        refusal(lambda forged=forged: read(forged))
        for way in ways():
            assert CONTRADICTION in refusal(lambda way=way, forged=forged: Native(forged, 1, way))


def test_claims_of_too_little_memory() -> None:
    memory, work = claims(file_of(ONE))
    assert answers(file_of(ONE, (), memory, work))
    for less in ((memory - 1, work), (memory, work - 1), (0, 0), (0, work), (memory, 0), (100, 100)):
        data = file_of(ONE, (), *less)
        for way in ways():
            assert "less memory" in refusal(lambda way=way, data=data: Native(data, 1, way))
    # an arena of the largest size, of which the header says nothing
    assert "less memory" in refusal(lambda: Native(file_of(replace(ONE, arena=2**30)), 1))


def test_claims_of_too_much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "more memory" in refusal(lambda: Native(file_of(ONE, (), 2**32 - 1, 2**32 - 1), 1))

    def full(size: int) -> None:
        raise MemoryError

    monkeypatch.setattr(native, "_aligned", full)
    with pytest.raises(ModelError, match=r"has no 1\.0 GB"):
        Native(file_of(ONE, (), 10**9, 10**6), 1)


def test_program_cut_at_every_length() -> None:
    data = ONE.to_bytes()
    for length in range(1, len(data)):
        refusal(lambda length=length: Native(file_of(data[:length]), 1))


def test_real_programs_are_as_expected() -> None:
    # else the attacks above would be refused for the wrong reason
    for data in (
        file_of(ONE),
        file_of(near(126)),
        file_of(near(3, pitch=8)),
        convolution(bias=BIAS),
        convolution(shapes=({**PIXEL}, NUMBERS)),
        pool(Maximum, (2, 2), (1, 1), 1, 1),
        pool(Average, (1, 1), (1, 1), 0, 0, True),
        joined((0, 3), (3, 4)),
        joined((0, 7)),
        move(*SAME),
        move(*SAME, (1, -(2**31), 2**31 - 1)),
        resize([0, 1, 2, 3], [0, 1, 2, 3, 4]),
        pairs(Sum, (0.02, 0.02, 0.02)),
        pairs(Product, (0.02, 0.02, 0.02)),
        pictures(),
        patched(ONE, TENSOR + SCALE, "f", 0.02),
    ):
        assert answers(data)


def test_readme_lists_every_program() -> None:
    text = (Path(__file__).parent / "README.md").read_text()
    assert [name for name in (*ATTACKS, *VALID) if f"| {name} |" not in text] == []


def test_header_has_no_section_for_a_program_in_version_1() -> None:
    with pytest.raises(ModelError, match="no program"):
        Native(Parts().build(), 1)
