"""The file: an ``Archive`` to bytes and back. The layout is specified in ``docs/format.md``."""

from __future__ import annotations

import json
import math
import os
import struct
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen._core import ffi, lib
from smidgen.archive import Archive, Preprocessing
from smidgen.code import Affine, Code, Rule, Table, Trellis
from smidgen.codecs import CODECS, NO_ZERO, codec_by_id
from smidgen.container import REASONS, open_header, text_of
from smidgen.errors import FormatError, InputError, WeightError
from smidgen.label import parse_labels, text_of_labels

__all__ = [
    "FAST",
    "SMALLEST",
    "UNIT",
    "TensorInfo",
    "codecs_named",
    "file_size",
    "inspect",
    "outline",
    "read",
    "section_sizes",
    "write",
]

SMALLEST = ("raw", "bitpack", "rans", "adaptive", "mixed", "mixed64")
"""Every plane is coded by each of these and keeps the shortest."""

FAST = ("raw", "rans")
"""For large models and quick starts."""

TEXT_CODECS = ("text", "lines")
"""For all that is not a plane; the shortest is kept."""

MAGIC = b"\x89SMG"
SECTIONS = ("metadata", "labels", "graph", "index", "payload", "program")
TYPES = ("", "<f4", "<f8", "<f2", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "|b1")
UNIT = 1e-6
"""What the harm of layers is noted in parts of, where the metadata say nothing else."""
NO_AXIS = 255
TRELLISES = {lib.SMIDGEN_TRELLIS: 8, lib.SMIDGEN_TRELLIS64: 64}
"""Their states, by the number of the rule."""


def codecs_named(choice: str) -> tuple[str, ...]:
    """The codecs to choose from: ``smallest``, ``fast``, or one codec by its name.

    Raises:
        InputError: there is no such choice.

    Example:
        >>> codecs_named("fast")
        ('raw', 'rans')
    """
    choices = {"smallest": SMALLEST, "fast": FAST, **{name: (name,) for name in CODECS}}
    if choice not in choices:
        raise InputError(f"codec {choice!r} is unknown; choose {', '.join(choices)}")
    return choices[choice]


