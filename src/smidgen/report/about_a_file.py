"""The report about one file, alone or beside its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from smidgen.archive import Archive, open_archive
from smidgen.container import read_bytes
from smidgen.examples import Item, batches, groups
from smidgen.facts import facts_beside
from smidgen.file import outline
from smidgen.report import write_report
from smidgen.report.comparison import compared, why_not
from smidgen.report.document import Section, Shot
from smidgen.report.sections import (
    about_comparison,
    about_curve,
    about_file,
    about_layers,
    about_pictures,
    about_running,
)
from smidgen.reporter import SILENT, Reporter
from smidgen.run.compare import compare

__all__ = ["Beside", "report_on", "usage"]


@dataclass(frozen=True, eq=False)
class Beside:
    """What a file is compared with, and on what.

    Args:
        name: of the original.
        original: the network before.
        examples: pictures (files, or uint8 arrays of shape (height, width, 3) in RGB), or other inputs; at least one.
        truth: index of the true class of each picture, or None if unknown.
        which: which examples these are, in words that follow their number.
        bytes: of the original's file; None if it is in none, for those of its weights.
        outputs: what outputs are, if it is known better than ``smidgen.run.kinds`` finds out.
    """

    name: str
    original: Archive
    examples: Sequence[Item]
    truth: Sequence[int] | None
    which: str
    bytes: int | None = None
    outputs: str | None = None


def report_on(
    file: Path,
    folder: Path,
    beside: Beside | None = None,
    asked: str | None = None,
    verdict: str | None = None,
    more: tuple[Section, Mapping[str, Any]] | None = None,
    reporter: Reporter = SILENT,
) -> Path:
    """Writes the report about a file.

    Args:
        file: a ``.smidgen`` file; the curve of ``compress`` is taken from beside it.
        folder: where to.
        beside: what it is compared with; None to tell of the file alone.
        asked: what was asked for, in words.
        verdict: what was reached.
        more: a section of the caller's own, and its facts.
        reporter: is told how far the comparison has come.

    Returns:
        The path of the page.

    Raises:
        FormatError: the file is not valid.
        InputError: it or an example cannot be read, or the report not be written.
        ModelError: a network cannot be run.
    """
    facts = {**facts_beside(file), "asked": asked, "verdict": verdict}
    facts["comparison"], shots = (None, ()) if beside is None else _compared(file, beside, reporter)
    sections = [about_file(facts), *about_curve(facts["curve"])]
    if facts["comparison"]:
        sections.append(about_comparison(facts))
    if shots:
        sections.append(about_pictures(facts["comparison"], shots))
    if more is not None:
        sections.append(more[0])
        facts |= more[1]
    sections += [about_layers(facts), usage(file, "no_pictures" not in (facts["comparison"] or {}))]
    return write_report(folder, f"{file.name}: what the bytes bought", sections, facts)


def usage(file: Path, names_pictures: bool = True) -> Section:
    """How to run a file, whose network may name what is in pictures if it takes them.

    Raises:
        FormatError: the file is not valid.
        InputError: it cannot be read.
    """
    archive = outline(read_bytes(file), str(file))
    names = names_pictures and archive.preprocessing is not None
    runs = bool(onnx.load_from_string(archive.graph).graph.output)
    use = "pictures" if names else "network" if runs else "weights"
    return about_running(str(file), use, bool(archive.program))


def _compared(file: Path, beside: Beside, reporter: Reporter) -> tuple[dict[str, Any], Sequence[Shot]]:
    """Both networks on the same examples, and the pictures to show: none of networks that name no pictures."""
    archive, original, examples = open_archive(file), beside.original, beside.examples
    told = {"against": beside.name, "bytes_original": beside.bytes, "which": beside.which}
    reason = why_not(original, examples, beside.outputs)
    if reason is None:
        pictures = [example for example in examples if not isinstance(example, Mapping)]
        with reporter.progress(len(pictures), "report") as advance:
            found = compared(original, archive, (beside.name, file.name), pictures, beside.truth, advance)
        return {**told, **found.told()}, found.shots
    with reporter.progress(sum(1 for _ in groups(examples, original, 1)), "report") as advance:
        ours, theirs = compare([original, archive], batches(examples, original, 1), beside.outputs, advance)
    times = {"milliseconds": theirs[0].milliseconds, "milliseconds_original": ours[0].milliseconds}
    return {**told, **times, "no_pictures": reason, "outputs": [asdict(output) for output in theirs]}, ()
