"""What a report is made of, and how each part becomes HTML: headings, texts, tables, charts, pictures."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

__all__ = ["Chart", "Column", "Commands", "Figures", "Part", "Pictures", "Section", "Shot", "Table", "Text", "document"]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
"""Nothing is loaded, and nothing in the page runs."""

SHORT = 20
"""Rows of a table that stays on one page of paper."""


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str

    def html(self) -> str:
        """As HTML."""
        return f"<p>{escape(self.text)}</p>"


@dataclass(frozen=True)
class Figures:
    """A few numbers that count, each with what it is."""

    figures: Sequence[tuple[str, str]]

    def html(self) -> str:
        """As HTML."""
        shown = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(number)}</dd></div>" for what, number in self.figures)
        return f'<dl class="figures">{shown}</dl>'


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Args:
        title: its heading.
        kind: "text", to the left; "number", to the right; "bar", a part of 0 to 1 of the longest; "svg", a drawing of
            ``smidgen.report.charts``, taken as it is.
    """

    title: str
    kind: str = "text"


@dataclass(frozen=True)
class Table:
    """Rows under headings; the first cell of each row names it.

    Args:
        caption: what it shows.
        columns: one for each cell.
        rows: texts; of a bar the part as ``float``.
        marked: numbers of rows that stand out.
    """

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | float]]
    marked: frozenset[int] = frozenset()

    def html(self) -> str:
        """As HTML."""
        heads = "".join(_head(column) for column in self.columns)
        rows = "".join(
            f"<tr{' class=marked' if number in self.marked else ''}>"
            + "".join(
                _cell(column, cell, place) for place, (column, cell) in enumerate(zip(self.columns, row, strict=True))
            )
            + "</tr>"
            for number, row in enumerate(self.rows)
        )
        caption = escape(self.caption)
        kind = "scroll" if len(self.rows) > SHORT else "scroll short"
        return (
            f'<div class="{kind}" tabindex="0" role="region" aria-label="{caption}"><table><caption>{caption}</caption>'
            f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
        )


def _head(column: Column) -> str:
    if not column.title:
        return "<td></td>"
    return f'<th scope="col" class="{column.kind}">{escape(column.title)}</th>'


def _cell(column: Column, cell: str | float, place: int) -> str:
    if place == 0:
        return f'<th scope="row">{_name(str(cell))}</th>'
    if column.kind == "svg":
        return f"<td>{cell}</td>"
    if isinstance(cell, float):
        width = f"{100 * cell:.1f}"
        return (
            '<td class="bar"><svg viewBox="0 0 100 8" width="100" height="8" aria-hidden="true">'
            f'<rect class="mark" width="{width}" height="8" rx="1"/></svg></td>'
        )
    return f'<td class="{column.kind}">{escape(cell)}</td>'


def _name(text: str) -> str:
    """A name, which may be broken after a dot or a stroke where there is no room for it.

    Example:
        >>> _name("a.<b>")
        'a.<wbr>&lt;b&gt;'
    """
    return re.sub(r"([._/])", r"\1<wbr>", escape(text))


@dataclass(frozen=True)
class Chart:
    """A drawing with what it says in words.

    Args:
        svg: of ``smidgen.report.charts``, taken as it is.
        caption: what is seen.
    """

    svg: str
    caption: str

    def html(self) -> str:
        """As HTML."""
        return f"<figure>{self.svg}<figcaption>{escape(self.caption)}</figcaption></figure>"


@dataclass(frozen=True)
class Shot:
    """A picture and what two networks say of it.

    Args:
        name: of the picture.
        jpeg: the picture, made small.
        says: what each says, the original first.
        truth: what it is, if that is known.
    """

    name: str
    jpeg: bytes
    says: Sequence[tuple[str, str]]
    truth: str | None = None


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    shots: Sequence[Shot]

    def html(self) -> str:
        """As HTML."""
        return f'<ul class="pictures">{"".join(map(self._shot, self.shots))}</ul>'

    def _shot(self, shot: Shot) -> str:
        said = [*shot.says, *([("it is", shot.truth)] if shot.truth else [])]
        lines = "".join(f"<dt>{escape(who)}</dt><dd>{_percent(what)}</dd>" for who, what in said)
        address = f"data:image/jpeg;base64,{b64encode(shot.jpeg).decode()}"
        return f'<li><img src="{address}" alt="{escape(shot.name)}"><p>{_name(shot.name)}</p><dl>{lines}</dl></li>'


def _percent(text: str) -> str:
    """Text whose percentages are not torn apart."""
    return escape(text).replace(" %", "&nbsp;%")


@dataclass(frozen=True)
class Commands:
    """Lines to type."""

    text: str
    label: str

    def html(self) -> str:
        """As HTML."""
        return (
            f'<pre tabindex="0" role="region" aria-label="{escape(self.label)}"><code>{escape(self.text)}</code></pre>'
        )


Part = Text | Figures | Table | Chart | Pictures | Commands


@dataclass(frozen=True)
class Section:
    """Parts under a heading."""

    heading: str
    parts: Sequence[Part]

    def html(self) -> str:
        """As HTML."""
        return f"<section><h2>{escape(self.heading)}</h2>{''.join(part.html() for part in self.parts)}</section>"


def document(title: str, sections: Sequence[Section]) -> str:
    """The whole page.

    Example:
        >>> "<h1>a &lt;b&gt;</h1>" in document("a <b>", [Section("Figures", [Text("1 & 2")])])
        True
    """
    style = (Path(__file__).parent / "style.css").read_text()
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n<h1>{escape(title)}</h1>\n"
        f"{body}\n</main>\n</body>\n</html>\n"
    )
