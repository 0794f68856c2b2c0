"""What a file's program costs beside the float decoding of the same file: python benchmarks/native.py FILE PICTURES

PICTURES is a folder with a sub-folder for each class. Nothing here was calibrated on it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_labelled
from smidgen.run.runner import open_runner


def main() -> None:
    file, pictures = sys.argv[1:]
    runners = [open_runner(file, 1, engine) for engine in ("onnxruntime", "native")]
    found = find_labelled(Path(pictures), runners[0].labels)
    results = evaluate(runners, [path for path, _ in found], [index for _, index in found])
    for name, result in zip(("float32", "program"), results, strict=True):
        print(
            f"{name}: top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %, agreement {result.agreement:.2f} %, "
            f"KL {result.kl:.4f}, {result.milliseconds:.2f} ms, {result.pictures} pictures"
        )


if __name__ == "__main__":
    main()
