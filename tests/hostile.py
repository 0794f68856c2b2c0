"""Builds files that no writer would write, and real ones to damage: for the attacks, the mutations and the fuzzers."""

from __future__ import annotations

import json
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.code import Affine, Code, Table, Trellis
from smidgen.codecs import codec_by_id
from smidgen.file import SECTIONS

HEADERS = {1: 72, 2: 92}
TEXTS = ("metadata", "labels", "graph", "index", "program")
SETTINGS = json.dumps({"preprocessing": None, "metadata": {}}).encode()
EDGES = (0, 1, 127, 128, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1)


@dataclass(frozen=True)
class Parts:
    """A file taken apart. What is not said is right: lengths and checksum follow from the rest.

    Args:
        sections: the bytes as they lie in the file, by name.
        codecs: ids, raw where not said.
        sizes: once decoded; the stored length where not said.
        lengths: that the header claims; the truth where not said.
        magic, version, reserved: how the file begins; of version 1 it has no program.
        memory, work: what a header of version 2 says of running it.
        trailing: bytes after the last section.
    """

    sections: dict[str, bytes] = field(default_factory=dict)
    codecs: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    magic: bytes = b"\x89SMG"
    version: int = 1
    reserved: int = 0
    memory: int = 0
    work: int = 0
    trailing: bytes = b""

    def build(self) -> bytes:
        """The file, with a right checksum."""
        names = SECTIONS if self.version == 2 else SECTIONS[:5]
        sections = {name: self.sections.get(name, SETTINGS if name == "metadata" else b"") for name in names}
        lengths = [self.lengths.get(name, len(sections[name])) for name in names]
        numbers = [self.sizes.get(name, len(sections[name])) for name in names if name in TEXTS]
        numbers += [self.memory, self.work] if self.version == 2 else []
        start = self.magic + bytes([self.version, *(self.codecs.get(name, 0) for name in names)])
        start += self.reserved.to_bytes(12 - len(start), "little")
        body = struct.pack(f"<{len(lengths)}Q{len(numbers)}I", *lengths, *numbers)
        body += b"".join(sections.values()) + self.trailing
        return start + struct.pack("<I", zlib.crc32(body, zlib.crc32(start))) + body


def take_apart(data: bytes) -> Parts:
    """The parts of a valid file."""
    version = data[4]
    names = SECTIONS if version == 2 else SECTIONS[:5]
    texts = [name for name in names if name in TEXTS]
    lengths = struct.unpack_from(f"<{len(names)}Q", data, 16)
    sizes = struct.unpack_from(f"<{len(texts)}I", data, 16 + 8 * len(names))
    memory, work = struct.unpack_from("<II", data, 84) if version == 2 else (0, 0)
    ends = [HEADERS[version] + sum(lengths[: i + 1]) for i in range(len(names))]
    return Parts(
        {name: data[end - length : end] for name, end, length in zip(names, ends, lengths, strict=True)},
        dict(zip(names, data[5:], strict=False)),
        dict(zip(texts, sizes, strict=True)),
        version=version,
        memory=memory,
        work=work,
    )


def with_raw_texts(data: bytes) -> bytes:
    """The same file with its texts stored as they are, so that a changed byte changes one byte of the index."""
    parts = take_apart(data)
    sections = dict(parts.sections)
    for name, size in parts.sizes.items():
        if parts.codecs[name]:
            sections[name] = codec_by_id(parts.codecs[name]).decode(sections[name], (size,)).tobytes()
    return replace(parts, sections=sections, codecs={}, sizes={}).build()


def with_checksum(data: bytes) -> bytes:
    """The same bytes with the checksum that belongs to them."""
    if len(data) < HEADERS[1]:
        return data
    return data[:12] + struct.pack("<I", zlib.crc32(data[16:], zlib.crc32(data[:12]))) + data[16:]


def array_record(
    name: bytes = b"w", shape: tuple[int, ...] = (1,), kind: int = 8, blocks: tuple[tuple[int, int], ...] = ((0, 1),)
) -> bytes:
    """A record of the index for an array (of uint8 unless told); ``blocks`` are pairs of codec and stored bytes."""
    record = struct.pack("<B", len(name)) + name + struct.pack("<BB", 0, kind)
    record += struct.pack(f"<B{len(shape)}I", len(shape), *shape)
    return record + b"".join(struct.pack("<BI", *block) for block in blocks)


@dataclass(frozen=True)
class CodeRecord:
    """A record of the index for a code; as it stands a valid one: two signs with one scale."""

    name: bytes = b"w"
    rule: int = 1
    shape: tuple[int, ...] = (2, 2)
    first: int = -1
    step: int = 2
    levels: int = 2
    zero: int = 256
    axis: int = 255
    columns: int = 1
    has_zero: int = 0
    blocks: tuple[tuple[int, int], ...] = ((1, 1), (0, 1), (0, 1), (0, 1), (0, 1))

    def build(self) -> bytes:
        """The bytes."""
        record = struct.pack("<B", len(self.name)) + self.name + struct.pack("<B", self.rule)
        record += struct.pack(f"<B{len(self.shape)}I", len(self.shape), *self.shape)
        record += struct.pack("<hHBHBI", self.first, self.step, self.levels - 1, self.zero, self.axis, self.columns)
        record += struct.pack("<B", self.has_zero) if self.rule == 1 else b""
        return record + b"".join(struct.pack("<BI", *block) for block in self.blocks)


