"""The report about one file, alone or beside its original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.archive import Archive, open_archive, read_bytes
from smidgen.facts import curve_beside, facts_of
from smidgen.report import write_report
from smidgen.report.comparison import Picture, compared, why_not
from smidgen.report.document import Section, Text
from smidgen.report.sections import about_comparison, about_curve, about_file, about_layers, about_running
from smidgen.reporter import SILENT, Reporter

__all__ = ["Beside", "report_on"]


@dataclass(frozen=True, eq=False)
class Beside:
    """What a file is compared with, and on which pictures.

    Args:
        name: of the original.
        original: the network before.
        pictures: files, or uint8 arrays of shape (height, width, 3) in RGB; none where its inputs are no pictures.
        truth: index of the true class of each picture, or None if unknown.
        which: which pictures these are, in words that follow their number.
    """

    name: str
    original: Archive
    pictures: Sequence[Picture]
    truth: Sequence[int] | None
    which: str


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
        InputError: it or a picture cannot be read, or the report not be written.
        ModelError: a network cannot be run.
    """
    data = read_bytes(file)
    facts = {**facts_of(data, file.name, histograms=True), "asked": asked, "verdict": verdict}
    facts["curve"] = curve_beside(file)
    sections = [about_file(facts, verdict, asked), *about_curve(facts["curve"])]
    comparison = None
    if beside is not None:
        archive = open_archive(file)
        reason = why_not(archive) if beside.pictures else "The network's inputs are no pictures."
        if reason:
            sections.append(Section("Beside the original", [Text(f"No pictures are shown. {reason}")]))
        else:
            with reporter.progress(len(beside.pictures), "report") as advance:
                names = (beside.name, file.name)
                found = compared(beside.original, archive, names, beside.pictures, beside.truth, advance)
            sections += about_comparison(found, file.name, beside.which)
            comparison = {**found.told(), "which": beside.which}
    facts["comparison"] = comparison
    runs_itself = facts["sections"].get("program", 0) > 0
    if more is not None:
        sections.append(more[0])
        facts |= more[1]
    sections += [about_layers(facts), about_running(str(file), runs_itself)]
    return write_report(folder, f"{file.name}: what the bytes bought", sections, facts)
