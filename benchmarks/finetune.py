"""How long an epoch of distillation takes on one process and on several: python benchmarks/finetune.py PHOTOS

SqueezeNet 1.1 on the first 100 pictures of a folder. The fastest of three epochs counts; squeezing and judging do not.
Seconds of the processor are those of the first process, all its threads together, without what other programs take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch

from smidgen import distributed
from smidgen.arrange import arranged
from smidgen.examples import split
from smidgen.read import read_model
from smidgen.reference import Reference
from smidgen.repair import Lesson, repair
from smidgen.reporter import SILENT
from smidgen.run.pictures import find_pictures
from smidgen.squeezer import Squeezer
from smidgen.survey import measured

PICTURES, MEASURED, EPOCHS, RATE = 100, 20, 3, 1e-6
LAUNCHES = ((1, 1), (2, 1), (1, 2))
"""Processes, and threads of each."""


def epochs(photos: Path) -> list[tuple[float, float]]:
    """Seconds of each epoch, by the clock and of the processor."""
    original = arranged(read_model("squeezenet1_1"))
    pictures = find_pictures(photos)[:PICTURES]
    few = split(pictures, None, MEASURED, 0)
    outputs = Reference(original, few).outputs
    archive, _ = Squeezer(original, measured(original, few))(RATE)
    times = [clocks()]
    lesson = Lesson(pictures, outputs, EPOCHS, 0)
    repair(lesson, original, archive, SILENT.progress, lambda _: times.append(clocks()))
    return [(end[0] - start[0], end[1] - start[1]) for start, end in pairwise(times)]


def clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def main() -> None:
    if "RANK" in os.environ:
        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        distributed.join()
        if not distributed.is_first():
            distributed.follow()
        for wall, processor in epochs(Path(sys.argv[1])):
            print(wall, processor, flush=True)
        distributed.leave()
        return
    print("| processes | threads of each | seconds of an epoch | of the processor |\n|---|---|---|---|", flush=True)
    for processes, threads in LAUNCHES:
        command = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            str(processes),
            *sys.argv,
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        columns = zip(*(map(float, line.split()) for line in done.stdout.splitlines()), strict=True)
        wall, processor = (min(column) for column in columns)
        print(f"| {processes} | {threads} | {wall:.1f} | {processor:.1f} |", flush=True)


if __name__ == "__main__":
    main()
