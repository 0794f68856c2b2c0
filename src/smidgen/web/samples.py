"""Pictures for whoever has none at hand."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.errors import InputError
from smidgen.run.pictures import find_pictures, open_image

if TYPE_CHECKING:
    from collections.abc import Iterable

    from PIL.Image import Image

__all__ = ["samples_in", "samples_of_packages"]

SIDES = {"": 360, ".small": 176}
"""What is added to a name, and the longest side in pixels: to be recognised, and to be chosen from."""

MOST = 9


def samples_in(folder: Path) -> dict[str, bytes]:
    """The first pictures in a folder, made small: the files ``NAME.jpg`` and ``NAME.small.jpg`` for each.

    Raises:
        InputError: the folder holds no pictures, or one that cannot be read.
    """
    return _small((path.stem, open_image(path)) for path in find_pictures(folder)[:MOST])


def samples_of_packages() -> dict[str, bytes]:
    """The photographs that scikit-image and scikit-learn carry, made small; none where these are not installed."""
    from PIL.Image import fromarray

    from smidgen.photos import photographs

    try:
        found = photographs()
    except InputError:
        return {}
    return _small((name, fromarray(pixels)) for name, pixels in found.items())


def _small(pictures: Iterable[tuple[str, Image]]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, image in pictures:
        plain = "".join(letter if letter.isalnum() else "-" for letter in name)
        plain = next(n for n in (plain, *(f"{plain}-{i}" for i in range(2, MOST + 2))) if f"{n}.jpg" not in found)
        for added, side in SIDES.items():
            image.thumbnail((side, side))
            stream = BytesIO()
            image.save(stream, "JPEG", quality=80, optimize=True)
            found[f"{plain}{added}.jpg"] = stream.getvalue()
    return found
