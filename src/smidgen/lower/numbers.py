"""The numbers of a program: scales from what tensors were seen to hold, and what follows from these."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Affine, Code, Trellis
from smidgen.errors import ModelError
from smidgen.lower.functions import Function
from smidgen.lower.places import placed, steps
from smidgen.lower.structure import Structure
from smidgen.run.program import (
    NO_RECORD,
    Convolution,
    Join,
    Lookup,
    Maximum,
    Move,
    Operation,
    Picture,
    Product,
    Program,
    Resize,
    Signs,
    SignsConvolution,
    Sum,
    Tensor,
    reads,
)
from smidgen.run.ranges import Affine8, Histogram, best_affine, wide_affine

__all__ = ["numbered"]

_POWER = 2.4
"""Of errors, for the choice of ranges: Nahshan et al., "Loss aware post-training quantization", arXiv 1911.07190."""

_SHARING = (Maximum, Join, Move, Resize)
"""Operations whose output has the scale of what they read."""


def numbered(structure: Structure, archive: Archive, histograms: Mapping[str, Histogram]) -> Program:
    """The program of a structure.

    Args:
        structure: of the archive's network.
        archive: whose weights the sums are checked with.
        histograms: what values each tensor of the graph that a plane is named after takes.

    Raises:
        ModelError: the arena would be too large, or sums could be.
    """
    places, arena = placed(structure)
    affines = _affines(structure, histograms)
    tensors = tuple(
        place if place.numbers else replace(place, scale=float(scale), zero=int(zero))
        for place, (scale, zero) in zip(places, affines, strict=True)
    )
    signs = {operation.output for operation in structure.operations if isinstance(operation, Signs)}
    tensors = tuple(replace(t, scale=1.0, zero=0) if number in signs else t for number, t in enumerate(tensors))
    records = list(archive.tensors.values())
    operations = []
    for operation, name in zip(structure.operations, structure.names, strict=True):
        if isinstance(operation, Convolution):
            _check_sums(operation, records, tensors[operation.input].scale, name)
        operations.append(_completed(operation, structure, tensors))
    return Program(
        tensors, tuple(operations), structure.output, arena, _picture(archive, tensors[0]), structure.softmax
    )


def _picture(archive: Archive, taken: Tensor) -> Picture | None:
    """How pictures become the input, if they can."""
    known = archive.preprocessing
    if known is None or (known.height, known.width, 3) != (taken.height, taken.width, taken.channels):
        return None
    return Picture.of(known)


def _affines(structure: Structure, histograms: Mapping[str, Histogram]) -> list[Affine8]:
    """Scale and zero of each plane; those between which integers are only moved have the same."""
    leader = list(range(len(structure.planes)))

    def find(plane: int) -> int:
        while leader[plane] != plane:
            plane = leader[plane]
        return plane

    for operation in structure.operations:
        if isinstance(operation, _SHARING):
            for plane in reads(operation):
                leader[find(plane)] = find(operation.output)
    merged: dict[int, Histogram] = {}
    for number, held in enumerate(structure.planes):
        merged.setdefault(find(number), Histogram()).merge(histograms[held.name])
    weighted = {find(plane) for plane in _before_weights(structure)}
    functions = _only_functions(structure)
    chosen = {
        number: best_affine(histogram, _POWER, functions.get(number)) if number in weighted else wide_affine(histogram)
        for number, histogram in merged.items()
    }
    return [chosen[find(number)] for number in range(len(structure.planes))]


def _before_weights(structure: Structure) -> set[int]:
    """The planes that weights are still applied to; on the others the answer depends through its largest values."""
    before: set[int] = set()
    for operation in reversed(structure.operations):
        if isinstance(operation, Convolution | SignsConvolution) or operation.output in before:
            before.update(reads(operation))
    return before


def _only_functions(structure: Structure) -> dict[int, Function]:
    """For planes of which a single lookup is all that is read, its function."""
    readers: dict[int, list[Operation]] = {}
    for operation in structure.operations:
        for plane in reads(operation):
            readers.setdefault(plane, []).append(operation)
    return {
        plane: structure.functions[each[0].output]
        for plane, each in readers.items()
        if len(each) == 1 and isinstance(each[0], Lookup)
    }


def _completed(operation: Operation, structure: Structure, tensors: tuple[Tensor, ...]) -> Operation:
    """An operation with what follows from scales and places."""
    output = tensors[operation.output]
    if isinstance(operation, Convolution | SignsConvolution | Sum | Product) and operation.output in structure.clamps:
        low, high = (
            int(np.clip(np.rint(limit / output.scale) + output.zero, 0, 255))
            for limit in structure.clamps[operation.output]
        )
        return replace(operation, low=low, high=high)
    if isinstance(operation, Lookup):
        return replace(operation, table=_table(structure.functions[operation.output], tensors[operation.input], output))
    if isinstance(operation, Move):
        axes = steps(structure.moves[operation.output], tensors[operation.input], output)
        return replace(operation, axes=axes)
    return operation


def _table(function: Function, source: Tensor, output: Tensor) -> bytes:
    """What each integer becomes; where the function has no value, the integer that means 0."""
    numbers = (np.arange(256) - source.zero) * np.float64(source.scale)
    with np.errstate(all="ignore"):
        values = np.nan_to_num(np.asarray(function(numbers), np.float64) / output.scale)
    return bytes(np.clip(np.rint(values) + output.zero, 0, 255).astype(np.uint8))


def _check_sums(convolution: Convolution, records: list[Code | NDArray[Any]], scale: float, name: str) -> None:
    """Refuses a convolution whose sums could exceed 32 bits, whatever it is given."""
    weight = records[convolution.weight]
    if convolution.more != NO_RECORD:
        whole, more = (
            each.values() if isinstance(each, Code) else each for each in (weight, records[convolution.more])
        )
        weight = whole + more
    integers, scales = _integers(weight)
    bias: NDArray[Any] = np.zeros(1)
    if convolution.bias != NO_RECORD:
        record = records[convolution.bias]
        values = (record.values() if isinstance(record, Code) else record).reshape(-1)
        bias = np.abs(values / (scale * scales.astype(np.float64)))
        bias = np.where(bias > 2**30, 2**24, bias)  # weights that are nothing beside it count as 0
    rows = integers.reshape(len(integers), -1)
    sums = 255 * np.abs(rows).sum(axis=1, dtype=np.int64) + 255 * np.abs(rows.sum(axis=1, dtype=np.int64))
    # floats may yet be squeezed, to levels twice as fine as those of 8 bits
    room = 2**31 if isinstance(weight, Code) else 2**30
    if (sums + bias >= room).any() or not np.isfinite(scales).all():
        raise ModelError(f"{name} cannot be computed in integers: its sums could exceed 32 bits")


def _integers(record: Code | NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """A weight as a convolution takes it: integers, and a scale for each output."""
    if isinstance(record, Code):
        rule, outputs = record.rule, record.shape[0]
        if isinstance(rule, Trellis):
            return rule.levels(record.symbols)[0].astype(np.int32), np.full(outputs, rule.scale, np.float32)
        if isinstance(rule, Affine) and rule.axis in (None, 0) and rule.scale.shape[1] == 1:
            zero = rule.zero.reshape(-1, *[1] * (record.symbols.ndim - 1)).astype(np.int32)
            return record.symbols.astype(np.int32) - zero, np.broadcast_to(rule.scale[:, 0], outputs)
        record = record.values()
    rows = record.reshape(len(record), -1)
    most = np.abs(rows).max(axis=1)
    scales = np.where(most > 0, most / np.float32(127), np.float32(1))
    return np.rint(rows / scales[:, None]).clip(-127, 127).astype(np.int32), scales
