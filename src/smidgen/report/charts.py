"""Drawings as SVG, small and without scripts: colours come from the page."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

__all__ = ["Dot", "courses", "histogram", "trade_off"]

WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 24, 40
LETTER = 7.5
"""Width of a letter of a name, about."""


class Dot(NamedTuple):
    """One file in a chart of sizes.

    Args:
        bytes: of the file.
        loss: what it lost, above 0.
        name: written beside it; "" for none.
        this: whether the report is about it.
    """

    bytes: int
    loss: float
    name: str = ""
    this: bool = False


def trade_off(dots: Sequence[Dot], what: str) -> str:
    """Bytes against loss, both logarithmic; a line joins the files that none of fewer bytes beats.

    Args:
        dots: at least two, of different sizes.
        what: the loss, in words.
    """
    dots = sorted(dots)
    x = _logarithmic([dot.bytes for dot in dots], LEFT, WIDTH - RIGHT)
    y = _logarithmic([dot.loss for dot in dots], HEIGHT - BOTTOM, TOP, 0.1)
    parts = [
        _ticks([dot.bytes for dot in dots], x, horizontal=True),
        _ticks([dot.loss for dot in dots], y, horizontal=False),
    ]
    front = [dot for place, dot in enumerate(dots) if all(dot.loss < other.loss for other in dots[:place])]
    parts.append(_line([(x(dot.bytes), y(dot.loss)) for dot in front]))
    for dot in sorted(dots, key=lambda dot: dot.this):
        kind, radius = ("this", 8) if dot.this else ("point", 4)
        told = escape(f"{dot.name or 'a file'}: {dot.bytes:,} bytes, {what} {dot.loss:.4g}")
        place = f'cx="{x(dot.bytes):.1f}" cy="{y(dot.loss):.1f}" r="{radius}"'
        parts.append(f'<circle class="{kind}" {place}><title>{told}</title></circle>')
    named = sorted((dot for dot in dots if dot.name), key=lambda dot: (not dot.this, dot not in front))
    parts.append(_names([(dot.name, x(dot.bytes), y(dot.loss), dot in front) for dot in named]))
    parts.append(_axes("bytes", what))
    least, most = dots[0], dots[-1]
    sizes = f"{len(dots)} files, {least.bytes:,} to {most.bytes:,} bytes"
    return _svg(parts, f"{sizes}: {what} {least.loss:.4g} to {most.loss:.4g}")


def _names(places: Sequence[tuple[str, float, float, bool]]) -> str:
    """Names beside dots, as far as there is room: below and to the left of a curve that falls, or else above it."""
    parts: list[str] = []
    taken: list[tuple[float, float, float]] = []
    for name, x, y, on_curve in places:
        wide, below = LETTER * len(name), on_curve and x - LETTER * len(name) > LEFT
        to_the_left = below or x + 10 + wide > WIDTH - RIGHT
        start, height = x - 10 - wide if to_the_left else x + 10, y + 18 if below else y - 9
        if any(start < end and other < start + wide and abs(height - line) < 14 for other, end, line in taken):
            continue
        taken.append((start, start + wide, height))
        where = f'x="{x + (-10 if to_the_left else 10):.1f}" y="{height:.1f}"'
        parts.append(
            f'<text class="name" {where} text-anchor="{"end" if to_the_left else "start"}">{escape(name)}</text>'
        )
    return "".join(parts)


def courses(values: Sequence[float], stages: Sequence[tuple[str, int]], what: str) -> str:
    """How a number went, epoch after epoch.

    Args:
        values: one for each epoch, at least one.
        stages: name and number of epochs of each stage.
        what: the number, in words.
    """
    low, high = min(values), max(values)
    x = _linear(1, max(2, len(values)), LEFT, WIDTH - RIGHT)
    y = _linear(low, high if high > low else low + 1, HEIGHT - BOTTOM, TOP + 12)
    parts, done = [], 0
    for value in {low, high}:
        parts.append(_rule(y(value), f"{value:.4g}"))
    for name, count in stages:
        if count:
            middle = x(done + (1 + count) / 2)
            parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{escape(name)}</text>')
            edge = (x(done + count) + x(done + count + 1)) / 2
            if done + count < len(values):
                parts.append(f'<line class="axis" x1="{edge:.1f}" x2="{edge:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        done += count
    parts.append(_line([(x(epoch), y(value)) for epoch, value in enumerate(values, 1)]))
    parts += [f'<circle class="point" cx="{x(e):.1f}" cy="{y(v):.1f}" r="2.5"/>' for e, v in enumerate(values, 1)]
    parts.append(_axes(f"{len(values)} epochs", what))
    return _svg(parts, f"{what} over {len(values)} epochs: {values[0]:.4g} at first, {values[-1]:.4g} at last")


def histogram(told: Mapping[str, Any], name: str) -> str:
    """How often each symbol of a layer occurs; ``told`` as in ``smidgen.facts``."""
    counts, first, step = told["counts"], told["first"], told["step"]
    most, wide = max(counts), 100 / len(counts)
    bars = "".join(
        f'<rect class="mark" x="{place * wide:.2f}" y="{22 - 22 * count / most:.2f}" '
        f'width="{max(0.4, wide - 0.4):.2f}" '
        f'height="{22 * count / most:.2f}"/>'
        for place, count in enumerate(counts)
        if count
    )
    common = first + step * counts.index(most)
    label = escape(f"{name}: symbols {first} to {told['last']}, most often {common}")
    return f'<svg viewBox="0 0 100 22" width="100" height="22" role="img" aria-label="{label}">{bars}</svg>'


def _svg(parts: Sequence[str], label: str) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _axes(across: str, up: str) -> str:
    return (
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 4}" text-anchor="end">{escape(across)}</text>'
        f'<text x="4" y="12">{escape(up)}</text>'
    )


def _line(places: Sequence[tuple[float, float]]) -> str:
    return f'<polyline class="line" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in places)}"/>'


def _rule(y: float, text: str) -> str:
    return (
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _linear(least: float, most: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (end - start) * (value - least) / (most - least)


def _logarithmic(values: Sequence[float], start: float, end: float, part: float = 0.06) -> Callable[[float], float]:
    """A scale that leaves a part free on both sides."""
    least, most = math.log(min(values)), math.log(max(values))
    room = part * (most - least) or 0.5
    plain = _linear(least - room, most + room, start, end)
    return lambda value: plain(math.log(value))


def _ticks(values: Sequence[float], scale: Callable[[float], float], horizontal: bool) -> str:
    """Round numbers along an axis, or the ends where there are none."""
    found = _round_ones(min(values), max(values)) or sorted({min(values), max(values)})
    if not horizontal:
        return "".join(_rule(scale(value), f"{value:.3g}") for value in found)
    return "".join(
        f'<line class="axis" x1="{scale(value):.1f}" x2="{scale(value):.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
        f'<text x="{scale(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_size(value)}</text>'
        for value in found
    )


def _round_ones(low: float, high: float) -> list[float]:
    """Two to seven round numbers: powers of ten, or with more digits where those are too few; none if all are too few.

    Example:
        >>> _round_ones(345e3, 469e3), _round_ones(0.004, 2.0), _round_ones(1e-9, 3e-3)
        ([350000.0, 400000.0, 450000.0], [0.01, 0.1, 1.0], [1e-09, 1e-08, 1e-07, 1e-06, 1e-05, 0.0001, 0.001])
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 2, 5), tuple(range(1, 10)), tuple(half / 2 for half in range(2, 20))):
        found = [float(f"{digit}e{power}") for power in powers for digit in digits]
        found = [value for value in found if low <= value <= high]
        if len(found) >= 2:
            return found[:: -(-len(found) // 7)]
    return []


def _size(count: float) -> str:
    """Bytes, short.

    Example:
        >>> _size(399_451), _size(2_500_000), _size(800)
        ('399 KB', '2.5 MB', '800')
    """
    if count >= 1e6:
        return f"{count / 1e6:.3g} MB"
    return f"{count / 1e3:.3g} KB" if count >= 1e3 else f"{count:.0f}"
