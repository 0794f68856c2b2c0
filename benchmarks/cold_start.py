"""How long `smidgen recognize` takes from nothing: python benchmarks/cold_start.py

Each run is a fresh process that opens the file, reads the photograph, and prints the names. The file system's cache is
warm, as it is for somebody who has just received the file.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from skimage import data

from smidgen.cli import main as smidgen

RUNS = 9


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        network, photo = Path(folder) / "net.smidgen", Path(folder) / "cat.png"
        Image.fromarray(data.chelsea()).save(photo)
        smidgen(["compress", "squeezenet1_1", "--plan", "squeezenet1_1", "-o", str(network)])
        command = [sys.executable, "-m", "smidgen", "recognize", str(network), str(photo)]
        times = []
        for _ in range(RUNS):
            start = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - start)
        print(
            f"smidgen recognize, cold: median {statistics.median(times):.2f} s, least {min(times):.2f} s, "
            f"most {max(times):.2f} s of {RUNS} runs"
        )


if __name__ == "__main__":
    main()
