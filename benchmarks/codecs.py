"""How small and how fast the codecs are on SqueezeNet's symbols: python benchmarks/codecs.py [PLAN or FILE...]

One core.
Size is the sum over the weight tensors, side information included, against the sum of the tensors' iid entropies.
Speed is the best of seven rounds over all tensors, in symbols per second.
"""

from __future__ import annotations

import sys
import time

import numpy as np

import smidgen
from smidgen.code import Code
from smidgen.codecs import CODECS
from smidgen.plan import Plan
from smidgen.transform import transform
from smidgen.zoo.pretrained import squeezenet1_1_weights

ROUNDS = 7


def planes(plan: str) -> list[tuple[np.ndarray, int, int]]:
    """Symbols from 0 up, levels and zero of every weight tensor that the plan codes, or that the file holds."""
    found = []
    is_file = plan.endswith(".smidgen")
    tensors = smidgen.open(plan).tensors if is_file else transform(squeezenet1_1_weights(), Plan.find(plan))
    for name, tensor in tensors.items():
        if isinstance(tensor, Code) and name.endswith("weight"):
            first, step, levels = tensor.alphabet
            symbols = ((tensor.symbols - first) // step).astype(np.uint8)
            values = np.unique(np.abs(tensor.values()))
            zero = int(symbols[np.abs(tensor.values()) == values[0]][0])
            found.append((symbols, levels, zero))
    return found


def entropy(symbols: np.ndarray) -> float:
    """Bytes of the iid entropy."""
    counts = np.bincount(symbols.reshape(-1))
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)


def main() -> None:
    for plan in sys.argv[1:] or ["small", "int8"]:
        tensors = planes(plan)
        weights = sum(symbols.size for symbols, _, _ in tensors)
        iid = sum(entropy(symbols) for symbols, _, _ in tensors)
        print(f"plan {plan}: {weights:,} symbols in {len(tensors)} tensors, iid entropy {iid:,.0f} bytes")
        print(f"{'codec':10} {'bytes':>9} {'/ iid':>7} {'encode':>10} {'decode':>10}  million symbols/s")
        for codec in CODECS.values():
            rounds = 1 if codec.name == "text" else ROUNDS
            size, encoding, decoding = 0, 0.0, 0.0
            for symbols, levels, zero in tensors:
                times: list[tuple[float, float]] = []
                for _ in range(rounds):
                    start = time.perf_counter()
                    data = codec.encode(symbols, levels, zero)
                    middle = time.perf_counter()
                    decoded = codec.decode(data, symbols.shape, levels, zero)
                    times.append((middle - start, time.perf_counter() - middle))
                assert np.array_equal(decoded, symbols)
                size += len(data)
                encoding += min(t for t, _ in times)
                decoding += min(t for _, t in times)
            row = f"{codec.name:10} {size:9,} {size / iid:7.4f}"
            print(f"{row} {weights / encoding / 1e6:10.1f} {weights / decoding / 1e6:10.1f}")
        print()


if __name__ == "__main__":
    main()
