"""The whole trade-off curve: many targets and seeds in parallel, their results in one SQLite file, the Pareto front.

A point is asked for by a ``Target``. Workers make it (``attempt``) and send back a ``Result``, which holds the bytes of
the file; the process that was started writes files and database, alone. So workers need share no disk with it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from smidgen.errors import InputError
from smidgen.reporter import Reporter
from smidgen.tradeoff.plot import write_front
from smidgen.tradeoff.points import Row, Target, Work, front
from smidgen.tradeoff.schedulers import on_cluster, on_this_machine
from smidgen.tradeoff.store import DATABASE, is_there, keep_all, open_rows, opened_store, rows_of
from smidgen.tradeoff.workers import default_sizes, described

__all__ = ["DATABASE", "Row", "front", "open_rows", "sweep"]


def sweep(
    model: str,
    data: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    sizes: Sequence[int] = (),
    max_drops: Sequence[float] = (),
    plans: Sequence[str] = (),
    seeds: Sequence[int] = (0,),
    finetune: int = 0,
    pictures: int = 2000,
    preprocessing: str | None = None,
    outputs: str | None = None,
    jobs: int = -1,
    scheduler: str | None = None,
    reporter: Reporter | None = None,
) -> list[Row]:
    """Compresses a network to many targets in parallel, and finds which files no other one beats.

    ``output`` then holds a ``.smidgen`` file for each point, all figures (``sweep.sqlite``) and the Pareto front
    (``pareto.json``, ``pareto.png``). Points that are there already are not made again, so a sweep that was killed goes
    on when it is called again. A point that cannot be made has its reason in its row.

    Args:
        model: as for the command line: ``squeezenet1_1``, an ONNX file, ``package.module:function``.
        data: a folder of pictures, an ``.npz`` file, or a folder of those.
        output: a folder, made if there is none.
        sizes: bytes that a file must not exceed, one for each point.
        max_drops: points of accuracy that may be lost, one for each point.
        plans: plans to follow, as for ``compress``. Without any target twelve sizes from 1/16 to 1/6 of float32 are.
        seeds: each target is tried with each of them.
        finetune: epochs of distillation, where there is no plan.
        pictures: how many to calibrate on at most.
        preprocessing: how pictures become the input, where the model does not say, see ``smidgen.preprocess``.
        outputs: what outputs are, see ``smidgen.run.kinds.kinds_in``; None to find out.
        jobs: processes on this machine; -1 for one for each core.
        scheduler: address of a Dask scheduler whose workers do the work instead.
        reporter: is told what happens.

    Returns:
        All points in the folder.

    Raises:
        ModelError, PlanError: the model or a plan cannot be read.
        InputError: the folder holds a sweep of something else, there are no pictures, or the scheduler cannot be used.

    Example:
        >>> import smidgen, tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     photos, output = Path(folder, "photos"), Path(folder, "sweep")
        ...     photos.mkdir()
        ...     Image.new("RGB", (40, 40), "red").save(photos / "red.png")
        ...     rows = smidgen.sweep("squeezenet1_1", photos, output, plans=["lossless"], jobs=1)
        ...     rows[0].file, rows[0].kl, rows[0].bytes == (output / rows[0].file).stat().st_size
        ('plan-lossless-seed-0.smidgen', 0.0, True)
    """
    from smidgen.read import read_model

    reporter, data, output = reporter or Reporter(), Path(data).absolute(), Path(output)
    loaded = read_model(model, data, preprocessing)
    work = described(loaded, Work(model, str(data), pictures, finetune, preprocessing, outputs))
    if output.absolute().resolve().is_relative_to(data.resolve()):
        raise InputError(f"{output}: lies in the folder of pictures; give another -o, or its plot would be one of them")
    if not (sizes or max_drops or plans):
        sizes = default_sizes(loaded)
    targets = _targets(sizes, max_drops, plans, seeds)
    with opened_store(output, work) as store:
        done = {row.name for row in rows_of(store) if row.failed is not None or is_there(output, row)}
        left = [target for target in dict.fromkeys(targets) if target.name not in done]
        reporter.say(f"{len(left)} points to make, {len(done)} are there already")
        try:
            if left:
                results = on_cluster(scheduler, work, left) if scheduler else on_this_machine(jobs, work, left)
                keep_all(store, output, results, reporter.progress(len(left), "points"))
        finally:
            rows = rows_of(store)
            write_front(output, rows, reporter)
    return rows


def _targets(
    sizes: Sequence[int], max_drops: Sequence[float], plans: Sequence[str], seeds: Sequence[int]
) -> list[Target]:
    targets = [Target(size=size, seed=seed) for seed in seeds for size in sizes]
    targets += [Target(max_drop=drop, seed=seed) for seed in seeds for drop in map(float, max_drops)]
    return targets + [Target.by_plan(plan, seed) for seed in seeds for plan in plans]
