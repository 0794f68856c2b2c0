"""HTTP as uvicorn and httptools read it, with limits to what comes before a request is one."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["LimitedProtocol"]

MOST_HEAD = 65_536
"""Bytes before the body of a request."""

SECONDS = 15
"""In which a request's head must be here, from the opening of the connection or the first byte of the request."""


class LimitedProtocol(HttpToolsProtocol):
    """Hangs up where a head is too large or too slow, or no request comes at all."""

    def connection_made(self, transport: Any) -> None:
        """The first head is waited for."""
        super().connection_made(transport)
        self._head: int | None = 0
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Counts what comes while the head is not complete."""
        super().data_received(data)
        if self._head is not None:
            self._head += len(data)
            if self._head > MOST_HEAD:
                self.transport.close()

    def on_message_begin(self) -> None:
        """A request begins, on a connection that may have had others."""
        super().on_message_begin()
        self._head = 0
        if self._timer is None:
            self._wait()

    def on_headers_complete(self) -> None:
        """The head is here, what follows is for the application."""
        self._head = None
        self._stop()
        super().on_headers_complete()

    def connection_lost(self, error: Exception | None) -> None:
        """Nothing is waited for any longer."""
        self._stop()
        super().connection_lost(error)

    def _wait(self) -> None:
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(SECONDS, self._hang_up)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hang_up(self) -> None:
        self._timer = None
        self.transport.close()
