"""A report: one HTML file that needs nothing else, and the same facts as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from smidgen.disk import replace_file
from smidgen.errors import InputError
from smidgen.report.document import Section, document

__all__ = ["FACTS", "PAGE", "ready", "write_report"]

PAGE, FACTS = "report.html", "report.json"


def ready(folder: Path) -> None:
    """Makes the folder of a report, before the work that it is about.

    Raises:
        InputError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no report can be written there: {error.strerror}") from None


def _plain(facts: Any) -> Any:
    """The same, with None in place of numbers that JSON does not know.

    Example:
        >>> _plain({"a": [1.0, float("nan")]})
        {'a': [1.0, None]}
    """
    if isinstance(facts, Mapping):
        return {key: _plain(value) for key, value in facts.items()}
    if isinstance(facts, list | tuple):
        return [_plain(value) for value in facts]
    return None if isinstance(facts, float) and not isfinite(facts) else facts


def write_report(folder: Path, title: str, sections: Sequence[Section], facts: Mapping[str, Any]) -> Path:
    """Writes ``report.html`` and ``report.json``.

    Args:
        folder: where to; reports that lie there are replaced.
        title: of the page.
        sections: what it shows.
        facts: the same as plain values.

    Returns:
        The path of the page.

    Raises:
        InputError: they cannot be written.
    """
    ready(folder)
    # names of files need not be valid text
    page, told = (
        document(title, sections).encode(errors="replace"),
        json.dumps(_plain(facts), indent=1, allow_nan=False) + "\n",
    )
    replace_file(folder / FACTS, lambda temporary: temporary.write_text(told, encoding="utf-8"))
    replace_file(folder / PAGE, lambda temporary: temporary.write_bytes(page))
    return folder / PAGE
