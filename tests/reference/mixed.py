"""mixed and mixed64: docs/format.md, section 3, codecs 7 and 8."""

from __future__ import annotations

from collections import defaultdict
from math import exp, log

from tests.reference import Plane, length, require
from tests.reference.range_coder import RATE, Coder, Decoder, Encoder

TAIL = [round(256 * log(1 + exp(-i / 16))) for i in range(129)]
STEP = [round(-256 * log(1 - exp(-max(i, 1 / 16) / 16))) for i in range(129)]
SIGMOID = [round(65536 / (1 + exp(-(i - 16) / 2))) for i in range(33)]
NEXT_OF_8 = ((0, 2), (5, 7), (1, 3), (6, 4), (2, 0), (4, 6), (3, 1), (7, 5))
WIDTH = (2400, 2400, 2400, 2400, 2400, 2400, 12000, 12000, 24000)
PLAIN = 255


def clamp(x: int, most: int) -> int:
    return max(-most, min(most, x))


def between(table: list[int], x: int) -> int:
    i, rest = divmod(min(x, 2047), 16)
    return table[i] - (table[i] - table[i + 1]) * rest // 16


def tail(x: int) -> int:
    return between(TAIL, abs(x)) + max(0, -x)


def step(x: int) -> int:
    return x - between(STEP, x)


def squash(x: int) -> int:
    i, rest = divmod(clamp(x, 2047) + 2048, 128)
    return SIGMOID[i] + ((SIGMOID[i + 1] - SIGMOID[i]) * rest + 64) // 128


def towards(mean: int, x: int, rate: int) -> int:
    return mean + (x - mean) * rate // 65536


def zero_of(plane: Plane) -> int:
    return plane.zero if plane.zero < plane.levels else plane.levels // 2


def mean_of(code: int) -> int:
    return (8 + code % 8) << code // 8


def next_state(states: int, state: int, parity: int) -> int:
    return NEXT_OF_8[state][parity] if states == 8 else state // 2 ^ 33 * (state % 2) ^ 10 * parity


