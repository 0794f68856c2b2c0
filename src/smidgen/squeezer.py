"""One file for one exchange rate of harm and bits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from smidgen.archive import Archive
from smidgen.code import Code, Stats
from smidgen.file import SMALLEST, file_size
from smidgen.methods import Method, Quantize, Squeeze
from smidgen.parts import split, taken_out
from smidgen.plan import Plan
from smidgen.transform import transform

__all__ = ["BIASES", "Squeezer"]

BIASES = Quantize(bits=6), Quantize(bits=8)
"""For the biases of squeezed layers; on SqueezeNet 6 bits alone cost 0.00001 nats."""

SPREAD = 4.0
"""Factor between the rates at which the first and the last bias get fewer bits."""

FLOAT_BITS = 28
"""What a bit pattern of 32 bits takes once it is coded, about."""


@dataclass(frozen=True, eq=False)
class Squeezer:
    """Makes files: what has statistics squeezed at one rate, its biases at 6 or 8 bits, the rest without loss.

    Where 255 levels of one scale are too few, as with outliers, or where normalization was folded into a convolution
    whose channels then differ by orders of magnitude, a weight gets a second code (``Squeeze.coarse``). A class of the
    zoo takes its weights whole, so there none does.

    Args:
        original: the network before; its float weights are what is squeezed.
        stats: of the weights to squeeze, by name.
        codecs: what the file is written with.
        biases: names of the biases that go with them.
        bias_harm: nats that biases of 6 and of 8 bits cost alone; they get more bits where these are worth it.
    """

    original: Archive
    stats: Mapping[str, Stats]
    codecs: tuple[str, ...] = SMALLEST
    biases: Sequence[str] = ()
    bias_harm: tuple[float, ...] = (0.0, 0.0)

    def __call__(self, rate: float) -> tuple[Archive, int]:
        """The archive for a rate in nats per bit, and the bytes of its file. Codes stay as they are."""
        squeeze = Squeeze(rate)
        start = split(self.original, self._parts(squeeze))
        live = {name: tensor for name, tensor in start.tensors.items() if not isinstance(tensor, Code)}
        done = dict(start.tensors)
        steps: list[tuple[Iterable[str], Method]] = [(self.stats, squeeze), *self._biases(rate, live)]
        for names, method in steps:
            weights = {name: live[name] for name in names if name in live}
            if weights:
                done.update(transform(weights, Plan((("*", method),)), self.stats))
        archive = replace(start, tensors=done)
        return archive, file_size(archive, self.codecs)

    def _parts(self, squeeze: Squeeze) -> dict[str, Code]:
        """What is taken out of weights, by their names; of what is split already nothing."""
        before = self.original
        if "zoo" in before.metadata:
            return {}
        done = taken_out(before)
        live = {
            n: t for n, t in before.tensors.items() if n in self.stats and n not in done and not isinstance(t, Code)
        }
        found = {name: squeeze.coarse(np.asarray(weight), self.stats[name]) for name, weight in live.items()}
        return {name: code for name, code in found.items() if code is not None}

    def _biases(self, rate: float, live: Mapping[str, Any]) -> Iterator[tuple[list[str], Method]]:
        """Which biases get how many bits. Not all change at the same rate, so that any size can be met."""
        count = sum(live[name].size for name in self.biases if name in live)
        bits = (*(method.bits for method in BIASES), FLOAT_BITS)
        for place, name in enumerate(self.biases):
            own = rate * SPREAD ** ((place + 0.5) / len(self.biases) - 0.5)
            costs = [harm + own * count * each for harm, each in zip((*self.bias_harm, 0.0), bits, strict=True)]
            best = costs.index(min(costs))
            if best < len(BIASES):
                yield [name], BIASES[best]
