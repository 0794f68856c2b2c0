"""The page's files, and what is filled into the first of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["ASSETS", "CONTENT_SECURITY_POLICY", "LOCAL_ASSETS", "Shown", "asset", "index"]

ASSETS = {
    "style.css": "text/css",
    "app.js": "text/javascript",
    "file.js": "text/javascript",
    "remote.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
"""The files that the page loads from a server, and their types."""

LOCAL_ASSETS = ("style.css", "app.js", "file.js", "local.js", "worker.js", "smidgen.js", "icon.svg")
"""Those that it loads where there is none."""

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none'"
)
"""Nothing is loaded from elsewhere, and no text in the page runs as a script."""

_HERE = Path(__file__).parent


class Shown(NamedTuple):
    """What the page says of a network.

    Args:
        title: what it is called.
        engine: what computes.
        bytes: of its file, or of its weights where it has none.
    """

    title: str
    engine: str
    bytes: int


def asset(name: str) -> bytes:
    """The bytes of one of the page's files."""
    return (_HERE / name).read_bytes()


def index(networks: Sequence[Shown], samples: Iterable[str], server: bool) -> bytes:
    """The page itself, with what it must know before it can ask for anything.

    Args:
        networks: the compressed one first, then what it is compared with.
        samples: files of the pictures for whoever has none at hand (``smidgen.web.samples``).
        server: whether one recognises; else the page does, by itself, and states its own policy.
    """
    names = [name.removesuffix(".jpg") for name in samples if not name.endswith(".small.jpg")]
    told = {"server": server, "networks": [network._asdict() for network in networks], "samples": names}
    text = asset("index.html").decode()
    policy = f'<meta http-equiv="Content-Security-Policy" content="{CONTENT_SECURITY_POLICY}">'
    text = text.replace("<!-- policy -->\n", "" if server else f"{policy}\n")
    # within a script, only what could end it must not be there as it is
    return text.replace("{}", json.dumps(told).replace("<", "\\u003c"), 1).encode()
