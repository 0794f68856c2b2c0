"""What workers do: only these functions know how models and data are read and squeezed."""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from smidgen.budget import Budget, Fidelity, Outcome
from smidgen.code import Stats
from smidgen.errors import InputError, SmidgenError
from smidgen.file import write
from smidgen.plan import Plan
from smidgen.tradeoff.points import Result, Target, Work

if TYPE_CHECKING:
    from smidgen.archive import Archive
    from smidgen.examples import Examples

__all__ = ["attempt", "default_sizes", "described", "one_thread", "solve", "statistics"]


def attempt(target: Target, work: Work, stats: Mapping[str, Stats] | None) -> Result:
    """Makes one point. What keeps it from being made is its result; what keeps all of them is raised."""
    start = time.perf_counter()
    model, examples = _read(work, target.seed)
    try:
        file, fidelity = solve(target, work, model, examples, stats)
    except SmidgenError as error:
        return Result(target, time.perf_counter() - start, failed=str(error))
    return Result(target, time.perf_counter() - start, file, fidelity)


def solve(
    target: Target, work: Work, model: Archive, examples: Examples, stats: Mapping[str, Stats] | None
) -> tuple[bytes, Fidelity]:
    """The file of a point, made and judged as ``compress`` does.

    Raises:
        SmidgenError: it cannot be made.
    """
    from smidgen.api import compress_by_plan
    from smidgen.pipeline import Settings, squeeze_to_budget
    from smidgen.reference import Reference

    with one_thread():
        if target.plan is not None:
            archive = compress_by_plan(model, Plan.parse(target.steps, target.plan))
            return write(archive), Reference(model, examples, work.outputs).fidelity(archive)
        outcome = Outcome(Budget(target.size, target.max_drop))
        settings = Settings(target.seed, epochs=work.finetune, outputs=work.outputs)
        squeeze_to_budget(model, examples, outcome, settings, stats=stats)
    if not outcome.reached:
        raise InputError(outcome.verdict())
    assert outcome.archive
    assert outcome.best
    assert outcome.best.fidelity
    return write(outcome.archive), outcome.best.fidelity


def statistics(work: Work, seed: int) -> dict[str, Stats]:
    """What measuring gives, for all points of a seed."""
    from smidgen.arrange import arranged
    from smidgen.reference import Reference
    from smidgen.survey import measured

    with one_thread():
        model, examples = _read(work, seed)
        ready = arranged(model)
        outputs = Reference(ready, examples, work.outputs, model.graph).outputs
        return measured(ready, examples, seed, outputs=outputs)


def _read(work: Work, seed: int) -> tuple[Archive, Examples]:
    """The model and the pictures, after a check that they are those of the process that was started."""
    from smidgen.given import examples_in
    from smidgen.read import read_model

    data = Path(work.data)
    model = read_model(work.model, data, work.preprocessing)
    if described(model, work) != work:
        raise InputError(
            f"{platform.node()}: {work.model}, {data} or smidgen are not what they were when the sweep started; make "
            "them the same for all workers, and let a function that draws weights set its seed"
        )
    return model, examples_in(data, model, work.pictures, seed)


def described(model: Archive, work: Work) -> Work:
    """The work with what is found where it is done."""
    from smidgen.given import files_in

    weights = hashlib.sha256(model.graph + repr((model.preprocessing, model.labels)).encode())
    for key, array in model.decoded().items():
        weights.update(f"{key} {array.dtype} {array.shape}".encode())
        weights.update(np.ascontiguousarray(array).tobytes())
    found = [f"{path.name} {path.stat().st_size}" for path in files_in(Path(work.data))]
    contents = hashlib.sha256("\n".join(found).encode())
    return replace(
        work,
        weights=weights.hexdigest()[:32],
        contents=contents.hexdigest()[:32],
        smidgen=version("smidgen"),
    )


def default_sizes(model: Archive) -> list[int]:
    """Up to where squeezing has nothing finer to give: on SqueezeNet 18 % of float32."""
    original = 4 * sum(weight.size for weight in model.weights().values())
    return [round(size) for size in np.geomspace(original / 16, original / 6, 12)]


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums of floats come out the same however many cores there are; the other cores have other points."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(before)
