"""Damaged programs are refused, or computed alike: in all ways, alone and with a team, and as the reference does."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.archive import Archive
from smidgen.errors import FormatError
from smidgen.file import write
from smidgen.run.native import Native, ways
from smidgen.run.program import Average, Convolution, Maximum, Program
from tests.hostile import mutate_bytes
from tests.programs import small_programs
from tests.reference.program import run
from tests.test_native import Record

PROGRAMS = small_programs()
MOST_ARENA, MOST_COST = 1 << 20, 1 << 22


def mutate(program: bytes, rng: random.Random) -> bytes:
    """A few changes that keep the rest in its place, or anything at all."""
    if rng.randrange(8) == 0:
        return mutate_bytes(program, rng) or program
    changed = bytearray(program)
    for _ in range(rng.randint(1, 2)):
        width = rng.choice((1, 1, 2, 2, 4))
        at, other = (rng.randrange(len(program) - width) for _ in range(2))
        number = int.from_bytes(changed[at : at + width], "little")
        step = rng.choice((-4, -2, -1, 1, 2, 4))
        number = rng.choice((number + step, number ^ 1 << rng.randrange(8 * width), rng.randrange(4)))
        copied = bytes(changed[other : other + width])
        changed[at : at + width] = rng.choice((copied, (number % 256**width).to_bytes(width, "little")))
    return bytes(changed)


def is_cheap(program: Program) -> bool:
    """Whether to run it here: it may be valid and still take an hour."""
    cost = math.prod((program.tensors[0].height, program.tensors[0].width, program.tensors[0].channels))
    for operation in program.operations:
        out = program.tensors[operation.output]
        each = out.channels
        if isinstance(operation, Maximum | Average | Convolution):
            each *= math.prod(operation.kernel)
            each *= program.tensors[operation.input].channels if isinstance(operation, Convolution) else 1
        cost += out.height * out.width * each
    return program.arena <= MOST_ARENA and cost <= MOST_COST


def outcome(section: bytes, records: list[Record], seed: int) -> str:
    """What becomes of a program; whatever is not as it should be is the test's failure."""
    try:
        tensors = {str(number): record for number, record in enumerate(records)}
        data = write(Archive(b"", tensors, program=section), ("raw",))
    except FormatError:
        return "refused"
    program = Program.from_bytes(section)
    if not is_cheap(program):
        return "large"
    first = program.tensors[0]
    shape = first.channels, first.height, first.width
    x = np.random.default_rng(seed).uniform(-1.1 * first.zero, 1.1 * (255 - first.zero), shape).astype(np.float32)
    with np.errstate(all="ignore"):  # a scale may be as large as any number
        x *= np.float32(first.scale)
        expected = run(program, records, x)
    found = [Native(data, threads, way)(x[None])[0] for way in ways() for threads in (1, 2)]
    assert len({answer.tobytes() for answer in found}) == 1
    if program.softmax:
        np.testing.assert_allclose(found[0], expected, rtol=1e-5, atol=1e-30)
    else:
        np.testing.assert_array_equal(found[0], expected)
    return "ran"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(PROGRAMS)), st.integers(0, 2**64))
def test_damaged_program_is_refused_or_computed_alike(name: str, seed: int) -> None:
    program, records = PROGRAMS[name]
    outcome(mutate(program.to_bytes(), random.Random(seed)), records, seed)


@pytest.mark.parametrize("name", PROGRAMS)
def test_both_happens(name: str) -> None:
    # or the mutations are too wild or too tame to test anything
    program, records = PROGRAMS[name]
    rng = random.Random(0)
    seen = Counter(outcome(mutate(program.to_bytes(), rng), records, seed) for seed in range(150))
    assert seen["refused"] > 15
    assert seen["ran"] > 5
