"""Codecs: symbols to bytes and back, exactly.

All of them run in the C core; ``tests/reference`` holds a plain twin of each. The bytes are specified in
``docs/format.md``: an id names an encoding for ever, and a changed encoding gets a new id and a new line below.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from smidgen._core import ffi, lib
from smidgen.errors import FormatError

__all__ = ["CODECS", "NO_ZERO", "Codec", "codec_by_id"]

NO_ZERO = 256
"""Passed as ``zero`` where no symbol means 0.0."""


@dataclass(frozen=True)
class Codec:
    """One encoding of a plane of symbols.

    Args:
        name: what people call it.
        id: the number that names its bytes in a file.

    Example:
        >>> symbols = np.array([[0, 1, 1, 0]], np.uint8)
        >>> data = CODECS["bitpack"].encode(symbols, levels=2)
        >>> data, CODECS["bitpack"].decode(data, (1, 4), levels=2)
        (b'\\x06', array([[0, 1, 1, 0]], dtype=uint8))
    """

    name: str
    id: int

    def encode(self, symbols: NDArray[np.uint8], levels: int = 256, zero: int = NO_ZERO) -> bytes:
        """Encodes uint8 ``symbols`` of any shape; axes 0 and 1 are outputs and inputs, the rest the kernel.

        Args:
            symbols: the plane, each symbol below ``levels``.
            levels: size of the alphabet, 1 to 256.
            zero: the symbol that means 0.0, or ``NO_ZERO``.

        Raises:
            ValueError: a symbol is not below ``levels``.
        """
        plane = _plane(symbols.shape, levels, zero)
        data = np.ascontiguousarray(symbols, np.uint8)
        out = np.empty(lib.smidgen_bound(self.id, plane), np.uint8)
        scratch = _scratch(self.id, plane)
        size = lib.smidgen_encode(self.id, plane, _bytes(data), _bytes(out), out.size, scratch)
        if size < 0:
            raise ValueError(f"codec {self.name}: symbols of shape {symbols.shape} do not fit {levels} levels")
        return out[:size].tobytes()

    def decode(
        self, data: bytes | memoryview, shape: tuple[int, ...], levels: int = 256, zero: int = NO_ZERO
    ) -> NDArray[np.uint8]:
        """The inverse of ``encode``, given the same ``levels`` and ``zero``.

        Raises:
            FormatError: ``data`` is not what ``encode`` writes for a plane of this shape.
        """
        plane = _plane(shape, levels, zero)
        out = np.empty(shape, np.uint8)
        source = np.frombuffer(data, np.uint8)
        if lib.smidgen_decode(self.id, plane, _bytes(source), source.size, _bytes(out), _scratch(self.id, plane)):
            raise FormatError(f"damaged data: {source.size} bytes are not a {self.name} plane of shape {shape}")
        return out


CODECS = {
    codec.name: codec
    for codec in (
        Codec("raw", lib.SMIDGEN_RAW),
        Codec("bitpack", lib.SMIDGEN_BITPACK),
        Codec("huffman", lib.SMIDGEN_HUFFMAN),
        Codec("relative", lib.SMIDGEN_RELATIVE),
        Codec("rans", lib.SMIDGEN_RANS),
        Codec("adaptive", lib.SMIDGEN_ADAPTIVE),
        Codec("text", lib.SMIDGEN_TEXT),
        Codec("mixed", lib.SMIDGEN_MIXED),
        Codec("mixed64", lib.SMIDGEN_MIXED64),
        Codec("lines", lib.SMIDGEN_LINES),
    )
}


def codec_by_id(number: int) -> Codec:
    """The codec whose bytes carry this id.

    Raises:
        FormatError: there is none in this version.
    """
    for codec in CODECS.values():
        if codec.id == number:
            return codec
    raise FormatError(f"codec {number} is unknown to this version of smidgen")


def _plane(shape: tuple[int, ...], levels: int, zero: int) -> object:
    """A ``smidgen_plane`` for an array of any rank; what ``smidgen_block`` makes of a tensor's shape."""
    count = int(np.prod(shape, dtype=np.int64))
    rows, columns = (shape[0], shape[1]) if len(shape) > 1 else (1, count)
    if count == 0:
        rows = columns = 0
    return ffi.new("smidgen_plane *", (rows, columns, count // max(1, rows * columns), levels, zero))


def _scratch(codec: int, plane: object) -> object:
    return ffi.new("uint64_t[]", lib.smidgen_scratch(codec, plane) // 8 + 1)


def _bytes(array: NDArray[np.uint8]) -> object:
    return ffi.cast("uint8_t *", array.ctypes.data)
