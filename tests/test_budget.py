"""The search on functions that stand in for a network, and what people write for sizes and times."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smidgen.archive import Archive
from smidgen.budget import TRIALS, Budget, Fidelity, Outcome, Point, parse_seconds, parse_size, search
from smidgen.errors import InputError

EMPTY = Archive(b"", {})
BRACKET = math.ceil(math.log(1e14, 8)) + 1
"""The most files that finding two rates around the wanted one can take."""


def fidelity(drop: float, kl: float = 0.01) -> Fidelity:
    return Fidelity(100, kl, 100 - drop, drop, "agreement")


def run(
    outcome: Outcome, size: Callable[[float], float], drop: Callable[[float], float] | None = None, start: float = 1e-7
) -> Outcome:
    def attempt(rate: float) -> Point:
        return outcome.add(EMPTY, Point(rate, max(1, round(size(rate))), fidelity(drop(rate)) if drop else None))

    search(outcome, attempt, start)
    return outcome


def falling(rate: float) -> float:
    """Like a network: bytes fall by a fixed number for each octave of the rate, and something stays."""
    part = math.log(rate / 1e-11) / math.log(1e12)
    return 2000 + 80_000 * (1 - min(1.0, max(0.0, part)))


def jumpy(rate: float) -> float:
    """The same with jumps of 0.2 %, up and down."""
    return falling(rate) * (1 + 0.001 * math.sin(1e4 * math.log(rate)))


@pytest.mark.parametrize("function", [falling, jumpy])
@given(size=st.integers(4_000, 80_000), start=st.sampled_from([1e-7, 1e-12, 1e2, 1e-3]))
@settings(max_examples=60)
def test_size_is_never_exceeded_and_nearly_used(function: Callable[[float], float], size: int, start: float) -> None:
    outcome = run(Outcome(Budget(size=size)), function, start=start)
    assert outcome.reached
    assert outcome.best
    assert 0.99 * size <= outcome.best.bytes <= size
    assert len(outcome.curve) <= BRACKET + TRIALS
    assert "reached" in outcome.verdict()
    assert "not reached" not in outcome.verdict()


@given(st.integers(0, 2**32), st.floats(0.1, 0.9))
@settings(max_examples=60)
def test_a_function_of_few_steps_still_ends_below_the_size(seed: int, part: float) -> None:
    """Only five different sizes exist; the largest that fits is found."""
    levels = [10_000, 5_000, 2_500, 1_250, 600]
    width = 14 / len(levels)

    def steps(rate: float) -> float:
        return levels[min(4, int((math.log10(rate) + 12 + seed % 7 / 10) / width))]

    size = int(600 + part * 9_400)
    outcome = run(Outcome(Budget(size=size)), steps)
    assert outcome.best
    assert outcome.best.bytes == max(level for level in levels if level <= size)
    assert len(outcome.curve) <= BRACKET + TRIALS


def test_of_two_files_that_fit_the_larger_is_kept() -> None:
    outcome = Outcome(Budget(size=100))
    for rate, size in ((1, 90), (2, 101), (3, 99), (4, 95)):
        outcome.add(EMPTY, Point(rate, size))
    assert outcome.best == Point(3, 99)


@pytest.mark.parametrize("start", [1e-7, 1e2, 1e-12])
def test_impossible_size_ends_with_the_smallest(start: float) -> None:
    outcome = run(Outcome(Budget(size=1_000)), falling, start=start)
    assert not outcome.reached
    assert outcome.best
    assert outcome.best.bytes == min(point.bytes for point in outcome.curve)
    assert outcome.best.bytes < 5_000
    assert len(outcome.curve) <= BRACKET
    assert outcome.verdict().startswith("not reached: 1,000 bytes; the nearest is ")


def test_size_larger_than_any_file_is_reached_by_the_largest() -> None:
    outcome = run(Outcome(Budget(size=10**9)), falling)
    assert outcome.reached
    assert outcome.best
    assert outcome.best.bytes == max(point.bytes for point in outcome.curve)
    assert len(outcome.curve) <= BRACKET


@given(limit=st.floats(0.05, 60), start=st.sampled_from([1e-7, 1e-11, 10.0]))
@settings(max_examples=60)
def test_max_drop_finds_the_smallest_that_passes(limit: float, start: float) -> None:
    def drop(rate: float) -> float:
        return 100 * rate**0.5 / (1 + rate**0.5)

    edge = (limit / (100 - limit)) ** 2
    assume(1e-11 < edge < 10)
    outcome = run(Outcome(Budget(max_drop=limit)), falling, drop, start)
    assert outcome.reached
    assert outcome.best
    assert edge / 1.005 <= outcome.best.nats_per_bit <= edge
    passed = [point for point in outcome.curve if point.fidelity and point.fidelity.drop <= limit]
    assert outcome.best.bytes == min(point.bytes for point in passed)


def test_max_drop_that_nothing_reaches() -> None:
    outcome = run(Outcome(Budget(max_drop=1.0)), falling, lambda rate: 5 + min(rate, 1))
    assert not outcome.reached
    assert outcome.best
    assert outcome.best.fidelity
    assert outcome.best.fidelity.drop == min(p.fidelity.drop for p in outcome.curve if p.fidelity)
    assert "not reached: a drop of at most 1 points of agreement; the nearest is a drop of 5.00" in outcome.verdict()


def test_drop_below_zero_passes() -> None:
    # a squeezed network may be a little better
    assert Budget(max_drop=0).allows(Point(1e-6, 10, fidelity(-0.5)))
    assert not Budget(max_drop=0).allows(Point(1e-6, 10))


def test_repaired_file_counts_by_its_divergence() -> None:
    budget = Budget(size=100)
    plain, good, bad = Point(1, 99, fidelity(1, 0.02)), Point(1, 90, fidelity(1, 0.01), True), Point(1, 100, None, True)
    worse = Point(1, 99, fidelity(1, 0.03), True)
    assert budget.better(good, plain)
    assert not budget.better(worse, plain)
    assert not budget.better(plain, good)
    assert budget.better(plain, None)
    assert budget.better(bad, Point(1, 101))
    assert not budget.better(Point(1, 101, fidelity(0, 0.0), True), plain)


def test_deadline_stops_the_search() -> None:
    late = Outcome(Budget(size=10_000, deadline=time.monotonic() - 1))
    assert len(run(late, falling).curve) == 1
    assert late.verdict().startswith("time is up: not reached: 10,000 bytes")
    outcome = Outcome(Budget(size=3_000, deadline=time.monotonic() + 0.15))

    def slow(rate: float) -> float:
        time.sleep(0.05)
        return falling(rate)

    run(outcome, slow)
    assert 1 <= len(outcome.curve) <= 4
    assert outcome.budget.over
    assert outcome.verdict().startswith("time is up: not reached")
    assert outcome.verdict(interrupted=True).startswith("interrupted: not reached")


def test_each_better_archive_is_handed_on() -> None:
    kept: list[int] = []
    outcome = Outcome(Budget(size=20_000), on_better=lambda archive, point: kept.append(point.bytes))
    run(outcome, falling)
    assert outcome.best
    assert kept[-1] == outcome.best.bytes
    too_large = [size for size in kept if size > 20_000]
    fitting = kept[len(too_large) :]
    assert too_large == sorted(too_large, reverse=True)
    assert fitting == sorted(fitting)
    assert all(size <= 20_000 for size in fitting)
    outcome.settle(EMPTY, Point(1.0, 19_000))
    assert (kept[-1], outcome.best.bytes) == (19_000, 19_000)


def test_interruption_leaves_what_was_found() -> None:
    outcome = Outcome(Budget(size=20_000))

    def attempt(rate: float) -> Point:
        if len(outcome.curve) == 3:
            raise KeyboardInterrupt
        return outcome.add(EMPTY, Point(rate, round(falling(rate))))

    with pytest.raises(KeyboardInterrupt):
        search(outcome, attempt, 1e-7)
    assert outcome.best in outcome.curve
    assert len(outcome.curve) == 3


def test_curve_is_json(tmp_path: Path) -> None:
    outcome = run(Outcome(Budget(max_drop=2)), falling, lambda rate: 50 * rate**0.3)
    outcome.save_curve(tmp_path / "curve.json")
    saved = json.loads((tmp_path / "curve.json").read_text())
    assert saved.keys() == {"best", "reached", "curve"}
    assert saved["reached"] is True
    assert len(saved["curve"]) == len(outcome.curve)
    assert saved["best"] in saved["curve"]
    sizes = [point["bytes"] for point in saved["curve"]]
    assert sizes == sorted(sizes)
    assert saved["best"]["fidelity"].keys() == {"pictures", "kl", "agreement", "drop", "measure", "output"}
    Outcome(Budget(size=1)).save_curve(tmp_path / "none.json")
    assert json.loads((tmp_path / "none.json").read_text()) == {"best": None, "reached": False, "curve": []}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"size": 1, "max_drop": 1.0},
        {"size": 0},
        {"size": -5},
        {"max_drop": -0.1},
        {"max_drop": 100.1},
        {"max_drop": float("nan")},
    ],
)
def test_budgets_that_make_no_sense(fields: dict[str, float]) -> None:
    with pytest.raises(InputError) as caught:
        Budget(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("400KB", 400_000),
        ("400kb", 400_000),
        ("400 KiB", 409_600),
        ("1", 1),
        ("12B", 12),
        (" 0.5MiB ", 524_288),
        (".5MB", 500_000),
        ("3.GB", 3 * 10**9),
        ("1GiB", 2**30),
        ("1.9", 1),
        ("333333.7", 333_333),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text", ["", "KB", "0", "0.4", "-1", "1e3", "4x", "4 K B", "nan", "inf", "1,000", "4TB", "9" * 400, "1.2.3", "٣x"]
)
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write a number and B, KB, MB, KiB or MiB") as caught:
        parse_size(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("7", 7), (" 2 m ", 120), (".5s", 0.5)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-3s", "3d", "3M", "m", "1:30", "nan", "3 minutes", "10m10s"])
def test_times_that_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="write a number and s, m or h"):
        parse_seconds(text)


def test_a_rate_far_away_is_found_in_few_trials_where_the_weights_are_known() -> None:
    """Bytes as theory has them: a bit less for each weight is worth four times the rate."""
    weights, rates = 20_000_000, []
    outcome = Outcome(Budget(size=12_000_000))

    def attempt(rate: float) -> Point:
        rates.append(rate)
        bits = max(0.05, 0.5 * math.log2(2e-7 / rate))
        return outcome.add(EMPTY, Point(rate, round(weights * bits / 8)))

    search(outcome, attempt, 1e-7, weights)
    assert outcome.reached
    assert len(rates) <= 6
