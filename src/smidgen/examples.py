"""Examples to calibrate on and to judge by: pictures, or whatever else a network takes; and how they become inputs."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.errors import InputError, ModelError, one_line
from smidgen.nested import flattened, is_array
from smidgen.run.pictures import find_labelled, find_pictures, open_picture, prepare

__all__ = [
    "LOOKED_AT",
    "Examples",
    "Input",
    "Item",
    "all_in",
    "batches",
    "by_shape",
    "examples_from",
    "examples_in",
    "free_axis",
    "groups",
    "inputs_of",
    "iterable",
    "labelled_in",
    "split",
    "together",
    "traceable",
    "traceable_from",
    "twice",
]

Item = Path | NDArray[np.uint8] | Mapping[str, NDArray[Any]]
"""A picture, or one example as an array for each input of the network, with whatever axis of examples these have."""

HELD_OUT = 400

LOOKED_AT = 20
"""Examples that are looked at for the axes that differ."""


class Input(NamedTuple):
    """One input of a network: its name, its type, its sizes, None where they are free, and whether examples lie along
    the first axis, as far as the graph tells."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    batched: bool


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples to calibrate on, and others to judge by.

    Args:
        calibration: what statistics and repair see.
        held_out: what the harm is measured on.
        truth: index of the true class of each held-out picture, or None if unknown.
        disjoint: whether no example is in both.
    """

    calibration: Sequence[Item]
    held_out: Sequence[Item]
    truth: Sequence[int] | None = None
    disjoint: bool = True

    @property
    def what(self) -> str:
        """What the examples are called."""
        return "inputs" if isinstance(self.calibration[0], Mapping) else "pictures"


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
    labelled = None if _array_files(path) else find_labelled(path, archive.labels)
    if labelled is None:
        return all_in(path, archive), None
    return [picture for picture, _ in labelled], [index for _, index in labelled]


def all_in(path: Path, archive: Archive) -> list[Item]:
    """All examples in a folder of pictures, an ``.npz`` file or a folder of those; labels do not matter.

    Raises:
        InputError: there are none, or arrays do not fit the network.
    """
    if _array_files(path):
        return [item for file in _array_files(path) for item in _npz(file, archive)]
    return list(find_pictures(path))


def files_in(path: Path) -> list[Path]:
    """The files that hold the examples of ``examples_in``.

    Raises:
        InputError: there are none.
    """
    return _array_files(path) or find_pictures(path)


def _array_files(path: Path) -> list[Path]:
    if path.suffix == ".npz":
        return [path]
    return sorted(path.glob("*.npz")) if path.is_dir() else []


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
    files = _array_files(path)
    if not files:
        find_pictures(path)  # or there are none of these either
    return _unlike(_named(_arrays(file), needed, known) for file in files)


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
    names = [name for name in given if name in known] or list(given)[: len(needed)]
    return {name: given[name] for name in names}


def _plain(array: Any) -> NDArray[Any]:
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def _unlike(given: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first, and the first of other shapes among a few."""
    found: list[tuple[dict[str, Any], list[tuple[int, ...]]]] = []
    for one in islice(given, LOOKED_AT):
        try:
            shapes = [_plain(array).shape for array in flattened(one).values()]
        except (TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"data: {', '.join(one)}: not arrays: {one_line(error)}") from None
        if not found or shapes != found[0][1]:
            found.append((one, shapes))
        if len(found) == 2:
            break
    return [one for one, _ in found]


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
        array = _plain(data)
        return list(array) if _is_of_pictures(array) or array.dtype.kind not in "biufc" else [array]
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not hasattr(data, "__iter__"):
        return (data[place] for place in range(len(data)))  # a dataset
    if not isinstance(data, Iterable):
        raise InputError(f"data: {type(data).__name__}: give a folder, a file, or an iterable of batches or pictures")
    return data


