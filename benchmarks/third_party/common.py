"""What all networks of this bench share: files of packages, compression, judging of the decoded file."""

from __future__ import annotations

import importlib.util
import resource
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.archive import Archive, open_archive
from smidgen.budget import Budget, Outcome
from smidgen.given import examples_from
from smidgen.pipeline import Settings, squeeze_to_budget
from smidgen.reporter import Reporter
from smidgen.run.session import Engine


@dataclass(frozen=True)
class Row:
    """One line of the table: what was reached, and what had to be.

    Args:
        network: its name.
        before: bytes of the files that the package brings.
        bytes: of the compressed files.
        bar: the most bytes allowed.
        judged: what the figure is, on how many inputs of what kind.
        figure: what was measured.
        limit: what it had to be.
        reached: whether it is.
    """

    network: str
    before: int
    bytes: int
    bar: int
    judged: str
    figure: str
    limit: str
    reached: bool

    @property
    def passed(self) -> bool:
        """Whether size and figure are within their bars."""
        return self.reached and self.bytes <= self.bar

    def __str__(self) -> str:
        verdict = "yes" if self.passed else "**no**"
        sizes = f"{self.before:,} | {self.bytes:,} | {self.bar:,}"
        return f"| {self.network} | {sizes} | {self.judged} | {self.figure} | {self.limit} | {verdict} |"


COLUMNS = ("network", "bytes", "smidgen, bytes", "bar", "judged by", "measured", "bar", "reached")
HEADER = f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|"


def in_package(package: str, *path: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        sys.exit(f"the package {package} is not installed; make bench-models installs all")
    return Path(next(iter(found.submodule_search_locations)), *path)


def squeezed(
    original: Archive, data: Iterable[Any], size: int, path: Path, outputs: str | None = None, most: int = 2000
) -> Archive:
    """The network compressed to a size, written to ``path``, and read back from there; what happens goes to stderr."""
    start, outcome = time.perf_counter(), Outcome(Budget(size=size))
    examples = examples_from(data, original, most, seed=0)
    reporter = Reporter(say=lambda line: print(f"{path.stem}: {line}", file=sys.stderr, flush=True))
    squeeze_to_budget(original, examples, outcome, Settings(outputs=outputs), reporter)
    reporter.say(f"{outcome.verdict()}; {time.perf_counter() - start:.0f} s, peak {peak():.2f} GB")
    if outcome.archive is None:
        sys.exit(f"{path.stem}: no file was made")
    outcome.archive.save(path)
    return open_archive(path)


def peak() -> float:
    """The most memory that this process has had, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def engine(network: Archive) -> Engine:
    """The decoded network in ONNX Runtime."""
    return Engine(network.onnx())
