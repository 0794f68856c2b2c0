"""Examples to calibrate on and to judge by, and how they become inputs of a network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from smidgen.archive import Archive
from smidgen.errors import InputError, ModelError
from smidgen.run.pictures import open_picture, prepare

__all__ = [
    "Examples",
    "Input",
    "Item",
    "batches",
    "by_shape",
    "free_axis",
    "groups",
    "inputs_of",
    "is_batched",
    "split",
    "together",
    "twice",
]

Item = Path | NDArray[np.uint8] | Mapping[str, NDArray[Any]]
"""A picture, or one example as an array for each input of the network, with whatever axis of examples these have."""

HELD_OUT = 400


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
    wide = not items or not isinstance(items[0], Mapping) or is_batched(inputs)
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
    if not is_batched(inputs_of(archive)):
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


def is_batched(inputs: Sequence[Input]) -> bool:
    """Whether every input has examples along its first axis, as far as the graph tells."""
    return all(given.batched for given in inputs)


def _alike(one: Item, other: Item) -> bool:
    if not isinstance(one, Mapping) or not isinstance(other, Mapping):
        return True
    return all(one[name].shape[1:] == other[name].shape[1:] for name in one)
