"""``smidgen export``: the weights for other tools."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["export"]


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, type=click.Choice(["onnx", "safetensors"]), help="The format.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to make."
)
def export(file: Path, kind: str, output: Path) -> None:
    """Writes the network of FILE as ONNX, or its weights as safetensors, in float32."""
    from smidgen.archive import open_archive
    from smidgen.file import replace_file

    archive = open_archive(file)
    data = archive.safetensors() if kind == "safetensors" else archive.onnx().SerializeToString(deterministic=True)
    replace_file(output, lambda temporary: temporary.write_bytes(data))
    click.echo(f"{output}: {output.stat().st_size:,} bytes")
