"""Makes the plan squeezenet1_1.toml: python benchmarks/sensitivity.py FOLDER > src/smidgen/plans/squeezenet1_1.toml

One weight tensor at a time is quantized with a step of a quarter of its standard deviation, and the KL divergence from
the original is measured on 128 unlabelled photographs: s. For small steps the divergence of a tensor of n weights is
s d^2, and its bytes fall by n / 8 for each doubling of d, so d^2 proportional to n / s would be best if divergences
added up; they do not quite, and d proportional to (n / s)^0.3 came out best on other photographs (docs/results.md).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from smidgen.methods import Quantize
from smidgen.plan import Plan
from smidgen.read import read_model
from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_pictures
from smidgen.transform import transform

PICTURES = 128
PROBE = 0.25
EXPONENT = 0.3
BASE = float(sys.argv[2]) if len(sys.argv) > 2 else 0.058


def main() -> None:
    archive = read_model("squeezenet1_1")
    weights = archive.weights()
    names = [name for name in weights if name.endswith("weight")]
    pictures = find_pictures(Path(sys.argv[1]))[:PICTURES]
    ratio = {}
    for name in names:
        coded = transform(weights, Plan(((name, Quantize(step=PROBE)),)))
        probe = replace(archive, tensors=coded)
        result = evaluate([archive.runner(), probe.runner()], pictures)[1]
        ratio[name] = weights[name].size / (result.kl / PROBE**2)
        print(f"{name}: KL {result.kl:.5f}", file=sys.stderr)
    middle = np.exp(np.mean(np.log(list(ratio.values()))))
    steps: list[tuple[str, Quantize]] = []
    for name in names:
        step = BASE * (ratio[name] / middle) ** EXPONENT
        # a step so fine that 8 bits cannot reach the largest weight would clip it
        finest = 2 * np.abs(weights[name]).max() / 254 / weights[name].std()
        steps.append((name, Quantize(step=float(f"{max(step, finest):.3g}"), rounding="squant")))
    steps.append(("*.bias", Quantize(bits=8, symmetric=False)))
    print("# SqueezeNet 1.1 at no loss worth the name: one step per layer, from benchmarks/sensitivity.py.")
    print(Plan(tuple(steps)).dumps(), end="")


if __name__ == "__main__":
    main()
