"""``smidgen evaluate``: what compression cost, measured on pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import echo_json, echo_table, json_option, progress

if TYPE_CHECKING:
    from smidgen.archive import Archive

__all__ = ["evaluate"]


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("--data", required=True, type=click.Path(path_type=Path), help="A folder of pictures.")
@json_option
def evaluate(files: tuple[str, ...], data: Path, as_json: bool) -> None:
    """Bytes, accuracy, agreement and KL divergence of FILES on the pictures in a folder.

    The first one is what the others are compared with. A name of the zoo (squeezenet1_1) stands for the uncompressed
    network. With class sub-folders, named by the ids or names of the classes that the file carries, top-1 and top-5
    are measured too.
    """
    from smidgen.run.evaluate import evaluate as evaluate_runners
    from smidgen.run.pictures import find_labelled, find_pictures

    archives = [_open(name) for name in files]
    labelled = find_labelled(data, archives[0].labels)
    pictures = find_pictures(data) if labelled is None else [path for path, _ in labelled]
    truth = None if labelled is None else [index for _, index in labelled]
    sizes = [_size(name, archive) for name, archive in zip(files, archives, strict=True)]
    runners = [archive.runner() for archive in archives]
    with progress(len(pictures), "evaluating") as advance:
        results = evaluate_runners(runners, pictures, truth, advance)
    if as_json:
        echo_json(
            [
                {"file": name, "bytes": size, **asdict(result)}
                for name, size, result in zip(files, sizes, results, strict=True)
            ]
        )
        return
    rows = [
        (
            name,
            f"{size:,}",
            "-" if result.top1 is None else f"{result.top1:.2f}",
            "-" if result.top5 is None else f"{result.top5:.2f}",
            f"{result.agreement:.2f}",
            f"{result.kl:.4f}",
            f"{result.milliseconds:.1f}",
        )
        for name, size, result in zip(files, sizes, results, strict=True)
    ]
    echo_table(("file", "bytes", "top-1 %", "top-5 %", "agreement %", "KL nats", "ms"), rows)
    click.echo(f"{len(pictures):,} pictures from {data}; agreement and KL against {files[0]}")


def _open(name: str) -> Archive:
    from smidgen.archive import open_archive

    if name.endswith(".smidgen") or Path(name).is_file():
        return open_archive(name)
    from smidgen.read import from_module, read_model

    model = read_model(name)
    return from_module(model.module, model.input_shape, model.preprocessing, model.labels)


def _size(name: str, archive: Archive) -> int:
    """Bytes of the file, or of the plain weights of a network that is not in one."""
    if Path(name).is_file():
        return Path(name).stat().st_size
    return sum(weight.nbytes for weight in archive.weights().values())
