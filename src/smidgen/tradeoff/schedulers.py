"""Who works: processes of this machine, or a cluster; one generator of results for each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from importlib.metadata import PackageNotFoundError, version
from threading import Thread

from smidgen.errors import InputError
from smidgen.tradeoff.points import Result, Target, Work
from smidgen.tradeoff.workers import attempt, statistics

__all__ = ["on_cluster", "on_this_machine"]

PATIENCE = 10
"""Seconds in which a scheduler must answer."""


def _seeds_to_measure(targets: Sequence[Target]) -> list[int]:
    return sorted({target.seed for target in targets if target.plan is None})


def on_this_machine(jobs: int, work: Work, targets: Sequence[Target]) -> Iterator[Result]:
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


def on_cluster(address: str, work: Work, targets: Sequence[Target]) -> Iterator[Result]:
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
