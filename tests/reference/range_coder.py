"""The range coder and its adaptive bits: docs/format.md, section 3."""

from __future__ import annotations

from tests.reference import require

ONES = 2**64 - 1
RATE = [max(256, round(65536 / (count + 1.5))) for count in range(256)]


class Encoder:
    def __init__(self) -> None:
        self.written = 0  # the whole string so far as one number: a carry is an addition
        self.bytes = 0
        self.low, self.range = 0, ONES

    def code(self, bit: int, p: int) -> int:
        bound = (self.range >> 16) * p
        if bit:
            self.range = bound
        else:
            self.low += bound
            self.range -= bound
        while self.range < 2**32:
            self.written = self.written * 2**32 + (self.low >> 32)
            self.bytes += 4
            self.low = self.low % 2**32 << 32
            self.range <<= 32
        return bit

    def end(self) -> bytes:
        value = self.low
        for zeros in range(63, 0, -1):
            candidate = -(-self.low >> zeros) << zeros
            if candidate < self.low + self.range:
                value = candidate
                break
        whole = self.written * 2**64 + value
        return whole.to_bytes(self.bytes + 8, "big").rstrip(b"\0")


class Decoder:
    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 8
        self.offset = int.from_bytes(data[:8].ljust(8, b"\0"), "big")  # code - low
        self.range = ONES

    def code(self, bit: int, p: int) -> int:
        bound = (self.range >> 16) * p
        bit = int(self.offset < bound)
        if bit:
            self.range = bound
        else:
            self.offset -= bound
            self.range -= bound
        while self.range < 2**32:
            word = self.data[self.position : self.position + 4].ljust(4, b"\0")
            self.offset = (self.offset << 32 | int.from_bytes(word, "big")) & ONES
            self.position += 4
            self.range <<= 32
        return bit

    def end(self) -> None:
        require(self.position >= len(self.data), "bytes are left over")
        require(not self.data.endswith(b"\0"), "a trailing zero")


Coder = Encoder | Decoder


class Bit:
    """An adaptive bit."""

    def __init__(self) -> None:
        self.p, self.count = 2**23, 0

    def code(self, coder: Coder, bit: int) -> int:
        bit = coder.code(bit, self.p // 256 | 1)
        self.update(bit)
        return bit

    def update(self, bit: int) -> None:
        target = 2**24 - 1 if bit else 0
        self.p += (target - self.p) * RATE[self.count] // 65536
        self.count = min(255, self.count + 1)
