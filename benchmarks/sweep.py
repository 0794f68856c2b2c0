"""A sweep that is killed at random moments ends with the same table as one that is left in peace.

    python benchmarks/sweep.py PHOTOS [--pictures 60] [--points 12] [--kills 3] [--seed 0] [--out FOLDER]

Sweeps SqueezeNet over so many sizes, on the first photographs in PHOTOS: once undisturbed, and once with kill -9.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from smidgen.run.pictures import find_pictures
from smidgen.tradeoff import DATABASE, front, open_rows

ORIGINAL = 4_941_984


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--points", type=int, default=12)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("swept"))
    arguments = parser.parse_args()
    photos = arguments.out / "photos"
    photos.mkdir(parents=True)
    for path in find_pictures(arguments.photos)[: arguments.pictures]:
        shutil.copy(path, photos)
    command = [sys.executable, "-m", "smidgen", "sweep", "squeezenet1_1", "--data", str(photos)]
    for size in np.geomspace(ORIGINAL / 16, ORIGINAL / 4, arguments.points):
        command += ["--size", str(round(size))]

    start = time.monotonic()
    subprocess.run([*command, "-o", str(arguments.out / "undisturbed")], check=True)
    whole = time.monotonic() - start
    print(f"undisturbed: {whole:.0f} s")
    killed, rng = arguments.out / "killed", random.Random(arguments.seed)
    start = time.monotonic()
    for _ in range(arguments.kills):
        before = finished(killed)
        wait = rng.uniform(0, whole / arguments.kills)
        process = subprocess.Popen([*command, "-o", str(killed)], stdout=subprocess.DEVNULL)
        time.sleep(wait)
        process.kill()
        process.wait()
        after = finished(killed)
        assert before.items() <= after.items(), "a finished point was made again"
        print(f"killed after {wait:.0f} s: {len(after)} points are there, {len(before)} of them from before")
    before = finished(killed)
    subprocess.run([*command, "-o", str(killed)], check=True)
    assert before.items() <= finished(killed).items(), "a finished point was made again"
    print(f"killed and resumed: {time.monotonic() - start:.0f} s")
    compare(arguments.out / "undisturbed", killed)


def compare(one: Path, other: Path) -> None:
    rows = open_rows(one)
    assert rows == open_rows(other), "the tables differ"
    for row in rows:
        assert (one / row.file).read_bytes() == (other / row.file).read_bytes(), f"{row.file} differs"
    print(f"{len(rows)} points, {len(front(rows))} on the Pareto front; both tables and all files are the same")


def finished(folder: Path) -> dict[str, float]:
    """The finished points with the seconds that each took, which no second attempt would repeat."""
    if not (folder / DATABASE).is_file():
        return {}
    store = sqlite3.connect(folder / DATABASE)
    try:
        made = store.execute("SELECT name FROM sqlite_master WHERE name = 'points'").fetchone()
        return dict(store.execute("SELECT name, seconds FROM points")) if made else {}
    finally:
        store.close()


if __name__ == "__main__":
    main()
