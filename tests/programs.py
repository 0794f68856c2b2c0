"""Small files whose programs have operations of all kinds: for fuzzers, mutations and attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Affine, Code, Table
from smidgen.file import write
from smidgen.run.program import (
    NO_RECORD,
    Average,
    Convolution,
    Join,
    Lookup,
    Maximum,
    Mean,
    Move,
    Picture,
    Product,
    Program,
    Resize,
    Signs,
    SignsConvolution,
    Sum,
)
from tests.hostile import with_raw_texts
from tests.test_native import Record, program_of, weights

SQUARE = {"height": 4, "width": 5, "channels": 3, "border": 1, "zero": 120, "scale": 0.02}
NUMBERS = {"height": 1, "width": 1, "channels": 3, "numbers": True}
IDENTITY = bytes(range(256))


def plain_file(program: Program, records: Sequence[Record] = ()) -> bytes:
    """A file without a graph whose texts are stored as they are: each byte of the program is one of the file."""
    tensors = {str(number): record for number, record in enumerate(records)}
    return with_raw_texts(write(Archive(b"", tensors, program=program.to_bytes()), ("raw",)))


def small_programs() -> dict[str, tuple[Program, list[Record]]]:
    """Programs by what is special about them, with the records that they name."""
    rng = np.random.default_rng(7)
    bias = rng.normal(size=20).astype(np.float32)
    layers = [
        Convolution(0, 1, 0, 1, (3, 3), top=1, left=1, low=20),
        Convolution(1, 2, 2, NO_RECORD, (3, 2), (1, 2), (1, 2), top=1, left=1, groups=20),
        Convolution(2, 3, 3, NO_RECORD, (1, 1), groups=2),
        Convolution(3, 4, 4, NO_RECORD, (4, 2)),
    ]
    shapes = [(20, 3, 3, 3), (20, 1, 3, 2), (6, 10, 1, 1), (5, 6, 4, 2)]
    kinds = ("affine", "trellis", "table", "large")
    held = [weights(rng, shape, kind) for shape, kind in zip(shapes, kinds, strict=True)]
    convolutions = program_of(
        [
            SQUARE,
            {**SQUARE, "channels": 20, "zero": 30, "scale": 0.1},
            {**SQUARE, "channels": 20, "width": 2, "scale": 0.3},
            {**SQUARE, "channels": 6, "width": 2, "border": 0},
            {**NUMBERS, "channels": 5},
        ],
        layers,
        softmax=True,
    )
    pools = program_of(
        [SQUARE, {**SQUARE, "height": 2, "width": 3}, {**SQUARE, "height": 2, "width": 2, "scale": 0.01}, NUMBERS],
        [
            Maximum(0, 1, (3, 2), (2, 2), 1, 0),
            Average(1, 2, (2, 2), (1, 1), 1, 1, padded=True),
            Mean(2, 3),
        ],
    )
    one = {**SQUARE, "height": 1, "width": 1, "border": 0}
    pairs = program_of(
        [SQUARE, {**one, "scale": 0.005}, {**SQUARE, "zero": 9}, {**SQUARE, "scale": 0.05}, SQUARE],
        [
            Mean(0, 1),
            Product(0, 1, 2, low=5, high=250),
            Lookup(2, 3, bytes(rng.permutation(256).astype(np.uint8))),
            Sum(3, 0, 4),
        ],
    )
    whole = program_of([SQUARE, {**SQUARE, "channels": 7, "pitch": 8}, NUMBERS], [])
    parts = [
        replace(whole.tensors[1], offset=whole.tensors[1].offset + start, channels=count)
        for start, count in ((0, 3), (3, 4))
    ]
    joined = Program(
        (*whole.tensors, *parts),
        (
            Convolution(0, 3, 0, NO_RECORD, (1, 1)),
            Convolution(3, 4, 1, NO_RECORD, (3, 3), top=1, left=1),
            Join(1, (3, 4)),
            Convolution(1, 2, 2, NO_RECORD, (4, 5)),
        ),
        2,
        whole.arena,
    )
    moved = program_of(
        [SQUARE, {**SQUARE, "height": 5, "width": 4, "border": 2}, {**SQUARE, "height": 6, "width": 2}],
        [],
        picture=Picture("BGR", "bicubic", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4)),
    )
    first, second = moved.tensors[:2]
    moved = replace(
        moved,
        operations=(
            Move(0, 1, ((4, first.row, second.pitch), (5, first.pitch, second.row), (3, 1, 1))),
            Resize(1, 2, tuple((i // 2, 77 * i) for i in range(3)) + ((4, 3),) * 3, ((0, 0), (3, 255))),
        ),
    )
    return {
        "wide": _wide(rng),
        "convolutions": (convolutions, [held[0], bias, *held[1:]]),
        "pools": (pools, []),
        "pairs": (pairs, []),
        "joined": (joined, [weights(rng, shape, "trellis") for shape in ((3, 3, 1, 1), (4, 3, 3, 3), (3, 7, 4, 5))]),
        "moved": (moved, []),
        **_binary(rng, bias),
    }


def _wide(rng: np.random.Generator) -> tuple[Program, list[Record]]:
    """Rows and channels that do not fill vectors, and weights of all rules."""
    wide_shape = {"height": 2, "width": 13, "channels": 17, "pitch": 17, "zero": 50, "scale": 0.03}
    wide = program_of(
        [{**SQUARE, "width": 13, "height": 2}, wide_shape, wide_shape, {**NUMBERS, "channels": 2}],
        [
            Convolution(0, 1, 0, 3, (3, 3), top=1, left=1),
            Convolution(1, 2, 1, NO_RECORD, (1, 1)),
            Convolution(2, 3, 2, NO_RECORD, (2, 13)),
        ],
    )
    floats = rng.normal(size=(17, 3, 3, 3)).astype(np.float32)
    floats[3] = 0
    scale, zero = rng.uniform(0.01, 0.02, (17, 2)).astype(np.float32), np.full((17, 2), 3, np.int16)
    wide_records: list[Record] = [
        floats,
        Code(rng.integers(-99, 99, (17, 17, 1, 1)).astype(np.int16), Affine(scale, zero, 0)),
        Code(
            rng.integers(0, 4, (2, 17, 2, 13)).astype(np.int16), Table(rng.normal(size=(17, 4)).astype(np.float32), 1)
        ),
        Code(rng.integers(-99, 99, 17).astype(np.int16), Affine.per_tensor(0.01)),
    ]
    return wide, wide_records


def _binary(rng: np.random.Generator, bias: NDArray[np.float32]) -> dict[str, tuple[Program, list[Record]]]:
    """Layers of one bit both ways."""
    signed = program_of(
        [
            SQUARE,
            {**SQUARE, "channels": 1, "zero": 0, "scale": 1.0},
            {**SQUARE, "channels": 5, "width": 3, "scale": 0.2},
        ],
        [Signs(0, 1), SignsConvolution(1, 2, 0, 1, 3, (2, 3), (1, 2), top=1, left=1)],
    )
    many_signed = program_of(  # so many that they are packed where the processor counts bits
        [
            SQUARE,
            {**SQUARE, "channels": 38, "scale": 0.01},
            {**SQUARE, "channels": 10, "zero": 0, "scale": 1.0},
            {**SQUARE, "channels": 20, "scale": 0.2},
        ],
        [Convolution(0, 1, 2, NO_RECORD, (1, 1)), Signs(1, 2), SignsConvolution(2, 3, 0, 1, 38, (2, 3), top=1, left=1)],
    )
    many: list[Record] = [weights(rng, (20, 38, 2, 3), "signs"), bias, weights(rng, (38, 3, 1, 1), "trellis")]
    return {"signs": (signed, [weights(rng, (5, 3, 2, 3), "signs"), bias[:5]]), "many signs": (many_signed, many)}


def small_files() -> dict[str, bytes]:
    """The same as files."""
    return {name: plain_file(*given) for name, given in small_programs().items()}
