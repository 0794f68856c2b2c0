"""Bytes and accuracy of the shipped plans on the labelled measuring pictures: python benchmarks/accuracy.py [ZIP]

The pictures are in ../shared/data/imagenet-measure.zip. Nothing is tuned on them.
"""

from __future__ import annotations

import sys
import tempfile
import zipfile
from pathlib import Path

from smidgen.cli import main as smidgen

DATA = Path(__file__).parents[2] / "shared" / "data" / "imagenet-measure.zip"
PLANS = ("lossless", "squeezenet1_1", "small", "int8", "share", "int4", "deep_compression", "prune_int8", "binary")


def main() -> None:
    archive = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if not archive.exists():
        sys.exit(f"{archive}: not there; name the zip with the labelled pictures")
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(archive) as pictures:
            pictures.extractall(folder)
        files = []
        for plan in PLANS:
            files.append(str(Path(folder) / f"{plan}.smidgen"))
            smidgen(["compress", "squeezenet1_1", "--plan", plan, "-o", files[-1]])
        smidgen(["evaluate", *files, "--data", str(Path(folder) / "imagenet-measure")])


if __name__ == "__main__":
    main()
