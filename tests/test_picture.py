"""The core's pictures and probabilities: the bytes of Pillow, and NumPy's softmax."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from smidgen._core import ffi, lib

FILTERS = (Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)
GUARD = 0xA5


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """A picture, half of whose bytes are extremes, so that the bicubic filter leaves 0..255."""
    random = np.random.default_rng(height * 20_000 + width)
    return np.clip(random.integers(-128, 384, (height, width, 3)), 0, 255).astype(np.uint8)


def pillow(pixels: NDArray[np.uint8], width: int, height: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """Rows first, in two steps: from 12.2 on Pillow takes the columns of some tall pictures first."""
    image = Image.fromarray(pixels)
    return np.asarray(image.resize((width, image.height), resample).resize((width, height), resample))


def core(pixels: NDArray[np.uint8], width: int, height: int, resample: Image.Resampling) -> NDArray[np.uint8]:
    """The same by the core, which must leave alone what lies behind its buffers."""
    sizes = (pixels.shape[1], pixels.shape[0], width, height)
    bicubic = int(resample == Image.Resampling.BICUBIC)
    size = lib.smidgen_resize_scratch(*sizes, bicubic)
    scratch = np.full(size // 8 + 2, GUARD * 0x0101010101010101, np.uint64).view(np.uint8)
    out = np.full(height * width * 3 + 8, GUARD, np.uint8)
    to = ffi.from_buffer("uint8_t[]", out)
    source = ffi.from_buffer("uint8_t[]", pixels)
    lib.smidgen_resize(source, sizes[0], sizes[1], to, width, height, bicubic, ffi.from_buffer(scratch))
    assert (scratch[size:] == GUARD).all()
    assert (out[-8:] == GUARD).all()
    return out[:-8].reshape(height, width, 3)


def softmax(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    found = scores.copy()
    lib.smidgen_softmax(ffi.from_buffer("float[]", found), len(found))
    return found


@pytest.mark.parametrize("resample", FILTERS)
@pytest.mark.parametrize(
    ("size", "new_size"),
    [
        ((640, 480), (224, 224)),
        ((500, 375), (299, 299)),
        ((224, 224), (224, 224)),
        ((224, 300), (224, 224)),  # only the columns change
        ((300, 224), (224, 224)),  # only the rows
        ((225, 223), (224, 224)),
        ((32, 32), (224, 224)),
        ((28, 640), (299, 192)),  # up and down
        ((640, 28), (192, 299)),
        ((1, 1), (224, 224)),
        ((640, 480), (1, 1)),
        ((16384, 1), (3, 5)),
        ((3, 16384), (2, 7)),
        ((1, 1), (16384, 1)),
        ((2, 3), (1, 16384)),
        ((16384, 2), (16383, 3)),
    ],
)
def test_bytes_of_pillow(size: tuple[int, int], new_size: tuple[int, int], resample: Image.Resampling) -> None:
    pixels = noise(size[1], size[0])
    np.testing.assert_array_equal(core(pixels, *new_size, resample), pillow(pixels, *new_size, resample))


sides = st.integers(1, 40)


@given(sides, sides, sides, sides, st.sampled_from(FILTERS))
def test_bytes_of_pillow_for_any_size(
    height: int, width: int, new_height: int, new_width: int, resample: Image.Resampling
) -> None:
    pixels = noise(height, width)
    found = core(pixels, new_width, new_height, resample)
    np.testing.assert_array_equal(found, pillow(pixels, new_width, new_height, resample))


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("size", [0, 16385, 2**32 - 1])
def test_other_sizes_take_no_scratch(place: int, size: int) -> None:
    sizes = [16384] * 4
    assert lib.smidgen_resize_scratch(*sizes, 1)
    sizes[place] = size
    assert not lib.smidgen_resize_scratch(*sizes, 1)


def test_scratch_is_small() -> None:
    assert lib.smidgen_resize_scratch(4000, 3000, 224, 224, 1) < 128 << 10


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
def test_softmax(scores: list[float]) -> None:
    found = softmax(np.array(scores, np.float32))
    wide = np.array(scores, np.float32).astype(np.float64)
    powers = np.exp(wide - wide.max())
    np.testing.assert_allclose(found, powers / powers.sum(), rtol=1e-6, atol=2e-38)
    assert abs(found.astype(np.float64).sum() - 1) < 1e-6


def test_softmax_errs_by_little_more_than_a_float() -> None:
    differences = np.linspace(-86.9, 0, 20_001).astype(np.float32)
    found = [softmax(np.array([0, difference], np.float32))[1] for difference in differences]
    powers = np.exp(differences.astype(np.float64))
    np.testing.assert_allclose(found, powers / (1 + powers), rtol=1.5e-7)


def test_softmax_of_far_scores() -> None:
    largest = np.finfo(np.float32).max
    assert softmax(np.array([-largest, largest, 0], np.float32)).tolist() == [0, 1, 0]
    assert softmax(np.array([-88, 0], np.float32)).tolist() == [0, 1]
    assert softmax(np.array([largest], np.float32)).tolist() == [1]
    assert softmax(np.array([-largest] * 4, np.float32)).tolist() == [0.25] * 4


def test_softmax_has_these_bits_on_every_machine() -> None:
    found = softmax(np.arange(-900, 101, dtype=np.float32) / 10)
    assert zlib.crc32(found.tobytes()) == 2533169602
