"""Bit strings, raw and bitpack: docs/format.md, section 3, codecs 0 and 1."""

from __future__ import annotations

from tests.reference import Plane, length, require


class BitWriter:
    def __init__(self) -> None:
        self.bits: list[int] = []

    def put(self, value: int, count: int) -> None:
        self.bits += [value >> i & 1 for i in range(count)]

    def bytes(self) -> bytes:
        padded = self.bits + [0] * (-len(self.bits) % 8)
        return bytes(sum(bit << i for i, bit in enumerate(padded[j : j + 8])) for j in range(0, len(padded), 8))


class BitReader:
    def __init__(self, data: bytes) -> None:
        self.bits = [byte >> i & 1 for byte in data for i in range(8)]
        self.position = 0

    def get(self, count: int) -> int:
        require(self.position + count <= len(self.bits), "bits are missing")
        found = self.bits[self.position : self.position + count]
        self.position += count
        return sum(bit << i for i, bit in enumerate(found))

    def byte_position(self) -> int:
        """Where the next whole byte begins; the padding before it must be zero."""
        end = -(-self.position // 8) * 8
        require(not any(self.bits[self.position : end]), "padding is not zero")
        return end // 8

    def end(self) -> None:
        require(self.byte_position() * 8 == len(self.bits), "bytes are left over")


def encode_raw(plane: Plane, symbols: list[int]) -> bytes:
    return bytes(symbols)


def decode_raw(plane: Plane, data: bytes) -> list[int]:
    require(len(data) == plane.count, "wrong size")
    require(all(byte < plane.levels for byte in data), "symbol out of range")
    return list(data)


def encode_bitpack(plane: Plane, symbols: list[int]) -> bytes:
    out = BitWriter()
    for symbol in symbols:
        out.put(symbol, length(plane.levels - 1))
    return out.bytes()


def decode_bitpack(plane: Plane, data: bytes) -> list[int]:
    bits = BitReader(data)
    symbols = [bits.get(length(plane.levels - 1)) for _ in range(plane.count)]
    bits.end()
    require(all(symbol < plane.levels for symbol in symbols), "symbol out of range")
    return symbols
