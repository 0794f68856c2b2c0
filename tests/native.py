"""Helpers for tests of programs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from smidgen.run.program import Join, Program, Tensor, reads


def touched(tensor: Tensor) -> NDArray[np.int64]:
    """The arena's bytes that a tensor has, its border included."""
    width = tensor.channels * (4 if tensor.numbers else 1)
    rows, columns = (size + 2 * tensor.border for size in (tensor.height, tensor.width))
    pixels = np.arange(rows)[:, None] * tensor.row + np.arange(columns) * tensor.pitch
    return tensor.start + pixels[..., None] + np.arange(width)


def check_memory(program: Program) -> None:
    """What an operation reads is what was written there, and not overwritten since; nothing else is touched."""
    written = np.full(program.arena, -2)  # by which operation each byte was
    known: dict[int, NDArray[np.int64]] = {}

    def write(number: int, time: int) -> None:
        assert number not in known
        where = touched(program.tensors[number])
        assert where.min() >= 64
        assert where.max() < program.arena - 64
        written[where] = time
        known[number] = written[where]

    def read(number: int) -> None:
        np.testing.assert_array_equal(written[touched(program.tensors[number])], known[number])

    write(0, -1)
    for time, operation in enumerate(program.operations):
        sources = reads(operation)
        for number in sources:
            read(number)
        if isinstance(operation, Join):
            known[operation.output] = written[touched(program.tensors[operation.output])]
            assert set(np.unique(known[operation.output])) <= {v for n in sources for v in np.unique(known[n])}
            continue
        target = touched(program.tensors[operation.output])
        for number in sources:
            assert not np.intersect1d(target, touched(program.tensors[number])).size
        write(operation.output, time)
    read(program.output)
    assert set(known) == set(range(len(program.tensors)))
