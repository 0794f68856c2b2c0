"""A network lowered: from its ONNX graph to the program that computes it in integers of 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.lower.graph import Graph
from smidgen.lower.numbers import numbered
from smidgen.lower.operators import lower_node
from smidgen.lower.structure import Structure, Work, finished
from smidgen.run.ranges import observed

__all__ = ["Structure", "lower", "structure"]


def lower(archive: Archive, batches: Iterable[Mapping[str, NDArray[Any]]]) -> bytes:
    """The program section of an archive's network: operations on integers whose scales serve what it was seen to do.

    Args:
        archive: arranged (``smidgen.arrange``), compressed or not; its weights are used as they are.
        batches: what the network will see, as from ``smidgen.examples.batches``.

    Raises:
        InputError: there are no batches.
        ModelError: an operator has no form in a program, which is then named; ONNX Runtime cannot run the network; or
            an activation is not finite.

    Source:
        B. Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
        2018, section 2.

    Example:
        >>> import numpy as np
        >>> from torch import nn
        >>> from smidgen.read import from_module
        >>> from smidgen.run.program import Program
        >>> archive = from_module(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)), (3, 8, 8))
        >>> program = Program.from_bytes(lower(archive, [{"image": np.ones((1, 3, 8, 8), np.float32)}]))
        >>> [type(operation).__name__ for operation in program.operations]
        ['Convolution', 'Mean']
    """
    found = structure(archive)
    names = {plane.name for plane in found.planes}
    return numbered(found, archive, observed(archive.onnx(), names, batches)).to_bytes()


def structure(archive: Archive) -> Structure:
    """What a program of an archive's network would compute, found without any data.

    Raises:
        ModelError: it cannot be lowered; the message names the operator in whose way something is, and what.
    """
    graph = Graph(archive)
    work = Work(graph)
    work.plane(graph.input, *graph.shape)
    work.values[graph.input] = work.whole(0)
    for node in graph.nodes:
        lower_node(work, node)
    return finished(work)
