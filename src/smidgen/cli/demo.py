"""``smidgen demo``: the main job, on a real network and real photographs."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["demo"]


@click.command()
@click.option(
    "-o", "--output", default="smidgen-demo", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
def demo(output: Path) -> None:
    """Compresses a pretrained SqueezeNet in every way, recognises photographs, and writes a report.

    Needs nothing but packages: pip install 'smidgen[demo]'. Takes a few minutes.
    """
    from smidgen.demo import run_demo

    run_demo(output)
