"""Pictures to calibrate on and to judge by, and how they become inputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from smidgen.errors import InputError, ModelError
from smidgen.read import Model
from smidgen.run.pictures import find_labelled, find_pictures, open_picture, prepare

__all__ = ["Examples", "Picture", "batches", "examples_in", "split"]

Picture = Path | NDArray[np.uint8]

HELD_OUT = 400


@dataclass(frozen=True, eq=False)
class Examples:
    """Pictures to calibrate on, and others to judge by.

    Args:
        calibration: what statistics and repair see.
        held_out: what the harm is measured on.
        truth: index of the true class of each held-out picture, or None if unknown.
        disjoint: whether no picture is in both.
    """

    calibration: Sequence[Picture]
    held_out: Sequence[Picture]
    truth: Sequence[int] | None = None
    disjoint: bool = True


def examples_in(folder: Path, model: Model, most: int, seed: int) -> Examples:
    """The pictures in a folder, with or without class sub-folders, split by ``split``.

    Raises:
        InputError: there are none, or a sub-folder is no class.
    """
    labelled = find_labelled(folder, model.labels)
    if labelled is None:
        return split(find_pictures(folder), None, most, seed)
    return split([path for path, _ in labelled], [index for _, index in labelled], most, seed)


def split(pictures: Sequence[Picture], truth: Sequence[int] | None, most: int, seed: int) -> Examples:
    """A fifth of the pictures, at most 400, is held out; of the others at most ``most`` are taken. The draw is random.

    Of fewer than 20 pictures all serve both purposes.

    Raises:
        InputError: there are no pictures.

    Example:
        >>> found = split([np.zeros((1, 1, 3), np.uint8)] * 100, None, most=50, seed=0)
        >>> len(found.calibration), len(found.held_out)
        (50, 20)
    """
    if not pictures:
        raise InputError("no pictures to calibrate on")
    order = np.random.default_rng(seed).permutation(len(pictures))
    count = min(len(pictures) // 5, HELD_OUT)
    held, rest = (order[:count], order[count:]) if len(pictures) >= 20 else (order, order)
    return Examples(
        [pictures[i] for i in rest[:most]],
        [pictures[i] for i in held],
        None if truth is None else [truth[i] for i in held],
        len(pictures) >= 20,
    )


def batches(pictures: Sequence[Picture], model: Model, size: int) -> Iterator[NDArray[np.float32]]:
    """The pictures as inputs of the network, a few at a time."""
    if model.preprocessing is None:
        raise ModelError(
            "it is not known how pictures become the network's input; give the module an attribute `preprocessing` "
            "(a smidgen.archive.Preprocessing)"
        )
    for start in range(0, len(pictures), size):
        pixels = [p if isinstance(p, np.ndarray) else open_picture(p) for p in pictures[start : start + size]]
        yield np.stack([prepare(p, model.preprocessing) for p in pixels])
