"""The container and its index: docs/format.md, sections 1 and 2."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from math import prod

from tests.reference import Plane, require
from tests.reference.adaptive import decode_adaptive, encode_adaptive
from tests.reference.bits import decode_bitpack, decode_raw, encode_bitpack, encode_raw
from tests.reference.huffman import decode_huffman, decode_relative, encode_huffman, encode_relative
from tests.reference.mixed import decode_mixed, decode_mixed64, encode_mixed, encode_mixed64
from tests.reference.rans import decode_rans, encode_rans
from tests.reference.text import decode_lines, decode_text, encode_lines, encode_text

ENCODERS = (
    encode_raw,
    encode_bitpack,
    encode_huffman,
    encode_relative,
    encode_rans,
    encode_adaptive,
    encode_text,
    encode_mixed,
    encode_mixed64,
    encode_lines,
)
DECODERS = (
    decode_raw,
    decode_bitpack,
    decode_huffman,
    decode_relative,
    decode_rans,
    decode_adaptive,
    decode_text,
    decode_mixed,
    decode_mixed64,
    decode_lines,
)
TYPE_SIZES = {1: 4, 2: 8, 3: 2, 4: 1, 5: 2, 6: 4, 7: 8, 8: 1, 9: 2, 10: 4, 11: 8, 12: 1}
ARRAY, AFFINE, TABLE, TRELLIS, TRELLIS_64 = range(5)


@dataclass
class Record:
    name: str
    rule: int
    type: int
    shape: tuple[int, ...]
    first: int = 0
    step: int = 1
    levels: int = 256
    zero: int = 256
    axis: int = 255
    rows: int = 0
    columns: int = 0
    planes: list[list[int]] = field(default_factory=list)


def encode(codec: int, plane: Plane, symbols: list[int]) -> bytes:
    return b"" if plane.levels == 1 or plane.count == 0 else ENCODERS[codec](plane, symbols)


def decode(codec: int, plane: Plane, data: bytes) -> list[int]:
    if plane.levels == 1 or plane.count == 0:
        require(not data, "bytes for nothing")
        return [0] * plane.count
    return DECODERS[codec](plane, data)


def sections(data: bytes) -> list[bytes]:
    """Metadata, labels, graph, index, payload and program, decoded; a file of version 1 has no program."""
    require(data[:4] == b"\x89SMG", "magic")
    require(data[4:5] in (b"\x01", b"\x02"), "version")
    known, header = (5, 72) if data[4] == 1 else (6, 92)
    require(len(data) >= header, "length")
    codecs, reserved, crc = data[5 : 5 + known], data[5 + known : 12], struct.unpack("<I", data[12:16])[0]
    stored = struct.unpack_from(f"<{known}Q", data, 16)
    sizes = list(struct.unpack_from(f"<{known - 1}I", data, 16 + 8 * known))
    sizes.insert(4, stored[4])
    require(header + sum(stored) == len(data), "length")
    require(zlib.crc32(data[:12] + data[16:]) == crc, "checksum")
    require(not any(reserved) and codecs[4] == 0, "reserved bytes or payload codec")
    found, position = [], header
    for i, size in enumerate(stored):
        part = data[position : position + size]
        position += size
        if i != 4:
            require(codecs[i] in (0, 6, 9), "section codec")
            require(codecs[i] != 0 or size == sizes[i], "section sizes")
            require(sizes[i] <= (64 if i in (2, 3) else 16) << 20 and sizes[i] // 256 <= size, "section limit")
            part = bytes(decode(codecs[i], Plane(1, sizes[i], 1), part))
        found.append(part)
    return [*found, b""][:6]


class Cursor:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, count: int) -> bytes:
        require(self.position + count <= len(self.data), "the index ends too soon")
        self.position += count
        return self.data[self.position - count : self.position]

    def number(self, kind: str) -> int:
        return int(struct.unpack("<" + kind, self.take(struct.calcsize(kind)))[0])


def records(data: bytes) -> list[Record]:
    """Every record of a whole file, with its planes decoded."""
    *_, index, payload, _ = sections(data)
    cursor, used, symbols = Cursor(index), 0, 0
    found: list[Record] = []
    while cursor.position < len(index):
        record, blocks = take_record(cursor)
        symbols += sum(plane_of(record, i).count for i in range(blocks))
        require(symbols <= min(2**32, 16384 * len(data)), "too many symbols")
        for i in range(blocks):
            codec, size = cursor.number("B"), cursor.number("I")
            require(codec <= 9 and used + size <= len(payload), "block")
            record.planes.append(decode(codec, plane_of(record, i), payload[used : used + size]))
            used += size
        if record.rule in (TRELLIS, TRELLIS_64):
            scale = struct.unpack("<f", bytes(plane[0] for plane in record.planes[1:]))[0]
            require(0 < scale < float("inf"), "scale")
        require(record.type != 12 or set(record.planes[0]) <= {0, 1}, "truth values")
        require(record.name not in [other.name for other in found], "a name twice")
        found.append(record)
    require(used == len(payload), "the payload is not filled")
    return found


def take_record(c: Cursor) -> tuple[Record, int]:
    name = c.take(c.number("B"))
    require(len(name) > 0, "no name")
    rule = c.number("B")
    require(rule <= TRELLIS_64, "rule")
    kind = c.number("B") if rule == ARRAY else 0
    rank = c.number("B")
    require(rank <= 8, "rank")
    record = Record(name.decode(), rule, kind, tuple(c.number("I") for _ in range(rank)))
    require(prod(size for size in record.shape if size) <= 2**31, "shape")
    if rule == ARRAY:
        require(kind in TYPE_SIZES, "type")
        return record, TYPE_SIZES[kind]
    return record, take_code(c, record)


def take_code(c: Cursor, r: Record) -> int:
    r.first, r.step, r.levels, r.zero = c.number("h"), c.number("H"), c.number("B") + 1, c.number("H")
    r.axis, r.columns = c.number("B"), c.number("I")
    has_zero = c.number("B") if r.rule == AFFINE else 0
    last = r.first + r.step * (r.levels - 1)
    require(prod(r.shape) > 0 and r.step >= 1 and r.zero <= 256 and has_zero <= 1 and last <= 32767, "code")
    require(r.axis == 255 or r.axis < len(r.shape), "axis")
    r.rows = 1 if r.axis == 255 else r.shape[r.axis]
    require(r.columns > 0, "columns")
    if r.rule == AFFINE:
        require(r.columns <= prod(r.shape) // r.rows, "columns")
        return 7 if has_zero else 5
    if r.rule in (TRELLIS, TRELLIS_64):
        require(len(r.shape) > 0 and r.axis == 255 and r.columns == 1, "trellis")
        require(r.first >= -16383 and last <= 16383, "trellis")
        return 5
    require(r.columns <= 256 and r.first >= 0 and last < r.columns, "table")
    return 5


def plane_of(r: Record, block: int) -> Plane:
    if r.rule != ARRAY and block > 0:
        return Plane(r.rows, r.columns, 1)
    levels, zero = (256, 256) if r.rule == ARRAY else (r.levels, r.zero)
    if prod(r.shape) == 0:
        return Plane(0, 0, 0, levels, zero)
    rows, columns = (r.shape[0], r.shape[1]) if len(r.shape) > 1 else (1, prod(r.shape))
    return Plane(rows, columns, prod(r.shape[2:]), levels, zero)
