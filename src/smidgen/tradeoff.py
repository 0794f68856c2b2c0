"""The whole trade-off curve: many targets and seeds in parallel, their results in one SQLite file, the Pareto front.

A point is asked for by a ``Target``. Workers make it (``attempt``) and send back a ``Result``, which holds the bytes of
the file; the process that was started writes files and database, alone. So workers need share no disk with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, astuple, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from smidgen.budget import Budget, Fidelity, Outcome
from smidgen.code import Stats
from smidgen.errors import InputError, SmidgenError
from smidgen.file import replace_file, write
from smidgen.plan import Plan

if TYPE_CHECKING:
    from smidgen.archive import Archive
    from smidgen.examples import Examples
    from smidgen.pipeline import Reporter

__all__ = ["DATABASE", "FRONT", "PLOT", "Row", "Target", "Work", "front", "open_rows", "sweep"]

DATABASE, FRONT, PLOT = "sweep.sqlite", "pareto.json", "pareto.png"
PATIENCE = 10
"""Seconds in which a scheduler must answer."""


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
        outputs: what the first output is, if the user says so.
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
        return key


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
        kl: mean Kullback-Leibler divergence from the original's answers in nats, on held-out pictures.
        agreement: percent of the held-out pictures that are given the original's class.
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
        outputs: what the first output is, see ``smidgen.run.outputs``; None to find out.
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
    from smidgen.pipeline import Reporter
    from smidgen.preprocess import with_preprocessing
    from smidgen.read import read_model

    reporter, data, output = reporter or Reporter(), Path(data).absolute(), Path(output)
    loaded = with_preprocessing(read_model(model), preprocessing)
    work = _described(loaded, Work(model, str(data), pictures, finetune, preprocessing, outputs))
    if output.absolute().resolve().is_relative_to(data.resolve()):
        raise InputError(f"{output}: lies in the folder of pictures; give another -o, or its plot would be one of them")
    if not (sizes or max_drops or plans):
        sizes = _default_sizes(loaded)
    targets = [Target(size=size, seed=seed) for seed in seeds for size in sizes]
    targets += [Target(max_drop=drop, seed=seed) for seed in seeds for drop in map(float, max_drops)]
    targets += [Target.by_plan(plan, seed) for seed in seeds for plan in plans]
    with _opened_store(output, work) as store:
        done = {row.name for row in _rows(store) if row.failed is not None or _is_there(output, row)}
        left = [target for target in dict.fromkeys(targets) if target.name not in done]
        reporter.say(f"{len(left)} points to make, {len(done)} are there already")
        try:
            if left:
                results = _on_cluster(scheduler, work, left) if scheduler else _on_this_machine(jobs, work, left)
                _keep_all(store, output, results, reporter.progress(len(left), "points"))
        finally:
            rows = _rows(store)
            _write_front(output, rows, reporter)
    return rows


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


# What workers do. Only these functions know how models and pictures are read and squeezed.


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
    from smidgen.pipeline import Reference, Settings, squeeze_to_budget

    with _one_thread():
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
    from smidgen.pipeline import Reference, measured

    with _one_thread():
        model, examples = _read(work, seed)
        model = arranged(model)
        return measured(model, examples, seed, outputs=Reference(model, examples, work.outputs).outputs)


def _read(work: Work, seed: int) -> tuple[Archive, Examples]:
    """The model and the pictures, after a check that they are those of the process that was started."""
    from smidgen.examples import examples_in
    from smidgen.preprocess import with_preprocessing
    from smidgen.read import read_model

    model, data = with_preprocessing(read_model(work.model), work.preprocessing), Path(work.data)
    if _described(model, work) != work:
        raise InputError(
            f"{platform.node()}: {work.model}, {data} or smidgen are not what they were when the sweep started; make "
            "them the same for all workers, and let a function that draws weights set its seed"
        )
    return model, examples_in(data, model, work.pictures, seed)


def _described(model: Archive, work: Work) -> Work:
    """The work with what is found where it is done."""
    from smidgen.examples import files_in

    weights = hashlib.sha256(model.graph + repr((model.preprocessing, model.labels)).encode())
    for key, array in model.weights().items():
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


def _default_sizes(model: Archive) -> list[int]:
    """Up to where squeezing has nothing finer to give: on SqueezeNet 18 % of float32."""
    original = 4 * sum(weight.size for weight in model.weights().values())
    return [round(size) for size in np.geomspace(original / 16, original / 6, 12)]


@contextmanager
def _one_thread() -> Iterator[None]:
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


# Who works: one generator of results for each kind of scheduler.


def _seeds_to_measure(targets: Sequence[Target]) -> list[int]:
    return sorted({target.seed for target in targets if target.plan is None})


def _on_this_machine(jobs: int, work: Work, targets: Sequence[Target]) -> Iterator[Result]:
    """Processes of joblib measure each seed once; what they found is mapped from memory by all others."""
    from joblib import Parallel, delayed
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    try:
        ends = {"initializer": _end_with, "initargs": (os.getpid(),)}
        seeds = _seeds_to_measure(targets)
        found = Parallel(jobs, **ends)(delayed(statistics)(work, seed) for seed in seeds)
        stats = dict(zip(seeds, found, strict=True))
        yield from Parallel(jobs, return_as="generator_unordered", **ends)(
            delayed(attempt)(target, work, None if target.plan else stats[target.seed]) for target in targets
        )
    except TerminatedWorkerError:
        raise InputError(
            "a worker process was killed, probably for want of memory; give fewer --jobs, and the same folder: "
            "what is done is kept"
        ) from None


def _end_with(parent: int) -> None:
    """Lets a process end with the one that started it; joblib's would stay, for ever if busy, when that is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.2)
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _on_cluster(address: str, work: Work, targets: Sequence[Target]) -> Iterator[Result]:
    """Workers of Dask measure each seed once, and hand what they found from one to another."""
    from distributed import Client, KilledWorker, as_completed
    from distributed.comm.addressing import get_address_host_port

    try:
        get_address_host_port(address)  # a client of an address that is none would complain for seconds
        client = Client(address, timeout=PATIENCE, set_as_default=False)  # type: ignore[no-untyped-call]
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{address}: no Dask scheduler answers: {reason}; `dask scheduler` starts one") from None
    with client:
        _check_workers(address, client.run(_version_finder()))
        measured = {seed: client.submit(statistics, work, seed) for seed in _seeds_to_measure(targets)}
        futures = [
            client.submit(attempt, target, work, None if target.plan else measured[target.seed]) for target in targets
        ]
        del measured  # what no point needs any more, the workers may forget
        try:
            for future in as_completed(futures, loop=client.loop):  # type: ignore[no-untyped-call]
                yield future.result()
                future.release()
        except KilledWorker:
            raise InputError(
                f"{address}: several workers died at the same point, probably for want of memory; what is done is kept"
            ) from None
        except CancelledError:
            raise InputError(f"{address}: the scheduler is gone; what is done is kept, the same call goes on") from None