@dataclass(frozen=True)
class TensorInfo:
    """What the index says about one tensor, for ``smidgen inspect``.

    Args:
        name: of the weight.
        shape: of the weight.
        kind: ``float32`` and the like for arrays, ``affine``, ``table`` or ``trellis`` for codes.
        levels: size of the alphabet of a code; 0 for an array.
        codec: of the symbols (of an array: of its first plane).
        stored: bytes in the payload, parameters of the rule included.
        harm: the divergence that this tensor's code alone caused in the original network; None if it is not known.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    levels: int
    codec: str
    stored: int
    harm: float | None = None

    @property
    def elements(self) -> int:
        """How many weights it has."""
        return int(np.prod(self.shape, dtype=np.int64))


def write(archive: Archive, codecs: tuple[str, ...] = SMALLEST) -> bytes:
    """The bytes of a file that holds ``archive``; the same archive gives the same bytes.

    Args:
        archive: what to write.
        codecs: names of the codecs to choose from, plane by plane, by measured size.

    Raises:
        WeightError: an array has a type that the format does not know, a name is empty or too long, or the weights are
            so nearly constant that readers would refuse the file.
        InputError: metadata that JSON cannot hold.
    """
    from smidgen.run.native import claims

    data = _written(archive, codecs)
    if not archive.program:
        return data
    at = 16 + 8 * len(SECTIONS) + 4 * (len(SECTIONS) - 1)
    return _with_checksum(data[:12], data[16:at] + struct.pack("<II", *claims(data)) + data[at + 8 :])


def file_size(archive: Archive, codecs: tuple[str, ...] = SMALLEST) -> int:
    """Bytes of the file that ``write`` makes, which also says what its errors are.

    Example:
        >>> archive = Archive(b"", {"w": np.zeros(8, np.float32)})
        >>> file_size(archive) == len(write(archive))
        True
    """
    return len(_written(archive, codecs))


def _written(archive: Archive, codecs: tuple[str, ...]) -> bytes:
    """The file, whose header does not yet say how much memory a program takes."""
    index, payload = [], []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        coded = list(pool.map(lambda tensor: _encode_tensor(tensor, codecs), archive.tensors.values()))
    for name, (record, blocks) in zip(archive.tensors, coded, strict=True):
        encoded = _encode_name(name)
        index.append(struct.pack("<B", len(encoded)) + encoded + record)
        index += [struct.pack("<BI", codec, len(data)) for codec, data in blocks]
        payload += [data for _, data in blocks]
    settings = {
        "preprocessing": asdict(archive.preprocessing) if archive.preprocessing else None,
        "metadata": dict(archive.metadata),
    }
    try:
        metadata = json.dumps(settings, separators=(",", ":"), sort_keys=True, ensure_ascii=False, allow_nan=False)
        texts = (metadata.encode(), text_of_labels(archive.labels).encode(), archive.graph, b"".join(index))
    except (TypeError, ValueError, RecursionError) as error:  # among them UnicodeEncodeError, of half a character
        raise InputError(f"metadata and labels must be plain JSON values and whole characters: {error}") from None
    data = _assemble(texts, b"".join(payload), archive.program)
    try:
        open_header(data)
        _parse_index(texts[3], sum(map(len, payload)), len(data))
    except FormatError:
        raise WeightError(
            "readers would refuse this file: metadata, labels or constants in the graph are too large (register those "
            "as buffers), or so many weights in so few bytes look like an attack (remove constant weights)"
        ) from None
    return data


def _assemble(texts: tuple[bytes, ...], payload: bytes, program: bytes) -> bytes:
    sections, numbers = [*map(_shortest_text, texts), (CODECS["raw"].id, payload)], list(map(len, texts))
    if program:
        sections.append(_shortest_text(program))
        numbers += [len(program), 0, 0]
    ids = bytes(codec for codec, _ in sections)
    start = MAGIC + bytes([2 if program else 1]) + ids.ljust(7, b"\0")
    lengths = [len(stored) for _, stored in sections]
    table = struct.pack(f"<{len(lengths)}Q{len(numbers)}I", *lengths, *numbers)
    return _with_checksum(start, table + b"".join(stored for _, stored in sections))


def _with_checksum(start: bytes, body: bytes) -> bytes:
    return start + struct.pack("<I", zlib.crc32(body, zlib.crc32(start))) + body


def _shortest_text(text: bytes) -> tuple[int, bytes]:
    coded = [(CODECS[name].id, CODECS[name].encode(np.frombuffer(text, np.uint8))) for name in TEXT_CODECS]
    # the format bounds how much a short section may expand to, and how long a hostile one may take
    allowed = [(CODECS["raw"].id, text), *(pair for pair in coded if len(text) // 256 <= len(pair[1]))]
    return min(allowed, key=lambda pair: len(pair[1]))


def _shortest(symbols: NDArray[np.uint8], levels: int, zero: int, codecs: tuple[str, ...]) -> tuple[int, bytes]:
    if symbols.size == 0:
        return CODECS["raw"].id, b""
    coded = [(CODECS[name].id, CODECS[name].encode(symbols, levels, zero)) for name in codecs]
    return min(coded, key=lambda pair: (len(pair[1]), pair[0]))


def _planes(array: NDArray[Any], codecs: tuple[str, ...]) -> list[tuple[int, bytes]]:
    """A plane for each byte of the elements, the lowest first: exponents go with exponents, noise with noise."""
    split = np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(array.size, array.dtype.itemsize)
    choice = tuple(dict.fromkeys(("raw", *codecs)))
    return [_shortest(split[:, i].reshape(array.shape), 256, NO_ZERO, choice) for i in range(array.dtype.itemsize)]


def _encode_tensor(tensor: Code | NDArray[Any], codecs: tuple[str, ...]) -> tuple[bytes, list[tuple[int, bytes]]]:
    return _encode_code(tensor, codecs) if isinstance(tensor, Code) else _encode_array(tensor, codecs)


def _encode_array(array: NDArray[Any], codecs: tuple[str, ...]) -> tuple[bytes, list[tuple[int, bytes]]]:
    array = np.asarray(array)
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    if little.dtype.str not in TYPES:
        raise WeightError(f"an array of type {array.dtype} cannot be kept; convert it to float32 first")
    record = struct.pack("<BB", lib.SMIDGEN_ARRAY, TYPES.index(little.dtype.str)) + _encode_shape(array.shape)
    return record, _planes(little, codecs)


def _encode_code(code: Code, codecs: tuple[str, ...]) -> tuple[bytes, list[tuple[int, bytes]]]:
    first, step, levels = code.alphabet
    plane = ((code.symbols.astype(np.int32) - first) // step).astype(np.uint8)
    zero = _zero_symbol(code, first, step, levels)
    kind, axis, parameters = _encode_rule(code.rule)
    record = struct.pack("<B", kind) + _encode_shape(code.shape)
    record += struct.pack("<hHBHBI", first, step, levels - 1, zero, axis, parameters.shape[1])
    blocks = [_shortest(plane, levels, zero, codecs), *_planes(parameters.astype("<f4"), codecs)]
    if isinstance(code.rule, Affine):
        has_zero = bool(code.rule.zero.any())
        record += struct.pack("<B", has_zero)
        blocks += _planes(code.rule.zero.astype("<i2"), codecs) if has_zero else []
    return record, blocks


def _encode_rule(rule: Rule) -> tuple[int, int, NDArray[np.float32]]:
    """The rule's number, its axis, and the parameters that all rules have."""
    if isinstance(rule, Trellis):
        kind = next(kind for kind, states in TRELLISES.items() if states == rule.states)
        return kind, NO_AXIS, np.full((1, 1), rule.scale, np.float32)
    axis = NO_AXIS if rule.axis is None else rule.axis
    if isinstance(rule, Affine):
        return lib.SMIDGEN_AFFINE, axis, rule.scale
    return lib.SMIDGEN_TABLE, axis, rule.levels


