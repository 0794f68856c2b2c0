"""What a network computes, in integers of 8 bits: the program section of a file. ``docs/format.md``, section 4."""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from typing import Any

from smidgen.archive import Preprocessing
from smidgen.errors import FormatError

__all__ = [
    "MOST",
    "NO_RECORD",
    "Average",
    "Convolution",
    "Join",
    "Lookup",
    "Maximum",
    "Mean",
    "Move",
    "Operation",
    "Pair",
    "Picture",
    "Product",
    "Program",
    "Resize",
    "Signs",
    "SignsConvolution",
    "Sum",
    "Tensor",
    "reads",
]

Pair = tuple[int, int]
"""Vertical, horizontal; or a place and the 256ths that the one after it counts."""

NO_RECORD = 65535
MOST = 4096
"""Tensors, and operations."""

_ORDERS, _RESAMPLING = ("RGB", "BGR"), ("bilinear", "bicubic")


class _Cursor:
    """Bytes that are taken one after another."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def take(self, form: str) -> Any:
        """Numbers in the form of ``struct``, little endian."""
        size = struct.calcsize("<" + form)
        if self.position + size > len(self.data):
            raise FormatError("invalid: the program ends too soon")
        self.position += size
        return struct.unpack_from("<" + form, self.data, self.position - size)


@dataclass(frozen=True)
class Picture:
    """How a picture becomes the input: channels "RGB" or "BGR", "bilinear" or "bicubic", mean and std per channel."""

    channels: str
    resample: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, preprocessing: Preprocessing) -> Picture:
        """What an archive says of it, without the size, which is that of the input."""
        mean, std = (struct.unpack("<3f", struct.pack("<3f", *v)) for v in (preprocessing.mean, preprocessing.std))
        return cls(preprocessing.channels, preprocessing.resample, mean, std)

    def to_bytes(self) -> bytes:
        """As in the file."""
        order, resampling = _ORDERS.index(self.channels), _RESAMPLING.index(self.resample)
        return struct.pack("<BB6f", order, resampling, *self.mean, *self.std)

    @classmethod
    def take(cls, cursor: _Cursor) -> Picture:
        """The one that comes next."""
        order, resampling, *numbers = cursor.take("BB6f")
        if order > 1 or resampling > 1:
            raise FormatError("invalid: the program has pictures of an unknown kind")
        return cls(_ORDERS[order], _RESAMPLING[resampling], tuple(numbers[:3]), tuple(numbers[3:]))


@dataclass(frozen=True)
class Tensor:
    """Height x width pixels of channels somewhere in the arena.

    Args:
        offset: of the first channel of the first pixel that is not of the border.
        height: in pixels.
        width: in pixels.
        channels: of a pixel.
        pitch: bytes from a pixel to the next.
        border: so many more pixels lie on each side.
        zero: the integer that means 0.
        scale: an integer ``a`` means ``(a - zero) * scale``.
        numbers: whether it has float32 instead of integers.
    """

    offset: int
    height: int
    width: int
    channels: int
    pitch: int
    border: int = 0
    zero: int = 0
    scale: float = 1.0
    numbers: bool = False

    @property
    def row(self) -> int:
        """Bytes from a pixel to the one below."""
        return (self.width + 2 * self.border) * self.pitch

    @property
    def start(self) -> int:
        """Offset of the first byte, which is that of the border."""
        return self.offset - self.border * (self.row + self.pitch)

    @property
    def end(self) -> int:
        """Offset after the last byte, which is that of the last channel of the border's last pixel."""
        rows = self.height + 2 * self.border
        return self.start + rows * self.row - self.pitch + self.channels * (4 if self.numbers else 1)

    def to_bytes(self) -> bytes:
        """As in the file."""
        sizes = (self.height, self.width, self.channels, self.pitch)
        return struct.pack("<BI4HBBf", self.numbers, self.offset, *sizes, self.border, self.zero, self.scale)

    @classmethod
    def take(cls, cursor: _Cursor) -> Tensor:
        """The one that comes next."""
        kind, offset, height, width, channels, pitch, border, zero, scale = cursor.take("BI4HBBf")
        if kind > 1:
            raise FormatError("invalid: the program has a tensor of an unknown type")
        return cls(offset, height, width, channels, pitch, border, zero, scale, bool(kind))


