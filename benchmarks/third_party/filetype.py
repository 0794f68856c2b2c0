"""Magika: the type of a file from its first and last bytes; judged by its own package on files of this machine."""

from __future__ import annotations

import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from smidgen.read import read_model
from third_party.common import Row, in_package, squeezed

SIZE = 499_500
BAR = 500_000
JUDGED, CALIBRATED = 500, 6000
PER_KIND = 60
ROOTS = ("/usr", "/etc", "/opt", sys.prefix)


def run(folder: Path) -> Row:
    """Compresses Magika and compares the labels that its package gives with both networks."""
    from magika import Magika

    source = in_package("magika", "models", "standard_v3_3")
    files = varied_files(JUDGED + CALIBRATED)
    judged, calibration = files[:JUDGED], files[JUDGED:]
    original = Magika(model_dir=source)
    archive = read_model(str(source / "model.onnx"))
    data = [{"bytes": features(original, path)} for path in calibration]
    small = squeezed(archive, data, SIZE, folder / "magika.smidgen", most=CALIBRATED)
    shutil.copytree(source, folder / "magika", dirs_exist_ok=True)
    onnx.save(small.onnx(), folder / "magika" / "model.onnx")
    again = Magika(model_dir=folder / "magika")
    pairs = [[str(each.identify_path(path).output.label) for each in (original, again)] for path in judged]
    same = 100 * float(np.mean([ours == theirs for ours, theirs in pairs]))
    kinds = len({ours for ours, _ in pairs})
    return Row(
        "magika",
        (source / "model.onnx").stat().st_size,
        (folder / "magika.smidgen").stat().st_size,
        BAR,
        f"same label, {len(pairs)} files of this machine, {kinds} labels",
        f"{same:.1f} %",
        "99 %",
        same >= 99,
    )


def features(magika: object, path: Path) -> np.ndarray:
    """What the package makes of a file: int32 of shape (1, 2048)."""
    from magika.types.seekable import Seekable

    config = magika._model_config
    with path.open("rb") as file:
        found = magika._extract_features_from_seekable(
            Seekable(file),
            config.beg_size,
            config.mid_size,
            config.end_size,
            config.padding_token,
            config.block_size,
            config.use_inputs_at_offsets,
        )
    return np.array([found.beg + found.end], np.int32)


def varied_files(count: int) -> list[Path]:
    """Files of this machine in random order, of each ending only some, each content once."""
    kinds = defaultdict(list)
    for root in ROOTS:
        for path in walked(root):
            kinds[path.suffix].append(path)
    rng = np.random.default_rng(0)
    chosen = [path for paths in kinds.values() for path in rng.permutation(sorted(paths))[:PER_KIND]]
    found: dict[bytes, Path] = {}
    for path in rng.permutation(chosen):
        if len(found) < count:
            found.setdefault(path.read_bytes()[:4096], path)
    return list(found.values())


def walked(root: str) -> Iterator[Path]:
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink() and os.access(path, os.R_OK) and path.stat().st_size > 16:
                yield path
