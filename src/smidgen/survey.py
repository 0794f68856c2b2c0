"""Measuring a network as a user asks for it: what it will take is said first, and what it leaves out afterwards."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.arrange import bias_names
from smidgen.code import Code, Stats
from smidgen.errors import ModelError
from smidgen.examples import Examples, Item, batches, by_shape
from smidgen.measure import measure, need
from smidgen.network import Network
from smidgen.reporter import SILENT, Reporter
from smidgen.run.outputs import Output

__all__ = ["measured"]

BATCH = 10
KEPT = 2_000_000_000
"""Bytes that the examples measured at once may need by ``need``, about twice what they keep; of large ones fewer."""


def measured(
    original: Archive,
    examples: Examples,
    seed: int = 0,
    reporter: Reporter = SILENT,
    seconds: float = math.inf,
    outputs: Sequence[Output] | None = None,
) -> dict[str, Stats]:
    """The statistics of the calibration examples, or of as many as there is time for, after saying what it will take.

    Args:
        original: the network, arranged.
        examples: to calibrate on.
        seed: of the draws.
        reporter: is told what it will take.
        seconds: how long it may take.
        outputs: what the outputs are; by default scores of classes.

    Raises:
        ModelError: there is nothing to measure, or the network's answers cannot be used.
    """
    network, what = Network(original), examples.what
    for operator in network.foreign:
        reporter.say(f"{operator} is run by ONNX Runtime; what matters only through it cannot be measured")
    first = [next(batches([item], original, 1)) for item in examples.calibration[:2]]
    together = _together(network, next(batches([max(examples.calibration, key=_numbers)], original, 1)))
    wanted = need(network, first[0], together)
    if not wanted.weights:
        raise ModelError("the network has no convolution and no linear layer, so there is nothing to squeeze")
    count = len(examples.calibration)
    moments = [time.perf_counter()]
    measure(network, first, seed, lambda _: moments.append(time.perf_counter()), outputs)
    each = moments[-1] - moments[-2]  # the first one also warms up
    if each * count > seconds:
        count = max(1, int(seconds / each))
        reporter.say(f"there is time for {count:,} of {len(examples.calibration):,} {what}")
    others = "others" if examples.disjoint else "of the same, since there are fewer than 20"
    reporter.say(
        f"measuring {wanted.weights:,} weights on {count:,} {what}; judging on {len(examples.held_out)} {others}: "
        f"about {wanted.bytes / 1e6:,.0f} MB and at most {each * count:,.0f} s"
    )
    with reporter.progress(count, "measuring") as advance:
        chosen = by_shape(examples.calibration[:count])
        stats = measure(network, batches(chosen, original, together), seed, advance, outputs)
    if all(known.sensitivity < 1e-18 for known in stats.values()):
        raise ModelError(
            "the network's answers do not depend on its weights, or are too sure to see it; nothing to go by"
        )
    found = {name: known for name, known in stats.items() if known.sensitivity > 0}
    _tell_what_is_kept(original, found, stats, reporter)
    return found


def _together(network: Network, largest: Mapping[str, NDArray[Any]]) -> int:
    """How many examples are measured at once, as what these keep is most of the memory if they are large."""
    one, two = (need(network, largest, count).bytes for count in (1, 2))
    return max(1, min(BATCH, KEPT // max(1, two - one)))


def _numbers(item: Item) -> int:
    """How large an example is; pictures all become equally large."""
    return sum(array.size for array in item.values()) if isinstance(item, Mapping) else 0


def _tell_what_is_kept(
    original: Archive, squeezed: Mapping[str, Stats], measured: Mapping[str, Stats], reporter: Reporter
) -> None:
    """What is not squeezed: by name what has two and more axes, in one line what has one, such as normalizations."""
    changed, small = {*squeezed, *bias_names(original, squeezed)}, []
    for name, tensor in original.tensors.items():
        if name in changed or isinstance(tensor, Code):
            continue
        if tensor.ndim < 2:
            small.append(name)
            continue
        why = "on which no answer depends" if name in measured else "which belongs to no layer that can be measured"
        reporter.say(f"kept without loss: {name}, {why}")
    if small:
        count = sum(np.asarray(original.tensors[name]).size for name in small)
        reporter.say(f"kept without loss: {count:,} numbers of one axis in {len(small)} others, such as {small[0]}")
