"""``smidgen report``: what the bytes of a file bought, as a page to send."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import echo_json, json_option, preprocessing_option, progress

if TYPE_CHECKING:
    from smidgen.report.about_a_file import Beside

__all__ = ["report"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", help="The original: a name of the zoo, an .onnx file, another .smidgen file, or a function.")
@click.option("--data", type=click.Path(path_type=Path), help="Pictures to compare both on, with or without classes.")
@preprocessing_option
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
        raise click.UsageError("--against and --data go together: the original, and pictures to compare both on")
    ready(output)
    beside = _beside(file, against, data, preprocessing, pictures) if against and data else None
    page = report_on(file, output, beside, reporter=Reporter(progress))
    if as_json:
        echo_json({"report": str(page), "facts": str(output / FACTS)})
        return
    click.echo(f"{page}: open it in a browser; the same facts are in {output / FACTS}")


def _beside(file: Path, against: str, data: Path, preprocessing: str | None, most: int) -> Beside:
    import numpy as np

    from smidgen.archive import open_archive
    from smidgen.cli.evaluate import opened
    from smidgen.preprocess import with_preprocessing
    from smidgen.report.about_a_file import Beside
    from smidgen.run.pictures import find_labelled, find_pictures

    archive, original = open_archive(file), with_preprocessing(opened(against), preprocessing)
    known = original.preprocessing or archive.preprocessing
    original = replace(original, preprocessing=known, labels=original.labels or archive.labels)
    labelled = find_labelled(data, original.labels)
    found = find_pictures(data) if labelled is None else [path for path, _ in labelled]
    drawn = sorted(np.random.default_rng(0).permutation(len(found))[:most].tolist())
    truth = None if labelled is None else [labelled[place][1] for place in drawn]
    which = (
        f"pictures of {data}" if len(drawn) == len(found) else f"of {len(found):,} pictures of {data}, drawn at random"
    )
    return Beside(Path(against).name, original, [found[place] for place in drawn], truth, which)
