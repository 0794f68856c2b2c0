"""huffman and relative: docs/format.md, section 3, codecs 2 and 3."""

from __future__ import annotations

from collections import Counter

from tests.reference import Plane, require
from tests.reference.bits import BitReader, BitWriter

Codes = dict[int, str]


def tree_lengths(counts: list[int]) -> list[int]:
    present = [symbol for symbol, count in enumerate(counts) if count]
    lengths = [0] * len(counts)
    if len(present) == 1:
        lengths[present[0]] = 1
        return lengths
    # (weight, number of the node, symbols below it); numbers rise as nodes are made
    nodes = [(counts[symbol], number, [symbol]) for number, symbol in enumerate(present)]
    made = len(nodes)
    while len(nodes) > 1:
        nodes.sort()
        (a, _, left), (b, _, right) = nodes[:2]
        for symbol in left + right:
            lengths[symbol] += 1
        nodes = [*nodes[2:], (a + b, made, left + right)]
        made += 1
    return lengths


def code_lengths(counts: list[int]) -> list[int]:
    lengths = tree_lengths(counts)
    while max(lengths) > 15:
        counts = [(count + 1) // 2 for count in counts]
        lengths = tree_lengths(counts)
    return lengths


def canonical(lengths: list[int]) -> Codes:
    """Codes as strings, leading bit first."""
    codes, number = {}, 0
    for bits in range(1, 16):
        for symbol, length in enumerate(lengths):
            if length == bits:
                require(number + (1 << (15 - bits)) <= 1 << 15, "too many codes")
                codes[symbol] = f"{number:015b}"[:bits]
                number += 1 << (15 - bits)
    require(number == 1 << 15 or (len(codes) == 1 and number == 1 << 14), "the code has gaps")
    return codes


def put_code(out: BitWriter, counts: list[int]) -> Codes:
    lengths = code_lengths(counts)
    for length in lengths:
        out.put(length, 4)
    return canonical(lengths)


def get_code(bits: BitReader, levels: int) -> dict[str, int]:
    return {code: symbol for symbol, code in canonical([bits.get(4) for _ in range(levels)]).items()}


def put_symbol(out: BitWriter, code: str) -> None:
    for bit in code:
        out.put(int(bit), 1)


def get_symbol(bits: BitReader, symbols: dict[str, int]) -> int:
    code = ""
    while code not in symbols:
        require(len(code) < 15, "no such code")
        code += str(bits.get(1))
    return symbols[code]


def histogram(symbols: list[int], levels: int) -> list[int]:
    counts = Counter(symbols)
    return [counts[symbol] for symbol in range(levels)]


def encode_huffman(plane: Plane, symbols: list[int]) -> bytes:
    out = BitWriter()
    codes = put_code(out, histogram(symbols, plane.levels))
    for symbol in symbols:
        put_symbol(out, codes[symbol])
    return out.bytes()


def decode_huffman(plane: Plane, data: bytes) -> list[int]:
    bits = BitReader(data)
    table = get_code(bits, plane.levels)
    symbols = [get_symbol(bits, table) for _ in range(plane.count)]
    bits.end()
    return symbols


def entries(symbols: list[int], zero: int, width: int) -> list[tuple[int, int]]:
    found, gap = [], 0
    for symbol in symbols:
        if symbol == zero and gap < 2**width - 1:
            gap += 1
        else:
            found.append((gap, symbol))
            gap = 0
    return found


def encode_width(plane: Plane, symbols: list[int], zero: int, width: int) -> bytes:
    out, pairs = BitWriter(), entries(symbols, zero, width)
    out.put(width, 8)
    out.put(len(pairs), 32)
    if pairs:
        gaps = put_code(out, histogram([gap for gap, _ in pairs], 2**width))
        values = put_code(out, histogram([symbol for _, symbol in pairs], plane.levels))
        for gap, symbol in pairs:
            put_symbol(out, gaps[gap])
            put_symbol(out, values[symbol])
    return out.bytes()


def encode_relative(plane: Plane, symbols: list[int]) -> bytes:
    zero = plane.zero if plane.zero < plane.levels else 0
    return min((encode_width(plane, symbols, zero, width) for width in range(1, 9)), key=len)


def decode_relative(plane: Plane, data: bytes) -> list[int]:
    bits = BitReader(data)
    width, count = bits.get(8), bits.get(32)
    require(1 <= width <= 8 and count <= plane.count, "wrong header")
    symbols: list[int] = []
    zero = plane.zero if plane.zero < plane.levels else 0
    if count:
        gaps, values = get_code(bits, 2**width), get_code(bits, plane.levels)
        for _ in range(count):
            symbols += [zero] * get_symbol(bits, gaps)
            symbols.append(get_symbol(bits, values))
            require(len(symbols) <= plane.count, "too many symbols")
    bits.end()
    return symbols + [zero] * (plane.count - len(symbols))
