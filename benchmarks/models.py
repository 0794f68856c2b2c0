"""Networks that others trained, compressed without fine-tuning and held against bars: make bench-models

    python benchmarks/models.py [NETWORK ...] [--out FOLDER]

Each network comes from a package of pip. It is calibrated on some inputs, and judged on others by its decoded file in
ONNX Runtime. The pictures are those of ../shared/data. Exit status 1 if a bar is not reached.
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from third_party.common import HEADER

NETWORKS = {
    "magika": "filetype",
    "silero": "speech",
    "rapidocr": "ocr",
    "minilm": "sentences",
    "efficientnet": "pictures",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK", help=f"some of {', '.join(NETWORKS)}; default all")
    parser.add_argument("--out", type=Path, help="keep the files here")
    arguments = parser.parse_args()
    if unknown := set(arguments.networks) - set(NETWORKS):
        parser.error(f"unknown: {', '.join(unknown)}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for name in arguments.networks or NETWORKS:
            rows += [importlib.import_module(f"third_party.{NETWORKS[name]}").run(folder)]
            print(f"{HEADER}\n{rows[-1]}" if len(rows) == 1 else rows[-1], flush=True)
    sys.exit(any(not row.passed for row in rows))


if __name__ == "__main__":
    main()
