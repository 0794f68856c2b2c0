"""Damages real small files very often and counts what becomes of them.

    python benchmarks/mutate.py --count 100000 --seed 0

Half of the files are damaged as on a disk or a wire; the checksum must catch that. Half are forged: sections and
header are changed and the checksum is made right, so that everything behind it has to hold. Then the fuzz targets of
``fuzz`` run over the same kind of damage under sanitizers, where a C compiler has them. Exits with 1 on any fault.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile import mutate_bytes, mutate_parts, real_files

from smidgen.errors import FormatError
from smidgen.file import inspect, read, write

ROOT = Path(__file__).resolve().parents[1]
MOST = 1 << 20  # elements; what claims more, within the limit of the format, is checked but not decoded
LARGE = "valid index of more than a million weights, not decoded"


def outcome(data: bytes, original: bytes | None) -> str:
    """What becomes of one file; ``original`` is given where it must be the same or refused."""
    try:
        if sum(info.elements for info in inspect(data)) > MOST:
            return LARGE
        archive = read(data)
        with np.errstate(all="ignore"):  # a forged scale may be infinite
            archive.decoded()
    except FormatError as error:
        reason = str(error).removeprefix("the data: ")
        # the part that names no tensor, codec or number
        return "refused: " + ("a plane or text is damaged" if reason.startswith("damaged data") else reason)
    except Exception as error:
        return f"FAULT: {type(error).__name__}: {error}"
    if original is None:
        return "decoded"
    return "the same" if data == original or write(archive) == write(read(original)) else "FAULT: a wrong model"


def mutate(count: int, seed: int) -> dict[str, Counter[str]]:
    """Outcomes of ``count`` mutated files, the damaged and the forged."""
    rng, files = random.Random(seed), [data for _, data in real_files()]
    table: dict[str, Counter[str]] = {"damaged": Counter(), "forged": Counter()}
    for i in range(count):
        data = files[i // 2 % len(files)]
        if i % 2:
            table["forged"][outcome(mutate_parts(data, rng), None)] += 1
        else:
            table["damaged"][outcome(mutate_bytes(data, rng), data)] += 1
    return table


def sanitize(count: int, seed: int) -> bool:
    """Runs the replay programs of ``fuzz``; true where they find no fault, or cannot be built."""
    fuzz = ["make", "--no-print-directory", "-C", str(ROOT / "fuzz"), f"PYTHON={sys.executable}"]
    targets = ("decode_any_bytes", "round_trip")
    built = subprocess.run([*fuzz, *(f"build/{name}-replay" for name in targets)], capture_output=True, check=False)
    if built.returncode:
        print("no C compiler with sanitizers here: the fuzz targets are skipped", file=sys.stderr)
        return True
    return all(
        subprocess.run([*fuzz, f"replay-{name}", f"COUNT={count}", f"SEED={seed}"], stdout=sys.stderr).returncode == 0
        for name in targets
    )


def main() -> int:
    """Runs it all; 0 where nothing was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=100_000, help="mutated files")
    parser.add_argument("--seed", type=int, default=0, help="of the mutations")
    parser.add_argument("--sanitized", type=int, default=100, help="mutations of each seed of the fuzz targets")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    options = parser.parse_args()
    start = time.monotonic()
    table = mutate(options.count, options.seed)
    seconds = time.monotonic() - start
    clean = sanitize(options.sanitized, options.seed) if options.sanitized else None
    if options.json:
        print(json.dumps({"files": options.count, "seconds": seconds, "outcomes": table, "sanitizers": clean}))
    else:
        print(f"{options.count} mutated files in {seconds:.0f} s\n\n| how | outcome | files |\n|---|---|---|")
        for how, outcomes in table.items():
            for text, number in outcomes.most_common():
                print(f"| {how} | {text} | {number} |")
    faults = sum(n for outcomes in table.values() for text, n in outcomes.items() if text.startswith("FAULT"))
    return 1 if faults or clean is False else 0


if __name__ == "__main__":
    sys.exit(main())