def _is_batch(data: Any, count: int) -> bool:
    """Whether this is a tuple as data loaders give them, inputs and perhaps labels, and not one of pictures or batches,
    which would be alike, for a network of so many inputs."""
    parts = list(flattened(dict(enumerate(data))).values()) if isinstance(data, tuple) else []
    if len(parts) < 2 or not all(is_array(part) for part in parts):
        return False
    first, *others = (_plain(part) for part in parts)
    if any(part.dtype.kind not in "biufc" or _is_of_pictures(part[None]) for part in (first, *others)):
        return False
    alike = all(part.shape[1:] == first.shape[1:] and part.dtype == first.dtype for part in others)
    return not alike or (count > 1 and len(parts) >= count)


def _is_of_pictures(array: NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[-1] == 3


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


def _alone(data: Any, archive: Archive) -> dict[str, NDArray[Any]] | None:
    """The arrays of a single batch; None for anything else, also for an array of pictures."""
    inputs = inputs_of(archive)
    if _is_batch(data, len(inputs)):
        parts = flattened(dict(enumerate(data))).values()
        return {given.name: _plain(part) for given, part in zip(inputs, parts, strict=False)}
    if isinstance(data, Mapping):
        return {name: _plain(array) for name, array in flattened(data).items()}
    if not is_array(data) or _plain(data).dtype.kind not in "biufc":
        return None
    array = _plain(data)
    if array.dtype == np.uint8 and array.ndim == 4 and archive.preprocessing and array.shape[-1] != 3:
        raise InputError(f"data: pictures are uint8 of shape (n, height, width, 3), not {array.shape}")
    return None if _is_of_pictures(array) and inputs[0].dtype != np.uint8 else {inputs[0].name: array}


def split(items: Sequence[Item], truth: Sequence[int] | None, most: int, seed: int) -> Examples:
    """A fifth of the examples, at most 400, is held out; of the others at most ``most`` are taken. The draw is random.

    Of fewer than 20 all serve both purposes.

    Raises:
        InputError: there are none.

    Example:
        >>> found = split([np.zeros((1, 1, 3), np.uint8)] * 100, None, most=50, seed=0)
        >>> len(found.calibration), len(found.held_out)
        (50, 20)
    """
    if not items:
        raise InputError("no pictures to calibrate on")
    order = np.random.default_rng(seed).permutation(len(items))
    count = min(len(items) // 5, HELD_OUT)
    held, rest = (order[:count], order[count:]) if len(items) >= 20 else (order, order)
    return Examples(
        [items[i] for i in rest[:most]],
        [items[i] for i in held],
        None if truth is None else [truth[i] for i in held],
        len(items) >= 20,
    )


def free_axis(name: str, axis: int) -> str:
    """What a graph calls an axis of an input that has any size, but no examples along it."""
    return f"{name}_{axis}" if axis else f"{name}_0_no_examples"


def inputs_of(archive: Archive) -> list[Input]:
    """The inputs of an archive's network.

    Raises:
        ModelError: it has none, or one that is no tensor.
    """
    found = []
    for value in onnx.load_from_string(archive.graph).graph.input:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type"):
            raise ModelError(f"input {value.name!r} of the network is no tensor")
        sizes = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
        # an axis that has the name of its place is free in what smidgen traced, though no examples lie along it
        batched = bool(sizes) and sizes[0] is None and kind.shape.dim[0].dim_param != free_axis(value.name, 0)
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        found.append(Input(value.name, dtype, sizes, batched))
    if not found:
        raise ModelError("the file holds only weights and no network, so nothing can be run or measured; use a plan")
    return found


def groups(items: Sequence[Item], archive: Archive, size: int) -> Iterator[list[Item]]:
    """The examples in batches: pictures always, others where they have the same shapes and an axis of examples."""
    inputs = inputs_of(archive)
    if items and not isinstance(items[0], Mapping) and inputs[0].shape and inputs[0].shape[0]:
        size = inputs[0].shape[0]  # fixed when it was exported; what is left over makes no batch
        items = items[: max(len(items) - len(items) % size, min(size, len(items)))]
    wide = not items or not isinstance(items[0], Mapping) or _batched(inputs)
    group: list[Item] = []
    for item in items:
        if group and (not wide or len(group) == size or not _alike(group[0], item)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def twice(batch: Mapping[str, NDArray[Any]], archive: Archive) -> dict[str, NDArray[Any]] | None:
    """The examples of a batch two times in one, for a network that takes any number of them along its first axes."""
    if not _batched(inputs_of(archive)):
        return None
    return {name: np.concatenate([array, array]) for name, array in batch.items()}


def together(archive: Archive) -> int:
    """How many examples a network takes that takes no other number, as far as the sizes tell: what all its inputs have
    along their first axes, if that is 1 or they are pictures; 0 if that may be anything else."""
    shapes = [given.shape for given in inputs_of(archive)]
    counts = {shape[0] if shape else None for shape in shapes}
    (count,) = counts if len(counts) == 1 else (None,)
    return count if count and (count == 1 or all(len(shape) == 4 for shape in shapes)) else 0


def by_shape(items: Sequence[Item]) -> list[Item]:
    """The examples in an order in which those of the same shapes follow each other, so that batches are large.

    Example:
        >>> [len(item["x"]) for item in by_shape([{"x": np.zeros(n)} for n in (3, 1, 3)])]
        [1, 3, 3]
    """

    def shapes(item: Item) -> tuple[tuple[int, ...], ...]:
        return tuple(item[name].shape for name in sorted(item)) if isinstance(item, Mapping) else ()

    return sorted(items, key=shapes)


def batches(items: Sequence[Item], archive: Archive, size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """The examples as inputs of the network by name, a few at a time.

    Raises:
        ModelError: they are pictures, and it is not known how these become the network's input.
    """
    inputs = inputs_of(archive)
    for group in groups(items, archive, size):
        if isinstance(group[0], Mapping):
            names = list(group[0])
            yield {name: _joined([item[name] for item in group]) for name in names}  # type: ignore[call-overload, index]
            continue
        if archive.preprocessing is None or len(inputs) != 1 or len(inputs[0].shape) != 4:
            raise ModelError(
                "it is not known how pictures become the network's input: say --preprocessing imagenet (or caffe, "
                "symmetric, unit, bytes), or give the module an attribute `preprocessing`, a smidgen.Preprocessing"
            )
        pixels = [p if isinstance(p, np.ndarray) else open_picture(p) for p in group]  # type: ignore[arg-type]
        yield {inputs[0].name: np.stack([prepare(p, archive.preprocessing) for p in pixels]).astype(inputs[0].dtype)}


def _joined(arrays: list[NDArray[Any]]) -> NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _batched(inputs: Sequence[Input]) -> bool:
    """Whether every input has examples along its first axis, as far as the graph tells."""
    return all(given.batched for given in inputs)


def _alike(one: Item, other: Item) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return True
    return all(one[name].shape[1:] == other[name].shape[1:] for name in one)


def _npz(path: Path, archive: Archive) -> Iterator[Item]:
    yield from _rows(_arrays(path), archive, str(path))


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
    if _batched(inputs) or not all(given.batched or given.shape[:1] == (1,) for given in inputs):
        return False
    return len({len(array) if array.ndim else 0 for array in arrays.values()}) == 1


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
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
        arrays = {name: _plain(value) for name, value in flattened(given).items()}
    elif isinstance(given, tuple | list):
        parts = list(flattened(dict(enumerate(given))).values())
        if len(parts) < len(inputs):
            raise InputError(f"{where}: {len(parts)} arrays for the {len(inputs)} inputs of the network")
        arrays = {wanted.name: _plain(value) for wanted, value in zip(inputs, parts, strict=False)}
    else:
        arrays = {inputs[0].name: _plain(given)}
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
    if not _batched(inputs) or len(counts) != 1:
        return [batch]
    return [{name: array[row : row + 1] for name, array in batch.items()} for row in range(counts.pop())]
