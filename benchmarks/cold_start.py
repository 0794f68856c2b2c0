"""How long it takes from nothing to the names of what is in a photograph, with smidgen and with ONNX Runtime.

    python benchmarks/cold_start.py FOLDER             # of pictures, from which SqueezeNet 1.1 gets its ranges
    python benchmarks/cold_start.py NETWORK.smidgen    # a SqueezeNet with a program

Each run is a fresh process; all kinds of them take turns. Files come from the file system's cache, as for somebody who
has just received them. Compare within one run, and on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from skimage import data

from smidgen.archive import open_archive
from smidgen.cli import main as smidgen
from smidgen.file import codecs_named

ROOT = Path(__file__).resolve().parents[1]
SMIDGEN = [sys.executable, "-m", "smidgen", "recognize"]
RIVAL = "onnxruntime, minimal script"
BARS = {"C, fast codec": 0.040, "C, small codec": 0.200}
"""Seconds that the program in C may take."""

MOST_MEMORY, MOST_PROGRAM = 16e6, 200e3
"""Bytes: resident at most, and of the stripped program in C, the C library not counted."""


class Run(NamedTuple):
    """Seconds from start to end, and of CPU time in all threads."""

    wall: float
    cpu: float


def timed(command: list[str]) -> Run:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status:
        raise SystemExit(f"{shlex.join(command)}: failed")
    return Run(wall, used.ru_utime + used.ru_stime)


def peak_memory(command: list[str]) -> int:
    """Bytes resident at most; what wait4 says would begin with those of this process."""
    most = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                most = 1024 * int(line.split()[1])
    return most


def build(program: Path) -> int:
    """Bytes of the program in C, built and stripped by the first command of its README."""
    readme = (ROOT / "examples" / "c" / "README.md").read_text()
    command = next(line.strip() for line in readme.splitlines() if line.startswith("    gcc "))
    subprocess.run(command.replace("-o recognize", f"-o {program}"), shell=True, cwd=ROOT, check=True)
    return program.stat().st_size


def commands(given: Path, folder: Path) -> dict[str, list[str]]:
    """What is measured, by name."""
    photo, plain, model = folder / "cat.jpg", folder / "cat.ppm", folder / "net.onnx"
    files = {"small": folder / "small.smidgen", "fast": folder / "fast.smidgen"}
    if given.is_dir():
        made = str(folder / "made.smidgen")
        smidgen(["compress", "squeezenet1_1", "--plan", "squeezenet1_1", "--data", str(given), "-o", made])
        given = Path(made)
    archive = open_archive(given)
    archive.save(files["small"])
    archive.save(files["fast"], codecs_named("fast"))
    model.write_bytes(archive.onnx().SerializeToString())
    Image.fromarray(data.chelsea()).save(photo, quality=95)
    Image.open(photo).save(plain)
    program = folder / "recognize"
    print(f"C program, stripped: {verdict(build(program) / 1e3, MOST_PROGRAM / 1e3, 'KB')}")
    script = str(ROOT / "benchmarks" / "cold_start_onnxruntime.py")
    found = {RIVAL: [sys.executable, script, str(model), str(photo)]}
    for codec, file in files.items():
        print(f"{codec} codec: {file.stat().st_size:,} bytes")
        found[f"smidgen, {codec} codec"] = [*SMIDGEN, str(file), str(photo)]
        found[f"C, {codec} codec"] = [str(program), str(file), str(plain)]
    return found


def verdict(found: float, bar: float, unit: str) -> str:
    return f"{found:.0f} {unit}, {'within' if found <= bar else 'ABOVE'} {bar:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="a folder of pictures, or a .smidgen file with a program")
    parser.add_argument("--runs", type=int, default=21)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kinds = commands(arguments.network, Path(folder))
        memory = {name: peak_memory(command) for name, command in kinds.items()}
        runs: dict[str, list[Run]] = {name: [] for name in kinds}
        for _ in range(arguments.runs):
            for name, command in kinds.items():
                runs[name].append(timed(command))
    medians = {name: statistics.median(run.wall for run in found) for name, found in runs.items()}
    for name, found in runs.items():
        least, cpu = min(run.wall for run in found), statistics.median(run.cpu for run in found)
        line = f"{name:28}median {1e3 * medians[name]:4.0f} ms, least {1e3 * least:4.0f} ms, CPU {1e3 * cpu:4.0f} ms"
        bar = medians[RIVAL] / 2 if name.startswith("smidgen") else BARS.get(name)
        print(
            f"{line}, {memory[name] / 1e6:5.1f} MB"
            + (f"; {verdict(1e3 * medians[name], 1e3 * bar, 'ms')}" if bar else "")
        )
        if name in BARS:
            print(f"{'':28}{verdict(memory[name] / 1e6, MOST_MEMORY / 1e6, 'MB')}")


if __name__ == "__main__":
    main()
