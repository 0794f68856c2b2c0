"""rans: docs/format.md, section 3, codec 4."""

from __future__ import annotations

import struct
from fractions import Fraction

from tests.reference import Plane, length, require
from tests.reference.bits import BitReader, BitWriter
from tests.reference.huffman import histogram


def frequencies(counts: list[int]) -> list[int]:
    total = sum(counts)
    f = [min(4095, max(1, (count * 4096 + total // 2) // total)) if count else 0 for count in counts]
    while sum(f) > 4096:
        able = [s for s in range(len(f)) if f[s] > 1]
        f[min(able, key=lambda s: (Fraction(counts[s], 2 * f[s] - 1), s))] -= 1
    while sum(f) < 4096:
        able = [s for s in range(len(f)) if 0 < f[s] < 4095]
        if not able:
            f[1 if f[0] else 0] += 1
            continue
        f[max(able, key=lambda s: (Fraction(counts[s], 2 * f[s] + 1), -s))] += 1
    return f


def put_frequencies(out: BitWriter, f: list[int]) -> None:
    before = 0
    for value in f:
        n = length(value)
        z = 2 * (n - before) if n >= before else 2 * (before - n) - 1
        k = length(z + 1) - 1
        out.put(0, k)
        out.put(1, 1)
        out.put((z + 1) % 2**k, k)
        if n > 1:
            out.put(value % 2 ** (n - 1), n - 1)
        before = n


def get_frequencies(bits: BitReader, levels: int) -> list[int]:
    f: list[int] = []
    before = 0
    for _ in range(levels):
        k = 0
        while not bits.get(1):
            k += 1
            require(k <= 4, "a prefix is too long")
        z = 2**k - 1 + bits.get(k)
        n = before - (z + 1) // 2 if z % 2 else before + z // 2
        require(0 <= n <= 12, "a frequency has an impossible size")
        f.append(2 ** (n - 1) + bits.get(n - 1) if n > 1 else n)
        before = n
    require(sum(f) == 4096, "the frequencies do not sum to 4096")
    return f


def starts(f: list[int]) -> list[int]:
    return [sum(f[:s]) for s in range(len(f))]


def lanes(plane: Plane) -> int:
    return 8 if plane.count >= 4096 else 1


def encode_rans(plane: Plane, symbols: list[int]) -> bytes:
    f = frequencies(histogram(symbols, plane.levels))
    b, x, words = starts(f), [65536] * lanes(plane), []
    for i in reversed(range(len(symbols))):
        s, lane = symbols[i], i % len(x)
        if x[lane] >= f[s] << 20:
            words.append(x[lane] % 65536)
            x[lane] //= 65536
        x[lane] = x[lane] // f[s] * 4096 + x[lane] % f[s] + b[s]
    out = BitWriter()
    put_frequencies(out, f)
    return out.bytes() + struct.pack(f"<{len(x)}I", *x) + struct.pack(f"<{len(words)}H", *reversed(words))


def decode_rans(plane: Plane, data: bytes) -> list[int]:
    bits = BitReader(data)
    f = get_frequencies(bits, plane.levels)
    b, position = starts(f), bits.byte_position()
    end_of_states = position + 4 * lanes(plane)
    require(end_of_states <= len(data), "states are missing")
    x = list(struct.unpack(f"<{lanes(plane)}I", data[position:end_of_states]))
    require(min(x) >= 65536, "a state is too small")
    rest = data[end_of_states:]
    require(len(rest) % 2 == 0, "half a word")
    words = list(struct.unpack(f"<{len(rest) // 2}H", rest))
    owner = [s for s in range(plane.levels) for _ in range(f[s])]
    symbols, used = [], 0
    for i in range(plane.count):
        lane = i % len(x)
        slot = x[lane] % 4096
        s = owner[slot]
        symbols.append(s)
        x[lane] = f[s] * (x[lane] // 4096) + slot - b[s]
        if x[lane] < 65536:
            require(used < len(words), "words are missing")
            x[lane] = x[lane] * 65536 + words[used]
            used += 1
    require(used == len(words) and all(state == 65536 for state in x), "the states do not end where they began")
    return symbols