class Law:
    """The law's scale for one symbol, and what the decisions have learnt so far."""

    def __init__(self, coder: Coder) -> None:
        self.coder = coder
        self.learnt: dict[tuple[int, int], list[int]] = defaultdict(lambda: [65536, 0])
        self.inverse, self.quantizer = 0, 0

    def at(self, width: int, quantizer: int) -> None:
        self.inverse, self.quantizer = 355 * 65536 // width, quantizer

    def scaled(self, x: int) -> int:
        return x * self.inverse // 4096

    def decide(self, kind: int, odds: int, bit: bool) -> bool:
        learnt = self.learnt[self.quantizer, kind]
        odds = clamp(odds, 4095)
        p = squash((odds * learnt[0] + learnt[1] * 256) // 65536)
        found = self.coder.code(int(bit), p)
        error = (65535 if found else 0) - p
        learnt[0] = clamp(learnt[0] + (odds * error + 2**17) // 2**18, 2**18)
        learnt[1] = clamp(learnt[1] + (error + 2**8) // 2**9, 2**19)
        return bool(found)

    def code(self, centre: int, k: int, below: int, above: int) -> int:
        half = 8 if self.quantizer else 16
        start = self.scaled(centre - half)
        if above and self.decide(0, start, k > 0):
            return self.magnitude(centre, k, above)
        if below and self.decide(1, tail(start) - step(self.scaled(2 * half)), k < 0):
            return -self.magnitude(-centre, -k, below)
        return 0

    def magnitude(self, centre: int, k: int, most: int) -> int:
        a, steps, j = 1, 0, max(0, length(355 * 65536 // self.inverse) - 10)
        t, size = self.scaled((0 if self.quantizer else 16) - centre), self.scaled(32 << j)
        while a + 2**j <= most and self.decide(2 + min(steps, 12), tail(t) - step(size), k >= a + 2**j):
            a, t, steps = a + 2**j, t + size, steps + 1
            if steps >= 12:
                j, size = j + 1, 2 * size
        while j > 0:
            j, size = j - 1, size // 2
            if a + 2**j <= most and self.decide(15, tail(t) - tail(t + 2 * size) - size, k >= a + 2**j):
                a, t = a + 2**j, t + size
        return a


class Regression:
    def __init__(self, weights: tuple[int, ...]) -> None:
        self.weights = list(weights)

    def predict(self, features: list[int]) -> int:
        return sum(weight * feature for weight, feature in zip(self.weights, features, strict=True))

    def learn(self, features: list[int], error: int, inverse: int) -> None:
        rate = clamp(error, 2048) * min(inverse, 355 * 65536 // 512)
        for i, feature in enumerate(features):
            self.weights[i] = clamp(self.weights[i] + (feature * rate + 2**23) // 2**24, 2**18)


class Column:
    def __init__(self, spread: int) -> None:
        self.fast, self.slow, self.spread = 0, 0, spread
        self.value, self.error, self.state = 0, spread // 16, 0


def code_plane(plane: Plane, coder: Coder, symbols: list[int] | None, spread: int, states: int) -> list[int]:
    """One scan serves both directions; ``states`` is 0 without a trellis."""
    zero, row_length = zero_of(plane), plane.columns * plane.inner
    back = max(5, plane.inner)
    law, fresh = Law(coder), Column(spread)
    columns = [Column(spread) for _ in range(min(row_length, 65536))]
    centres = [Regression((0,) * 9) for _ in range(64)]
    widths = [Regression(WIDTH) for _ in range(64)]
    mean, v, e = spread, [0] * 4, [spread // 16] * 4  # the last four, the newest first
    found: list[int] = []
    for r in range(plane.rows):
        running, level = mean, 0
        for c in range(row_length):
            here, before = columns[c % 65536], columns[(c - back) % 65536] if c >= back else fresh
            of_centre, of_width = centres[c % plane.inner % 64], widths[c % plane.inner % 64]
            values = [*v, here.value, before.value, level // 256, here.fast // 256, here.slow // 256]
            product = min(running * here.spread // (mean + 16), 2**18)
            errors = [*e, here.error, before.error, running // 16, here.spread // 16, product // 16]
            centre = clamp(of_centre.predict(values) // 65536, 8192)
            width = max(min(of_width.predict(errors) // 4096, 2**18), running // 4, 40)
            law.at(width, here.state % 2)
            k = law.code(centre, symbols[len(found)] - zero if symbols else 0, zero, plane.levels - 1 - zero)
            found.append(k + zero)
            value = 32 * k - law.quantizer * 16 * ((k > 0) - (k < 0))
            error = value - centre
            v, e = [value, *v[:3]], [abs(error), *e[:3]]
            of_centre.learn(values, 4 * law.scaled(error), law.inverse)
            of_width.learn(errors, law.scaled(abs(error)) - 355, law.inverse)
            running = towards(running, 16 * abs(error), RATE[min(c + 12, 62)])
            level = towards(level, 256 * value, RATE[min(c, 62)])
            here.fast = towards(here.fast, 256 * value, 8192)
            here.slow = towards(here.slow, 256 * value, RATE[min(r, 255)])
            here.spread = towards(here.spread, 16 * abs(error), RATE[min(r + 8, 30)])
            here.value, here.error = value, abs(error)
            here.state = next_state(states, here.state, k % 2) if states else 0
        mean = (mean + running) // 2
    return found


def encode_mixed(plane: Plane, symbols: list[int], states: int = 8) -> bytes:
    total = 512 * sum(abs(symbol - zero_of(plane)) for symbol in symbols)
    code = max((i for i in range(120) if mean_of(i) * plane.count <= total), default=0)
    found = []
    for followed in (0, states):
        coder = Encoder()
        code_plane(plane, coder, symbols, mean_of(code), followed)
        found.append(bytes([code + (128 if followed else 0)]) + coder.end())
    shortest = min(found, key=len)
    return shortest if len(shortest) <= plane.count else bytes([PLAIN, *symbols])


def decode_mixed(plane: Plane, data: bytes, states: int = 8) -> list[int]:
    require(len(data) > 0, "no first byte")
    if data[0] == PLAIN:
        require(len(data) == plane.count + 1 and all(x < plane.levels for x in data[1:]), "plain symbols")
        return list(data[1:])
    require(data[0] % 128 < 120, "the mean")
    coder = Decoder(data[1:])
    symbols = code_plane(plane, coder, None, mean_of(data[0] % 128), states if data[0] >= 128 else 0)
    coder.end()
    return symbols


def encode_mixed64(plane: Plane, symbols: list[int]) -> bytes:
    return encode_mixed(plane, symbols, 64)


def decode_mixed64(plane: Plane, data: bytes) -> list[int]:
    return decode_mixed(plane, data, 64)
