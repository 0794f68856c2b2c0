"""The page as an ASGI application: it answers within limits, whatever a stranger sends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from smidgen.errors import InputError, SmidgenError
from smidgen.run.pictures import open_image
from smidgen.web.page import ASSETS, CONTENT_SECURITY_POLICY, asset, index

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from smidgen.web.networks import Network, Recognition

__all__ = ["LOCAL", "Limits", "application", "recognised"]

HEADERS = {
    "Content-Security-Policy": f"{CONTENT_SECURITY_POLICY}; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

TOP = 5
MOST_SCANS = 200
"""Of a progressive JPEG; encoders make about ten. Each is as much work as a picture, and may have few bytes."""

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""The names of this machine that only it can use."""


@dataclass(frozen=True)
class Limits:
    """What a caller may ask for.

    Args:
        bytes: of an upload.
        pixels: of a picture, before it is decoded.
        seconds: in which an upload must be here and answered.
        parallel: pictures that are recognised at once.
        waiting: pictures that are here and not recognised yet.
        uploads: pictures that are on their way.
    """

    bytes: int = 20_000_000
    pixels: int = 50_000_000
    seconds: float = 30
    parallel: int = 1
    waiting: int = 64
    uploads: int = 256


def recognised(networks: Sequence[Network], content: bytes, pixels: int) -> dict[str, Any]:
    """What every network says of one picture, for JSON.

    Args:
        networks: whose first answers are compared.
        content: the picture's file.
        pixels: that it may have.

    Raises:
        InputError: it is no picture, damaged, or too large.
        ModelError: a network's numbers are not finite.
    """
    if content.startswith(b"\xff\xd8\xff") and content.count(b"\xff\xda") > MOST_SCANS:
        raise InputError(f"a JPEG of more than {MOST_SCANS} scans, each of which takes as long as a picture")
    image = open_image(content, pixels)
    found = [network(image, TOP) for network in networks]
    first = {one.answers[0].label for one in found}
    return {"agree": len(first) == 1, "networks": [_plain(one) for one in found]}


def _plain(found: Recognition) -> dict[str, Any]:
    answers = [{"id": a.label.id, "name": a.label.name, "score": round(a.score, 6)} for a in found.answers]
    shown = found.map and {"shape": found.map.shape, "values": [float(f"{value:.4g}") for value in found.map.values]}
    return {"answers": answers, "milliseconds": round(found.milliseconds, 2), "map": shown}


_BUSY = HTTPException(503, "busy: too many pictures are waiting; try again", {"Retry-After": "1"})


class _Desk:
    """Where pictures are handed in: reads them, within limits, and has them recognised by a pool of threads."""

    def __init__(self, networks: Sequence[Network], limits: Limits) -> None:
        self._networks, self._limits = networks, limits
        self._pool = ThreadPoolExecutor(limits.parallel, "recognition")
        self._uploads = self._waiting = 0

    async def recognize(self, request: Request) -> Response:
        seconds = self._limits.seconds
        try:
            async with asyncio.timeout(seconds):
                return JSONResponse(await self._recognised(await self._uploaded(request)))
        except TimeoutError:
            raise HTTPException(408, f"the picture was not here, or not recognised, in {seconds:g} s") from None
        except InputError as error:
            raise HTTPException(400, str(error).removeprefix("the picture: ")) from None
        except ClientDisconnect:
            return Response(status_code=400)  # nobody is there to read it
        except asyncio.CancelledError:
            return JSONResponse({"error": "the server ends"}, 503)

    async def _uploaded(self, request: Request) -> bytes:
        if self._uploads >= self._limits.uploads:
            raise _BUSY
        self._uploads += 1
        try:
            return await self._content(request)
        finally:
            self._uploads -= 1

    async def _recognised(self, content: bytes) -> dict[str, Any]:
        if self._waiting >= self._limits.waiting:
            raise _BUSY
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._pool, recognised, self._networks, content, self._limits.pixels
            )
        finally:
            self._waiting -= 1

    async def _content(self, request: Request) -> bytes:
        """The body, of which never more than the limit is held."""
        limit = self._limits.bytes
        if request.headers.get("content-type", "").startswith("multipart/"):
            raise HTTPException(415, "this is a form; send the bytes of a picture as they are (curl --data-binary)")
        told = request.headers.get("content-length", "0")
        if not told.isdecimal() or int(told[:20]) > limit:
            raise HTTPException(413, f"the picture has more than {limit:,} bytes; make it smaller first")
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > limit:
                raise HTTPException(413, f"the picture has more than {limit:,} bytes; make it smaller first")
        if not content:
            raise HTTPException(400, "no picture: send the bytes of its file")
        return bytes(content)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


class _WithHeaders:
    """Adds the security headers to every answer, errors too."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._headers = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, sent)


def application(
    networks: Sequence[Network],
    facts: Callable[[], bytes],
    samples: Mapping[str, bytes],
    limits: Limits | None = None,
    hosts: Sequence[str] = LOCAL,
) -> ASGIApp:
    """The page and what it asks for.

    Args:
        networks: the compressed one first, then what it is compared with.
        facts: what the file is made of, as JSON (``smidgen.facts``); called once, when first asked for.
        samples: files of the pictures for whoever has none at hand (``smidgen.web.samples``).
        limits: what a caller may ask for.
        hosts: the names by which it may be called; others are refused, so that no foreign page can reach it by
            giving this machine another name.
    """
    desk = _Desk(networks, limits or Limits())
    page = index([network.shown for network in networks], samples, server=True)
    kept: list[bytes] = []
    once = asyncio.Lock()

    async def home(request: Request) -> Response:
        return Response(page, media_type="text/html")

    async def part(request: Request) -> Response:
        name = request.path_params["name"]
        if name == "recognize":
            raise HTTPException(405, "send the bytes of a picture with POST (curl --data-binary)", {"Allow": "POST"})
        if name not in ASSETS:
            raise HTTPException(404, f"there is no {name} here")
        return Response(asset(name), media_type=ASSETS[name], headers={"Cache-Control": "no-cache"})

    async def told(request: Request) -> Response:
        async with once:
            if not kept:
                kept.append(await asyncio.to_thread(facts))
        return Response(kept[0], media_type="application/json")

    async def sample(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in samples:
            raise HTTPException(404, f"there is no sample {name} here")
        return Response(samples[name], media_type="image/jpeg")

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        # what is left of an upload that is refused is not read
        headers = {**(error.headers or {}), "Connection": "close"} if error.status_code in (408, 413) else error.headers
        return JSONResponse({"error": error.detail}, error.status_code, headers)

    async def failed(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, 500)

    @asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        yield
        desk.close()

    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]]
    handlers = {HTTPException: refused, SmidgenError: failed}
    app = Starlette(
        routes=[
            Route("/", home),
            Route("/recognize", desk.recognize, methods=["POST"]),
            Route("/facts.json", told),
            Route("/samples/{name}", sample),
            Route("/{name}", part),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts))],
        exception_handlers=handlers,
        lifespan=life,
    )
    return _WithHeaders(app)
