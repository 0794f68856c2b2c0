"""What SQuant's rounding is worth, the steps being the same: python benchmarks/rounding.py FOLDER

Compares the plan squeezenet1_1 as it ships and with rounding to nearest, on pictures 129 to 400 of FOLDER, which have
had no part in making the plan's steps (benchmarks/sensitivity.py takes the first 128).
"""

from __future__ import annotations

import sys
from dataclasses import replace

from smidgen.file import write
from smidgen.methods import Quantize
from smidgen.plan import Plan
from smidgen.read import read_model
from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_pictures
from smidgen.transform import transform


def main() -> None:
    original = read_model("squeezenet1_1")
    squant = Plan.find("squeezenet1_1")
    steps = [(name, replace(m, rounding="nearest") if isinstance(m, Quantize) else m) for name, m in squant.steps]
    archives = [replace(original, tensors=transform(original.weights(), plan)) for plan in (Plan(tuple(steps)), squant)]
    pictures = find_pictures(sys.argv[1])[128:400]
    results = evaluate([archive.runner() for archive in (original, *archives)], pictures)[1:]
    for name, archive, result in zip(("nearest", "squant"), archives, results, strict=True):
        print(f"{name:8} {len(write(archive)):,} bytes  KL {result.kl:.4f}  agreement {result.agreement:.2f} %")
    print(f"{len(pictures)} pictures")


if __name__ == "__main__":
    main()