def _zero_symbol(code: Code, first: int, step: int, levels: int) -> int:
    """The plane symbol that stands for 0.0, or nearest to it: a hint for contexts, not part of the value."""
    if isinstance(code.rule, Table):
        return int(np.argmin(np.abs(code.rule.levels[0, first : first + step * levels : step])))
    zero = (int(np.median(code.rule.zero)) if isinstance(code.rule, Affine) else 0) - first
    return zero // step if zero % step == 0 and 0 <= zero // step < levels else NO_ZERO


def _encode_name(name: str) -> bytes:
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        encoded = b""  # half a character, which UTF-8 does not have
    if not 1 <= len(encoded) <= 255:
        raise WeightError(f"tensor {name[:40]!r}: a name must have 1 to 255 bytes of UTF-8")
    return encoded


def _encode_shape(shape: tuple[int, ...]) -> bytes:
    if len(shape) > 8 or math.prod(size for size in shape if size) > 2**31:
        raise WeightError(f"a tensor of shape {shape} cannot be kept; the format has 8 dimensions and 2^31 weights")
    return struct.pack(f"<B{len(shape)}I", len(shape), *shape)


def read(data: bytes, origin: str = "the data") -> Archive:
    """The archive in the bytes of a file. Everything is checked before anything large is allocated.

    Args:
        data: all bytes of the file.
        origin: what to call it in an error.

    Raises:
        FormatError: the bytes are not a valid file of this version.
    """
    try:
        _, texts, payload, records = _open(data)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            decoded = pool.map(lambda pair: _decode_tensor(pair[1], payload), records)
            tensors = dict(zip((name for name, _ in records), decoded, strict=True))
        preprocessing, metadata = _parse_metadata(texts["metadata"])
        labels = parse_labels(texts["labels"])
        return Archive(texts["graph"], tensors, preprocessing, labels, metadata, texts["program"])
    except FormatError as error:
        raise FormatError(f"{origin}: {error}") from None


