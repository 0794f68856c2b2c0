"""The main job: a real SqueezeNet compressed in every way, photographs recognised, one table that hides nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from smidgen.api import compress_by_plan
from smidgen.archive import Archive
from smidgen.budget import Budget, Outcome
from smidgen.cli.output import echo_table, progress
from smidgen.demo.report import Row, about_ways, write_table
from smidgen.errors import InputError
from smidgen.examples import Examples
from smidgen.file import codecs_named
from smidgen.photos import crops, photographs
from smidgen.pipeline import squeeze_to_budget
from smidgen.plan import Plan
from smidgen.read import read_model
from smidgen.report.about_a_file import Beside, report_on
from smidgen.report.comparison import small
from smidgen.report.document import Shot
from smidgen.reporter import Reporter
from smidgen.run.evaluate import evaluate
from smidgen.run.runner import Runner, open_runner

__all__ = ["run_demo"]

CROPS_EACH, SEED = 84, 7
JUDGED_BY = ("cat", "rocket", "flower")
"""Photographs that nothing is calibrated on; all figures are measured on crops of these."""

SQUEEZED_SIZE = 500_000

OPENERS = {"darwin": "open", "win32": "start"}
"""What opens a page, by platform; elsewhere it is xdg-open."""

# (plan, codec, how it is made); the first is the original
FILES = (
    ("lossless", "smallest", "the original, float32, entropy coded"),
    ("prune", "smallest", "pruning alone: the larger half of the weights, float32"),
    ("share", "smallest", "weight sharing alone: 64 values a layer"),
    ("int8", "smallest", "quantization alone: 8 bits, a scale per filter"),
    ("int4", "smallest", "quantization alone: 4 bits, a scale per filter"),
    ("ternary", "smallest", "binary family: -1, 0, +1"),
    ("binary", "smallest", "binary family: one bit a weight"),
    ("deep_compression", "relative", "pruned, shared, coded as in Deep Compression"),
    ("deep_compression", "smallest", "the same symbols, coded by smidgen"),
    ("prune_int8", "smallest", "pruned by a third, then 8 bits"),
    ("small", "smallest", "equal steps for an entropy coder, any network"),
    ("squeezenet1_1", "smallest", "the same, a step for each layer: the best plan"),
)

SQUEEZED = ("squeezed", "smallest", "measured on crops of six photographs, squeezed to 500 KB")


def run_demo(folder: Path) -> None:
    """Writes the files and the report into ``folder``, and prints what it finds.

    Raises:
        ModelError: the package with the pretrained network is missing.
        InputError: the photographs are missing, or the folder cannot be written.
    """
    pictures = photographs()
    model = read_model("squeezenet1_1")
    weights = sum(weight.size for weight in model.weights().values())
    click.echo(
        f"SqueezeNet 1.1, trained on ImageNet: {weights:,} weights, {4 * weights:,} bytes as float32\n", err=True
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    paths = []
    for plan, codec, what in FILES:
        path = folder / f"{plan}{'' if codec == 'smallest' else f'-{codec}'}.smidgen"
        start = time.perf_counter()
        archive = compress_by_plan(model, Plan.find(plan))
        size = archive.save(path, codecs_named(codec))
        click.echo(f"  {size:9,} bytes in {time.perf_counter() - start:4.1f} s  {path}  ({what})", err=True)
        paths.append(path)
    paths.append(folder / "squeezed.smidgen")
    verdict = _squeeze(model, pictures, paths[-1])
    rows, count = _measure(paths, pictures, weights)
    original, best = (open_runner(path) for path in (paths[0], paths[-1]))
    shots = _recognise(pictures, original, best, paths[-1].name)
    click.echo()
    _print_table(rows, count)
    write_table(folder / "table.json", rows, count)
    cropped = crops({name: pictures[name] for name in JUDGED_BY}, CROPS_EACH, SEED)
    which = f"crops of {len(JUDGED_BY)} photographs that nothing was calibrated on"
    page = report_on(
        paths[-1],
        folder,
        Beside("original", model, cropped, None, which),
        f"at most {SQUEEZED_SIZE:,} bytes, after a look at crops of six other photographs",
        verdict,
        more=(about_ways(rows, count, shots), {"ways": [asdict(row) for row in rows]}),
        reporter=Reporter(progress),
    )
    click.echo(f"\nThe files, table.json and the report are in {folder.resolve()}")
    # as it was called: after make demo the command is in a virtual environment and not on the path
    click.echo(f"Try your own picture: {sys.argv[0]} recognize {paths[-1]} PHOTO")
    click.echo(f"Open the report: {OPENERS.get(sys.platform, 'xdg-open')} {page}")


def _squeeze(model: Archive, pictures: Mapping[str, NDArray[np.uint8]], path: Path) -> str:
    """Writes the network squeezed to a size, after a look at crops of those that do not judge; gives the verdict."""
    start = time.perf_counter()
    cropped = crops({name: p for name, p in pictures.items() if name not in JUDGED_BY}, CROPS_EACH // 2, SEED)
    outcome = Outcome(Budget(size=SQUEEZED_SIZE))
    examples = Examples([crop for number, crop in enumerate(cropped) if number % 6], cropped[::6])
    squeeze_to_budget(model, examples, outcome, reporter=Reporter(progress))
    assert outcome.archive
    size = outcome.archive.save(path)
    outcome.save_curve(Path(f"{path}.curve.json"))
    click.echo(f"  {size:9,} bytes in {time.perf_counter() - start:4.1f} s  {path}  ({SQUEEZED[2]})", err=True)
    return outcome.verdict()


def _measure(paths: list[Path], pictures: Mapping[str, NDArray[np.uint8]], weights: int) -> tuple[list[Row], int]:
    """Everything is read back from the files, and all weights are judged in float32, also of a file with a program."""
    cropped = crops({name: pictures[name] for name in JUDGED_BY}, CROPS_EACH, SEED)
    runners = [open_runner(path, engine="onnxruntime") for path in paths]
    with progress(len(cropped), "measuring") as advance:
        results = evaluate(runners, cropped, on_progress=advance)
    rows = []
    for path, (_, _, what), result in zip(paths, (*FILES, SQUEEZED), results, strict=True):
        size = path.stat().st_size
        ratio, bits = 4 * weights / size, 8 * size / weights
        rows.append(Row(path.stem, what, size, ratio, bits, result.agreement, result.kl, result.milliseconds))
    return rows, len(cropped)


def _recognise(pictures: Mapping[str, NDArray[np.uint8]], original: Runner, best: Runner, name: str) -> list[Shot]:
    """Prints the first answers of both networks side by side, and returns them with the pictures."""
    lines: list[tuple[str, ...]] = []
    shots = []
    for picture, pixels in pictures.items():
        cells, says = [], []
        for who, runner in (("original", original), (name, best)):
            start = time.perf_counter()
            (answer,) = runner.recognize(pixels, top=1)
            spent = 1000 * (time.perf_counter() - start)
            cells += [answer.label.name[:28], f"{100 * answer.score:.1f} %", f"{spent:.0f} ms"]
            says.append((who, f"{answer.label.name}, {100 * answer.score:.0f} %"))
        lines.append((picture, *cells))
        shots.append(Shot(picture, small(pixels), says))
    click.echo()
    echo_table(("picture", "original says", "score", "time", f"{name} says", "score", "time"), lines)
    click.echo("Times include resizing the picture.")
    return shots


def _print_table(rows: list[Row], count: int) -> None:
    lines = [
        (
            row.name,
            f"{row.bytes:,}",
            f"{row.ratio:.2f}",
            f"{row.bits_per_weight:.2f}",
            f"{row.agreement:.1f}",
            f"{row.kl:.3f}",
            f"{row.milliseconds:.1f}",
            row.verdict,
        )
        for row in rows
    ]
    echo_table(("file", "bytes", "ratio", "bits/weight", "agreement %", "KL nats", "ms/picture", "verdict"), lines)
    click.echo(
        f"Agreement with the original on {count} crops of {len(JUDGED_BY)} photographs that nothing was calibrated on. "
        "Bytes are the whole file: graph, labels and header included."
    )
