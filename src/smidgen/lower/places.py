"""Where tensors lie: parts within their whole, and all in an arena as small as a plain planner makes it."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from smidgen.errors import ModelError
from smidgen.lower.structure import Structure
from smidgen.lower.views import Factor, Plane
from smidgen.run.program import Convolution, Join, Mean, Tensor, reads

__all__ = ["placed", "steps"]

ALIGNMENT = 64
SLACK = 64
"""Bytes before and after everything else, which an engine may read but not use."""
LARGEST_ARENA = 2**30


class _Block(NamedTuple):
    """Bytes that a tensor or a whole with its parts needs, from one operation to another, both included."""

    size: int
    first: int
    last: int


def placed(structure: Structure) -> tuple[list[Tensor], int]:
    """The tensors of a program, with scales still 1, and the bytes of the arena.

    Raises:
        ModelError: the arena would be too large.
    """
    wholes = _wholes(structure)
    planes = structure.planes
    border = {whole: 0 for whole, _ in wholes}
    for plane, (whole, _) in zip(planes, wholes, strict=True):
        border[whole] = max(border[whole], plane.border)
    forms = {whole: _form(planes[whole], border[whole]) for whole in border}
    members: dict[int, set[int]] = {whole: set() for whole in forms}
    for number, (whole, _) in enumerate(wholes):
        members[whole].add(number)
    blocks = {
        whole: _Block(form.end - form.start, *_lifetime(structure, members[whole])) for whole, form in forms.items()
    }
    starts, size = _packed(blocks)
    if size > LARGEST_ARENA:
        raise ModelError(f"the network needs {size:,} bytes for what it computes, and programs have at most 2^30")
    tensors = []
    for plane, (whole, channel) in zip(planes, wholes, strict=True):
        form = forms[whole]
        offset = starts[whole] - form.start + channel
        tensors.append(replace(form, offset=offset, channels=plane.channels))
    return tensors, size


def _form(plane: Plane, border: int) -> Tensor:
    """A plane at offset 0."""
    pitch = 4 * plane.channels if plane.numbers else -(-plane.channels // 4) * 4
    return Tensor(0, plane.height, plane.width, plane.channels, pitch, border, numbers=plane.numbers)


def _wholes(structure: Structure) -> list[tuple[int, int]]:
    """For each plane the outermost whole that it is part of, or itself, and its first channel in that."""
    parents = {}
    for operation in structure.operations:
        if isinstance(operation, Join):
            channel = 0
            for part in operation.parts:
                parents[part] = (operation.output, channel)
                channel += structure.planes[part].channels
    found = []
    for number in range(len(structure.planes)):
        whole, channel = number, 0
        while whole in parents:
            whole, more = parents[whole]
            channel += more
        found.append((whole, channel))
    return found


def _lifetime(structure: Structure, planes: set[int]) -> tuple[int, int]:
    """The first and the last operation that touch one of these planes; -1 is the input, the answer is read last."""
    times = [
        time
        for time, operation in enumerate(structure.operations)
        if planes.intersection((operation.output, *reads(operation)))
    ]
    times += [-1] if 0 in planes else []
    if planes.intersection((structure.output, _looked_at(structure))):
        times.append(len(structure.operations))
    return min(times), max(times)


def _looked_at(structure: Structure) -> int:
    """The plane whose mean the answer is made of, which tells where the network looked; else the output."""
    made_by = {operation.output: operation for operation in structure.operations}
    last = made_by.get(structure.output)
    if isinstance(last, Convolution):
        last = made_by.get(last.input)
    return last.input if isinstance(last, Mean) else structure.output


def _packed(blocks: dict[int, _Block]) -> tuple[dict[int, int], int]:
    """Where each block starts, and the size of all: the largest first, each as low as those that it meets allow.

    Source:
        Pisarchyk and Lee, "Efficient memory management for deep neural net inference", arXiv 2001.03288, greedy by
        size.
    """
    starts: dict[int, int] = {}
    for number in sorted(blocks, key=lambda number: (-blocks[number].size, number)):
        block = blocks[number]
        met = [
            (starts[other], starts[other] + blocks[other].size)
            for other in starts
            if blocks[other].first <= block.last and block.first <= blocks[other].last
        ]
        start = SLACK
        for low, high in sorted(met):
            if start + block.size <= low:
                break
            start = max(start, -(-high // ALIGNMENT) * ALIGNMENT)
        starts[number] = start
    end = max(starts[number] + blocks[number].size for number in starts)
    return starts, -(-(end + SLACK) // ALIGNMENT) * ALIGNMENT


def steps(move: tuple[tuple[Factor, Factor], ...], source: Tensor, output: Tensor) -> tuple[tuple[int, int, int], ...]:
    """The axes of a move in bytes."""

    def step(factor: Factor, tensor: Tensor) -> int:
        return factor.step * {"y": tensor.row, "x": tensor.pitch, "c": 1}[factor.along]

    return tuple((one.size, step(one, source), step(other, output)) for one, other in move)
