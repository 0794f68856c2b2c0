"""The program, run step by step as docs/format.md, section 4, says it: what the engine in C is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from smidgen.code import Affine, Code, Trellis
from smidgen.run.program import (
    NO_RECORD,
    Average,
    Convolution,
    Join,
    Lookup,
    Maximum,
    Mean,
    Move,
    Operation,
    Product,
    Program,
    Resize,
    Signs,
    SignsConvolution,
    Sum,
    Tensor,
)
from tests.reference import require

Array = NDArray[Any]
Record = Code | Array
single, double = np.float32, np.float64


def run(program: Program, records: Sequence[Record], x: Array) -> NDArray[np.float32]:
    """The network's answer for one input of shape (channels, height, width): a number for each class."""
    arena = np.full(program.arena, 0xAA, np.uint8)  # nothing may depend on what lay there
    machine = _Machine(program.tensors, records, arena)
    machine.write_input(x)
    for operation in program.operations:
        machine.step(operation)
    t = program.tensors[program.output]
    out = machine.inner(program.output).transpose(2, 0, 1).ravel()
    scores = out if t.numbers else (out.astype(single) - single(t.zero)) * single(t.scale)
    if program.softmax:
        powers = np.exp(scores.astype(double) - scores.max())
        scores = (powers / powers.sum()).astype(single)
    return scores


def integers_of(record: Record, more: Record | None = None) -> tuple[Array, NDArray[np.float32]]:
    """Integers of shape (rows, rest) and the scale of each row, as a convolution takes a record, or the sum of two."""
    if more is not None:
        record = sum(each.values() if isinstance(each, Code) else each for each in (record, more))
    if isinstance(record, Code):
        rule, symbols = record.rule, record.symbols
        rows = len(symbols)
        if isinstance(rule, Trellis):
            return rule.levels(symbols)[0].reshape(rows, -1).astype(np.int64), np.full(rows, rule.scale, single)
        if isinstance(rule, Affine) and rule.axis in (None, 0) and rule.scale.shape[1] == 1:
            integers = symbols.reshape(rows, -1).astype(np.int64) - rule.zero.astype(np.int64)
            return integers, np.broadcast_to(rule.scale[:, 0], rows)
        values = record.values()
    else:
        require(record.dtype == np.float32, "type of a weight")
        values = record
    values = values.reshape(len(values), -1)
    most = np.abs(values).max(axis=1)
    scale = most / single(127)
    scale = np.where(scale > 0, scale, single(1))
    return np.clip(np.rint(values / scale[:, None]), -127, 127).astype(np.int64), scale


