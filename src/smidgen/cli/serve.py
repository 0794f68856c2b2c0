"""``smidgen serve``: the page on which a file's network recognises pictures."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from smidgen.cli.output import preprocessing_option

if TYPE_CHECKING:
    from smidgen.web.networks import Network

__all__ = ["serve"]

CLOSING = 5
"""Seconds that callers have to take their answers when the server ends."""


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--against",
    help="The original, to see both: a name of the zoo, an .onnx file, another .smidgen file, or "
    "package.module:function.",
)
@preprocessing_option
@click.option("--samples", type=click.Path(path_type=Path), help="A folder of pictures for whoever has none at hand.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on; 0.0.0.0 for all.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 for any free one.")
def serve(
    file: Path, against: str | None, preprocessing: str | None, samples: Path | None, host: str, port: int
) -> None:
    """Shows a page on which the network of FILE names what is in pictures, until Ctrl-C.

    With --against the original answers beside it. A second view shows what the file is made of. Pictures are not kept,
    and no request leaves this machine; with the default --host nobody else can see the page.
    """
    import uvicorn

    from smidgen.facts import facts_beside
    from smidgen.run.native import cores
    from smidgen.web.protocol import LimitedProtocol
    from smidgen.web.samples import samples_in, samples_of_packages
    from smidgen.web.server import LOCAL, Limits, application

    networks = _networks(file, against, preprocessing)
    shown = samples_of_packages() if samples is None else samples_in(samples)
    limits = Limits(parallel=cores())
    name = f"[{host}]" if ":" in host else host
    hosts = LOCAL if name in LOCAL else ("*",)
    app = application(networks, lambda: json.dumps(facts_beside(file)).encode(), shown, limits, hosts)
    listening = _listen(host, port)
    if host in ("0.0.0.0", "::"):
        name = socket.gethostname()
    click.echo(f"http://{name}:{listening.getsockname()[1]}/  shows {file}; Ctrl-C ends it", err=True)
    options = uvicorn.Config(
        app,
        http=LimitedProtocol,
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=CLOSING,
        limit_concurrency=1000,
    )
    with suppress(KeyboardInterrupt):  # uvicorn raises it again when all is closed; it is how this ends
        uvicorn.Server(options).run(sockets=[listening])


def _networks(file: Path, against: str | None, preprocessing: str | None) -> list[Network]:
    """The network of the file, and what it is compared with; each has answered for a grey picture."""
    from dataclasses import replace

    from PIL import Image

    from smidgen.archive import open_archive
    from smidgen.cli.evaluate import opened, size_of
    from smidgen.container import read_bytes
    from smidgen.errors import InputError
    from smidgen.file import outline
    from smidgen.preprocess import with_preprocessing
    from smidgen.run.native import cores
    from smidgen.web.networks import InCore, InFloat

    data = read_bytes(file)
    around = outline(data, str(file))
    networks: list[Network]
    if around.program and preprocessing is None:
        networks = [InCore(data, around.labels, file.name, cores())]
    else:
        networks = [InFloat(with_preprocessing(open_archive(file), preprocessing), file.name, len(data))]
    if against is not None:
        original = opened(against, None, preprocessing)
        original = replace(
            original,
            preprocessing=original.preprocessing or around.preprocessing,
            labels=original.labels or around.labels,
        )
        networks.append(InFloat(original, Path(against).name, size_of(against, original)))
    grey = Image.new("RGB", (64, 64), "grey")
    counts = [len(network(grey, sys.maxsize).answers) for network in networks]
    if counts[0] != counts[-1]:
        raise InputError(f"{against}: has {counts[-1]} classes and {file} {counts[0]}; compare networks of one task")
    return networks


def _listen(host: str, port: int) -> socket.socket:
    from smidgen.errors import InputError

    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen()
    except OSError as error:
        listening.close()
        reason = error.strerror or error
        raise InputError(f"{host}:{port}: cannot be listened on ({reason}); give another --host or --port") from None
    return listening
