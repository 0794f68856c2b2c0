"""``smidgen sweep``: the whole trade-off curve, in parallel, resumable."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smidgen.cli.output import (
    echo_json,
    echo_table,
    json_option,
    outputs_option,
    preprocessing_option,
    progress,
)
from smidgen.cli.reporting import report_option

if TYPE_CHECKING:
    from smidgen.tradeoff import Row

__all__ = ["sweep"]


@click.command()
@click.argument("model")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="A folder of pictures, without or with class sub-folders; or an .npz file of inputs, or a folder of those.",
)
@preprocessing_option
@outputs_option
@click.option("--size", "sizes", multiple=True, help="Bytes that a file must not exceed, as in 400KB. Repeatable.")
@click.option("--max-drop", "max_drops", multiple=True, type=float, help="Points that may be lost. Repeatable.")
@click.option("--plan", "plans", multiple=True, help="A TOML file, or a plan that ships with smidgen. Repeatable.")
@click.option(
    "--seed",
    "seeds",
    multiple=True,
    default=(0,),
    show_default="0",
    type=click.IntRange(0, 2**63 - 1),
    help="Try every target with it. Repeatable.",
)
@click.option("--finetune", default=0, show_default=True, type=click.IntRange(0), help="Epochs of distillation.")
@click.option(
    "--pictures", default=2000, show_default=True, type=click.IntRange(1), help="Calibrate on at most so many."
)
@click.option("--jobs", type=click.IntRange(1), help="Processes on this machine; one for each core by default.")
@click.option("--scheduler", help="Work on a Dask cluster instead; the address of its scheduler: tcp://host:8786.")
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path), help="The folder to fill."
)
@report_option
@json_option
def sweep(
    model: str,
    data: Path,
    preprocessing: str | None,
    outputs: str | None,
    sizes: tuple[str, ...],
    max_drops: tuple[float, ...],
    plans: tuple[str, ...],
    seeds: tuple[int, ...],
    finetune: int,
    pictures: int,
    jobs: int | None,
    scheduler: str | None,
    output: Path,
    report: Path | None,
    as_json: bool,
) -> None:
    """Compresses MODEL to many targets in parallel, and finds the files that no other one beats.

    \b
    smidgen sweep squeezenet1_1 --data photos/ -o sweep/
    smidgen sweep squeezenet1_1 --data photos/ --size 400KB --size 500KB --plan int8 --seed 0 --seed 1 -o sweep/

    Without --size, --max-drop and --plan: twelve sizes from 1/16 to 1/6 of the float32 weights. OUTPUT then holds one
    .smidgen file for each point, every figure in sweep.sqlite, and the Pareto front in pareto.json and pareto.png.
    The same command goes on after a Ctrl-C or a kill; finished points are not made again, and more targets may be
    added. A point that cannot be made stops no other one.

    On a cluster every worker needs this version of smidgen with its extra `cluster`, and the model and the pictures
    under the same names as here; it needs no disk in common with this machine.
    """
    from smidgen.reporter import Reporter
    from smidgen.tradeoff import DATABASE, open_rows
    from smidgen.tradeoff import sweep as run

    if jobs and scheduler:
        raise click.UsageError("--jobs is for this machine and --scheduler for a cluster; give one of them")
    if report:
        from smidgen.report import ready

        ready(report)
    interrupted, reporter = False, Reporter(progress, lambda line: click.echo(line, err=True))
    try:
        rows = run(
            model,
            data,
            output,
            sizes=_sizes(sizes, max_drops),
            max_drops=max_drops,
            plans=plans,
            seeds=seeds,
            finetune=finetune,
            pictures=pictures,
            preprocessing=preprocessing,
            outputs=outputs,
            jobs=jobs or -1,
            scheduler=scheduler,
            reporter=reporter,
        )
    except KeyboardInterrupt:
        if not (output / DATABASE).is_file():
            raise
        interrupted, rows = True, open_rows(output)
    _show(output, rows, interrupted, as_json)
    if report:
        _report(report, output, rows, (model, data), interrupted)
    if interrupted or any(row.failed for row in rows):
        raise SystemExit(1)


def _sizes(sizes: tuple[str, ...], max_drops: tuple[float, ...]) -> list[int]:
    """The sizes in bytes, after a check of both kinds of limits."""
    from smidgen.budget import Budget, parse_size
    from smidgen.errors import InputError

    try:
        for drop in max_drops:
            Budget(max_drop=drop)
        return [parse_size(size) for size in sizes]
    except InputError as error:
        raise click.UsageError(str(error)) from None


def _report(folder: Path, output: Path, rows: list[Row], work: tuple[str, Path], interrupted: bool) -> None:
    from smidgen.report import write_report
    from smidgen.report.about_a_file import usage
    from smidgen.report.document import Section, Text
    from smidgen.report.sections import about_points

    model, data = work
    points = _points(rows)
    best, failed = [row for row in points if row["front"]], sum(row.failed is not None for row in rows)
    judged = max((row.judged or 0 for row in rows), default=0)
    told = [
        f"{model} was compressed to {len(rows)} targets{' before this was interrupted' if interrupted else ''}: "
        f"{len(rows) - failed} files, of which {len(best)} are beaten by no other one; {failed} failed.",
        f"Judged on {judged:,} examples of {data}: a fifth, at most 400, is held out from calibration; where there are "
        "fewer than 20, all serve both.",
    ]
    sections = [Section("What was asked and what was reached", [Text(text) for text in told]), about_points(points)]
    if best:
        sections.append(usage(output / best[len(best) // 2]["file"]))  # one in the middle, for instance
    facts = {"model": model, "data": str(data), "interrupted": interrupted, "points": points}
    page = write_report(folder, f"{model}: size and fidelity", sections, facts)
    click.echo(f"{page}: the report", err=True)


def _points(rows: list[Row]) -> list[dict[str, Any]]:
    from smidgen.tradeoff import front

    best = {row.name for row in front(rows)}
    return [{**asdict(row), "front": row.name in best} for row in rows]


def _show(output: Path, rows: list[Row], interrupted: bool, as_json: bool) -> None:
    from smidgen.tradeoff import front

    best = {row.name for row in front(rows)}
    failed = [row for row in rows if row.failed]
    if as_json:
        told = {"output": str(output), "interrupted": interrupted, "failed": len(failed), "points": _points(rows)}
        echo_json(told)
        return
    labelled = any(row.labelled for row in rows)
    header = ("point", "bytes", "divergence", "alike %", "top-1 drop" if labelled else "drop", "front")
    echo_table(header, [_cells(row, row.name in best) for row in rows])
    for row in failed:
        click.echo(f"failed: {row.name}: {row.failed}")
    early = "interrupted, the same command goes on: " if interrupted else ""
    click.echo(f"{early}{output}: {len(rows)} points, {len(best)} on the Pareto front, {len(failed)} failed")


def _cells(row: Row, best: bool) -> tuple[str, ...]:
    if row.failed:
        return (row.name, "-", "-", "-", "-", "failed")
    return (
        row.name,
        f"{row.bytes:,}",
        f"{row.kl:.6f}",
        f"{row.agreement:.2f}",
        f"{row.lost:.2f}",
        "*" if best else "",
    )
