"""``smidgen train``: a recipe of stages, on labelled pictures."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import echo_json, echo_table, json_option, progress
from smidgen.cli.reporting import report_option

if TYPE_CHECKING:
    from smidgen.train.run import Outcome

__all__ = ["train"]


@click.command()
@click.argument("recipe")
@click.option("--data", required=True, type=click.Path(path_type=Path), help="Folder of labelled pictures: "
              "train/CLASS and test/CLASS, or CLASS alone.")  # fmt: skip
@click.option("--out", "-o", required=True, type=click.Path(path_type=Path), help="Folder for files and curves.")
@report_option
@json_option
def train(recipe: str, data: Path, out: Path, report: Path | None, as_json: bool) -> None:
    """Train a network through the stages of RECIPE, a TOML file or one that ships with smidgen.

    After each stage there is a .smidgen file in the folder OUT, and curves.json and curves.png show how it went. The
    same command goes on where a run was stopped.
    """
    from smidgen import distributed
    from smidgen.errors import InputError
    from smidgen.reporter import Reporter
    from smidgen.train import train as carried_out
    from smidgen.train.curves import draw

    if report:
        from smidgen.report import ready

        ready(report)
    reporter = Reporter(progress, lambda line: click.echo(line, err=True))
    distributed.broadcast(partial(carried_out, recipe, data, out))  # under torchrun all processes do the same
    try:
        outcome = carried_out(recipe, data, out, reporter)
    except KeyboardInterrupt:
        raise InputError("interrupted; the same command goes on after the last whole epoch") from None
    drawn = draw(outcome, out / "curves.png")
    _show(outcome, out, drawn, as_json)
    if report:
        _report(report, recipe, out, outcome)


def _show(outcome: Outcome, out: Path, drawn: bool, as_json: bool) -> None:
    if as_json:
        echo_json({"out": str(out), **outcome.described()})
        return
    rows = [["before", "", f"{4 * outcome.weights:,}", "1", "32.00", _percent(outcome.start), "", ""]]
    for result in outcome.results:
        rows.append(
            [
                *(result.stage, result.method, f"{result.bytes:,}", f"1/{result.times_smaller:.1f}"),
                *(f"{result.bits_per_weight:.2f}", _percent(result.accuracy), _percent(result.native)),
                f"{result.seconds / 60:.1f} min",
            ]
        )
    echo_table(("stage", "method", "bytes", "size", "bits/weight", "accuracy", "in integers", "trained"), rows)
    click.echo(f"accuracy on {outcome.pictures:,} pictures ({outcome.where}); files and curves in {out}/")
    if not drawn:
        click.echo("no curves.png: pip install 'smidgen[plots]' brings matplotlib")


def _report(folder: Path, recipe: str, out: Path, outcome: Outcome) -> None:
    from smidgen.container import read_bytes
    from smidgen.facts import facts_of
    from smidgen.report import write_report
    from smidgen.report.about_a_file import usage
    from smidgen.report.sections import about_epochs, about_file, about_layers, about_stages

    told, last = outcome.described(), out / outcome.results[-1].file
    facts = facts_of(read_bytes(last), last.name, histograms=True)
    sections = [about_stages(told), *about_epochs(told)]
    sections += [replace(about_file(facts), heading=f"The last file, {last.name}"), about_layers(facts)]
    sections.append(usage(last))
    name = Path(recipe).stem
    page = write_report(
        folder, f"{name}: stages in bytes and accuracy", sections, {**told, "recipe": name, "last": facts}
    )
    click.echo(f"{page}: the report", err=True)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"