def outline(data: bytes, origin: str = "the data") -> Archive:
    """The archive without its weights, which are not decoded: ``tensors`` is empty.

    Raises:
        FormatError: the bytes are not a valid file of this version.
    """
    try:
        _, texts, _, _ = _open(data)
        preprocessing, metadata = _parse_metadata(texts["metadata"])
        return Archive(texts["graph"], {}, preprocessing, parse_labels(texts["labels"]), metadata, texts["program"])
    except FormatError as error:
        raise FormatError(f"{origin}: {error}") from None


def inspect(data: bytes, origin: str = "the data") -> list[TensorInfo]:
    """What the index of a file says about each tensor; decodes no weight.

    Raises:
        FormatError: the bytes are not a valid file of this version.
    """
    try:
        _, texts, _, records = _open(data)
        metadata = _parse_metadata(texts["metadata"])[1]
    except FormatError as error:
        raise FormatError(f"{origin}: {error}") from None
    harm = _harm(metadata, [name for name, t in records if t.rule in TRELLISES])
    kinds = {lib.SMIDGEN_AFFINE: "affine", lib.SMIDGEN_TABLE: "table", **dict.fromkeys(TRELLISES, "trellis")}
    return [
        TensorInfo(
            name,
            tuple(t.shape[0 : t.rank]),
            kinds.get(t.rule) or np.dtype(TYPES[t.type]).name,
            t.levels if t.rule in kinds else 0,
            codec_by_id(t.codec[0]).name,
            sum(t.stored[0 : t.blocks]),
            harm.get(name),
        )
        for name, t in records
    ]


def _harm(metadata: Mapping[str, Any], squeezed: list[str]) -> dict[str, float]:
    """What ``smidgen compress`` noted about each squeezed tensor; nothing if it noted nothing of this form."""
    noted = metadata.get("squeezed")
    if not isinstance(noted, dict):
        return {}
    counts, unit = noted.get("harm"), noted.get("unit", UNIT)
    if not isinstance(counts, list) or len(counts) != len(squeezed) or type(unit) is not float or not 0 < unit < 1e30:
        return {}
    if not all(type(value) is int and 0 <= value < 10**12 for value in counts):
        return {}
    return {name: value * unit for name, value in zip(squeezed, counts, strict=True)}


def section_sizes(data: bytes) -> dict[str, int]:
    """Bytes of the header and of each section as they lie in the file, the program where there is one; together they
    are the file.

    Raises:
        FormatError: the bytes are not a valid file of this version.
    """
    header = open_header(data)
    sizes = {name: int(header.sections[i].stored) for i, name in enumerate(SECTIONS[: 4 + header.version])}
    return {"header": len(data) - sum(sizes.values()), **sizes}


def _open(data: bytes) -> tuple[Any, dict[str, bytes], memoryview, list[tuple[str, Any]]]:
    """Header, decoded texts, payload, and the records of the index, all of them checked."""
    header = open_header(data)
    view, texts = memoryview(data), {}
    for i, section in enumerate(SECTIONS):
        s = header.sections[i]
        stored = view[s.offset : s.offset + s.stored]
        if section == "payload":
            payload = stored
        else:
            texts[section] = codec_by_id(s.codec).decode(stored, (s.size,)).tobytes()
    return header, texts, payload, _parse_index(texts["index"], len(payload), len(data))


def _parse_index(index: bytes, payload_size: int, file_size: int) -> list[tuple[str, Any]]:
    buffer = ffi.from_buffer("uint8_t[]", index)
    position, payload, symbols = ffi.new("size_t *"), ffi.new("uint64_t *"), ffi.new("uint64_t *")
    limit, records, seen = lib.smidgen_limit(file_size), [], set()
    while True:
        tensor = ffi.new("smidgen_tensor *")
        status = lib.smidgen_next(buffer, len(index), position, payload, symbols, limit, tensor)
        if status < 0:
            raise FormatError(REASONS[status])
        if status == 0:
            break
        name = text_of(index[tensor.name : tensor.name + tensor.name_size], "a tensor's name")
        if name in seen:
            raise FormatError(f"invalid: tensor {name!r} is there twice")
        seen.add(name)
        records.append((name, tensor))
    if payload[0] != payload_size:
        raise FormatError("invalid: the tensors do not fill the payload exactly")
    return records


