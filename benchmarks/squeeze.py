"""The curve of size and harm of squeezing without fine-tuning, beside NNCodec's.

    python benchmarks/squeeze.py PHOTOS PICTURES [--calibrate 2000] [--out FOLDER]

Calibrates on the photographs in PHOTOS, and measures on the pictures in PICTURES, which it never calibrates on.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

from smidgen.archive import open_archive
from smidgen.arrange import arranged, bias_names
from smidgen.budget import Budget, Outcome, Point, search
from smidgen.given import examples_in
from smidgen.read import read_model
from smidgen.reference import Reference
from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_labelled
from smidgen.squeezer import Squeezer
from smidgen.survey import measured

# NNCodec 2.1.3 on the same network and pictures: bytes, KL in nats
RIVAL = (
    (797_586, 0.0093),
    (733_067, 0.0168),
    (644_847, 0.0445),
    (584_818, 0.0698),
    (503_189, 0.1705),
    (445_997, 0.255),
)
PART = 0.72


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--calibrate", type=int, default=2000)
    parser.add_argument("--out", type=Path, default=Path("squeezed"))
    arguments = parser.parse_args()
    original = arranged(read_model("squeezenet1_1"))
    examples = examples_in(arguments.photos, original, arguments.calibrate, seed=0)
    start = time.perf_counter()
    stats = measured(original, examples, seed=0)
    squeezer = Squeezer(original, stats, biases=bias_names(original, stats))
    print(f"measured {len(examples.calibration)} photographs in {time.perf_counter() - start:.0f} s")
    reference = Reference(original, examples)
    arguments.out.mkdir(exist_ok=True)
    paths = []
    for size, _ in RIVAL:
        outcome = Outcome(Budget(size=int(size * PART)))
        search(outcome, lambda rate, outcome=outcome: attempt(squeezer, reference, outcome, rate), 1e-7)
        paths.append(arguments.out / f"{int(size * PART)}.smidgen")
        outcome.archive.save(paths[-1])
    labelled = find_labelled(arguments.pictures, original.labels)
    runners = [original.runner(), *(open_archive(path).runner() for path in paths)]
    results = evaluate(runners, [path for path, _ in labelled], [index for _, index in labelled])
    print(f"{'NNCodec bytes':>13} {'KL':>7} {'smidgen bytes':>14} {'part':>6} {'KL':>7} {'top-1':>6} {'agreement':>9}")
    print(f"{'fp32':>13} {'':>7} {'':>14} {'':>6} {'':>7} {results[0].top1:6.2f}")
    for (size, kl), path, result in zip(RIVAL, paths, results[1:], strict=True):
        mine = path.stat().st_size
        found = f"{result.kl:7.4f} {result.top1:6.2f} {result.agreement:9.2f}"
        print(f"{size:13,} {kl:7.4f} {mine:14,} {mine / size:6.3f} {found}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def attempt(squeezer, reference, outcome, rate):
    archive, size = squeezer(rate)
    return outcome.add(archive, Point(rate, size))


if __name__ == "__main__":
    main()
