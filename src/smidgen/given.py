"""What users give as data, as examples: folders of pictures, ``.npz`` files, arrays, or any iterable of these."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.errors import InputError, one_line
from smidgen.examples import Examples, Item, inputs_of, is_batched, split
from smidgen.nested import flattened, is_array, plain
from smidgen.run.pictures import find_labelled, find_pictures

__all__ = [
    "all_in",
    "array_files",
    "arrays_in",
    "examples_from",
    "examples_in",
    "files_in",
    "iterable",
    "labelled_in",
]

MOST_TARGETS = 2
"""What may be in a tuple beside the inputs of a network, if it looks like these."""


def examples_in(path: Path, archive: Archive, most: int, seed: int) -> Examples:
    """The examples in a folder of pictures (with or without class sub-folders), an ``.npz`` file or a folder of those.

    Raises:
        InputError: there are none, a sub-folder is no class, or arrays do not fit the network.
    """
    return split(*labelled_in(path, archive), most, seed)


def labelled_in(path: Path, archive: Archive) -> tuple[list[Item], list[int] | None]:
    """All examples as in ``examples_in``, and the index of the true class of each, or None if these are unknown.

    Raises:
        InputError: there are none, a sub-folder is no class, or arrays do not fit the network.
    """
    labelled = None if array_files(path) else find_labelled(path, archive.labels)
    if labelled is None:
        return all_in(path, archive), None
    return [picture for picture, _ in labelled], [index for _, index in labelled]


def all_in(path: Path, archive: Archive) -> list[Item]:
    """All examples in a folder of pictures, an ``.npz`` file or a folder of those; labels do not matter.

    Raises:
        InputError: there are none, or arrays do not fit the network.
    """
    if array_files(path):
        return [item for file in array_files(path) for item in _npz(file, archive)]
    return list(find_pictures(path))


def files_in(path: Path) -> list[Path]:
    """The files that hold the examples of ``examples_in``.

    Raises:
        InputError: there are none.
    """
    return array_files(path) or find_pictures(path)


def examples_from(data: Iterable[Any], archive: Archive, most: int, seed: int) -> Examples:
    """The examples of any iterable: pictures, or batches as a training loop gives them.

    Args:
        data: picture files; uint8 arrays of shape (height, width, 3); or batches: an array or tensor, a tuple of these
            in the order of the network's inputs (what is left over, like labels, is ignored), or a mapping by name. One
            such batch alone will do, with an example in each row as in an ``.npz`` file.
        archive: of the network.
        most: how many to calibrate on at most.
        seed: of the draw.

    Raises:
        InputError: there are none, or they do not fit the network.
    """
    alone = _alone(data, archive)
    if alone is not None:
        return split(list(_rows(alone, archive, "data")), None, most, seed)
    items: list[Item] = []
    for given in iterable(data):
        if isinstance(given, str | Path):
            items.append(Path(given))
        elif isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and archive.preprocessing:
            items.append(given)
        else:
            items += _singles(_by_name(given, archive), archive)
    return split(items, None, most, seed)


def iterable(data: Any, count: int = 1) -> Iterable[Any]:
    """What is there to iterate over: an array or tensor of numbers, or several by name or in a tuple, is one batch.

    Args:
        data: an array of pictures, uint8 of shape (n, height, width, 3), is one of pictures.
        count: how many inputs the network has: a tuple of so many arrays is a batch, though they are alike.

    Raises:
        InputError: it is nothing to iterate over.

    Example:
        >>> len(list(iterable(np.zeros((9, 4))))), len(list(iterable(np.zeros((9, 5, 5, 3), np.uint8))))
        (1, 9)
    """
    if isinstance(data, Mapping) or _is_batch(data, count):
        return [data]
    if is_array(data):
        array = plain(data)
        return list(array) if _is_of_pictures(array) or array.dtype.kind not in "biufc" else [array]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__"):
        return (data[place] for place in range(len(data)))  # a dataset
    if not isinstance(data, Iterable):
        raise InputError(f"data: {type(data).__name__}: give a folder, a file, or an iterable of batches or pictures")
    return data


def _is_batch(data: Any, count: int) -> bool:
    """Whether this is a tuple as data loaders give them, inputs and perhaps targets, for a network of so many inputs,
    and not one of pictures or of many batches."""
    parts = list(flattened(dict(enumerate(data))).values()) if isinstance(data, tuple) else []
    if len(parts) < 2 or not all(is_array(part) for part in parts):
        return False
    first, *others = (plain(part) for part in parts)
    if any(part.dtype.kind not in "biufc" or _is_of_pictures(part[None]) for part in (first, *others)):
        return False
    if all(part.shape[1:] == first.shape[1:] and part.dtype == first.dtype for part in others):
        return count <= len(parts) <= count + MOST_TARGETS and all(part.shape == first.shape for part in others)
    return True


def _is_of_pictures(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3


def _alone(data: Any, archive: Archive) -> dict[str, NDArray[Any]] | None:
    """The arrays of a single batch; None for anything else, also for an array of pictures."""
    inputs = inputs_of(archive)
    if _is_batch(data, len(inputs)):
        parts = flattened(dict(enumerate(data))).values()
        return {given.name: plain(part) for given, part in zip(inputs, parts, strict=False)}
    if isinstance(data, Mapping):
        return {name: plain(array) for name, array in flattened(data).items()}
    if not is_array(data) or plain(data).dtype.kind not in "biufc":
        return None
    array = plain(data)
    if array.dtype == np.uint8 and array.ndim == 4 and archive.preprocessing and array.shape[-1] != 3:
        raise InputError(f"data: pictures are uint8 of shape (n, height, width, 3), not {array.shape}")
    return None if _is_of_pictures(array) and inputs[0].dtype != np.uint8 else {inputs[0].name: array}


def array_files(path: Path) -> list[Path]:
    """An ``.npz`` file, or those in a folder."""
    if path.suffix == ".npz":
        return [path]
    return sorted(path.glob("*.npz")) if path.is_dir() else []


def _npz(path: Path, archive: Archive) -> Iterator[Item]:
    yield from _rows(arrays_in(path), archive, str(path))


def _rows(arrays: dict[str, NDArray[Any]], archive: Archive, where: str) -> Iterator[Item]:
    """The examples of arrays. One with one axis more than its input has an example in each row, and so have those of as
    many rows where the network takes one of each; one of as many axes is one batch; what has as many axes as its input
    where that has none along which examples lie is for all."""
    ranks = {given.name: len(given.shape) for given in inputs_of(archive)}
    if len(ranks) == len(arrays) == 1:  # whatever it is called
        arrays = dict(zip(ranks, arrays.values(), strict=True))
    rows = {name: len(a) for name, a in arrays.items() if a.ndim == ranks.get(name, -2) + 1}
    if not rows and _one_of_each(arrays, archive):
        for row in range(len(next(iter(arrays.values())))):
            yield _by_name({name: array[row : row + 1] for name, array in arrays.items()}, archive, where)
        return
    if not rows:
        yield from _singles(_by_name(arrays, archive, where), archive)
        return
    if len(set(rows.values())) > 1:
        raise InputError(f"{where}: arrays of different numbers of examples: {rows}")
    for row in range(next(iter(rows.values()))):
        yield _by_name({name: a[row] if name in rows else a for name, a in arrays.items()}, archive, where)


def _one_of_each(arrays: Mapping[str, NDArray[Any]], archive: Archive) -> bool:
    """Whether the network takes arrays of one row alone, and these have as many rows each."""
    inputs = inputs_of(archive)
    if is_batched(inputs) or not all(given.batched or given.shape[:1] == (1,) for given in inputs):
        return False
    return len({len(array) if array.ndim else 0 for array in arrays.values()}) == 1


def arrays_in(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name.

    Raises:
        InputError: it is none, or holds none.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: np.asarray(file[name]) for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: cannot be read as .npz: {one_line(error)}") from None
    if not arrays:
        raise InputError(f"{path}: holds no arrays")
    return arrays


def _by_name(given: Any, archive: Archive, where: str = "data") -> dict[str, NDArray[Any]]:
    """One batch as arrays by name, of the types that the network takes."""
    inputs = inputs_of(archive)
    if isinstance(given, Mapping):
        arrays = {name: plain(value) for name, value in flattened(given).items()}
    elif isinstance(given, tuple | list):
        parts = list(flattened(dict(enumerate(given))).values())
        if len(parts) < len(inputs):
            raise InputError(f"{where}: {len(parts)} arrays for the {len(inputs)} inputs of the network")
        arrays = {wanted.name: plain(value) for wanted, value in zip(inputs, parts, strict=False)}
    else:
        arrays = {inputs[0].name: plain(given)}
    if len(inputs) == len(arrays) == 1:  # whatever it is called
        arrays = {inputs[0].name: next(iter(arrays.values()))}
    found = {}
    for name, dtype, shape, _ in inputs:
        if name not in arrays:
            raise InputError(f"{where}: input {name!r} of the network is missing; there are {', '.join(arrays)}")
        array = arrays[name]
        fits = array.ndim == len(shape) and all(w in (None, s) for w, s in zip(shape, array.shape, strict=True))
        if not fits or not np.can_cast(array.dtype, dtype, "same_kind"):
            sizes = ", ".join("any" if size is None else str(size) for size in shape)
            raise InputError(f"{where}: input {name!r} is {dtype} ({sizes}), not {array.dtype} {array.shape}")
        if array.dtype.kind == "f" and np.isnan(array).any():
            raise InputError(f"{where}: input {name!r} holds NaN, first at {_first_nan(array)}")
        found[name] = np.asarray(array, dtype, order="C")
    return found


def _first_nan(array: NDArray[Any]) -> tuple[int, ...]:
    return tuple(int(place) for place in np.argwhere(np.isnan(array))[0])


def _singles(batch: dict[str, NDArray[Any]], archive: Archive) -> list[Item]:
    """A batch in single examples, if the network takes these along its first axes."""
    inputs = inputs_of(archive)
    counts = {len(batch[name]) for name, _, shape, _ in inputs if shape}
    if not is_batched(inputs) or len(counts) != 1:
        return [batch]
    return [{name: array[row : row + 1] for name, array in batch.items()} for row in range(counts.pop())]
