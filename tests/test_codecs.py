"""One contract for every codec: exact round trips, the same bytes as the plain twin, and no damage goes unnoticed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from smidgen.codecs import CODECS, NO_ZERO, Codec, codec_by_id
from smidgen.errors import FormatError
from tests.reference import CorruptError, Plane
from tests.reference import container as reference

Case = tuple[NDArray[np.uint8], int, int]

every_codec = pytest.mark.parametrize("codec", CODECS.values(), ids=[*CODECS])


@st.composite
def planes(draw: st.DrawFn, largest: int = 6) -> Case:
    """Planes of any rank, alphabet and distribution."""
    shape = tuple(draw(st.lists(st.integers(0, largest), max_size=5)))
    levels = draw(st.sampled_from([1, 2, 3, 4, 9, 16, 17, 100, 255, 256]))
    zero = draw(st.sampled_from([0, levels // 2, levels - 1, NO_ZERO]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["uniform", "constant", "peaked", "sparse", "ramp"]))
    if kind == "uniform":
        symbols = rng.integers(0, levels, shape)
    elif kind == "constant":
        symbols = np.full(shape, rng.integers(0, levels))
    elif kind == "peaked":
        symbols = np.clip(np.rint(rng.laplace(levels / 2, levels / 20 + 0.3, shape)), 0, levels - 1)
    elif kind == "sparse":
        symbols = np.where(rng.random(shape) < 0.95, min(zero, levels - 1), rng.integers(0, levels, shape))
    else:
        symbols = np.arange(int(np.prod(shape))).reshape(shape) % levels
    return symbols.astype(np.uint8), levels, zero


def plane_of(symbols: NDArray[np.uint8], levels: int, zero: int) -> Plane:
    shape = symbols.shape
    rows, columns = (shape[0], shape[1]) if len(shape) > 1 else (1, symbols.size)
    inner = int(np.prod(shape[2:])) if symbols.size else 0
    return Plane(rows, columns, inner, levels, zero)


@every_codec
@given(case=planes())
def test_round_trip(codec: Codec, case: Case) -> None:
    symbols, levels, zero = case
    data = codec.encode(symbols, levels, zero)
    assert data == codec.encode(symbols, levels, zero)
    np.testing.assert_array_equal(codec.decode(data, symbols.shape, levels, zero), symbols)


@every_codec
@settings(max_examples=40)
@given(case=planes(largest=4))
def test_same_bytes_as_the_plain_twin(codec: Codec, case: Case) -> None:
    symbols, levels, zero = case
    plane = plane_of(symbols, levels, zero)
    data = codec.encode(symbols, levels, zero)
    assert data == reference.encode(codec.id, plane, symbols.reshape(-1).tolist())
    assert reference.decode(codec.id, plane, data) == symbols.reshape(-1).tolist()


@every_codec
@pytest.mark.parametrize("count", [4095, 4096, 4103])
def test_many_symbols(codec: Codec, count: int) -> None:
    """rans changes its number of states at 4096."""
    symbols = np.clip(np.rint(np.random.default_rng(count).laplace(20, 3, count)), 0, 40).astype(np.uint8)
    data = codec.encode(symbols, 41, 20)
    np.testing.assert_array_equal(codec.decode(data, (count,), 41, 20), symbols)
    if codec.name not in ("text", "lines"):  # whose twin is too slow for this
        assert data == reference.encode(codec.id, plane_of(symbols, 41, 20), symbols.tolist())


@every_codec
@settings(max_examples=60)
@given(case=planes(largest=4), seed=st.integers(0, 2**32 - 1))
def test_damage_is_refused_as_the_twin_refuses_it(codec: Codec, case: Case, seed: int) -> None:
    symbols, levels, zero = case
    rng = np.random.default_rng(seed)
    data = bytearray(codec.encode(symbols, levels, zero))
    if data and rng.random() < 0.7:
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    cut = rng.integers(0, 3)
    damaged = bytes(data[: len(data) - cut] if rng.random() < 0.5 else data + bytes(rng.integers(0, 256, cut).tolist()))
    try:
        expected = reference.decode(codec.id, plane_of(symbols, levels, zero), damaged)
    except CorruptError:
        with pytest.raises(FormatError):
            codec.decode(damaged, symbols.shape, levels, zero)
    else:
        assert codec.decode(damaged, symbols.shape, levels, zero).reshape(-1).tolist() == expected


@every_codec
def test_every_truncation_is_refused(codec: Codec) -> None:
    symbols = np.random.default_rng(5).integers(0, 7, (6, 5, 3, 3)).astype(np.uint8)
    data = codec.encode(symbols, 7, 3)
    refused = 0
    for size in range(len(data)):
        try:
            codec.decode(data[:size], symbols.shape, 7, 3)
        except FormatError:
            refused += 1
    # a range coder reads zeros past its end, so a cut string may be another valid one; it is then other symbols, which
    # the checksum of the file catches
    assert refused == len(data) or codec.name in ("adaptive", "text", "mixed", "mixed64", "lines")


@every_codec
def test_symbols_outside_the_alphabet(codec: Codec) -> None:
    with pytest.raises(ValueError, match="do not fit 3 levels"):
        codec.encode(np.array([0, 3], np.uint8), levels=3)


@every_codec
def test_one_level_takes_no_bytes(codec: Codec) -> None:
    assert codec.encode(np.zeros((3, 4), np.uint8), levels=1) == b""


def test_ids_are_one_to_one_and_unknown_ones_refused() -> None:
    assert [codec.id for codec in CODECS.values()] == list(range(len(CODECS)))
    assert all(codec_by_id(codec.id) is codec for codec in CODECS.values())
    with pytest.raises(FormatError, match="codec 99"):
        codec_by_id(99)


def entropy(symbols: NDArray[np.uint8]) -> float:
    counts = np.bincount(symbols.reshape(-1))
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)


@pytest.fixture(scope="module")
def smooth() -> NDArray[np.uint8]:
    """3x3 kernels whose weights follow their neighbours, as trained ones do; filters differ in scale."""
    rng = np.random.default_rng(3)
    scale = rng.lognormal(1, 0.5, (64, 1, 1, 1))
    kernels = scale * (rng.laplace(0, 1, (64, 48, 1, 1)) + 0.7 * rng.laplace(0, 1, (64, 48, 3, 3)))
    return (np.clip(np.rint(kernels), -31, 31) + 31).astype(np.uint8)


def test_sizes_against_the_entropy(smooth: NDArray[np.uint8]) -> None:
    bound = entropy(smooth)
    size = {name: len(codec.encode(smooth, 63, 31)) for name, codec in CODECS.items()}
    assert size["raw"] == smooth.size
    assert size["bitpack"] == smooth.size * 6 // 8
    assert bound < size["huffman"] < bound + smooth.size / 8
    assert bound < size["rans"] < 1.01 * bound
    assert size["adaptive"] < 0.97 * bound


def test_relative_pays_where_most_is_zero() -> None:
    rng = np.random.default_rng(4)
    symbols = np.where(rng.random(20000) < 0.9, 8, rng.integers(0, 16, 20000)).astype(np.uint8)
    size = {name: len(CODECS[name].encode(symbols, 16, 8)) for name in ("huffman", "relative", "rans")}
    assert size["rans"] < size["relative"] < size["huffman"]


def test_a_kernel_wider_than_256_is_a_line() -> None:
    """The search for a square's side ends there; which side it is decides every context of the sign."""
    symbols = (np.arange(2 * 257 * 257) % 11 // 4).astype(np.uint8).reshape(1, 2, 257, 257)
    data = CODECS["adaptive"].encode(symbols, 3, 1)
    assert data == reference.encode(5, plane_of(symbols, 3, 1), symbols.reshape(-1).tolist())


FOLLOWING = {
    "mixed": [(0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5)],
    "mixed64": [(t // 2 ^ t % 2 * 33, t // 2 ^ t % 2 * 33 ^ 10) for t in range(64)],
}


def trellis_plane(shape: tuple[int, ...], codec: str, seed: int) -> NDArray[np.uint8]:
    """Symbols, of 33 levels, of Gaussian weights on the quantizer that docs/format.md says is their turn."""
    following = np.array(FOLLOWING[codec])
    weights = np.random.default_rng(seed).normal(0, 2, shape)
    state, rows = np.zeros(shape[1:], int), []
    for row in weights:
        odd = state % 2
        k = np.clip(np.sign(row) * np.rint((np.abs(row) + odd) / 2), -16, 16).astype(int)
        k[(odd == 1) & (np.abs(row) < 0.5)] = 0  # whose cell is narrower there
        state = following[state, k % 2]
        rows.append(k + 16)
    return np.array(rows).astype(np.uint8)


@pytest.mark.parametrize(("name", "other"), [("mixed", "mixed64"), ("mixed64", "mixed")])
def test_mixed_follows_the_trellis(name: str, other: str) -> None:
    symbols = trellis_plane((64, 16, 3, 3), name, seed=1)
    data = CODECS[name].encode(symbols, 33, 16)
    assert data[0] >= 128
    assert len(data) < entropy(symbols) < len(CODECS["adaptive"].encode(symbols, 33, 16))
    assert len(data) < len(CODECS[other].encode(symbols, 33, 16))
    np.testing.assert_array_equal(CODECS[name].decode(data, symbols.shape, 33, 16), symbols)
    small = trellis_plane((64, 4, 3, 3), name, seed=2)
    data = CODECS[name].encode(small, 33, 16)
    assert data[0] >= 128
    assert data == reference.encode(CODECS[name].id, plane_of(small, 33, 16), small.reshape(-1).tolist())


def test_lines_are_shorter_for_labels_and_as_the_plain_twin_says() -> None:
    names = ["sea snail", "great white shark", "cock", "Gordon setter, sea", "café, tea", "", "white wolf\0", "sea"]
    text = "".join(f"n{1440764 + 13007 * i + i * i:08}\t{names[i * i % 8]} {i % 5}\n" for i in range(60))
    symbols = np.frombuffer((text + "an end without a line feed").encode(), np.uint8)
    data = CODECS["lines"].encode(symbols)
    assert len(data) < 0.85 * len(CODECS["text"].encode(symbols))
    assert data == reference.encode(9, plane_of(symbols, 256, NO_ZERO), symbols.tolist())
    np.testing.assert_array_equal(CODECS["lines"].decode(data, symbols.shape), symbols)


def test_mixed_never_grows_a_plane_by_more_than_a_byte() -> None:
    symbols = np.random.default_rng(6).integers(0, 256, (30, 40)).astype(np.uint8)
    assert CODECS["mixed"].encode(symbols) == b"\xff" + symbols.tobytes()


@pytest.mark.parametrize("shape", [(2, 1, 100), (1, 65600)])
def test_mixed_where_columns_and_places_are_shared(shape: tuple[int, ...]) -> None:
    """There are 65536 columns and 64 places in a kernel; what lies beyond shares them."""
    symbols = (np.arange(np.prod(shape)) % 7 // 2).astype(np.uint8).reshape(shape)
    data = CODECS["mixed"].encode(symbols, 4, 1)
    np.testing.assert_array_equal(CODECS["mixed"].decode(data, shape, 4, 1), symbols)
    assert data == reference.encode(7, plane_of(symbols, 4, 1), symbols.reshape(-1).tolist())


def test_a_short_string_for_many_symbols_is_refused_at_once() -> None:
    """256 codes of 8 bits and no symbols: the decoder must not go on for two billion invented zeros."""
    data = b"\x88" * 128
    with pytest.raises(FormatError):
        CODECS["huffman"].decode(data, (1, 200_000_000), 256)
