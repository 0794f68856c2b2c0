"""The engine of the C core: a file's program, run in integers without ONNX Runtime."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from smidgen._core import ffi, lib
from smidgen.container import unset
from smidgen.errors import UNPREPARED, FormatError, InputError, ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["WAYS", "Native", "claims", "cores", "ways"]

WAYS = {
    "portable": lib.SMIDGEN_PORTABLE,
    "vector": lib.SMIDGEN_VECTOR,
    "avx2": lib.SMIDGEN_AVX2,
    "avx512-vnni": lib.SMIDGEN_AVX512_VNNI,
}
"""Ways to compute, the slowest first; all give the same bits."""

MOST_MEMORY = 2**32
"""Bytes that a file may ask for; what its header says is not believed beyond."""

ALIGNMENT = 64

MOST_LOADERS = 8
"""Threads that decode weights, each of which takes as much memory beside the network as the file says."""

CONTRADICTION = "invalid: its program contradicts itself or the weights"
LESS_MEMORY = "invalid: it claims less memory than its network needs"


def ways() -> list[str]:
    """The ways in which this processor can compute, the fastest last.

    Example:
        >>> ways()[0]
        'portable'
    """
    return [name for name, way in WAYS.items() if lib.smidgen_can(way)]


class Native:
    """A file's network in the C core: ``native(batch)`` gives its scores, computed with integers of 8 bits.

    Only that needs NumPy; what else there is does without.

    Args:
        data: all bytes of a ``.smidgen`` file that has a program.
        threads: how many compute; 0 for one on each core. With 1 none is started.
        way: one of ``ways()``; None for the fastest.

    Raises:
        FormatError: the program contradicts itself or the weights.
        InputError: a number of threads below 0, or a way that this processor does not have.
        ModelError: the file has no program.
    """

    def __init__(self, data: bytes, threads: int = 0, way: str | None = None) -> None:
        if threads < 0:
            raise InputError(f"threads: {threads} is not a number of threads; give 1 or more, or 0 for all cores")
        if way is not None and way not in ways():
            raise InputError(f"way {way!r}: this processor has {', '.join(ways())}")
        threads = threads or cores()
        self._team = self._start(threads)
        best = lib.smidgen_best_way() if way is None else WAYS[way]
        self._network, self._memory, facts = _load(data, best, self._team, min(threads, MOST_LOADERS))
        self.shape = (None, int(facts.channels), int(facts.height), int(facts.width))
        self.probabilities = bool(facts.probabilities)
        self.resample = "bicubic" if facts.bicubic else "bilinear"
        self.map_shape = (int(facts.map_height), int(facts.map_width))
        self._outputs = int(facts.outputs)
        self._alone = threading.Lock()

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The network's numbers for each input, one after the other.

        Args:
            batch: float32 of shape (n, channels, height, width).

        Returns:
            float32 of shape (n, outputs): scores, or probabilities where ``probabilities`` says so.

        Raises:
            InputError: the batch has another shape.
        """
        import numpy as np

        if batch.ndim != 4 or batch.shape[1:] != self.shape[1:]:
            raise InputError(f"input: the network takes (n, {', '.join(map(str, self.shape[1:]))}), not {batch.shape}")
        found = np.empty((len(batch), self._outputs), np.float32)
        with self._alone:
            for given, out in zip(np.ascontiguousarray(batch, np.float32), found, strict=True):
                lib.smidgen_run(self._network, self._team, _floats(given), _floats(out))
        return found

    def picture(self, pixels: bytes) -> list[float]:
        """The network's numbers for one picture.

        Args:
            pixels: height x width times 3 bytes in RGB; ``resample`` says how pictures get this size.

        Raises:
            ModelError: the file does not say how a picture becomes the input.
        """
        with self._alone:
            return self._picture(pixels)

    def explained(self, pixels: bytes) -> tuple[list[float], list[float]]:
        """The network's numbers for one picture, and where it looked for the greatest of them.

        Args:
            pixels: as for ``picture``, which also says what is raised.

        Returns:
            The numbers, and a map of ``map_shape``, row by row: what each place gave to the greatest number, which is
            the map's mean (before a softmax). It is empty where ``map_shape`` is (0, 0): of a network that does not
            end in a mean over all pixels, or in that and a linear layer.

        Source:
            Zhou et al., "Learning deep features for discriminative localization", arXiv 1512.04150, equation 2.
        """
        with self._alone:
            numbers = self._picture(pixels)
            found = ffi.new("float[]", self.map_shape[0] * self.map_shape[1])
            if len(found):
                lib.smidgen_map(self._network, numbers.index(max(numbers)), found)
            return numbers, ffi.unpack(found, len(found)) if len(found) else []

    def _picture(self, pixels: bytes) -> list[float]:
        found = ffi.new("float[]", self._outputs)
        if lib.smidgen_run_picture(self._network, self._team, pixels, found):
            raise ModelError(UNPREPARED)
        numbers: list[float] = ffi.unpack(found, self._outputs)
        return numbers

    def _start(self, threads: int) -> Any:
        if threads == 1:
            return ffi.NULL
        memory, where = _aligned(lib.smidgen_team_size(threads))
        team = lib.smidgen_team_start(where, min(threads, 64))
        if team == ffi.NULL:
            raise ModelError(f"the system gives no {threads} threads; ask for fewer")
        # the threads wait in this memory, so it lives until they have ended
        weakref.finalize(self, lambda held: lib.smidgen_team_stop(team), memory)
        return team


