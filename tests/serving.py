"""A server of the page in a thread, and pictures to send to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import uvicorn
from PIL import Image

from smidgen.web.networks import Network
from smidgen.web.protocol import LimitedProtocol
from smidgen.web.server import Limits, application


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@contextmanager
def serving(
    networks: list[Network],
    samples: Mapping[str, bytes] | None = None,
    limits: Limits | None = None,
    facts: bytes = b'{"facts": 1}',
) -> Iterator[int]:
    """A server that runs until the block ends; gives its port."""
    with serving_app(application(networks, lambda: facts, samples or {}, limits)) as port:
        yield port


@contextmanager
def serving_app(app: Any) -> Iterator[int]:
    """A server of an application."""
    server = uvicorn.Server(uvicorn.Config(app, http=LimitedProtocol, log_level="error", access_log=False))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def asked(port: int, path: str = "/", body: Any = None, method: str | None = None, **headers: str) -> Answer:
    """One request; with a body it is a POST."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method or ("GET" if body is None else "POST"), path, body, named)
        answer = connection.getresponse()
        return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def picture(form: str = "JPEG", size: tuple[int, int] = (60, 45), seed: int = 0, **options: Any) -> bytes:
    """The bytes of a smooth picture in RGB."""
    noise = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    stream = BytesIO()
    Image.fromarray(noise).resize(size).save(stream, form, **options)
    return stream.getvalue()
