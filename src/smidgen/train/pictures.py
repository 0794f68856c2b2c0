"""Labelled pictures to train on and others to measure on, and how they are varied."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from smidgen.archive import Label
from smidgen.errors import InputError
from smidgen.run.pictures import find_labelled, open_picture, resized
from smidgen.train.recipe import Schedule

__all__ = ["Labelled", "Pictures", "batches", "pictures_in"]

TRAINING, MEASURING = ("train",), ("test", "val", "validation")
"""Names of sub-folders."""

HELD_OUT = 10
"""One of so many pictures is held out where there is no folder of others to measure on."""

GREY = 124
"""Value of erased pixels: about the mean of photographs."""

AT_ONCE = 2**31
"""Bytes of pictures that are kept in memory; where there are more, each is read when it is needed."""


@dataclass(frozen=True, eq=False)
class Labelled:
    """Pictures and their classes.

    Args:
        source: all pictures, uint8 of shape (n, 3, height, width); or their files, where they are too many to keep.
        classes: int64 of shape (n,).
        size: height and width that files are resized to.
        resample: how.
    """

    source: Tensor | Sequence[Path]
    classes: Tensor
    size: tuple[int, int]
    resample: str = "bilinear"

    def __len__(self) -> int:
        return len(self.classes)

    def __getitem__(self, places: Tensor) -> Tensor:
        """The pictures in these places: uint8 of shape (places, 3, height, width)."""
        if isinstance(self.source, Tensor):
            return self.source[places]
        return _read([self.source[place] for place in places.tolist()], self.size, self.resample)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What a network is trained on, and what it is measured on.

    Args:
        training: what the weights see.
        measuring: other pictures, by which nothing is chosen.
        labels: the classes.
        where: what the measuring pictures are, for reports.
    """

    training: Labelled
    measuring: Labelled
    labels: tuple[Label, ...]
    where: str


def pictures_in(folder: Path, labels: tuple[Label, ...], size: tuple[int, int], resample: str, seed: int) -> Pictures:
    """The pictures of ``folder/train/<class>`` and ``folder/test/<class>`` (or ``val``), or of ``folder/<class>``, of
    which then every tenth, drawn at random within its class, is held out to measure on.

    Args:
        folder: of pictures.
        labels: the classes; none to take the names of the folders, sorted.
        size: height and width that pictures are resized to.
        resample: how; "bilinear" or "bicubic".
        seed: of the draw.

    Raises:
        InputError: there is no such folder, it has no class folders, one is no class, or a picture cannot be read.
    """
    training, measuring = (next((folder / n for n in names if (folder / n).is_dir()), None) for names in
                           (TRAINING, MEASURING))  # fmt: skip
    if (training is None) != (measuring is None):
        there, lacks = ("train", "test") if training else ("test", "train")
        raise InputError(f"{folder}: has a folder of pictures to {there} on, but none called {lacks} beside it")
    first = training or folder
    labels = labels or _labels(first)
    found = find_labelled(first, labels)
    if found is None:
        raise InputError(f"{first}: training needs a sub-folder for each class")
    if measuring is not None:
        others, where = find_labelled(measuring, labels), str(measuring.name)
        if others is None:
            raise InputError(f"{measuring}: measuring needs a sub-folder for each class")
    else:
        found, others = _held_out(found, seed)
        where = f"one in {HELD_OUT}, held out"
    _check_classes(found, labels, first)
    loaded = [_loaded(pairs, size, resample) for pairs in (found, others)]
    return Pictures(loaded[0], loaded[1], labels, where)


def _check_classes(found: list[tuple[Path, int]], labels: tuple[Label, ...], folder: Path) -> None:
    seen = {index for _, index in found}
    for index, label in enumerate(labels):
        if index not in seen:
            raise InputError(f"{folder}: has no pictures of the class {label.name!r} to train on")


