"""The command line: what the user types, and how errors reach them.

Exit status: 0 done, 1 the work failed with one line that says why, 2 wrong usage. Results go to standard output,
progress and errors to standard error.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import click

from smidgen import distributed
from smidgen.errors import SmidgenError, output_lost, told

__all__ = ["cli", "main"]

EXTRAS = {
    "torch": "compress",
    "joblib": "compress",
    "threadpoolctl": "compress",
    "distributed": "cluster",
    "matplotlib": "demo",
    "httptools": "web",
    "starlette": "web",
    "uvicorn": "web",
}
"""Packages that are not in the base install, and the extra that brings them."""


class Rooms(click.Group):
    """Loads a command only when it is asked for, from the module that has its name."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, or None if there is none of this name."""
        if cmd_name not in self.commands:
            return None
        command: click.Command = getattr(import_module(f"smidgen.cli.{cmd_name}"), cmd_name)
        return command


@click.group(cls=Rooms, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="smidgen")
def cli() -> None:
    """Makes trained networks small, in files that really are, and runs them."""


for name in (
    "bench",
    "compress",
    "demo",
    "evaluate",
    "export",
    "inspect",
    "recognize",
    "report",
    "serve",
    "sweep",
    "train",
):
    cli.add_command(click.Command(name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its status. Under ``torchrun`` the first process does, and the others follow."""
    try:
        distributed.join()
        if not distributed.is_first():
            distributed.follow()
        cli.main(args=arguments, prog_name="smidgen", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (SmidgenError, MemoryError, KeyboardInterrupt) as error:
        click.echo(told(error), err=True)
        sys.exit(1)
    except OSError as error:
        if not _of_output(error):
            raise
        click.echo(told(output_lost(error)), err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        click.echo(f"smidgen: this needs {error.name}; pip install 'smidgen[{extra}]' brings it", err=True)
        sys.exit(1)
    except click.Abort:
        click.echo(told(KeyboardInterrupt()), err=True)
        sys.exit(1)
    finally:
        distributed.leave()


def _of_output(error: OSError) -> bool:
    """Whether an error is one of printing; files that cannot be written have had their line before."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code is click.echo.__code__
