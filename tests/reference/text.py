"""text and lines: docs/format.md, section 3, codecs 6 and 9."""

from __future__ import annotations

from collections import defaultdict
from math import exp

from tests.reference import Plane, length, require
from tests.reference.range_coder import Bit, Coder, Decoder, Encoder

ORDERS = (0, 1, 2, 3, 4, 6)
TABLE = [min(4095, max(1, round(4096 / (1 + exp(-(i - 16) / 2))))) for i in range(33)]


def squash(x: int) -> int:
    i, j = divmod(max(-2047, min(2047, x)) + 2048, 128)
    return TABLE[i] + ((TABLE[i + 1] - TABLE[i]) * j + 64) // 128


STRETCH = [next((x for x in range(-2047, 2048) if squash(x) >= q), 2047) for q in range(4096)]


def code_text(count: int, coder: Coder, symbols: list[int] | None) -> list[int]:
    slots: list[dict[int, Bit]] = [defaultdict(Bit) for _ in ORDERS]
    weights: dict[int, list[int]] = defaultdict(lambda: [21845] * len(ORDERS))
    found: list[int] = []
    history = 0
    for i in range(count):
        contexts = [(history % 256**order * 0x9E3779B97F4A7C15 % 2**64) >> 32 for order in ORDERS]
        node = 1
        for j in reversed(range(8)):
            hashes = [((c + node * 0x9E3779B1) % 2**32 * 0x85EBCA6B % 2**32) >> 16 for c in contexts]
            models = [slot[h] for slot, h in zip(slots, hashes, strict=True)]
            inputs = [STRETCH[model.p >> 12] for model in models]
            weight = weights[node]
            q = squash(sum(a * b // 65536 for a, b in zip(inputs, weight, strict=True)))
            bit = coder.code(symbols[i] >> j & 1 if symbols else 0, 16 * q)
            error = (4095 if bit else 0) - q
            for k, model in enumerate(models):
                weight[k] += (inputs[k] * error + 512) // 1024
                model.update(bit)
            node = 2 * node + bit
        found.append(node % 256)
        history = (history * 256 + node % 256) % 2**64
    return found


def encode_text(plane: Plane, symbols: list[int]) -> bytes:
    coder = Encoder()
    code_text(plane.count, coder, symbols)
    return coder.end()


def decode_text(plane: Plane, data: bytes) -> list[int]:
    coder = Decoder(data)
    symbols = code_text(plane.count, coder, None)
    coder.end()
    require(all(symbol < plane.levels for symbol in symbols), "symbol out of range")
    return symbols


class Lines:
    """What a text tells about its next byte; ``slots`` and ``weights`` are what was learnt so far."""

    def __init__(self) -> None:
        self.slots: list[dict[int, Bit]] = [defaultdict(Bit) for _ in range(8)]
        self.weights: dict[tuple[str, int, int], int] = defaultdict(int)
        self.weights |= {("count", n, i): 3200 * (n + 1) for n in range(8) for i in range(8)}
        self.read = b""

    def contexts(self) -> tuple[list[int], int]:
        """The contexts of the eight models, and the place in the line."""
        *_, above, line = [b"", *(part + b"\n" for part in self.read.split(b"\n"))]
        line = line[:-1]
        column, first = len(line), b"\n" not in self.read
        alike = not first and above.startswith(line)
        place = 2 * min(column, 15) + alike
        over = above[column] if not first and column < len(above) else 0
        word, before = words(line)
        known = [int.from_bytes(self.read[max(0, len(self.read) - n) :], "big") for n in (1, 2, 3, 6)]
        values = [0, *known, word, word << 32 | before, over << 8 | place]
        return [(value * 0x9E3779B97F4A7C15 % 2**64) >> 32 for value in values], place

    def code(self, coder: Coder, byte: int) -> int:
        contexts, place = self.contexts()
        node = 1
        for j in reversed(range(8)):
            hashes = [((c + node * 0x9E3779B1) % 2**32 * 0x85EBCA6B % 2**32) >> 16 for c in contexts]
            models = [slot[h] for slot, h in zip(self.slots, hashes, strict=True)]
            inputs = [STRETCH[model.p >> 12] for model in models]
            keys = [
                [("count", min(length(model.count), 7), i), ("place", place, i), ("node", node, i)]
                for i, model in enumerate(models)
            ]
            weights = [sum(self.weights[key] for key in three) for three in keys]
            q = squash(sum(a * b // 65536 for a, b in zip(inputs, weights, strict=True)))
            bit = coder.code(byte >> j & 1, 16 * q)
            for three, value, model in zip(keys, inputs, models, strict=True):
                for key in three:
                    moved = self.weights[key] + (value * ((4095 if bit else 0) - q) + 1024) // 2048
                    self.weights[key] = max(-(2**20), min(2**20, moved))
                model.update(bit)
            node = 2 * node + bit
        self.read += bytes([node % 256])
        return node % 256


def words(line: bytes) -> tuple[int, int]:
    """Hashes of the word at the end of a line (0 if it does not end in one) and of the word before."""
    word = before = 0
    for byte in line:
        if ord("a") <= byte | 32 <= ord("z") or byte >= 128:
            word = (word + (byte | 32) + 1) * 0x2F0B4C47 % 2**32
        elif word:
            word, before = 0, word
    return word, before


def encode_lines(plane: Plane, symbols: list[int]) -> bytes:
    coder, lines = Encoder(), Lines()
    for symbol in symbols:
        lines.code(coder, symbol)
    return coder.end()


def decode_lines(plane: Plane, data: bytes) -> list[int]:
    coder, lines = Decoder(data), Lines()
    symbols = [lines.code(coder, 0) for _ in range(plane.count)]
    coder.end()
    require(all(symbol < plane.levels for symbol in symbols), "symbol out of range")
    return symbols
