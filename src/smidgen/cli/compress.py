"""``smidgen compress``: a model and a plan in, one file out."""

from __future__ import annotations

from pathlib import Path

import click

from smidgen.cli.output import echo_json, json_option

__all__ = ["compress"]


@click.command()
@click.argument("model")
@click.option("--plan", "plan_name", required=True, help="A TOML file, or the name of a plan that ships with smidgen.")
@click.option("--codec", default="smallest", show_default=True, help="smallest, fast (rans), or one codec by name.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to make."
)
@json_option
def compress(model: str, plan_name: str, codec: str, output: Path, as_json: bool) -> None:
    """Compresses MODEL after a plan and writes one .smidgen file.

    MODEL is a name of the zoo (squeezenet1_1) or package.module:function that returns a torch.nn.Module.

    \b
    smidgen compress squeezenet1_1 --plan small -o small.smidgen
    smidgen compress my_package.nets:build --plan my_plan.toml -o small.smidgen
    """
    from smidgen.api import compress as compress_module
    from smidgen.errors import ModelError
    from smidgen.file import codecs_named
    from smidgen.plan import Plan
    from smidgen.read import read_model

    plan, codecs = Plan.find(plan_name), codecs_named(codec)
    loaded = read_model(model)
    archive = compress_module(loaded.module, plan, loaded.input_shape, loaded.preprocessing, loaded.labels)
    weights = sum(weight.size for weight in archive.weights().values())
    if not weights:
        raise ModelError(f"{model}: has no weights, so there is nothing to compress")
    size, original = archive.save(output, codecs), 4 * weights
    if as_json:
        echo_json({"file": str(output), "bytes": size, "original_bytes": original, "weights": weights})
        return
    click.echo(
        f"{output}: {size:,} bytes, {original / size:.2f} times smaller than {original:,} bytes of float32 weights, "
        f"{8 * size / weights:.2f} bits per weight"
    )
