"""The search: the exchange rate of harm and bits is turned until the file is as small, or as good, as was asked."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from smidgen.archive import Archive
from smidgen.disk import replace_file
from smidgen.errors import InputError
from smidgen.reporter import small

__all__ = ["Budget", "Fidelity", "Outcome", "Point", "parse_seconds", "parse_size", "search"]

FINE = 3
"""Bits a weight from which files that do not grow have nothing more to give."""

FURTHEST = 1e4
"""Factor by which the rate may change at once."""

CLOSE = 0.003
"""The search ends when the file is at most this part under the size, or when rates this near to each other differ."""

LEAST, MOST = 1e-30, 1e2
TRIALS = 24
UNITS = {"": 1, "B": 1, "KB": 1000, "MB": 1000**2, "GB": 1000**3, "KIB": 1024, "MIB": 1024**2, "GIB": 1024**3}
SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Fidelity:
    """How near a compressed network is to its original, on pictures that it was not calibrated on.

    Args:
        pictures: how many.
        kl: mean divergence from the original's answers (``smidgen.run.outputs.divergence``), the sum over outputs.
        agreement: percent of the pictures that are given the original's class; of values R squared in percent.
        drop: points of accuracy lost: of top-1 where labels are known, else of agreement (100 - agreement).
        measure: what is counted: "top-1" where labels are known, else "agreement" of classes, or "R squared".
        output: whose agreement that is, if there are several outputs: that of the one that loses most.
    """

    pictures: int
    kl: float
    agreement: float
    drop: float
    measure: str
    output: str = ""

    @property
    def described(self) -> str:
        """Both figures in words.

        Example:
            >>> Fidelity(10, 0.0123, 98.0, 2.0, "agreement").described
            'KL 0.0123, agreement 98.0 %'
            >>> Fidelity(10, 0.0123, 98.8, 1.2, "R squared", "boxes").described
            "divergence 0.0123, R squared 0.9880 of 'boxes', which loses most"
        """
        which = f" of {self.output!r}, which loses most" if self.output else ""
        if self.measure == "R squared":
            return f"divergence {small(self.kl)}, R squared {self.agreement / 100:.4f}{which}"
        return f"KL {small(self.kl)}, agreement {self.agreement:.1f} %{which}"


@dataclass(frozen=True)
class Point:
    """One file that was tried.

    Args:
        nats_per_bit: the exchange rate that gave it.
        bytes: of the file.
        fidelity: where it was measured.
        repaired: whether it was distilled.
        refined: whether it aims at targets (``smidgen.refine``).
    """

    nats_per_bit: float
    bytes: int
    fidelity: Fidelity | None = None
    repaired: bool = False
    refined: bool = False


@dataclass(frozen=True)
class Budget:
    """What is asked for: a size or a loss of accuracy, and the time that may be spent.

    Args:
        size: bytes that the file must not exceed.
        max_drop: points of accuracy that may be lost; see ``Fidelity.drop``.
        deadline: of ``time.monotonic()``; the best file so far is taken when it is reached.
        margin: bytes of the size that the search leaves free, for what is added afterwards.

    Raises:
        InputError: not exactly one of size and max_drop, or one that is not positive.

    Example:
        >>> Budget(size=400_000).size
        400000
    """

    size: int | None = None
    max_drop: float | None = None
    deadline: float = math.inf
    margin: int = 0

    def __post_init__(self) -> None:
        if (self.size is None) == (self.max_drop is None):
            raise InputError("give either a size or a largest drop of accuracy")
        if self.size is not None and self.size < 1:
            raise InputError(f"size: {self.size} bytes is not a size; give 1 or more")
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise InputError(f"max-drop: {self.max_drop} is not a loss in points; give 0 to 100")

    @property
    def left(self) -> float:
        """Seconds until the deadline, not below zero."""
        return max(0.0, self.deadline - time.monotonic())

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() >= self.deadline

    def allows(self, point: Point) -> bool:
        """Whether a file is within the limit."""
        if self.size is not None:
            return point.bytes <= self.size
        assert self.max_drop is not None
        return point.fidelity is not None and point.fidelity.drop <= self.max_drop

    def better(self, one: Point, other: Point | None) -> bool:
        """Whether a file is to be preferred: within the limit first; then the least harm, or the fewest bytes."""
        if other is None:
            return True
        if self.allows(one) != self.allows(other):
            return self.allows(one)
        if self.size is None:
            assert one.fidelity
            assert other.fidelity
            if self.allows(one):
                return one.bytes < other.bytes
            return one.fidelity.drop < other.fidelity.drop
        if not self.allows(one):
            return one.bytes < other.bytes
        changed = any(point.repaired or point.refined for point in (one, other))
        if one.fidelity and other.fidelity and changed:
            return one.fidelity.kl < other.fidelity.kl
        room = [point.bytes <= self.size - self.margin for point in (one, other)]
        return room[0] if room[0] != room[1] else one.bytes > other.bytes


@dataclass
class Outcome:
    """What a search has found so far; it is valid at any moment, also when the search is interrupted.

    Args:
        budget: what was asked for.
        archive: the best one, None before the first.
        best: what it reached.
        curve: every file tried.
        on_better: called with each new best archive, to keep it.
    """

    budget: Budget
    archive: Archive | None = None
    best: Point | None = None
    curve: list[Point] = field(default_factory=list)
    on_better: Callable[[Archive, Point], None] | None = None

    def add(self, archive: Archive, point: Point) -> Point:
        """Notes a file that was tried, and keeps it if it is the best. Returns the point."""
        self.curve.append(point)
        if self.budget.better(point, self.best):
            self.settle(archive, point)
        return point

    def settle(self, archive: Archive, point: Point) -> None:
        """Takes a file as the best; it is kept first, so that what is said after an interruption is on the disk."""
        if self.on_better:
            self.on_better(archive, point)
        self.archive, self.best = archive, point

    def save_curve(self, path: Path) -> None:
        """Writes every point that was tried, and the best, as JSON."""
        points = [asdict(point) for point in sorted(self.curve, key=lambda point: point.bytes)]
        text = json.dumps({"best": self.best and asdict(self.best), "reached": self.reached, "curve": points}, indent=1)
        replace_file(path, lambda temporary: temporary.write_text(text + "\n"))

    def verdict(self, interrupted: bool = False) -> str:
        """One line: what was reached, and what was not."""
        budget, best = self.budget, self.best
        early = "interrupted: " if interrupted else "time is up: " if budget.over else ""
        if best is None:
            return f"{early}no file was made"
        if budget.size is not None:
            asked, found = f"{budget.size:,} bytes", f"{best.bytes:,} bytes"
        else:
            assert best.fidelity
            asked = f"a drop of at most {budget.max_drop:g} points of {best.fidelity.measure}"
            found = f"a drop of {best.fidelity.drop:.2f} points with {best.bytes:,} bytes"
        if not self.reached:
            return f"{early}not reached: {asked}; the nearest is {found}"
        harm = ""
        if best.fidelity:
            harm = f"; on {best.fidelity.pictures} others to judge by {best.fidelity.described}"
        if (
            budget.size is not None
            and best.bytes < 0.99 * budget.size
            and not early
            and not best.repaired
            and not best.refined
        ):
            found += " (none nearer to it was found)"
        return f"{early}reached: {asked}, by {found}{harm}"

    @property
    def reached(self) -> bool:
        """Whether the best file is within the limit."""
        return self.best is not None and self.budget.allows(self.best)


def search(outcome: Outcome, attempt: Callable[[float], Point], start: float, weights: int = 0) -> None:
    """Looks for the rate whose file has the size, or for the smallest file that does little enough harm.

    The rate is bracketed from ``start``, for a size by the rule that a bit less for each weight is worth four times the
    rate, and by growing factors; then it is narrowed: for a size by interpolation between the
    logarithms of rate and bytes (the bytes fall steadily, but in small jumps), for a drop by halves. Ends early when
    the budget's time is up, but not before a first file.

    Args:
        outcome: says what is wanted; ``attempt`` adds to it.
        attempt: makes the file for a rate in nats per bit, and adds it to the outcome.
        start: the first rate tried.
        weights: how many weights share the bytes, if that is known.

    Example:
        >>> outcome = Outcome(Budget(size=1000))
        >>> search(outcome, lambda rate: outcome.add(Archive(b"", {}), Point(rate, round(100 / rate**0.5))), 1e-6)
        >>> 990 <= outcome.best.bytes <= 1000
        True
    """
    budget = outcome.budget
    low, high = _bracket(budget, attempt, start, weights)
    if low is None or high is None:
        return
    for _ in range(TRIALS):
        if budget.over or _close_enough(outcome) or high.nats_per_bit / low.nats_per_bit < 1 + CLOSE:
            return
        point = attempt(_between(budget, low, high))
        low, high = (point, high) if _must_rise(budget, point) else (low, point)


def _bracket(
    budget: Budget, attempt: Callable[[float], Point], start: float, weights: int
) -> tuple[Point | None, Point | None]:
    """The nearest points found at which the rate must still rise, and must not; None where there is no such point."""
    low = high = None
    rate, factor = start, 4.0
    size = same = 0
    while low is None or high is None:
        point = attempt(rate)
        step = max(factor, _factor(budget, point, weights))
        if _must_rise(budget, point):
            low, rate = point, rate * step
        else:
            high, rate = point, rate / step
        rate, factor = min(max(rate, LEAST), MOST), factor * 2
        same = same + 1 if point.bytes == size else 0
        size = point.bytes
        if same > 1 and 8 * point.bytes > FINE * weights > 0:
            break  # there is nothing finer
        if budget.over or rate == point.nats_per_bit:
            break
    return low, high


def _factor(budget: Budget, point: Point, weights: int) -> float:
    """How far the rate is from the one for the size, about; a little more, so that it is bracketed."""
    if budget.size is None or not weights:
        return 1.0
    bits = 8 * abs(point.bytes - budget.size) / weights
    return float(min(4.0 ** min(bits + 0.2, 20.0), FURTHEST))


def _must_rise(budget: Budget, point: Point) -> bool:
    """Whether a smaller file is wanted: this one is too large, or does less harm than it may."""
    return budget.allows(point) if budget.size is None else point.bytes > budget.size - budget.margin


def _between(budget: Budget, low: Point, high: Point) -> float:
    """The next rate to try."""
    part, rates = 0.5, (math.log(low.nats_per_bit), math.log(high.nats_per_bit))
    if budget.size is not None and low.bytes > high.bytes:
        aim = math.log(max(1.0, (budget.size - budget.margin) * (1 - CLOSE / 2)))
        part = (math.log(low.bytes) - aim) / (math.log(low.bytes) - math.log(high.bytes))
        part = min(max(part, 0.05), 0.95)
    return math.exp(rates[0] + part * (rates[1] - rates[0]))


def _close_enough(outcome: Outcome) -> bool:
    if outcome.budget.size is None or outcome.best is None:
        return False
    aim = outcome.budget.size - outcome.budget.margin
    return aim * (1 - CLOSE) <= outcome.best.bytes <= aim


def parse_size(text: str) -> int:
    """Bytes from what people write: ``400KB`` is 400,000 bytes, ``400KiB`` 409,600.

    Raises:
        InputError: it is not a positive number with one of these units.

    Example:
        >>> parse_size("400KB"), parse_size("0.5 MiB")
        (400000, 524288)
    """
    number, unit = _split(text)
    if number is None or unit.upper() not in UNITS or int(number * UNITS[unit.upper()]) < 1:
        raise InputError(f"size {text!r}: write a number and B, KB, MB, KiB or MiB, as in 400KB")
    return int(number * UNITS[unit.upper()])


def parse_seconds(text: str) -> float:
    """Seconds from what people write: ``90s``, ``10m``, ``1.5h``; a bare number is seconds.

    Raises:
        InputError: it is not a positive number with one of these units.

    Example:
        >>> parse_seconds("10m")
        600.0
    """
    number, unit = _split(text)
    if number is None or unit not in SECONDS:
        raise InputError(f"time {text!r}: write a number and s, m or h, as in 10m")
    return number * SECONDS[unit]


def _split(text: str) -> tuple[float | None, str]:
    found = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*([A-Za-z]*)\s*", text)
    if not found or not 0 < float(found[1]) < 1e15:
        return None, ""
    return float(found[1]), found[2]
