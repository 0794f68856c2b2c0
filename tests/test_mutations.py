"""Damaged files are refused or say the same; files damaged on purpose, with a right checksum, do no harm either.

``benchmarks/mutate.py`` does the same a hundred thousand times.
"""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hostile import mutate_bytes, mutate_parts, real_files
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.archive import Archive
from smidgen.code import Code
from smidgen.errors import FormatError
from smidgen.file import inspect, read

GOLDEN = Path(__file__).parent / "golden"
FILES = dict(real_files()) | {
    path.name: path.read_bytes() for path in sorted(GOLDEN.glob("**/*.smidgen")) if path.stat().st_size < 20_000
}
MOST = 1 << 20
"""A mutation may claim more elements than this, within the limit of the format; it is then only inspected."""


def same(one: Archive, two: Archive) -> bool:
    def equal(name: str) -> bool:
        a, b = one.tensors[name], two.tensors[name]
        if isinstance(a, Code) or isinstance(b, Code):
            return type(a) is type(b) and a == b
        return a.dtype == b.dtype and a.tobytes() == b.tobytes()

    texts = ("graph", "preprocessing", "labels", "metadata")
    return (
        list(one.tensors) == list(two.tensors)
        and all(map(equal, one.tensors))
        and all(getattr(one, text) == getattr(two, text) for text in texts)
    )


def outcome(data: bytes) -> str:
    """What becomes of the bytes; any exception but ``FormatError`` is the test's failure."""
    try:
        claimed = sum(info.elements for info in inspect(data))
        if claimed > MOST:
            assert claimed <= min(16384 * len(data), 2**32)
            return "large"
        archive = read(data)
    except FormatError:
        return "refused"
    with np.errstate(all="ignore"):  # a forged scale may be infinite
        assert sum(np.size(weight) for weight in archive.decoded().values()) == claimed
    return "decoded"


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_damaged_file_is_the_same_or_refused(name: str, data: st.DataObject) -> None:
    file = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(file)))
        stop = data.draw(st.integers(start, min(len(file), start + 32)))
        file[start:stop] = data.draw(st.binary(max_size=32))
    with suppress(FormatError):
        assert same(read(bytes(file)), read(FILES[name]))


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 2**64))
def test_forged_file_is_refused_or_bounded(name: str, seed: int) -> None:
    outcome(mutate_parts(FILES[name], random.Random(seed)))


@pytest.mark.parametrize("name", FILES)
def test_two_thousand_accidents(name: str) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        data = mutate_bytes(FILES[name], rng)
        with suppress(FormatError):
            read(data)
            assert data == FILES[name]


def test_thousands_of_forgeries() -> None:
    rng = random.Random(1)
    seen = Counter(outcome(mutate_parts(FILES["plain"], rng)) for _ in range(5000))
    # both ways must be taken, or the mutations are too wild or too tame to test anything
    assert seen["refused"] > 1000
    assert seen["decoded"] > 100
