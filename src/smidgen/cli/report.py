"""``smidgen report``: what the bytes of a file bought, as a page to send."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import echo_json, json_option, outputs_option, preprocessing_option, progress

if TYPE_CHECKING:
    from smidgen.report.about_a_file import Beside

__all__ = ["report"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", help="The original: a name of the zoo, an .onnx file, another .smidgen file, or a function.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="What to compare both on: pictures, with or without classes, or an .npz file of inputs, or a folder of those.",
)
@preprocessing_option
@outputs_option
@click.option("--pictures", default=400, show_default=True, type=click.IntRange(1), help="At most so many of them.")
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to write into."
)
@json_option
def report(
    file: Path,
    against: str | None,
    data: Path | None,
    preprocessing: str | None,
    outputs: str | None,
    pictures: int,
    output: Path,
    as_json: bool,
) -> None:
    """Writes a report about FILE: report.html, one page that needs nothing else and prints well, and report.json.

    Alone it tells what the file is made of and, if compress left its curve beside it, what other sizes would have
    cost. With --against and --data also what changed: figures, and the pictures that are given another answer.
    """
    from smidgen.report import FACTS, ready
    from smidgen.report.about_a_file import report_on
    from smidgen.reporter import Reporter

    if (against is None) != (data is None):
        raise click.UsageError("--against and --data go together: the original, and what to compare both on")
    ready(output)
    beside = _beside(file, against, data, (preprocessing, outputs), pictures) if against and data else None
    page = report_on(file, output, beside, reporter=Reporter(progress))
    if as_json:
        echo_json({"report": str(page), "facts": str(output / FACTS)})
        return
    click.echo(f"{page}: open it in a browser; the same facts are in {output / FACTS}")


def _beside(file: Path, against: str, data: Path, given: tuple[str | None, str | None], most: int) -> Beside:
    import numpy as np

    from smidgen.archive import open_archive
    from smidgen.cli.evaluate import opened, size_of
    from smidgen.errors import InputError
    from smidgen.given import labelled_in
    from smidgen.report.about_a_file import Beside

    preprocessing, outputs = given
    archive, original = open_archive(file), opened(against, data, preprocessing)
    known = original.preprocessing or archive.preprocessing
    original = replace(original, preprocessing=known, labels=original.labels or archive.labels)
    found, truth = labelled_in(data, original)
    if not found:
        raise InputError(f"{data}: holds no examples")
    drawn = sorted(np.random.default_rng(0).permutation(len(found))[:most].tolist())
    what = "inputs" if isinstance(found[0], Mapping) else "pictures"
    which = f"{what} of {data}" if len(drawn) == len(found) else f"of {len(found):,} {what} of {data}, drawn at random"
    size = size_of(against, original) if Path(against).is_file() else None
    return Beside(
        Path(against).name,
        original,
        [found[place] for place in drawn],
        None if truth is None else [truth[place] for place in drawn],
        f"{which}; what the file was calibrated on is not known here",
        size,
        outputs,
    )
