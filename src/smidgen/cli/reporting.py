"""The option of commands that can report on what they did; apart, since ``recognize`` must not load what it needs."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["report_option"]

report_option = click.option(
    "--report",
    type=click.Path(file_okay=False, path_type=Path),
    help="Also write a report into this folder: report.html, which needs nothing else, and report.json.",
)