def small_graph(shape: tuple[int, ...] = (6, 3, 3, 3)) -> onnx.ModelProto:
    """A convolution, ReLU and a mean over the picture, whose initializers carry no data: they come from the tensors."""
    weights = []
    for name, dims in (("conv.weight", shape), ("conv.bias", shape[:1])):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT)
        tensor.dims.extend(dims)
        weights.append(tensor)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("GlobalAveragePool", ["positive"], ["output"]),
        ],
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, (1, 3, 8, 8))],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, (1, 6, 1, 1))],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def small_archive() -> Archive:
    """A small convolutional network with every rule, and arrays of several types and shapes."""
    rng = np.random.default_rng(5)

    def symbols(shape: tuple[int, ...], low: int, high: int) -> np.ndarray:
        return np.clip(np.rint(rng.normal((low + high) / 2, (high - low) / 6 + 0.4, shape)), low, high).astype(np.int16)

    scale = rng.uniform(0.01, 0.1, (6, 1)).astype(np.float32)
    grouped = rng.uniform(0.01, 0.1, (8, 2)).astype(np.float32)
    table = np.sort(rng.normal(0, 0.1, (1, 16)), axis=1).astype(np.float32)
    tables = rng.normal(0, 0.1, (5, 4)).astype(np.float32)
    tensors = {
        "conv.weight": Code(symbols((6, 3, 3, 3), -7, 7), Affine(scale, np.zeros((6, 1), np.int16), 0)),
        "conv.bias": rng.normal(0, 1, 6).astype(np.float32),
        "groups": Code(symbols((8, 12), 0, 200), Affine(grouped, np.full((8, 2), 100, np.int16), 0)),
        "shared": Code(symbols((7, 9), 0, 15), Table(table)),
        "shared.rows": Code(symbols((4, 5, 6), 0, 3), Table(tables, 1)),
        "signs": Code((2 * rng.integers(0, 2, (16, 33)) - 1).astype(np.int16), Affine.per_tensor(0.5)),
        "one": Code(np.full((3, 5), 4, np.int16), Affine.per_tensor(0.5)),
        "half": rng.normal(0, 1, (5, 7)).astype(np.float16),
        "count": np.array(70000, np.int64),
        "truth": rng.integers(0, 2, 9).astype(np.bool_),
        "nothing": np.zeros((0, 3), np.float32),
        "trellis": Code(symbols((9, 8), -6, 6), Trellis(0.03125)),
        "smaller trellis": Code(symbols((9, 8), -6, 6), Trellis(0.03125, 8)),
    }
    picture = Preprocessing(8, 8, mean=(123.7, 116.3, 103.5), std=(58.4, 57.1, 57.4))
    labels = tuple(Label(f"n{i:08}", f"thing {i}") for i in range(6))
    return Archive(small_graph().SerializeToString(), tensors, picture, labels, {"made by": "a test"})


def with_small_program(archive: Archive) -> Archive:
    """The same archive with the program of its graph, which takes the first two tensors."""
    from smidgen.lower import lower

    used = replace(archive, tensors={name: archive.tensors[name] for name in ("conv.weight", "conv.bias")})
    picture = np.random.default_rng(6).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)
    return replace(archive, program=lower(used, [{"input": picture}]))


def real_files() -> Iterator[tuple[str, bytes]]:
    """Files as ``write`` makes them, one per family of codecs, and once more with their texts stored plainly."""
    from smidgen.file import SMALLEST, write

    archive = small_archive()
    for codecs in (
        SMALLEST,
        ("huffman",),
        ("relative",),
        ("rans",),
        ("adaptive",),
        ("text",),
        ("mixed",),
        ("mixed64",),
        ("lines",),
    ):
        yield codecs[-1] if len(codecs) == 1 else "smallest", write(archive, codecs)
    yield "plain", with_raw_texts(write(archive))
    yield "program", write(with_small_program(archive))
    yield "empty", write(replace(archive, graph=b"", tensors={}, labels=()))


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """One small change: bits, bytes, cuts, insertions, splices, and numbers at the edge of their range."""
    changed = bytearray(data)
    at, length = rng.randrange(len(data) + 1), rng.randint(1, 16)
    kind = rng.randrange(8)
    if kind == 0 and at < len(data):
        changed[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(data):
        changed[at] = rng.randrange(256)
    elif kind == 2:
        del changed[at:]
    elif kind == 3:
        changed[at:at] = rng.randbytes(length)
    elif kind == 4:
        del changed[at : at + length]
    elif kind == 5:
        start = rng.randrange(len(data) + 1)
        changed[at : at + length] = data[start : start + length]
    elif kind == 6:
        changed[at : at + length] = rng.randbytes(length)
    else:
        width = rng.choice((1, 2, 4, 8))
        number = int.from_bytes(data[at : at + width], "little")
        number = rng.choice((number + 1, number - 1, rng.choice(EDGES)))
        changed[at : at + width] = (number % 256**width).to_bytes(width, "little")
    return bytes(changed)


def mutate_parts(data: bytes, rng: random.Random) -> bytes:
    """One to three small changes of a valid file's sections or header fields, with lengths and checksum repaired."""
    parts = take_apart(data)
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(parts.sections))
        kind = rng.randrange(8)
        if kind == 0:
            parts = replace(parts, codecs={**parts.codecs, name: rng.randrange(10)})
        elif kind == 1 and name != "payload":
            size = rng.choice((parts.sizes[name] + 1, max(0, parts.sizes[name] - 1), rng.randrange(2**32)))
            parts = replace(parts, sizes={**parts.sizes, name: size})
        elif parts.sections[name]:
            stored = mutate_bytes(parts.sections[name], rng)
            sizes = dict(parts.sizes)
            if name in sizes and parts.codecs[name] == 0:
                sizes[name] = len(stored)
            parts = replace(parts, sections={**parts.sections, name: stored}, sizes=sizes)
    return parts.build()
