"""``smidgen compress``: a model and a plan, or a model, pictures and a limit in; one file out."""

from __future__ import annotations

import time
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import (
    echo_json,
    json_option,
    outputs_option,
    preprocessing_option,
    progress,
)
from smidgen.cli.reporting import report_option

if TYPE_CHECKING:
    from smidgen.archive import Archive
    from smidgen.budget import Outcome
    from smidgen.examples import Examples

__all__ = ["compress"]

TOLD = 10
"""Weights that are named of those that a plan leaves alone."""


@click.command()
@click.argument("model")
@click.option("--plan", "plan_name", help="A TOML file, or the name of a plan that ships with smidgen.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder of pictures, without or with class sub-folders; or an .npz file of inputs, or a folder of those.",
)
@preprocessing_option
@outputs_option
@click.option("--size", help="Bytes that the file must not exceed: 400KB is 400,000 bytes, 400KiB 409,600.")
@click.option(
    "--max-drop",
    type=float,
    help="Points that may be lost: of top-1 with labels, of agreement without; of values hundredths of their variance.",
)
@click.option("--finetune", default=0, show_default=True, type=click.IntRange(0), help="Epochs of distillation.")
@click.option("--budget", help="Stop after this time with the best file so far: 90s, 10m, 1.5h.")
@click.option(
    "--pictures",
    default=2000,
    show_default=True,
    type=click.IntRange(1),
    help="Calibrate on at most so many pictures (or inputs).",
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(0, 2**63 - 1), help="The same one gives the same bytes."
)
@click.option("--codec", default="smallest", show_default=True, help="smallest, fast (rans), or one codec by name.")
@click.option(
    "-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The file to make."
)
@report_option
@json_option
def compress(
    model: str,
    plan_name: str | None,
    data: Path | None,
    preprocessing: str | None,
    outputs: str | None,
    size: str | None,
    max_drop: float | None,
    finetune: int,
    budget: str | None,
    pictures: int,
    seed: int,
    codec: str,
    output: Path,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compresses MODEL to a size, to a loss of accuracy, or after a plan, and writes one .smidgen file.

    MODEL is a name of the zoo (squeezenet1_1), an .onnx file, an exported PyTorch program (.pt2), weights alone
    (.safetensors, with a plan), or package.module:function that returns a torch.nn.Module.

    \b
    smidgen compress squeezenet1_1 --data photos/ --size 400KB -o small.smidgen
    smidgen compress squeezenet1_1 --data photos/ --max-drop 0.5 -o small.smidgen
    smidgen compress my_package.nets:build --plan small -o small.smidgen
    smidgen compress speech.onnx --data inputs.npz --size 500KB -o small.smidgen

    With pictures (no labels are needed) the network is measured, and squeezed until the file has the size, or loses
    what it may: a fifth of the pictures, at most 400, is held out to judge by. The best file so far is kept whenever
    this is interrupted, and every file that was tried is in OUTPUT.curve.json. With a plan, pictures only show what
    ranges activations have, so that the file can run without ONNX Runtime.
    """
    limits = [
        name for name, value in (("--plan", plan_name), ("--size", size), ("--max-drop", max_drop)) if value is not None
    ]
    if len(limits) != 1:
        raise click.UsageError(
            f"give one of --size, --max-drop and --plan{', not ' + ' and '.join(limits) if limits else ''}"
        )
    if report:
        from smidgen.report import ready

        ready(report)
    if plan_name is not None:
        if outputs or finetune or budget:
            raise click.UsageError("--outputs, --finetune and --budget go with --size or --max-drop, not with --plan")
        _by_plan(model, plan_name, (data, preprocessing, pictures, seed), codec, output, report, as_json)
        return
    if data is None:
        raise click.UsageError(
            "--size and --max-drop need --data, a folder of pictures or an .npz file (labels are not needed)"
        )
    given = (data, preprocessing, outputs)
    _by_limit(model, given, (size, max_drop, budget), (finetune, pictures, seed), codec, output, report, as_json)


def _tell_what_is_kept(before: Archive, after: Archive) -> None:
    """What no step of a plan has changed, but for one number for each channel: biases and the like."""
    import numpy as np

    from smidgen.code import Code

    kept = []
    for name, tensor in after.tensors.items():
        known = before.tensors.get(name)
        if known is None or isinstance(tensor, Code) or isinstance(known, Code):
            continue
        if prod(tensor.shape[1:]) > 1 and np.array_equal(np.sort(tensor, None), np.sort(known, None)):
            kept.append(name)  # perhaps turned
    for name in kept[:TOLD]:
        click.echo(f"kept without loss: {name}, which no step of the plan changes", err=True)
    if len(kept) > TOLD:
        click.echo(f"kept without loss: {len(kept) - TOLD} others, see smidgen inspect", err=True)


def _by_plan(
    model: str,
    plan_name: str,
    given: tuple[Path | None, str | None, int, int],
    codec: str,
    output: Path,
    report: Path | None,
    as_json: bool,
) -> None:
    from smidgen.api import compress_by_plan
    from smidgen.errors import ModelError
    from smidgen.examples import split
    from smidgen.file import codecs_named
    from smidgen.given import all_in, examples_in
    from smidgen.pipeline import with_program
    from smidgen.plan import Plan
    from smidgen.read import read_model
    from smidgen.reporter import Reporter

    data, preprocessing, pictures, seed = given
    plan, codecs = Plan.find(plan_name), codecs_named(codec)
    loaded = read_model(model, data, preprocessing)
    examples = None
    if data:  # whose classes matter to a report alone
        if report:
            examples = examples_in(data, loaded, pictures, seed)
        else:
            examples = split(all_in(data, loaded), None, pictures, seed)
    archive = compress_by_plan(loaded, plan)
    if plan.steps:
        _tell_what_is_kept(loaded, archive)
    if examples:
        archive = with_program(
            archive, examples.calibration, Reporter(progress, lambda line: click.echo(line, err=True))
        )
    weights = sum(weight.size for weight in archive.weights().values())
    if not weights:
        raise ModelError(f"{model}: has no weights, so there is nothing to compress")
    size, original = archive.save(output, codecs), 4 * weights
    if report:
        _report(report, output, (model, loaded), examples, f"the plan {plan_name}")
    if as_json:
        echo_json({"file": str(output), "bytes": size, "original_bytes": original, "weights": weights})
        return
    click.echo(_summary(output, size, weights))


def _summary(output: Path, size: int, weights: int) -> str:
    return (
        f"{output}: {size:,} bytes, {4 * weights / size:.2f} times smaller than {4 * weights:,} bytes of float32 "
        f"weights, {8 * size / weights:.2f} bits per weight"
    )


def _by_limit(
    model: str,
    given: tuple[Path, str | None, str | None],
    limits: tuple[str | None, float | None, str | None],
    work: tuple[int, int, int],
    codec: str,
    output: Path,
    report: Path | None,
    as_json: bool,
) -> None:
    from smidgen.budget import Budget, Outcome, Point, parse_seconds, parse_size
    from smidgen.errors import InputError
    from smidgen.file import codecs_named
    from smidgen.given import examples_in
    from smidgen.pipeline import Settings, squeeze_to_budget
    from smidgen.read import read_model
    from smidgen.reporter import Reporter

    data, preprocessing, outputs = given
    size, max_drop, seconds = limits
    finetune, pictures, seed = work
    start = time.monotonic()
    try:
        deadline = start + parse_seconds(seconds) if seconds else float("inf")
        budget = Budget(parse_size(size) if size else None, max_drop, deadline)
    except InputError as error:
        raise click.UsageError(str(error)) from None
    codecs = codecs_named(codec)

    if not output.absolute().parent.is_dir():
        raise InputError(f"{output}: cannot be written: its folder does not exist")

    def keep(archive: Archive, point: Point) -> None:
        if budget.allows(point):
            archive.save(output, codecs)

    loaded = read_model(model, data, preprocessing)
    examples = examples_in(data, loaded, pictures, seed)
    outcome = Outcome(budget, on_better=keep)
    settings = Settings(seed, codecs, finetune, Path(f"{output}.checkpoint"), outputs)
    reporter, interrupted = Reporter(progress, lambda line: click.echo(line, err=True)), False
    try:
        squeeze_to_budget(loaded, examples, outcome, settings, reporter)
    except KeyboardInterrupt:
        interrupted = True
    if outcome.archive and not outcome.reached:
        outcome.archive.save(output, codecs)  # the nearest is better than nothing; the last line says what it is
    _keep_curve(outcome, output)
    _finish(outcome, output, interrupted, as_json)
    if report:  # whatever happens in it, the verdict has been told
        asked = f"at most {size}" if size else f"a drop of at most {max_drop:g} points"
        _report(report, output, (model, loaded), examples, asked, outcome.verdict(interrupted), outputs)
    if not outcome.reached:
        raise SystemExit(1)


def _report(
    folder: Path,
    output: Path,
    original: tuple[str, Archive],
    examples: Examples | None,
    asked: str,
    verdict: str | None = None,
    outputs: str | None = None,
) -> None:
    """The report about the file that was made, on examples that nothing was calibrated on."""
    from smidgen.cli.evaluate import size_of
    from smidgen.report.about_a_file import Beside, report_on
    from smidgen.reporter import Reporter

    model, loaded = original
    beside = None
    if examples:
        others = f"{examples.what} that were held out; it was calibrated on {len(examples.calibration):,} others"
        which = others if examples.disjoint else f"{examples.what}, the same that it was calibrated on"
        size = size_of(model, loaded) if Path(model).is_file() else None
        beside = Beside(Path(model).name, loaded, examples.held_out, examples.truth, which, size, outputs)
    page = report_on(output, folder, beside, asked, verdict, reporter=Reporter(progress))
    click.echo(f"{page}: the report", err=True)


def _keep_curve(outcome: Outcome, output: Path) -> None:
    from smidgen.errors import InputError

    if outcome.best is None:
        raise InputError("stopped before the first file was made; nothing that existed was changed")
    outcome.save_curve(Path(f"{output}.curve.json"))


def _finish(outcome: Outcome, output: Path, interrupted: bool, as_json: bool) -> None:
    """One last line that says what was reached and what was not."""
    from smidgen.facts import advice, described
    from smidgen.file import inspect

    best, archive = outcome.best, outcome.archive
    assert best is not None
    assert archive is not None
    size = output.stat().st_size
    weights = sum(weight.size for weight in archive.weights().values())
    verdict = outcome.verdict(interrupted)
    layers = [layer for layer in inspect(output.read_bytes(), str(output)) if layer.harm is not None]
    if as_json:
        points = [asdict(point) for point in outcome.curve]
        report = {"file": str(output), "bytes": size, "original_bytes": 4 * weights, "weights": weights}
        report |= {"reached": outcome.reached, "verdict": verdict, "best": asdict(best), "curve": points}
        echo_json({**report, "layers": [described(layer, size) for layer in layers]})
    else:
        click.echo(_summary(output, size, weights))
        if layers:
            click.echo(advice(layers))
        click.echo(verdict)