def _version_finder() -> Callable[[], str]:
    """A function that also works where smidgen is not installed: being local, it is sent with its code."""

    def installed() -> str:
        try:
            return version("smidgen")
        except PackageNotFoundError:
            return "none"

    return installed


def _check_workers(address: str, versions: Mapping[str, str]) -> None:
    if not versions:
        raise InputError(f"{address}: the scheduler has no workers; `dask worker {address}` starts one")
    mine = version("smidgen")
    for worker, found in versions.items():
        if found != mine:
            raise InputError(f"{worker}: this worker has smidgen {found}, and {mine} is needed; install it there")


# The store: one row for each finished point.

SCHEMA = """
CREATE TABLE sweep (key TEXT NOT NULL);
CREATE TABLE points (
  name TEXT PRIMARY KEY, size INTEGER, max_drop REAL, plan TEXT, seed INTEGER NOT NULL, failed TEXT, file TEXT,
  bytes INTEGER, kl REAL, agreement REAL, lost REAL, labelled INTEGER, judged INTEGER, seconds REAL NOT NULL
);
"""
COLUMNS = ", ".join(field.name for field in fields(Row))


@contextmanager
def _opened_store(folder: Path, work: Work | None) -> Iterator[sqlite3.Connection]:
    """The database in a folder, made if there is none and it is known what for.

    Raises:
        InputError: it is no sweep's, one of other work, or cannot be read or written.
    """
    path = folder / DATABASE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    try:
        store = sqlite3.connect(path)
        try:
            _check_key(store, path, work)
            yield store
        finally:
            store.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be used: {error}; give another -o, or move it away") from None


