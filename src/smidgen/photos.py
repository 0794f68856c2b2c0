"""The photographs that ship in scikit-image and scikit-learn, and crops of them to measure on."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError
from smidgen.run.pictures import open_picture

__all__ = ["crops", "photographs"]

# (name to show, package, file in it)
PHOTOGRAPHS = (
    ("cat", "skimage", "data/chelsea.png"),
    ("coffee", "skimage", "data/coffee.png"),
    ("astronaut", "skimage", "data/astronaut.png"),
    ("rocket", "skimage", "data/rocket.jpg"),
    ("motorcycle", "skimage", "data/motorcycle_left.png"),
    ("camera", "skimage", "data/camera.png"),
    ("coins", "skimage", "data/coins.png"),
    ("flower", "sklearn", "datasets/images/flower.jpg"),
    ("temple", "sklearn", "datasets/images/china.jpg"),
)


def photographs() -> dict[str, NDArray[np.uint8]]:
    """The photographs by name, each of shape (height, width, 3).

    Raises:
        InputError: a package is missing, or has dropped the picture.
    """
    found = {}
    for name, package, file in PHOTOGRAPHS:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f"the package with the photograph {file} is missing; pip install 'smidgen[demo]' brings it"
            )
        found[name] = open_picture(Path(spec.submodule_search_locations[0]) / file)
    return found


def crops(pictures: dict[str, NDArray[np.uint8]], each: int, seed: int) -> list[NDArray[np.uint8]]:
    """Random square crops, ``each`` of every picture, their side 50 to 100 % of its shorter side; half are mirrored.

    The same seed gives the same crops.

    Example:
        >>> [c.shape for c in crops({"a": np.zeros((8, 10, 3), np.uint8)}, each=2, seed=1)]
        [(6, 6, 3), (8, 8, 3)]
    """
    rng = np.random.default_rng(seed)
    found = []
    for picture in pictures.values():
        height, width = picture.shape[:2]
        for _ in range(each):
            side = round(min(height, width) * rng.uniform(0.5, 1))
            top, left = rng.integers(0, height - side + 1), rng.integers(0, width - side + 1)
            crop = picture[top : top + side, left : left + side]
            found.append(np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop))
    return found
