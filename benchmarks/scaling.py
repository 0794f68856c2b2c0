"""Time and memory of measuring and squeezing, on networks of growing size: python benchmarks/scaling.py

AlexNet and SqueezeNets of the zoo with random weights, on random pictures: only the cost is looked at. Each runs in a
process of its own, so that the peak of memory is its own.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

import numpy as np

from smidgen.archive import Preprocessing
from smidgen.arrange import arranged
from smidgen.examples import split
from smidgen.file import write
from smidgen.read import from_module
from smidgen.squeezer import Squeezer
from smidgen.survey import measured
from smidgen.zoo import build

PICTURES, RATE = 20, 1e-11
NETWORKS = (
    ("squeezenet1_1", {"classes": 10}),
    ("squeezenet1_1", {"classes": 1000}),
    ("squeezenet1_0", {"bypass": "complex"}),
    ("alexnet", {"classes": 10}),
)


def one(number: int) -> None:
    name, options = NETWORKS[number]
    module = build(name, **options)
    pictures = list(np.random.default_rng(0).integers(0, 256, (PICTURES, 227, 227, 3), np.uint8))
    preprocessing = Preprocessing(227, 227, std=(58.0, 58.0, 58.0))
    original = arranged(from_module(module, (3, 227, 227), preprocessing))
    start = time.perf_counter()
    stats = measured(original, split(pictures, None, PICTURES, 0))
    measuring = time.perf_counter() - start
    squeezer = Squeezer(original, stats)
    start = time.perf_counter()
    squeezer(RATE)
    first = time.perf_counter() - start
    start = time.perf_counter()
    archive, _ = squeezer(RATE * 1.1)
    again = time.perf_counter() - start
    start = time.perf_counter()
    write(archive, ("raw", "mixed"))
    coding = time.perf_counter() - start
    found = [original.tensors[name] for name in stats]
    weights = sum(weight.size for weight in found)
    squared = sum((weight.size // len(weight)) ** 2 for weight in found)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"| {name} {options} | {weights / 1e6:.2f} | {squared / 1e6:.2f} | {measuring:.1f} | {first:.1f} "
        f"| {again:.1f} | {coding:.2f} | {1e6 * coding / weights:.2f} | {memory:.2f} |",
        flush=True,
    )


def main() -> None:
    if len(sys.argv) > 1:
        one(int(sys.argv[1]))
        return
    print(
        "| network | M weights | M squared input widths | measuring 16 pictures, s | first file, s | next file, s | "
        "coding, two codecs, s | µs/weight | peak GB |\n|---|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for number in range(len(NETWORKS)):
        subprocess.run([sys.executable, __file__, str(number)], check=True)


if __name__ == "__main__":
    main()
