"""What data show of the inputs of a module that does not say what it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import InputError, one_line
from smidgen.given import array_files, arrays_in
from smidgen.nested import flattened, plain
from smidgen.run.pictures import find_pictures

__all__ = ["LOOKED_AT", "traceable", "traceable_from"]

LOOKED_AT = 20
"""Examples that are looked at for the axes that differ."""


def traceable(path: Path, needed: Sequence[str], known: Sequence[str]) -> list[dict[str, Any]]:
    """What a module that does not say what it takes may be traced with: the first of ``.npz`` files, and the first of
    other shapes, if there is one; nothing where ``path`` has no such files.

    Args:
        path: a file or a folder.
        needed: names of what the module must be given; where no array has a name that it knows, so many are taken.
        known: names of what it may be given; others are ignored where there are some of these.

    Raises:
        InputError: there is no such path, or a file cannot be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such {'file' if path.suffix else 'folder'}")
    files = array_files(path)
    if not files:
        find_pictures(path)  # or there are none of these either
    return _unlike(_named(arrays_in(file), needed, known) for file in files)


def traceable_from(given: Iterable[Any], needed: Sequence[str], known: Sequence[str]) -> list[dict[str, Any]]:
    """As ``traceable``, of examples as in ``examples_from``; nothing where these are pictures.

    Args:
        given: the first of them.
        needed: names of what the module must be given; what is left over of a tuple, like labels, is ignored.
        known: names of what it may be given, which mappings have; if any, others in these are ignored.
    """
    return _unlike(takewhile(len, (_named(one, needed, known) for one in given)))


def _named(given: Any, needed: Sequence[str], known: Sequence[str]) -> dict[str, Any]:
    if isinstance(given, str | Path) or (isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3):
        return {}
    if not isinstance(given, Mapping):
        given = dict(zip(needed, given if isinstance(given, tuple | list) else [given], strict=False))
    names = [name for name in given if str(name).partition(".")[0] in known] or list(given)[: len(needed)]
    return {name: given[name] for name in names}


def _unlike(given: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first, and the first of other shapes among a few."""
    found: list[tuple[dict[str, Any], list[tuple[int, ...]]]] = []
    for one in islice(given, LOOKED_AT):
        try:
            shapes = [plain(array).shape for array in flattened(one).values()]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"data: {', '.join(one)}: not arrays: {one_line(error)}") from None
        if not found or shapes != found[0][1]:
            found.append((one, shapes))
        if len(found) == 2:
            break
    return [one for one, _ in found]