class _Machine:
    def __init__(self, tensors: Sequence[Tensor], records: Sequence[Record], arena: Array) -> None:
        self.tensors, self.records, self.arena = tensors, records, arena

    def whole(self, number: int) -> Array:
        """A tensor with its border: (height + 2 border, width + 2 border, channels), a view of the arena."""
        t = self.tensors[number]
        require(t.start >= 0 and t.end <= len(self.arena), "a tensor beyond the arena")
        shape = (t.height + 2 * t.border, t.width + 2 * t.border, t.channels)
        if t.numbers:
            return self.arena[t.offset : t.end].view(single).reshape(shape)
        return as_strided(self.arena[t.start :], shape, (t.row, t.pitch, 1))

    def inner(self, number: int) -> Array:
        """The same without the border."""
        t, whole = self.tensors[number], self.whole(number)
        return whole[t.border : t.border + t.height, t.border : t.border + t.width]

    def centered(self, number: int) -> Array:
        """Integers less their zero, without the border."""
        return self.inner(number).astype(np.int64) - self.tensors[number].zero

    def put(self, number: int, values: Array) -> None:
        """Writes a tensor and its border."""
        self.whole(number)[:] = self.tensors[number].zero
        self.inner(number)[:] = values

    def finish(self, number: int, x: NDArray[np.float32], low: int = 0, high: int = 255) -> None:
        """Writes numbers, in units of the tensor's scale, as integers."""
        assert x.dtype == single
        zero = self.tensors[number].zero
        above = np.fmax(x, single(low - zero))  # also of what is no number
        self.put(number, np.rint(np.minimum(above, single(high - zero))) + zero)

    def write_input(self, x: Array) -> None:
        t = self.tensors[0]
        pixels = np.asarray(x, single).transpose(1, 2, 0)
        self.finish(0, pixels * single(1 / double(t.scale)))

    def step(self, operation: Operation) -> None:
        getattr(self, type(operation).__name__.lower())(operation)

    def convolution(self, c: Convolution) -> None:
        i, o = self.tensors[c.input], self.tensors[c.output]
        weights, s = integers_of(self.records[c.weight], None if c.more == NO_RECORD else self.records[c.more])
        n, (kernel_height, kernel_width) = o.channels, c.kernel
        require(i.channels % c.groups == 0 and n % c.groups == 0, "groups")
        require(weights.shape == (n, i.channels // c.groups * kernel_height * kernel_width), "shape of a weight")
        bias, scale = np.zeros(n), double(i.scale) * s.astype(double)
        if c.bias != NO_RECORD:
            record = self.records[c.bias]
            values = (record.values() if isinstance(record, Code) else record).reshape(n).astype(double)
            require(bool(np.isfinite(values).all()), "biases")
            with np.errstate(all="ignore"):  # a scale may be 0
                bias = np.where(values == 0, 0, values / scale)
            alone = (values != 0) & ((weights == 0).all(axis=1) | (np.abs(bias) > 2**30))
            weights = np.where(alone[:, None], 0, weights)
            bias = np.where(alone, np.copysign(2.0**24, values), bias)
            scale = np.where(alone, np.abs(values) / 2**24, scale)
        bias = np.rint(bias)
        sizes = 255 * np.abs(weights).sum(axis=1) + np.abs(bias) + 255 * np.abs(weights.sum(axis=1))
        require(bool((sizes < 2**31).all()), "sums of a convolution")
        weights = weights.reshape(c.groups, n // c.groups, -1, kernel_height, kernel_width).astype(double)
        a = (self.whole(c.input).astype(np.int64) - i.zero).astype(double)  # sums below 2^53 are exact
        a = a.reshape(*a.shape[:2], c.groups, -1)
        sums = np.zeros((o.height, o.width, c.groups, n // c.groups))
        for y, x in np.ndindex(kernel_height, kernel_width):
            top, left = y * c.dilation[0] - c.top + i.border, x * c.dilation[1] - c.left + i.border
            bottom, right = top + (o.height - 1) * c.stride[0] + 1, left + (o.width - 1) * c.stride[1] + 1
            require(min(top, left) >= 0 and bottom <= a.shape[0] and right <= a.shape[1], "reading past the border")
            read = a[top : bottom : c.stride[0], left : right : c.stride[1]]
            sums += np.einsum("yxgi,goi->yxgo", read, weights[..., y, x], optimize=True)
        total = (sums.reshape(o.height, o.width, n) + bias).astype(np.int64).astype(single)
        if o.numbers:
            self.put(c.output, total * scale.astype(single))
        else:
            factor = (scale / double(o.scale)).astype(single)
            self.finish(c.output, total * factor, c.low, c.high)

    def signs(self, c: Signs) -> None:
        above = (self.centered(c.input) >= 0).astype(np.int64)
        padded = np.pad(above, ((0, 0), (0, 0), (0, -above.shape[2] % 4)))
        self.put(c.output, padded.reshape(*above.shape[:2], -1, 4) @ [16, 32, 64, 128])

    def signsconvolution(self, c: SignsConvolution) -> None:
        i, o, n = self.tensors[c.input], self.tensors[c.output], c.channels
        require(i.channels == -(-n // 4) and (i.scale, i.zero) == (1, 0), "signs")
        weights, s = integers_of(self.records[c.weight])
        require(bool((np.abs(weights) == 1).all()), "weights of signs")
        weights = weights.reshape(o.channels, n, *c.kernel)
        bits = self.inner(c.input)[..., None] >> np.arange(4, 8) & 1
        weights = np.pad(weights > 0, ((0, 0), (0, -n % 4), (0, 0), (0, 0))).astype(np.int64)
        bits = bits.reshape(i.height, i.width, -1)
        sums = np.zeros((o.height, o.width, o.channels), np.int64)
        for y, x, j, k in np.ndindex(o.height, o.width, *c.kernel):
            row = y * c.stride[0] - c.top + j * c.dilation[0]
            column = x * c.stride[1] - c.left + k * c.dilation[1]
            if 0 <= row < i.height and 0 <= column < i.width:
                sums[y, x] += n - 2 * (weights[:, :, j, k] != bits[row, column]).sum(axis=1)
        bias = np.zeros(o.channels)
        if c.bias != NO_RECORD:
            record = self.records[c.bias]
            values = (record.values() if isinstance(record, Code) else record).reshape(-1).astype(double)
            np.divide(values, s.astype(double), where=values != 0, out=bias)
            require(bool((np.abs(bias) <= 2**30).all()), "a bias beside which its signs are nothing")
        total = (sums + np.rint(bias).astype(np.int64)).astype(single)
        self.finish(c.output, total * (s.astype(double) / double(o.scale)).astype(single), c.low, c.high)

    def window(self, c: Maximum | Average) -> list[tuple[Array, Array]]:
        """For each place of the kernel the pixels that it reads, of the output's size, and which of them there are."""
        i, o, found = self.tensors[c.input], self.tensors[c.output], []
        for y, x in np.ndindex(c.kernel):
            rows = np.arange(o.height) * c.stride[0] - c.top + y
            columns = np.arange(o.width) * c.stride[1] - c.left + x
            there = ((rows >= 0) & (rows < i.height))[:, None] & ((columns >= 0) & (columns < i.width))
            pixels = self.inner(c.input)[np.clip(rows, 0, i.height - 1)][:, np.clip(columns, 0, i.width - 1)]
            found.append((pixels.astype(np.int64), there[..., None]))
        require(bool(sum(there for _, there in found).all()), "a kernel beside the input")
        return found

    def maximum(self, c: Maximum) -> None:
        i, o = self.tensors[c.input], self.tensors[c.output]
        require((i.scale, i.zero) == (o.scale, o.zero), "scales of a maximum")
        self.put(c.output, np.max([np.where(there, pixels, -1) for pixels, there in self.window(c)], axis=0))

    def average(self, c: Average) -> None:
        i, o, found = self.tensors[c.input], self.tensors[c.output], self.window(c)
        sums = sum(np.where(there, pixels - i.zero, 0) for pixels, there in found)
        n = np.full((o.height, o.width, 1), c.kernel[0] * c.kernel[1])
        if not c.padded:
            n = sum(there.astype(np.int64) for _, there in found)
        self.finish(c.output, sums.astype(single) * (double(i.scale) / (n * double(o.scale))).astype(single))

    def mean(self, c: Mean) -> None:
        i, o = self.tensors[c.input], self.tensors[c.output]
        sums, n = self.centered(c.input).sum(axis=(0, 1), keepdims=True).astype(single), i.height * i.width
        if o.numbers:
            self.put(c.output, sums * single(double(i.scale) / n))
        else:
            self.finish(c.output, sums * single(double(i.scale) / (n * double(o.scale))))

    def join(self, c: Join) -> None:
        o, offset = self.tensors[c.output], self.tensors[c.output].offset
        for part in (self.tensors[number] for number in c.parts):
            require(part.offset == offset, "place of a part")
            alike = ("height", "width", "border", "pitch", "zero", "scale")
            require(all(getattr(part, name) == getattr(o, name) for name in alike), "form of a part")
            offset += part.channels
        require(offset == o.offset + o.channels, "channels of the parts")

    def sum(self, c: Sum) -> None:
        i, j, o = (self.tensors[number] for number in (c.first, c.second, c.output))
        a, b = self.centered(c.first).astype(single), self.centered(c.second).astype(single)
        scaled = a * single(double(i.scale) / double(o.scale)) + b * single(double(j.scale) / double(o.scale))
        self.finish(c.output, scaled, c.low, c.high)

    def product(self, c: Product) -> None:
        i, j, o = (self.tensors[number] for number in (c.first, c.second, c.output))
        products = (self.centered(c.first) * self.centered(c.second)).astype(single)
        factor = single(double(i.scale) * double(j.scale) / double(o.scale))
        self.finish(c.output, products * factor, c.low, c.high)

    def lookup(self, c: Lookup) -> None:
        self.put(c.output, np.frombuffer(c.table, np.uint8)[self.inner(c.input)])

    def move(self, c: Move) -> None:
        i, o = self.tensors[c.input], self.tensors[c.output]
        require((i.scale, i.zero) == (o.scale, o.zero), "scales of a move")
        sizes = [size for size, _, _ in c.axes]
        require(int(np.prod(sizes)) == o.height * o.width * o.channels, "size of a move")
        for t, steps in ((i, [step for _, step, _ in c.axes]), (o, [step for _, _, step in c.axes])):
            axes = [(size - 1, step) for size, step in zip(sizes, steps, strict=True) if size > 1]
            require(all(step >= 0 for _, step in axes), "steps of a move")
            rows = sum(count * (step // t.row) for count, step in axes)
            pixels = sum(count * (step % t.row // t.pitch) for count, step in axes)
            channels = sum(count * (step % t.row % t.pitch) for count, step in axes)
            require(rows < t.height and pixels < t.width and channels < t.channels, "a move beyond its tensor")
        index = np.indices(sizes).reshape(len(sizes), -1)
        source = i.offset + sum(k * step for k, (_, step, _) in zip(index, c.axes, strict=True))
        target = o.offset + sum(k * step for k, (_, _, step) in zip(index, c.axes, strict=True))
        require(len(np.unique(target)) == len(target), "a move to the same place twice")
        copied = self.arena[source]
        self.put(c.output, 0)
        self.arena[target] = copied

    def resize(self, c: Resize) -> None:
        i, o, a = self.tensors[c.input], self.tensors[c.output], self.inner(c.input).astype(np.int64)
        require((i.scale, i.zero) == (o.scale, o.zero), "scales of a resize")
        y, f = np.array(c.rows).T
        x, g = np.array(c.columns).T
        y2, x2 = np.minimum(y + 1, i.height - 1), np.minimum(x + 1, i.width - 1)
        f, g = f[:, None, None], g[:, None]
        above = (256 - g) * a[y][:, x] + g * a[y][:, x2]
        below = (256 - g) * a[y2][:, x] + g * a[y2][:, x2]
        self.put(c.output, ((256 - f) * above + f * below + 32768) // 65536)
