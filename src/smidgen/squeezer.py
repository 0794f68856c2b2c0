"""One file for one exchange rate of harm and bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.code import Code, Stats
from smidgen.file import SMALLEST, file_size
from smidgen.methods import Method, Quantize, Squeeze
from smidgen.plan import Plan
from smidgen.transform import transform

__all__ = ["BIASES", "FINEST", "Squeezer", "rounded"]

BIASES = Quantize(bits=6), Quantize(bits=8)
"""For the biases of squeezed layers; on SqueezeNet 6 bits alone cost 0.00001 nats."""

SPREAD = 4.0
"""Factor between the rates at which the first and the last bias get fewer bits."""

FLOAT_BITS = 28
"""What a bit pattern of 32 bits takes once it is coded, about."""


MANTISSA = 10
"""Bits after the leading one, as in float16."""

EXTRA_BITS = 14
"""What such a float takes more than a symbol, once it is coded, about."""

FINEST = Squeeze(1e-30)


def rounded(weight: NDArray[Any]) -> NDArray[np.float32]:
    """Floats of fewer bits, in float32; the zeros at their ends take no bytes.

    Example:
        >>> rounded(np.array([1.0001, -3.0], np.float32))
        array([ 1., -3.], dtype=float32)
    """
    mantissa, exponent = np.frexp(weight)
    return np.asarray(np.ldexp(np.rint(mantissa * 2.0 ** (MANTISSA + 1)), exponent - MANTISSA - 1), np.float32)


@dataclass(frozen=True, eq=False)
class Squeezer:
    """Makes files: what has statistics squeezed at one rate, its biases at 6 or 8 bits, the rest without loss.

    A code has 255 levels, all of one scale. In a small convolution that normalization was folded into, weights of
    different channels can differ by orders of magnitude, and no rate makes its code fine enough. Where that harms more
    than its bytes are worth, such a weight is kept as floats of ``MANTISSA`` bits.

    Args:
        original: the network before; its float weights are what is squeezed.
        stats: of the weights to squeeze, by name.
        codecs: what the file is written with.
        biases: names of the biases that go with them.
        bias_harm: nats that biases of 6 and of 8 bits cost alone; they get more bits where these are worth it.
        finest_harm: nats that the finest codes of some weights cost alone.
    """

    original: Archive
    stats: Mapping[str, Stats]
    codecs: tuple[str, ...] = SMALLEST
    biases: Sequence[str] = ()
    bias_harm: tuple[float, ...] = (0.0, 0.0)
    finest_harm: Mapping[str, float] = field(default_factory=dict)

    def __call__(self, rate: float) -> tuple[Archive, int]:
        """The archive for a rate in nats per bit, and the bytes of its file. Codes stay as they are."""
        tensors = self.original.tensors
        live = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, Code)}
        done = dict(tensors)
        spared = {n for n, harm in self.finest_harm.items() if n in live and harm > rate * EXTRA_BITS * live[n].size}
        done |= {name: rounded(live[name]) for name in spared}
        squeezed = [name for name in self.stats if name not in spared]
        steps: list[tuple[Sequence[str], Method]] = [(squeezed, Squeeze(rate)), *self._biases(rate, live)]
        for names, method in steps:
            weights = {name: live[name] for name in names if name in live}
            if weights:
                done.update(transform(weights, Plan((("*", method),)), self.stats))
        archive = replace(self.original, tensors=done)
        return archive, file_size(archive, self.codecs)

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