def _check_key(store: sqlite3.Connection, path: Path, work: Work | None) -> None:
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and work:
        key = json.dumps(work.key)
        with store:
            store.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";")[:-1]:
                store.execute(statement)
            store.execute("INSERT INTO sweep VALUES (?)", (key,))
    elif not {"sweep", "points"} <= tables:
        raise InputError(f"{path}: is no database of a sweep; give another -o, or move it away")
    elif work:
        (text,) = store.execute("SELECT key FROM sweep").fetchone()
        there = json.loads(text)
        for name, value in work.key.items():
            if there.get(name) != value:
                what = {"weights": "weights of the model", "contents": "pictures", "pictures": "--pictures"}
                raise InputError(
                    f"{path}: holds a sweep with other {what.get(name, name)} ({there.get(name)}, not {value}); give "
                    "another -o"
                )


def open_rows(folder: Path) -> list[Row]:
    """All finished points of the sweep in a folder.

    Raises:
        InputError: there is none.
    """
    if not (folder / DATABASE).is_file():
        raise InputError(f"{folder}: holds no sweep")
    with _opened_store(folder, None) as store:
        return _rows(store)


def _rows(store: sqlite3.Connection) -> list[Row]:
    order = "plan, max_drop, size, seed"  # what is missing comes first, so sizes go before drops, and plans are last
    rows = [Row(*values) for values in store.execute(f"SELECT {COLUMNS} FROM points ORDER BY {order}")]
    return [row if row.labelled is None else replace(row, labelled=bool(row.labelled)) for row in rows]


def _is_there(folder: Path, row: Row) -> bool:
    path = folder / str(row.file)
    return path.is_file() and path.stat().st_size == row.bytes


def _keep_all(
    store: sqlite3.Connection,
    folder: Path,
    results: Iterable[Result],
    progress: AbstractContextManager[Callable[[int], None]],
) -> None:
    with progress as advance:
        for count, result in enumerate(results, 1):
            _keep(store, folder, result)
            advance(count)


def _keep(store: sqlite3.Connection, folder: Path, result: Result) -> None:
    """Writes the file of a point, then its row: whoever finds a row finds its file."""
    target, fidelity = result.target, result.fidelity
    row = Row(target.name, target.size, target.max_drop, target.plan, target.seed, result.failed)
    if fidelity:
        path = folder / f"{target.name}.smidgen"
        for torn in folder.glob(f".{path.name}.*"):  # what a kill has left
            torn.unlink(missing_ok=True)
        replace_file(path, lambda temporary: temporary.write_bytes(result.file))
        row = replace(
            row,
            file=path.name,
            bytes=path.stat().st_size,
            kl=fidelity.kl,
            agreement=fidelity.agreement,
            lost=fidelity.drop,
            labelled=fidelity.measure == "top-1",
            judged=fidelity.pictures,
        )
    with store:
        marks = ", ".join("?" for _ in fields(Row))
        store.execute(
            f"INSERT OR REPLACE INTO points ({COLUMNS}, seconds) VALUES ({marks}, ?)", (*astuple(row), result.seconds)
        )


# The front, to look at.


def _write_front(folder: Path, rows: Sequence[Row], reporter: Reporter) -> None:
    text = json.dumps({"front": [asdict(row) for row in front(rows)]}, indent=1)
    replace_file(folder / FRONT, lambda temporary: temporary.write_text(text + "\n"))
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        reporter.say(f"{PLOT} is left out: it needs matplotlib, which pip install 'smidgen[plots]' brings")
        return
    figure = Figure(figsize=(9, 6), layout="constrained")
    _draw(figure.add_subplot(), rows)
    replace_file(folder / PLOT, lambda temporary: figure.savefig(temporary, format="png", dpi=120))


def _draw(axes: Any, rows: Sequence[Row]) -> None:
    """Bytes against divergence: every point by its kind, the front as a line."""
    from matplotlib.ticker import LogLocator, NullFormatter

    judged = [row for row in rows if row.kl is not None]
    kinds = {
        "--size": [row for row in judged if row.size is not None],
        "--max-drop": [row for row in judged if row.max_drop is not None],
        "--plan": [row for row in judged if row.plan is not None],
    }
    axes.step(*_coordinates(front(rows)), color="0.6", where="post", label="Pareto front")
    for (label, found), marker in zip(kinds.items(), "osD", strict=True):
        if found:
            axes.plot(*_coordinates(found), marker, label=label)
    smallest = min([row.kl for row in judged if row.kl], default=1.0)
    axes.set_yscale("symlog", linthresh=smallest)  # logarithmic, but for files without loss
    axes.set(xscale="log", xlabel="size of the file, KB", ylabel="KL divergence from the original, nats")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend()


def _coordinates(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """Kilobytes and nats, of rows with a file."""
    return [(row.bytes or 0) / 1000 for row in rows], [row.kl or 0.0 for row in rows]
