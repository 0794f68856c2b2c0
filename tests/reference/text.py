"""text: docs/format.md, section 3, codec 6."""

from __future__ import annotations

from collections import defaultdict
from math import exp

from tests.reference import Plane, require
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
