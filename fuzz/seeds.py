"""Writes what the fuzzers start from, into the folder given: real small files, and planes in each target's form."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from hostile import real_files

from smidgen.codecs import CODECS
from tests.programs import small_files

SHAPES = ((5, 3, 9), (1, 30, 1), (16, 16, 1), (31, 15, 9))
ALPHABETS = ((2, 0), (2, 1), (3, 1), (16, 8), (256, 128))


def write_seeds(folder: Path) -> None:
    """Writes the seeds of all targets; the same ones each time."""
    rng = np.random.default_rng(0)
    files, trips, programs = (folder / target for target in ("decode_any_bytes", "round_trip", "run_any_program"))
    for target in (files, trips, programs):
        target.mkdir(parents=True, exist_ok=True)
    for name, data in real_files():
        (files / f"{name}.smidgen").write_bytes(data)
    for name, data in small_files().items():
        (programs / f"{name}.smidgen").write_bytes(data)
    for shape in SHAPES:
        for levels, zero in ALPHABETS:
            symbols = np.clip(np.rint(rng.normal(zero, levels / 8, shape)), 0, levels - 1).astype(np.uint8)
            name = f"{'x'.join(map(str, shape))}-{levels}-{zero}"
            header = bytes((*shape, levels - 1, zero))
            (trips / name).write_bytes(header + bytes((4 * (levels == 256),)) + symbols.tobytes()[:4096])
            for codec in CODECS.values():
                data = codec.encode(symbols, levels, zero)
                (files / f"{codec.name}-{name}").write_bytes(bytes((codec.id,)) + header + b"\0" + data)


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))
