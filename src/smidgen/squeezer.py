"""One file for one exchange rate of harm and bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.archive import Archive
from smidgen.code import Code, Stats
from smidgen.file import SMALLEST, write
from smidgen.methods import Method, Quantize, Squeeze
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
        tensors = self.original.tensors
        live = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Code)}
        done = dict(tensors)
        steps: list[tuple[Sequence[str], Method]] = [(list(self.stats), Squeeze(rate)), *self._biases(rate, live)]
        for names, method in steps:
            weights = {name: live[name] for name in names if name in live}
            if weights:
                done.update(transform(weights, Plan((("*", method),)), self.stats))
        archive = replace(self.original, tensors=done)
        return archive, len(write(archive, self.codecs))

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
