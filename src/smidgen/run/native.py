"""The engine of the C core, which runs a file's program."""

from __future__ import annotations

from typing import Any

import numpy as np

from smidgen._core import ffi, lib
from smidgen.errors import FormatError

__all__ = ["claims"]

_ALIGNMENT = 64
_FIRST_GUESS, _MOST = 1 << 26, 1 << 32


def claims(data: bytes) -> tuple[int, int]:
    """Bytes that the core takes of memory and, while it loads, of work to run a file; what its header is to say.

    Args:
        data: a whole file of version 2, whatever its header says of this.

    Raises:
        FormatError: the core refuses its program.
    """
    if not lib.smidgen_can(lib.SMIDGEN_PORTABLE):
        return 0, 0  # the core is built without the engine
    network, facts = ffi.new("smidgen_network **"), ffi.new("smidgen_facts *")
    size = _FIRST_GUESS
    while True:
        # pages that nothing is written to cost nothing
        memory, work = _aligned(size), _aligned(size)
        given = ffi.from_buffer("uint8_t[]", data)
        status = lib.smidgen_load(given, len(data), lib.SMIDGEN_PORTABLE, memory, size, work, size, network)
        if status != lib.SMIDGEN_SPACE or size >= _MOST:
            break
        size *= 4
    if status:
        raise FormatError(f"the core refuses the program ({status})")
    lib.smidgen_about(network[0], facts)
    return int(facts.memory), int(facts.work)


def _aligned(size: int) -> Any:
    array = np.empty(size + _ALIGNMENT, np.uint8)
    start = -array.ctypes.data % _ALIGNMENT
    return ffi.from_buffer("uint8_t[]", array[start : start + size], require_writable=True)
