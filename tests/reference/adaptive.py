"""adaptive: docs/format.md, section 3, codec 5."""

from __future__ import annotations

from collections import defaultdict
from math import isqrt

from tests.reference import Plane, length, require
from tests.reference.range_coder import Bit, Coder, Decoder, Encoder


def toward_zero(a: int, b: int) -> int:
    return abs(a) // b * (1 if a >= 0 else -1)


def signed_class(v: int) -> int:
    return length(abs(v)) * (1 if v >= 0 else -1)


class Model:
    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.z = plane.zero if plane.zero < plane.levels else 0
        self.top = length(max(self.z, plane.levels - 1 - self.z))
        self.bits: dict[tuple[object, ...], Bit] = defaultdict(Bit)

    def code(self, coder: Coder, e: int, beside: int, above: int, v: int) -> int:
        found = self.code_class(coder, e, length(abs(v)))
        if found == 0:
            return 0
        negative = self.z == self.plane.levels - 1
        if 0 < self.z < self.plane.levels - 1:
            bit = self.bits["sign", signed_class(beside), signed_class(above)]
            negative = bool(bit.code(coder, int(v < 0)))
        known = 1
        for i in reversed(range(found - 1)):
            known = 2 * known + self.bits["tail", found, known].code(coder, abs(v) >> i & 1)
        return -known if negative else known

    def code_class(self, coder: Coder, e: int, wanted: int) -> int:
        e |= 128
        n = length(e)
        context = 4 * (n - 8) + (e >> (n - 3)) % 4

        def above(i: int) -> int:
            return self.bits["class", context, i].code(coder, int(wanted > i))

        i = min(max(0, n - 12), self.top - 1)
        if above(i):
            i += 1
            while i < self.top and above(i):
                i += 1
            return i
        while i > 0 and not above(i - 1):
            i -= 1
        return i


def code_plane(plane: Plane, coder: Coder, symbols: list[int] | None) -> list[int]:
    """One scan serves both directions; it returns the values v."""
    model = Model(plane)
    inner, row_length = plane.inner, plane.columns * plane.inner
    w = isqrt(inner) if isqrt(inner) ** 2 == inner and inner <= 65536 else inner
    mean, column = 256, [256] * row_length
    values: list[int] = []
    for r in range(plane.rows):
        running = mean
        for c in range(row_length):
            here = r * row_length + c

            def v_at(back: int, exists: bool, here: int = here) -> int:
                return values[here - back] if exists else 0

            x, y = c % inner % w, c % inner // w
            above, before = v_at(row_length, r > 0), v_at(1, c > 0)
            across = v_at(inner, c >= inner)
            beside = (before if inner == 1 or x > 0 else 0) + v_at(w, y > 0)
            beside = max(-255, min(255, beside))
            e = 128 * (abs(above) + abs(before) + abs(across)) + 4 * running + 2 * column[c]
            v = model.code(coder, e, beside, above, symbols[here] - model.z if symbols else 0)
            require(0 <= v + model.z < plane.levels, "symbol out of range")
            values.append(v)
            running += toward_zero(256 * abs(v) - running, 16)
            column[c] += toward_zero(256 * abs(v) - column[c], 8)
        mean = (mean + running) // 2
        if r == 0:
            column = [(old + 3 * running) // 4 for old in column]
    return [v + model.z for v in values]


def encode_adaptive(plane: Plane, symbols: list[int]) -> bytes:
    coder = Encoder()
    code_plane(plane, coder, symbols)
    return coder.end()


def decode_adaptive(plane: Plane, data: bytes) -> list[int]:
    coder = Decoder(data)
    symbols = code_plane(plane, coder, None)
    coder.end()
    return symbols