@dataclass(frozen=True)
class Convolution:
    """Sums of inputs times weights. ``weight``, ``bias``, and ``more``, which is added to the weight, are numbers of
    tensors of the archive."""

    input: int
    output: int
    weight: int
    bias: int
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    top: int = 0
    left: int = 0
    groups: int = 1
    low: int = 0
    high: int = 255
    more: int = NO_RECORD


@dataclass(frozen=True)
class Maximum:
    """The greatest of the pixels of a kernel, as far as they lie in the input."""

    input: int
    output: int
    kernel: Pair
    stride: Pair = (1, 1)
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Average:
    """The average of the pixels of a kernel; ``padded``: those outside of the input count as zeros."""

    input: int
    output: int
    kernel: Pair
    stride: Pair = (1, 1)
    top: int = 0
    left: int = 0
    padded: bool = False


@dataclass(frozen=True)
class Mean:
    """The average of all pixels."""

    input: int
    output: int


@dataclass(frozen=True)
class Join:
    """The channels of the parts, one after another; the parts are slices of the output, so nothing is computed."""

    output: int
    parts: tuple[int, ...]


@dataclass(frozen=True)
class Sum:
    """Pixel by pixel; the second input may have a single pixel, which then goes with all of the first."""

    first: int
    second: int
    output: int
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Product:
    """The same as ``Sum``, multiplied."""

    first: int
    second: int
    output: int
    low: int = 0
    high: int = 255


@dataclass(frozen=True)
class Lookup:
    """Every integer becomes the entry of that number in a table of 256."""

    input: int
    output: int
    table: bytes


@dataclass(frozen=True)
class Move:
    """Bytes in another order: for each axis its size, and the bytes of a step in the input and in the output."""

    input: int
    output: int
    axes: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Resize:
    """For each row and each column of the output a place in the input, and the 256ths that the one after it counts."""

    input: int
    output: int
    rows: tuple[Pair, ...]
    columns: tuple[Pair, ...]


@dataclass(frozen=True)
class Signs:
    """The signs of four channels in each byte: bit 4 + i is whether channel i of them is not below 0."""

    input: int
    output: int


@dataclass(frozen=True)
class SignsConvolution:
    """A convolution of ``Signs`` of so many channels with a weight of 1 and -1; what is outside of the input counts
    nothing."""

    input: int
    output: int
    weight: int
    bias: int
    channels: int
    kernel: Pair
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    top: int = 0
    left: int = 0
    low: int = 0
    high: int = 255


Operation = (
    Convolution | Maximum | Average | Mean | Join | Sum | Product | Lookup | Move | Resize | Signs | SignsConvolution
)


def reads(operation: Operation) -> tuple[int, ...]:
    """Numbers of the tensors that an operation reads."""
    if isinstance(operation, Join):
        return operation.parts
    return (operation.first, operation.second) if isinstance(operation, Sum | Product) else (operation.input,)


_KINDS: tuple[type[Any], ...] = (
    Convolution,
    Maximum,
    Average,
    Mean,
    Join,
    Sum,
    Product,
    Lookup,
    Move,
    Resize,
    Signs,
    SignsConvolution,
)
"""By their numbers in the file."""
_FORMS = {
    Convolution: "4H8BHBBH",
    Maximum: "HH6B",
    Average: "HH6BB",
    Mean: "HH",
    Sum: "HHHBB",
    Product: "HHHBB",
    Lookup: "HH256s",
    Signs: "HH",
    SignsConvolution: "5H8B2B",
}
"""The numbers of those that always have as many."""


