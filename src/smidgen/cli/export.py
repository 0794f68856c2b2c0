"""``smidgen export``: the network for other tools."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smidgen.cli.output import echo_json, json_option, milliseconds, preprocessing_option, progress

if TYPE_CHECKING:
    from smidgen.archive import Archive
    from smidgen.examples import Item

__all__ = ["drawn", "export", "quantized"]

_TIMED_ROUNDS = 40
FEW = 20
"""With fewer examples than these left over, answers are compared on those that it was calibrated on."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--to", "kind", required=True, type=click.Choice(["onnx", "onnx-int8", "safetensors", "web"]), help="The format."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="What to calibrate onnx-int8 on: a folder of pictures, an .npz file, or a folder of those.",
)
@preprocessing_option
@click.option(
    "--pictures", default=100, show_default=True, type=click.IntRange(min=1), help="How many of them to take at most."
)
@click.option("--samples", type=click.Path(path_type=Path), help="Of web: a folder of pictures to offer.")
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The file to make; of web the folder."
)
@json_option
def export(
    file: Path,
    kind: str,
    data: Path | None,
    preprocessing: str | None,
    pictures: int,
    samples: Path | None,
    output: Path,
    as_json: bool,
) -> None:
    """Writes the network of FILE as ONNX, its weights as safetensors in float32, or as a page for the browser.

    onnx-int8 is ONNX that computes with integers of 8 bits, for ONNX Runtime on a CPU. What ranges the activations
    have is taken from pictures like those that the network will see (no labels are needed), and the time for one
    picture is measured against float32.

    web is a folder for any host of static files: a page that recognises pictures in the visitor's browser, by the
    network as it is in FILE. See it with: python -m http.server -d FOLDER
    """
    from smidgen.archive import open_archive
    from smidgen.disk import replace_file
    from smidgen.errors import ModelError
    from smidgen.preprocess import with_preprocessing

    if (kind == "onnx-int8") != (data is not None):
        raise click.UsageError("--to onnx-int8 needs --data, a folder of pictures; the other formats take none")
    if kind == "web":
        if preprocessing:
            raise click.UsageError("--to web takes the file as it is; compress it with --preprocessing")
        _web(file, samples, output, as_json)
        return
    if samples:
        raise click.UsageError("--samples goes with --to web")
    archive = with_preprocessing(open_archive(file), preprocessing)
    told: dict[str, Any] = {}
    if data is not None:
        content, told = _int8(archive, data, pictures, output)
    elif kind == "onnx":
        if not archive.onnx().graph.output:
            raise ModelError(f"{file}: holds only weights and no network; export them as safetensors")
        content = archive.onnx().SerializeToString(deterministic=True)
    else:
        content = archive.safetensors()
    replace_file(output, lambda temporary: temporary.write_bytes(content))
    size = output.stat().st_size
    if as_json:
        echo_json({"file": str(output), "bytes": size, **told})
        return
    click.echo(f"{output}: {size:,} bytes")
    if told:
        click.echo(_cost(told["outputs"], told["judged_on_others"]))
        click.echo(_verdict(told["milliseconds"], told["milliseconds_float32"]))


def _web(file: Path, samples: Path | None, output: Path, as_json: bool) -> None:
    from smidgen.web.samples import samples_in, samples_of_packages
    from smidgen.web.site import write_site

    first, whole = write_site(file, samples_of_packages() if samples is None else samples_in(samples), output)
    if as_json:
        echo_json({"folder": str(output), "bytes": whole, "bytes_to_first_answer": first})
        return
    click.echo(f"{output}: {whole:,} bytes, of which a visitor needs {first:,} for the first answer")
    click.echo(f"See it: python -m http.server -d {output}, then http://localhost:8000/")


def _int8(archive: Archive, data: Path, most: int, output: Path) -> tuple[bytes, dict[str, Any]]:
    """The bytes of the model that computes with integers, its time and that of float32 in milliseconds, and how near
    its answers are to those in float32, on examples that it was not calibrated on if there are others."""
    import onnx

    from smidgen.archive import Archive
    from smidgen.errors import InputError
    from smidgen.examples import batches
    from smidgen.run.compare import compare
    from smidgen.run.session import Engine
    from smidgen.run.timing import interleaved

    if not output.absolute().parent.is_dir():  # before the work, not after it
        raise InputError(f"{output}: cannot be written: there is no folder {output.parent}")
    items = drawn(archive, data, 2 * most)
    items, others = items[:most], items[most:]
    content = quantized(archive, items)
    engines = [Engine(onnx.load_from_string(content), 1), Engine(archive.onnx(), 1)]
    batch = next(batches(items, archive, 1))
    # the fastest of interleaved runs, since what else the machine does can only add to them
    runs = [lambda turn, engine=engine: engine(batch) for engine in engines]
    mine, theirs = interleaved(runs, _TIMED_ROUNDS).min(axis=0).tolist()
    integers = Archive(content, {}, archive.preprocessing, archive.labels)
    judged = others if len(others) >= FEW else items
    _, lost = compare([archive, integers], batches(judged, archive, 1))
    told = {"milliseconds": mine, "milliseconds_float32": theirs, "judged_on_others": judged is others}
    return content, {**told, "outputs": [asdict(output) for output in lost]}


def drawn(archive: Archive, data: Path, most: int) -> list[Item]:
    """At most so many of the examples in ``data``, drawn at random."""
    import numpy as np

    from smidgen.given import all_in

    found = all_in(data, archive)
    return [found[index] for index in np.random.default_rng(0).permutation(len(found))[:most]]


def quantized(archive: Archive, items: list[Item]) -> bytes:
    """The ONNX file that computes with integers, calibrated on examples."""
    from smidgen.examples import batches
    from smidgen.run.int8 import quantize

    def shown() -> Iterator[dict[str, Any]]:
        with progress(len(items), "calibrating") as advance:
            for done, batch in enumerate(batches(items, archive, 1), 1):
                yield batch
                advance(done)

    content: bytes = quantize(archive.onnx(), shown()).SerializeToString(deterministic=True)
    return content


def _cost(outputs: Sequence[Mapping[str, Any]], others: bool) -> str:
    """One line about the output that loses most."""
    from smidgen.reporter import small

    worst = min(outputs, key=lambda output: float(output["agreement"]))
    alike = f"agreement {worst['agreement']:.1f} %"
    if worst["cosine"] is not None:
        alike = f"R squared {worst['agreement'] / 100:.4f}"
    which = f" of {worst['output']!r}, which loses most" if len(outputs) > 1 else ""
    inputs = f"{worst['examples']} others" if others else f"the {worst['examples']} inputs that it was calibrated on"
    divergence = small(sum(output["divergence"] for output in outputs))
    return f"beside float32, on {inputs}: divergence {divergence}, {alike}{which}"


def _verdict(integers: float, float32: float) -> str:
    """One line that says whether integers are worth it on this machine.

    Example:
        >>> _verdict(5.44, 9.4)
        'one picture on one thread: 5.44 ms, float32 9.40 ms (0.58 of it)'
        >>> _verdict(9.4, 5.0)
        'warning: not faster on this machine: one picture takes 9.40 ms on one thread, ... (1.88 times as long)'
    """
    ratio = integers / float32
    mine, theirs = milliseconds(integers), milliseconds(float32)
    if ratio < 1:
        return f"one picture on one thread: {mine} ms, float32 {theirs} ms ({ratio:.2f} of it)"
    return (
        f"warning: not faster on this machine: one picture takes {mine} ms on one thread, float32 {theirs} ms "
        f"({ratio:.2f} times as long)"
    )
