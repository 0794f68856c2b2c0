"""What a sweep is asked for and what it has found: targets, the work that they share, results, rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from smidgen.budget import Fidelity
from smidgen.plan import Plan

__all__ = ["Result", "Row", "Target", "Work", "front"]

MEASURE = "R squared"
"""What values are judged by: rows of another measure are not comparable."""


@dataclass(frozen=True)
class Target:
    """What one point is to reach: exactly one of a size, a largest drop and a plan.

    Args:
        size: bytes that the file must not exceed.
        max_drop: points of accuracy that may be lost.
        plan: name of a plan.
        steps: that plan as TOML, so that whoever works after it needs no file.
        seed: of every draw.

    Example:
        >>> Target(size=400_000).name, Target(max_drop=0.5, seed=1).name, Target.by_plan("int8", 0).name
        ('size-400000-seed-0', 'drop-0.5-seed-1', 'plan-int8-seed-0')
    """

    size: int | None = None
    max_drop: float | None = None
    plan: str | None = None
    steps: str = ""
    seed: int = 0

    @classmethod
    def by_plan(cls, plan: str, seed: int) -> Target:
        """The target of a plan that ships with smidgen, or lies in a file.

        Raises:
            PlanError: there is no such plan, or it cannot be read.
        """
        steps = Plan.find(plan).dumps()
        if plan not in Plan.shipped():  # a file may change between runs, and is another target then
            plan = f"{Path(plan).stem}-{hashlib.sha256(steps.encode()).hexdigest()[:8]}"
        return cls(plan=plan, steps=steps, seed=seed)

    @property
    def name(self) -> str:
        """Of the point and of its file; no two targets share it."""
        kind = f"drop-{self.max_drop!r}" if self.max_drop is not None else f"plan-{self.plan}"
        return f"{kind if self.size is None else f'size-{self.size}'}-seed-{self.seed}"


@dataclass(frozen=True)
class Work:
    """What all points of a sweep share; two sweeps of equal work may lie in one database.

    Args:
        model: its name, see ``read_model``.
        data: the folder of pictures, or an ``.npz`` file, or a folder of those.
        pictures: how many to calibrate on at most.
        finetune: epochs of distillation.
        preprocessing: how pictures become the input, where the model does not say.
        outputs: what outputs are, if the user says so.
        weights: digest of the model.
        contents: digest of the names and sizes of the files in ``data``.
        smidgen: the version.
    """

    model: str
    data: str
    pictures: int
    finetune: int
    preprocessing: str | None = None
    outputs: str | None = None
    weights: str = ""
    contents: str = ""
    smidgen: str = ""

    @property
    def key(self) -> dict[str, str | int | None]:
        """What must be equal. The folder's place does not matter, only what is in it."""
        key = asdict(self)
        del key["data"]
        return {**key, "measure of values": MEASURE}


@dataclass(frozen=True)
class Result:
    """A finished point, as it comes from a worker: a file and what it does, or why there is none."""

    target: Target
    seconds: float
    file: bytes = b""
    fidelity: Fidelity | None = None
    failed: str | None = None


@dataclass(frozen=True)
class Row:
    """A finished point, as it lies in the database. The same seed gives the same row.

    Args:
        name: of the point.
        size: what was asked for: bytes,
        max_drop: or points that may be lost,
        plan: or a plan.
        seed: of every draw.
        failed: why there is no file, or None.
        file: name of the file.
        bytes: of the file, as the file system says.
        kl: mean divergence from the original's answers on held-out pictures, see ``smidgen.budget.Fidelity``.
        agreement: percent of the held-out pictures that are given the original's class; of values R squared in percent.
        lost: points of top-1 where labels are known, else of agreement.
        labelled: whether labels are known.
        judged: how many pictures were held out.
    """

    name: str
    size: int | None
    max_drop: float | None
    plan: str | None
    seed: int
    failed: str | None = None
    file: str | None = None
    bytes: int | None = None
    kl: float | None = None
    agreement: float | None = None
    lost: float | None = None
    labelled: bool | None = None
    judged: int | None = None


def front(rows: Iterable[Row]) -> list[Row]:
    """The Pareto front: the points to which no other is equal or better in bytes and divergence, and better in one.

    Example:
        >>> def row(size, kl):
        ...     return Row(f"{size}", size, None, None, 0, bytes=size, kl=kl)
        >>> [found.bytes for found in front([row(10, 0.5), row(20, 0.1), row(30, 0.2)])]
        [10, 20]
    """
    judged = [(row.bytes, row.kl, row) for row in rows if row.bytes is not None and row.kl is not None]
    best = [
        one
        for one in judged
        if not any(other[0] <= one[0] and other[1] <= one[1] and other[:2] != one[:2] for other in judged)
    ]
    return [row for _, _, row in sorted(best, key=lambda one: one[:2])]