@dataclass(frozen=True)
class Program:
    """What a network computes for one input.

    Args:
        tensors: the first is the input.
        operations: in the order in which they are computed.
        output: number of the tensor that holds the answer.
        arena: bytes in which all tensors lie.
        picture: how a picture becomes the input, or None if that is not known.
        softmax: whether the softmax of the output is what was asked for.

    Example:
        >>> tensors = (Tensor(64, 2, 2, 3, 4, scale=0.5), Tensor(128, 1, 1, 3, 12, numbers=True))
        >>> program = Program(tensors, (Mean(0, 1),), output=1, arena=192)
        >>> Program.from_bytes(program.to_bytes()) == program
        True
    """

    tensors: tuple[Tensor, ...]
    operations: tuple[Operation, ...]
    output: int
    arena: int
    picture: Picture | None = None
    softmax: bool = False

    def to_bytes(self) -> bytes:
        """The program section of a file."""
        sizes = (len(self.tensors), len(self.operations), self.output, self.arena)
        parts = [struct.pack("<BHHHIB", self.softmax, *sizes, self.picture is not None)]
        parts += [self.picture.to_bytes()] if self.picture else []
        parts += [tensor.to_bytes() for tensor in self.tensors]
        parts += [_operation_bytes(operation) for operation in self.operations]
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Program:
        """The program in the bytes of a section; whether it can be run is for the core to check.

        Raises:
            FormatError: they cannot be parsed.
        """
        cursor = _Cursor(data)
        softmax, tensors, operations, output, arena, pictures = cursor.take("BHHHIB")
        if softmax > 1 or pictures > 1 or not (1 <= tensors <= MOST and 1 <= operations <= MOST):
            raise FormatError("invalid: the program does not begin as one")
        picture = Picture.take(cursor) if pictures else None
        held = tuple(Tensor.take(cursor) for _ in range(tensors))
        done = tuple(_take_operation(cursor, held) for _ in range(operations))
        if cursor.position != len(data):
            raise FormatError("invalid: bytes follow the program")
        return cls(held, done, output, arena, picture, bool(softmax))


def _operation_bytes(operation: Operation) -> bytes:
    kind = bytes([_KINDS.index(type(operation))])
    if isinstance(operation, Join):
        count = len(operation.parts)
        return kind + struct.pack(f"<HB{count}H", operation.output, count, *operation.parts)
    if isinstance(operation, Move):
        axes = b"".join(struct.pack("<Hii", *axis) for axis in operation.axes)
        return kind + struct.pack("<HHB", operation.input, operation.output, len(operation.axes)) + axes
    if isinstance(operation, Resize):
        pairs = b"".join(struct.pack("<HB", *pair) for pair in (*operation.rows, *operation.columns))
        return kind + struct.pack("<HH", operation.input, operation.output) + pairs
    numbers: list[Any] = []
    for field in fields(operation):
        value = getattr(operation, field.name)
        numbers += value if isinstance(value, tuple) else [value]
    return kind + struct.pack("<" + _FORMS[type(operation)], *numbers)


def _take_operation(cursor: _Cursor, tensors: tuple[Tensor, ...]) -> Operation:
    kind: Any = cursor.take("B")[0]
    if kind >= len(_KINDS):
        raise FormatError(f"invalid: the program has an operation of the unknown kind {kind}")
    kind = _KINDS[kind]
    if kind is Join:
        output, count = cursor.take("HB")
        return Join(output, cursor.take(f"{count}H"))
    if kind is Move:
        source, output, rank = cursor.take("HHB")
        return Move(source, output, tuple(cursor.take("Hii") for _ in range(rank)))
    if kind is Resize:
        source, output = cursor.take("HH")
        if output >= len(tensors):
            raise FormatError(f"invalid: the program has no tensor {output}")
        rows, columns = tensors[output].height, tensors[output].width
        pairs = tuple(cursor.take("HB") for _ in range(rows + columns))
        return Resize(source, output, pairs[:rows], pairs[rows:])
    numbers = iter(cursor.take(_FORMS[kind]))
    values = [(next(numbers), next(numbers)) if field.type == "Pair" else next(numbers) for field in fields(kind)]
    operation: Operation = kind(*values)
    return operation
