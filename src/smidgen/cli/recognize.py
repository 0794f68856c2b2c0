"""``smidgen recognize``: what is in a picture."""

from __future__ import annotations

import click

from smidgen.cli.output import echo_json, engine_option, json_option

__all__ = ["recognize"]


@click.command()
@click.argument("file", type=click.Path())
@click.argument("pictures", nargs=-1, required=True, type=click.Path())
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="How many answers to show.")
@engine_option
@json_option
def recognize(file: str, pictures: tuple[str, ...], top: int, engine: str | None, as_json: bool) -> None:
    """Names what is in PICTURES, with the network in FILE."""
    from smidgen.run.answer import lines
    from smidgen.run.recognizer import open_recognizer

    recognizer = open_recognizer(file, engine)
    answers = {picture: recognizer.recognize(picture, top) for picture in pictures}
    if as_json:
        echo_json(
            {
                picture: [{"id": a.label.id, "name": a.label.name, "score": a.score} for a in found]
                for picture, found in answers.items()
            }
        )
        return
    for line in lines(answers):
        click.echo(line)
