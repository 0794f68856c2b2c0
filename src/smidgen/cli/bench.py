"""``smidgen bench``: the network in every engine at hand, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smidgen.cli.evaluate import files_of
from smidgen.cli.export import drawn, quantized
from smidgen.cli.output import echo_json, echo_table, json_option, milliseconds, preprocessing_option, progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from smidgen.archive import Archive
    from smidgen.examples import Item
    from smidgen.run.bench import Measured

__all__ = ["bench"]

_PICTURES = 100


def _names(context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    from smidgen.run.engines import ENGINES

    if value is None:
        return None
    names = list(dict.fromkeys(value.split(",")))
    for name in names:
        if name not in ENGINES:
            raise click.BadParameter(f"engine {name!r} is unknown; choose from {', '.join(ENGINES)}")
    return names


def _counts(context: click.Context, parameter: click.Parameter, value: str) -> list[int]:
    counts = value.split(",")
    if not all(count.isdecimal() and int(count) > 0 for count in counts):
        raise click.BadParameter(f"{value!r} is no list of numbers of threads, as in 1,2")
    return list(dict.fromkeys(map(int, counts)))


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--against", type=click.Path(path_type=Path), help="Another ONNX file that takes the same input.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="What to calibrate int8 on, and to run: a folder of pictures, an .npz file, or a folder of those.",
)
@preprocessing_option
@click.option(
    "--engines",
    "names",
    callback=_names,
    help="Only these, as in native,onnxruntime,openvino-int8; a wrong name lists all.",
)
@click.option("--threads", default="1,2", show_default=True, callback=_counts, help="Numbers of threads to run on.")
@click.option("--rounds", default=100, show_default=True, type=click.IntRange(1), help="How often to time each engine.")
@json_option
def bench(
    file: Path,
    against: Path | None,
    data: Path | None,
    preprocessing: str | None,
    names: list[str] | None,
    threads: list[int],
    rounds: int,
    as_json: bool,
) -> None:
    """Compares the engines that can run the network of FILE on this machine, and recommends the fastest.

    \b
    smidgen bench net.smidgen --data photos/
    smidgen bench net.smidgen --against mine.onnx --engines native,onnxruntime-against --threads 1

    Engines run one input in turn, so that a noisy machine favours none. Each is also started in a process of its own,
    for the time to its first answer and its memory. OpenVINO and ncnn take part if they are installed (pip install
    openvino ncnn, and pnnx, which makes networks for ncnn).
    """
    from smidgen.archive import open_archive
    from smidgen.errors import ModelError
    from smidgen.preprocess import with_preprocessing
    from smidgen.run.bench import STARTS
    from smidgen.run.bench import bench as measure
    from smidgen.run.engines import ENGINES

    archive = with_preprocessing(open_archive(file), preprocessing)
    items = drawn(archive, data, _PICTURES) if data is not None else []
    batch = _input(archive, items)
    chosen = names or [name for name, engine in ENGINES.items() if against or engine.model != "against"]
    models: dict[str, list[Path]] = {}
    absent = {
        "file": "the file has no program, which running without ONNX Runtime needs",
        "against": "it needs --against, another ONNX file",
        "int8": "it needs --data to calibrate on",
    }
    if archive.program:
        models["file"] = [file]
    if against is not None:
        _check_against(against, batch)
        models["against"] = files_of(against)
    with tempfile.TemporaryDirectory() as folder:
        for kind in {ENGINES[name].model for name in chosen} - {"file", "against", *([] if items else ["int8"])}:
            try:
                models[kind] = _made(kind, archive, items, batch.shape, Path(folder))
            except ModelError as error:
                absent[kind] = str(error)
        able = [name for name in chosen if ENGINES[name].model in models]
        with progress(len(threads) + STARTS + 1, "timing") as advance:
            results, failed = measure(able, models, batch, threads, rounds, advance)
    left_out = {
        name: failed.get(name) or absent[ENGINES[name].model] for name in chosen if name in failed or name not in able
    }
    if not results:
        raise ModelError(f"{file}: no engine can run it: {'; '.join(f'{n}: {why}' for n, why in left_out.items())}")
    if as_json:
        report = {"file": str(file), "input": batch.shape, "rounds": rounds, "engines": [asdict(r) for r in results]}
        fastest = [_fastest(results, place) for place in range(len(threads))]
        echo_json({**report, "left_out": left_out, "fastest": fastest})
        return
    _show(results, threads)
    for name, why in left_out.items():
        click.echo(f"left out: {name}: {why}")
    for place in range(len(threads)):
        click.echo(_verdict(_fastest(results, place)))


def _input(archive: Archive, items: list[Item]) -> NDArray[Any]:
    """The first example, or random numbers where it is known what shape they must have."""
    import numpy as np

    from smidgen.errors import InputError, ModelError
    from smidgen.examples import batches, inputs_of
    from smidgen.run.program import Program

    inputs = inputs_of(archive)
    if len(inputs) != 1:
        raise ModelError(f"networks of one input can be compared, not of {len(inputs)}")
    ((name, dtype, sizes, _),) = inputs
    if items:
        return next(batches(items, archive, 1))[name]
    known = Program.from_bytes(archive.program).tensors[0] if archive.program else archive.preprocessing
    usual = (1, None, known.height, known.width) if known and len(sizes) == 4 else (1,) + (None,) * (len(sizes) - 1)
    shape = [given or common for given, common in zip(sizes, usual, strict=True)]
    if dtype != np.float32 or None in shape:
        free = ", ".join("any" if size is None else str(size) for size in sizes)
        raise InputError(f"input {name!r} is {dtype} ({free}); give an example of it with --data")
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)  # type: ignore[arg-type]


def _check_against(path: Path, batch: NDArray[Any]) -> None:
    """Runs another ONNX file once on the same input, whatever that is called there."""
    import onnx

    from smidgen.container import read_bytes
    from smidgen.errors import ModelError, SmidgenError, one_line
    from smidgen.run.session import Engine

    read_bytes(path)
    try:
        model = onnx.load(path)
    except Exception as error:  # the class of the error depends on the version of protobuf
        raise ModelError(f"{path}: is not an ONNX model: {one_line(error)}") from None
    try:
        engine = Engine(model, 1)
        engine(dict.fromkeys(engine.inputs, batch))
    except SmidgenError as error:
        raise type(error)(f"{path}: {error}") from None


def _made(kind: str, archive: Archive, items: list[Item], shape: tuple[int, ...], folder: Path) -> list[Path]:
    """The files of a model that is made of the network's graph; see ``smidgen.run.engines.Engine``.

    Raises:
        ModelError: it cannot be made, and why.
    """
    from smidgen.run.bench import to_ncnn

    model = folder / f"{kind}.onnx"
    model.write_bytes(quantized(archive, items) if kind == "int8" else archive.onnx().SerializeToString())
    return to_ncnn(model, shape) if kind == "ncnn" else [model]


def _show(results: Sequence[Measured], threads: Sequence[int]) -> None:
    header = ["engine", "bytes", "runtime bytes", "cold start ms", "peak MB"]
    for count in threads:
        header += [f"median ms, {_counted(count)}", "minimum"]
    rows = [
        (
            result.engine,
            f"{result.bytes:,}",
            "-" if result.runtime_bytes is None else f"{result.runtime_bytes:,}",
            f"{result.cold_start:.0f}",
            f"{result.peak_memory / 1e6:.0f}",
            *(milliseconds(number) for time in result.latency for number in (time.median, time.minimum)),
        )
        for result in results
    ]
    echo_table(header, rows)
    click.echo("Cold start and peak memory are those of a process of its own, Python and numpy included.")


def _fastest(results: Sequence[Measured], place: int) -> dict[str, Any]:
    """The engine with the least minimum, since what else the machine does only adds to it; and how far others are."""
    times = {result.engine: result.latency[place].minimum for result in results}
    first, *others = sorted(times, key=lambda name: times[name])
    found: dict[str, Any] = {"threads": results[0].latency[place].threads, "engine": first, "minimum": times[first]}
    found["by_median"] = min(results, key=lambda result: result.latency[place].median).engine
    if others:
        found |= {"second": others[0], "times_as_fast": times[others[0]] / times[first]}
    if "native" in others:
        found["native_times_as_long"] = times["native"] / times[first]
    return found


def _verdict(fastest: Mapping[str, Any]) -> str:
    """One line that recommends the fastest engine.

    Example:
        >>> found = {"threads": 1, "engine": "openvino-int8", "minimum": 1.5, "by_median": "openvino-int8"}
        >>> found |= {"second": "ncnn", "times_as_fast": 1.2}
        >>> _verdict(found)
        '1 thread: use openvino-int8, the fastest (minimum 1.50 ms), 1.20 times as fast as ncnn'
        >>> _verdict({**found, "threads": 2, "native_times_as_long": 2.0, "by_median": "ncnn"})
        '2 threads: ...; native takes 2.00 times as long; by the median ncnn is: the machine is too busy to be sure'
    """
    least = milliseconds(fastest["minimum"])
    line = f"{_counted(fastest['threads'])}: use {fastest['engine']}, the fastest (minimum {least} ms)"
    if "second" in fastest:
        line += f", {fastest['times_as_fast']:.2f} times as fast as {fastest['second']}"
    if "native_times_as_long" in fastest and fastest["second"] != "native":
        line += f"; native takes {fastest['native_times_as_long']:.2f} times as long"
    if fastest["by_median"] != fastest["engine"]:
        line += f"; by the median {fastest['by_median']} is: the machine is too busy to be sure"
    return line


def _counted(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
