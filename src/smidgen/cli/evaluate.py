"""``smidgen evaluate``: what compression cost, measured on pictures."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from smidgen.cli.output import (
    echo_json,
    echo_table,
    engine_option,
    json_option,
    milliseconds,
    outputs_option,
    preprocessing_option,
    progress,
)

if TYPE_CHECKING:
    from smidgen.archive import Archive
    from smidgen.run.runner import Runner

__all__ = ["evaluate", "files_of", "opened", "size_of"]

BATCH = 8


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder of pictures; or an .npz file of inputs, or a folder of those.",
)
@preprocessing_option
@outputs_option
@engine_option
@json_option
def evaluate(
    files: tuple[str, ...],
    data: Path,
    preprocessing: str | None,
    outputs: str | None,
    engine: str | None,
    as_json: bool,
) -> None:
    """Bytes, and how far the answers of FILES are from those of the first one, on pictures or any other inputs.

    FILES are .smidgen or .onnx files; a name of the zoo (squeezenet1_1) stands for the uncompressed network. Of
    classifiers of pictures the agreement of classes and the KL divergence are shown, and with class sub-folders, named
    by the ids or names of the classes that the file carries, top-1 and top-5. Of any other network its outputs are
    compared: divergence, agreement or R squared, relative error and largest difference. The weights are judged, in
    float32, and a file that runs by itself also as it does, in integers; --engine leaves one of the two.
    """
    archives = [opened(name, data, preprocessing) for name in files]
    known = next((archive.preprocessing for archive in archives if archive.preprocessing), None)
    archives = [archive if archive.preprocessing else replace(archive, preprocessing=known) for archive in archives]
    sizes = [size_of(name, archive) for name, archive in zip(files, archives, strict=True)]
    arrays = data.suffix == ".npz" or (data.is_dir() and any(data.glob("*.npz")))
    if arrays or outputs or not _classifies(archives[0]):
        _compare(files, archives, sizes, data, outputs, as_json)
    else:
        judged = [
            _Judged(name, size, computed, archive.runner(engine=how))
            for name, size, archive in zip(files, sizes, archives, strict=True)
            for computed, how in _ways(archive, engine)
        ]
        _recognise(judged, data, as_json)


class _Judged(NamedTuple):
    file: str
    bytes: int
    computed: str
    runner: Runner


def _ways(archive: Archive, engine: str | None) -> list[tuple[str, str]]:
    """How a file is judged: what it is computed in, and the engine that does so."""
    exact, program = ("float32", "onnxruntime"), ("integers", "native")
    if not archive.program or engine == "onnxruntime":
        return [exact]
    return [program] if engine == "native" else [exact, program]


def _classifies(archive: Archive) -> bool:
    """Whether a network takes pictures alone and gives one score for each class, as those for which there is top-1."""
    import onnx

    graph = onnx.load_from_string(archive.graph).graph
    single = len(graph.input) == len(graph.output) == 1 and archive.preprocessing is not None
    return single and all(axis.dim_value == 1 for axis in graph.output[0].type.tensor_type.shape.dim[2:])


def _compare(
    files: tuple[str, ...], archives: list[Archive], sizes: list[int], data: Path, kind: str | None, as_json: bool
) -> None:
    from smidgen.examples import batches, groups
    from smidgen.given import all_in
    from smidgen.reporter import small
    from smidgen.run.compare import compare

    items = all_in(data, archives[0])
    total = sum(1 for _ in groups(items, archives[0], BATCH))
    with progress(total, "evaluating") as advance:
        results = compare(archives, batches(items, archives[0], BATCH), kind, advance)
    rows = [(name, size, one) for name, size, row in zip(files, sizes, results, strict=True) for one in row]
    if as_json:
        echo_json([{"file": name, "bytes": size, **asdict(one)} for name, size, one in rows])
        return
    header = ("file", "bytes", "output", "kind", "divergence", "alike", "cosine", "relative error", "largest", "ms")
    cells = [
        (
            name,
            f"{size:,}",
            one.output,
            one.kind,
            small(one.divergence),
            f"{one.agreement:.2f} %" if one.cosine is None else f"{one.agreement / 100:.4f}",
            "-" if one.cosine is None else f"{one.cosine:.4f}",
            small(one.relative_error),
            f"{one.largest_error:.4g}",
            milliseconds(one.milliseconds),
        )
        for name, size, one in rows
    ]
    echo_table(header, cells)
    click.echo(
        f"{rows[0][2].examples:,} examples from {data}, against {files[0]}. Divergence: KL in nats, of values half the "
        "squared error in parts of their variance; alike: the part of equal answers (of many for each input without "
        "what both take for the commonest, of detections of what one of both finds), of values R squared."
    )


def _recognise(judged: list[_Judged], data: Path, as_json: bool) -> None:
    from smidgen.reporter import small
    from smidgen.run.evaluate import evaluate as evaluate_runners
    from smidgen.run.pictures import find_labelled, find_pictures

    runners = [one.runner for one in judged]
    labelled = find_labelled(data, runners[0].labels)
    pictures = find_pictures(data) if labelled is None else [path for path, _ in labelled]
    truth = None if labelled is None else [index for _, index in labelled]
    with progress(len(pictures), "evaluating") as advance:
        results = evaluate_runners(runners, pictures, truth, advance)
    if as_json:
        echo_json(
            [
                {"file": one.file, "bytes": one.bytes, "computed": one.computed, **asdict(result)}
                for one, result in zip(judged, results, strict=True)
            ]
        )
        return
    rows = [
        (
            one.file,
            f"{one.bytes:,}",
            one.computed,
            "-" if result.top1 is None else f"{result.top1:.2f}",
            "-" if result.top5 is None else f"{result.top5:.2f}",
            f"{result.agreement:.2f}",
            small(result.kl),
            milliseconds(result.milliseconds),
        )
        for one, result in zip(judged, results, strict=True)
    ]
    echo_table(("file", "bytes", "computed in", "top-1 %", "top-5 %", "agreement %", "KL nats", "ms"), rows)
    click.echo(f"{len(pictures):,} pictures from {data}; agreement and KL against {judged[0].file}")


def opened(name: str, data: Path | None = None, preprocessing: str | None = None) -> Archive:
    """The network that a name on the command line stands for: a file, a network of the zoo, or a function's module,
    which takes what there is in ``data``."""
    from smidgen.archive import open_archive
    from smidgen.preprocess import with_preprocessing

    if name.endswith(".smidgen") or (Path(name).is_file() and Path(name).suffix not in (".onnx", ".pt2")):
        return with_preprocessing(open_archive(name), preprocessing)
    from smidgen.read import read_model

    return read_model(name, data, preprocessing)


def size_of(name: str, archive: Archive) -> int:
    """Bytes of the file, or of the plain weights of a network that is not in one."""
    if Path(name).is_file():
        return sum(path.stat().st_size for path in files_of(Path(name)))
    return sum(weight.nbytes for weight in archive.weights().values())


def files_of(path: Path) -> list[Path]:
    """A file, and those in which it keeps data if it is an ONNX file."""
    if path.suffix != ".onnx":
        return [path]
    import onnx

    from smidgen.run.onnx_graph import tensors_of

    tensors = tensors_of(onnx.load(path, load_external_data=False))
    places = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return [path, *(path.parent / place for place in sorted(places))]