def cores() -> int:
    """How many cores this process may use, where the system tells; else all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def claims(data: bytes) -> tuple[int, int]:
    """Bytes of memory that the network of a file takes, and those beside it while it is loaded: for its header.

    Args:
        data: a file with a program; what its header claims does not matter.

    Raises:
        FormatError: the program contradicts itself or the weights.
    """
    size, needs = 16 * len(data) + 2**22, ffi.new("uint64_t[2]")
    while True:
        (_memory, where), (_work, beside) = _aligned(size), _aligned(size)
        status = lib.smidgen_needs(ffi.from_buffer("uint8_t[]", data), len(data), where, size, beside, size, needs)
        if status != lib.SMIDGEN_SPACE:
            break
        size *= 2
    if status:
        raise FormatError(CONTRADICTION)
    return needs[0], needs[1]


def _load(data: bytes, way: int, team: Any, loaders: int) -> tuple[Any, Any, Any]:
    """The network, the memory that it lies in, and the facts about it; so many threads decode its weights."""
    buffer, file = ffi.from_buffer("uint8_t[]", data), ffi.new("smidgen_file *")
    if lib.smidgen_open(buffer, len(data), file) or not file.sections[lib.SMIDGEN_PROGRAM].size:
        raise ModelError("the file has no program, which running without ONNX Runtime needs")
    if file.memory + file.work > MOST_MEMORY:
        raise FormatError("refused: it claims more memory than smidgen gives to a network")
    work = file.work if loaders == 1 else loaders * (file.work + ALIGNMENT)
    try:
        (memory, where), (_work, beside) = _aligned(file.memory), _aligned(work)
    except MemoryError:
        raise ModelError(
            f"this machine has no {(file.memory + work) / 1e9:.1f} GB of memory, which it asks for"
        ) from None
    network, facts = ffi.new("smidgen_network **"), ffi.new("smidgen_facts *")
    status = lib.smidgen_load_with(buffer, len(data), way, team, where, file.memory, beside, work, network)
    if status:
        raise FormatError(LESS_MEMORY if status == lib.SMIDGEN_SPACE else CONTRADICTION)
    lib.smidgen_about(network[0], facts)
    return network[0], memory, facts


def _aligned(size: int) -> tuple[Any, Any]:
    """Memory of at least so many bytes, and the first address in it that ``ALIGNMENT`` divides."""
    memory = unset("uint8_t[]", size + ALIGNMENT)
    return memory, memory + -int(ffi.cast("uintptr_t", memory)) % ALIGNMENT


def _floats(array: NDArray[np.float32]) -> Any:
    return ffi.from_buffer("float[]", array)
