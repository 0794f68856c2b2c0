"""The page as a folder that any host of static files can serve: the network runs in the visitor's browser."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from smidgen.container import read_bytes
from smidgen.errors import InputError, ModelError
from smidgen.facts import facts_beside, running
from smidgen.file import outline
from smidgen.web.page import LOCAL_ASSETS, Shown, asset, index

__all__ = ["write_site"]

CORES = ("smidgen.wasm", "smidgen-relaxed.wasm")
"""Of which a browser takes the one that is faster in it (``page/smidgen.js``)."""

NETWORK, FACTS, SAMPLES = "network.smidgen", "facts.json", "samples"


def write_site(file: Path, samples: Mapping[str, bytes], folder: Path) -> tuple[int, int]:
    """Writes the page, the C core for browsers, and the network.

    Args:
        file: a file with a program, which the page runs as it is.
        samples: files of pictures for whoever has none at hand (``smidgen.web.samples``).
        folder: where to; it is made, or replaced if it is a site that was made before.

    Returns:
        Bytes that a visitor needs for the first answer, and bytes of the whole folder. The former are all files but the
        facts, one of the two cores, and all but the largest of the larger samples, which are loaded one by one.

    Raises:
        FormatError: the file is not valid.
        InputError: it cannot be read, or the folder not be written, or something else lies there.
        ModelError: the file has no program, or takes no pictures.
    """
    data = read_bytes(file)
    around = outline(data, str(file))
    if around.program and around.preprocessing is None:
        raise ModelError(f"{file}: does not say how a picture becomes the network's input, so no page can show it one")
    if not around.program:
        raise ModelError(f"{file}: a browser runs only what runs by itself. {running(data)}")
    shown = Shown(file.name, "in this browser, 8-bit integers", len(data))
    small = {f"{SAMPLES}/{name}": content for name, content in samples.items() if name.endswith(".small.jpg")}
    first = {
        "index.html": index([shown], samples, server=False),
        **{name: asset(name) for name in LOCAL_ASSETS},
        NETWORK: data,
        **small,
    }
    cores = {name: (Path(__file__).parent / name).read_bytes() for name in CORES}
    more = {f"{SAMPLES}/{name}": content for name, content in samples.items()}
    files = {**first, **cores, **more, FACTS: json.dumps(facts_beside(file)).encode()}
    _replace_folder(folder, files)
    return _size(first) + _largest(cores) + _largest(more), _size(files)


def _stranger(folder: Path) -> Path | None:
    """Something in a folder that no site has, or the folder itself if it is none."""
    if not folder.is_dir():
        return folder
    own = {"index.html", *LOCAL_ASSETS, *CORES, NETWORK, FACTS, SAMPLES}
    inner = folder / SAMPLES
    found = [path for path in folder.iterdir() if path.name not in own or (path.is_dir() and path != inner)]
    found += [path for path in inner.iterdir() if path.suffix != ".jpg"] if inner.is_dir() else []
    return min(found, default=None)


def _largest(files: Mapping[str, bytes]) -> int:
    return max(map(len, files.values()), default=0)


def _size(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def _replace_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes a folder beside the one that may be there, then puts it in its place."""
    folder = folder.resolve()  # a link stays a link
    stranger = _stranger(folder) if folder.exists() else None
    if stranger is not None:
        raise InputError(f"{stranger}: lies where the site would be; give a new folder, or one with a site alone")
    try:
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.absolute().parent))
        before = beside.with_name(f"{beside.name}.before")
        try:
            (beside / SAMPLES).mkdir()
            for name, content in files.items():
                (beside / name).write_bytes(content)
            beside.chmod(0o755)
            if folder.exists():
                folder.rename(before)
            beside.rename(folder)
            shutil.rmtree(before, ignore_errors=True)
        finally:
            if before.exists() and not folder.exists():
                before.rename(folder)
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None