def _labels(folder: Path) -> tuple[Label, ...]:
    if not folder.is_dir():
        raise InputError(f"{folder}: {'is a file, not a folder' if folder.exists() else 'no such folder'}")
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(names) < 2:
        raise InputError(f"{folder}: training needs a sub-folder for each class, at least two")
    return tuple(Label(name, name) for name in names)


def _held_out(found: list[tuple[Path, int]], seed: int) -> tuple[list[tuple[Path, int]], list[tuple[Path, int]]]:
    rng, kept, held = np.random.default_rng(seed), [], []
    for index in sorted({index for _, index in found}):
        own = [pair for pair in found if pair[1] == index]
        order = rng.permutation(len(own))
        count = max(1, len(own) // HELD_OUT)
        if len(own) < 2:
            raise InputError(f"{own[0][0].parent}: holds one picture; a class needs one to train on and one to measure")
        held += [own[place] for place in order[:count]]
        kept += [own[place] for place in order[count:]]
    return kept, held


def _loaded(found: list[tuple[Path, int]], size: tuple[int, int], resample: str) -> Labelled:
    files, classes = [path for path, _ in found], torch.tensor([index for _, index in found])
    if len(files) * 3 * size[0] * size[1] > AT_ONCE:
        return Labelled(files, classes, size, resample)
    return Labelled(_read(files, size, resample), classes, size, resample)


def _read(files: Sequence[Path], size: tuple[int, int], resample: str) -> Tensor:
    pictures = torch.empty((len(files), 3, *size), dtype=torch.uint8)

    def read(place: int) -> None:
        pixels = open_picture(files[place])
        if pixels.shape[:2] != size:
            pixels = np.asarray(resized(Image.fromarray(pixels), *size, resample))
        pictures[place] = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(read, range(len(files))):
            pass
    return pictures


def batches(
    pictures: Labelled, schedule: Schedule, rng: np.random.Generator, part: slice
) -> Iterator[tuple[Tensor, Tensor]]:
    """One pass over the pictures in random order, moved, mirrored and erased as the schedule says; what is left over at
    the end is left out.

    Args:
        pictures: to learn from.
        schedule: how many a batch has, and how they are varied. Of what is moved its mirror image fills what is free.
        rng: of all draws.
        part: of each batch, which is given; all draws are made for the whole.

    Yields:
        float32 of shape (n, 3, height, width) on the scale of 0 to 255, and the classes.
    """
    order = torch.from_numpy(rng.permutation(len(pictures)))
    size = min(schedule.batch, len(pictures))
    for start in range(0, len(order) - size + 1, size):
        places = order[start : start + size]
        moves = rng.integers(0, 2 * schedule.shift + 1, (2, size))
        turned = rng.random(size) < (0.5 if schedule.mirror else 0.0)
        middles = rng.random((2, size))
        varied = _varied(pictures[places[part]], schedule.shift, moves[:, part], turned[part])
        if schedule.erase:
            _erase_(varied, middles[:, part], schedule.erase)
        yield varied.float(), pictures.classes[places[part]]


def _varied(pictures: Tensor, shift: int, moves: NDArray[np.int64], turned: NDArray[np.bool_]) -> Tensor:
    height, width = pictures.shape[2:]
    edges = ((0, 0), (0, 0), (min(shift, height - 1),) * 2, (min(shift, width - 1),) * 2)
    wide = np.pad(pictures.numpy(), edges, "reflect")
    varied = np.empty(pictures.shape, np.uint8)
    for place, (down, across) in enumerate(moves.T):
        # a side of less than the shift has less to mirror
        top, left = min(int(down), 2 * edges[2][0]), min(int(across), 2 * edges[3][0])
        moved = wide[place, :, top : top + height, left : left + width]
        varied[place] = moved[:, :, ::-1] if turned[place] else moved
    return torch.from_numpy(varied)


def _erase_(pictures: Tensor, middles: NDArray[np.float64], side: int) -> None:
    height, width = pictures.shape[2:]
    for picture, (down, across) in zip(pictures, middles.T, strict=True):
        top, left = int(down * height) - side // 2, int(across * width) - side // 2
        picture[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = GREY
