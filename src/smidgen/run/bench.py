"""A network in every engine at hand: time, cold start, memory and bytes, measured side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen import _core
from smidgen.errors import ModelError, SmidgenError, one_line
from smidgen.run import engines
from smidgen.run.engines import ENGINES, RUNTIMES, Run, missing
from smidgen.run.timing import interleaved

__all__ = ["STARTS", "Latency", "Measured", "bench", "to_ncnn"]

STARTS = 5
"""Times that each engine is started, after one that is not counted."""

_SETTLE = 0.02
"""Seconds after which no thread of these engines spins any more: OpenVINO's do for 1 ms, ncnn's for 5."""


@dataclass(frozen=True)
class Latency:
    """Milliseconds for one input on a number of threads: median and minimum of all rounds."""

    threads: int
    median: float
    minimum: float


@dataclass(frozen=True)
class Measured:
    """What one engine needs for a network.

    Args:
        engine: its name in ``ENGINES``.
        bytes: of the model's files.
        runtime_bytes: of the installed package, or None if it is none; of ``native`` the compiled core.
        cold_start: median time from the start of a process, Python included, to the first answer, in milliseconds.
        peak_memory: median of what such a process had in memory at most, Python included, in bytes.
        latency: for each number of threads.
    """

    engine: str
    bytes: int
    runtime_bytes: int | None
    cold_start: float
    peak_memory: int
    latency: tuple[Latency, ...]


def bench(
    names: Sequence[str],
    models: Mapping[str, Sequence[Path]],
    batch: NDArray[Any],
    threads: Sequence[int],
    rounds: int,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[list[Measured], dict[str, str]]:
    """Runs one input in several engines, in turn, so that a noisy machine favours none.

    Args:
        names: of the engines, from ``ENGINES``.
        models: the files of each model that these run, by the names in ``Engine``; the first is the one to load.
        batch: the input; its first axis is that of examples.
        threads: numbers of threads to measure with; the first is that of the cold start.
        rounds: how often each engine is timed with each number of threads.
        on_progress: called with the number of steps done, of ``len(threads) + STARTS + 1``.

    Returns:
        What was measured of each engine that can run the network; and of the others by name why not.

    Raises:
        ModelError: an engine runs here, but not in a process of its own.
    """
    tell = on_progress or (lambda done: None)
    runs: dict[str, list[Run]] = {}
    left_out: dict[str, str] = {}
    for name in names:
        runtime, model = ENGINES[name]
        reason = missing(runtime)
        if reason is not None:
            left_out[name] = reason
            continue
        try:
            runs[name] = [RUNTIMES[runtime](str(models[model][0]), count, batch.shape) for count in threads]
            for run in runs[name]:
                run(batch)
        except Exception as error:  # what runtimes raise has no common base
            left_out[name] = str(error) if isinstance(error, SmidgenError) else one_line(error)
            runs.pop(name, None)
    latencies: dict[str, list[Latency]] = {name: [] for name in runs}
    for place, count in enumerate(threads):
        here = [partial(_run, row[place], batch) for row in runs.values()]
        times = interleaved(here, rounds, _SETTLE if count > 1 else 0.0)
        for name, column in zip(runs, times.T, strict=True):
            latencies[name].append(Latency(count, float(np.median(column)), float(column.min())))
        tell(place + 1)
    starts = _cold_starts(list(runs), models, batch, threads[0], lambda done: tell(len(threads) + done))
    return [
        Measured(
            name,
            sum(path.stat().st_size for path in models[ENGINES[name].model]),
            _runtime_bytes(ENGINES[name].runtime),
            *starts[name],
            tuple(latencies[name]),
        )
        for name in runs
    ], left_out


def to_ncnn(model: Path, shape: Sequence[int]) -> list[Path]:
    """The two files that pnnx makes of an ONNX model for ncnn, in float32, beside it and others.

    Args:
        model: the ONNX file.
        shape: of its input.

    Raises:
        ModelError: ncnn or pnnx is not installed, or pnnx cannot do it.
    """
    reason = missing("ncnn")
    if reason is not None:
        raise ModelError(reason)
    sizes = ",".join(map(str, shape))
    command = [str(distribution("pnnx").locate_file("pnnx/pnnx")), model.name, f"inputshape=[{sizes}]f32", "fp16=0"]
    done = subprocess.run(command, cwd=model.parent, capture_output=True, check=False)
    made = [model.with_suffix(f".ncnn.{kind}") for kind in ("param", "bin")]
    if done.returncode or not all(path.is_file() for path in made):
        raise ModelError("pnnx cannot convert the graph")
    return made


def _run(run: Run, batch: NDArray[Any], turn: int) -> object:
    return run(batch)


def _cold_starts(
    names: Sequence[str],
    models: Mapping[str, Sequence[Path]],
    batch: NDArray[Any],
    threads: int,
    on_progress: Callable[[int], None],
) -> dict[str, tuple[float, int]]:
    """Median milliseconds to the first answer and median peak of memory, in processes that take turns."""
    rng, found = np.random.default_rng(0), np.zeros((STARTS + 1, len(names), 2))
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder, "input.npy")
        np.save(given, batch)
        for turn in range(STARTS + 1):
            for place in rng.permutation(len(names)):
                runtime, model = ENGINES[names[place]]
                script = [sys.executable, "-P", engines.__file__, runtime]
                command = [*script, str(models[model][0]), str(threads), str(given)]
                start = time.monotonic_ns()
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    last = (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
                    raise ModelError(f"{names[place]} cannot start in a process of its own: {last}")
                said = json.loads(done.stdout.splitlines()[-1])
                found[turn, place] = (said["answered"] - start) / 1e6, said["peak"]
            on_progress(turn + 1)
    return {
        name: (float(start), int(peak)) for name, (start, peak) in zip(names, np.median(found[1:], axis=0), strict=True)
    }


def _runtime_bytes(runtime: str) -> int | None:
    if runtime == "native":
        return Path(_core.__file__).stat().st_size
    for name in packages_distributions().get(runtime, ()):
        places = [Path(str(file.locate())) for file in distribution(name).files or ()]
        return sum(place.stat().st_size for place in places if place.is_file())
    return None