def _decode_tensor(t: Any, payload: memoryview) -> Code | NDArray[Any]:
    shape = tuple(t.shape[0 : t.rank])
    planes = []
    for i in range(t.blocks):
        plane = lib.smidgen_block(ffi.addressof(t[0]), i)
        whole = t.rule == lib.SMIDGEN_ARRAY or i == 0
        size = (t.rows, t.columns) if not whole else shape
        data = payload[t.offset[i] : t.offset[i] + t.stored[i]]
        planes.append(codec_by_id(t.codec[i]).decode(data, size, plane.levels, plane.zero))
    if t.rule == lib.SMIDGEN_ARRAY:
        return _join(planes, TYPES[t.type])
    # a step may exceed int16, the symbols that it leads to do not
    symbols = (planes[0].astype(np.int32) * t.step + t.first).astype(np.int16)
    axis = None if t.axis == NO_AXIS else int(t.axis)
    values = _join(planes[1:5], "<f4")
    zero = _join(planes[5:7], "<i2") if t.blocks > 5 else np.zeros(values.shape, np.int16)
    try:
        return Code(symbols, _rule(t.rule, values, zero, axis))
    except WeightError as error:
        raise FormatError(f"invalid: {error}") from None


def _rule(kind: int, values: NDArray[np.float32], zero: NDArray[np.int16], axis: int | None) -> Rule:
    if kind in TRELLISES:
        return Trellis(float(values[0, 0]), TRELLISES[kind])
    return Table(values, axis) if kind == lib.SMIDGEN_TABLE else Affine(values, zero, axis)


def _join(planes: list[NDArray[np.uint8]], dtype: str) -> NDArray[Any]:
    joined = np.stack([plane.reshape(-1) for plane in planes], axis=1)
    if dtype == "|b1" and joined.size and joined.max() > 1:
        raise FormatError("invalid: a truth value is neither 0 nor 1")
    return np.ascontiguousarray(joined).view(dtype).reshape(planes[0].shape).astype(np.dtype(dtype).newbyteorder("="))


def _parse_metadata(data: bytes) -> tuple[Preprocessing | None, Mapping[str, Any]]:
    text = text_of(data, "the metadata")
    try:
        settings = json.loads(text, parse_constant=_refuse_constant)
        known, metadata = settings["preprocessing"], settings["metadata"]
        if not isinstance(metadata, dict) or len(settings) != 2:
            raise ValueError
        return None if known is None else parse_preprocessing(known), metadata
    except (ValueError, KeyError, TypeError, RecursionError, FormatError):
        raise FormatError("invalid: the metadata is not what smidgen writes") from None


def parse_preprocessing(known: Any) -> Preprocessing:
    """Preprocessing from the plain values of its fields.

    Raises:
        FormatError: they are no such values.

    Example:
        >>> parse_preprocessing({"height": 32, "width": 48, "mean": [0, 0, 0], "std": [255, 255, 255]}).width
        48
    """
    try:
        triples = {key: _triple(known[key]) for key in ("mean", "std")}
        if type(known["height"]) is not int or type(known["width"]) is not int:
            raise ValueError
        return Preprocessing(**{**known, **triples})
    except (ValueError, KeyError, TypeError, OverflowError, InputError):
        raise FormatError("invalid: the preprocessing is not what smidgen writes") from None


def _triple(value: object) -> tuple[float, ...]:
    if not isinstance(value, list) or any(type(number) not in (int, float) for number in value):
        raise ValueError
    return tuple(map(float, value))


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
