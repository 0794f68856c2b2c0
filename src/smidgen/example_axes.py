"""Along which axes of a module's inputs and outputs there are examples, found by trying."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from smidgen.flat import Flat, apart

__all__ = ["Found", "axes_found", "rows_of"]

Inputs = dict[str, Tensor]


class Found(NamedTuple):
    """Where examples lie: the axis of each input, and of each output or None, and one example alone."""

    inputs: dict[str, int]
    outputs: list[int | None]
    one: Inputs


def axes_found(flat: Flat, examples: list[Inputs]) -> Iterator[Found]:
    """The axes along which what is joined is answered as each part alone: steps of a sequence are not.

    Two different examples are joined, and one with itself: attention answers a doubled sequence as a single one.

    Args:
        flat: the module.
        examples: what it is traced with.
    """
    for axes in _candidates(examples[0]):
        one, other = _pair(axes, examples)
        outputs = _answered(flat, one, one, axes)
        if outputs is not None and (other is None or _answered(flat, one, other, axes, outputs) is not None):
            yield Found(axes, outputs, one)


def rows_of(inputs: Inputs) -> list[Inputs]:
    """The first rows of arrays of one length, each as inputs; none where these have no rows, or only one."""
    lengths = {tensor.shape[0] if tensor.ndim else 0 for tensor in inputs.values()}
    count = max(lengths) if len(lengths) == 1 else 0
    return (
        [{name: t[place : place + 1] for name, t in inputs.items()} for place in range(min(count, 2))]
        if count > 1
        else []
    )


def _candidates(first: Inputs) -> Iterator[dict[str, int]]:
    """The first axes of all inputs, or the second of all but one, as of recurrent layers: those of one length."""
    real = [name for name, tensor in first.items() if tensor.ndim]
    every = [dict.fromkeys(real, 0)]
    every += [{name: int(name != plain) for name in real} for plain in real if len(real) > 1]
    for axes in every:
        lengths = {first[name].shape[axis] if first[name].ndim > axis else 0 for name, axis in axes.items()}
        if len(lengths) == 1 and lengths != {0}:
            yield axes


def _pair(axes: dict[str, int], examples: list[Inputs]) -> tuple[Inputs, Inputs | None]:
    """One example, and another that differs from it: of the same batch, or made of it."""

    def row(place: int) -> Inputs:
        return {name: t.narrow(axes[name], place, 1) if name in axes else t for name, t in examples[0].items()}

    one = row(0)
    count = next(examples[0][name].shape[axis] for name, axis in axes.items())
    other = row(1) if count > 1 else one
    if all(torch.equal(one[name], other[name]) for name in one):
        other = {name: _changed(tensor) if name in axes else tensor for name, tensor in one.items()}
    return one, None if all(torch.equal(one[name], other[name]) for name in one) else other


def _changed(tensor: Tensor) -> Tensor:
    """The same numbers in another order; where they are all the same, others that are as likely to be taken."""
    generator = torch.Generator().manual_seed(0)
    mixed = tensor.reshape(-1)[torch.randperm(tensor.numel(), generator=generator)].reshape(tensor.shape)
    if not torch.equal(mixed, tensor) or not tensor.numel():
        return mixed
    if tensor.is_floating_point():
        return tensor + torch.rand(tensor.shape, generator=generator)
    if tensor.dtype == torch.bool:
        return tensor
    every_second = (torch.arange(tensor.numel()) % 2 == 0).reshape(tensor.shape)
    return torch.where(every_second, (tensor - 1).abs(), tensor)


def _answered(
    flat: Flat, one: Inputs, other: Inputs, axes: dict[str, int], unsure: list[int | None] | None = None
) -> list[int | None] | None:
    """The axes of the outputs along which there are the answers to two examples that are joined, or None if these are
    not those to each; ``unsure`` where the module does not take all of this."""
    joined = {name: torch.cat([t, other[name]], axes[name]) if name in axes else t for name, t in one.items()}
    answers = [flat.answers(inputs) for inputs in (one, one, other, joined)]
    if any(answer is None for answer in answers):
        return unsure
    found: list[int | None] = []
    for first, again, second, both in zip(*answers, strict=True):
        grown = [axis for axis, (a, b) in enumerate(zip(first.shape, both.shape, strict=False)) if a != b]
        draws = apart(first, again) is not None  # numbers of its own, which cannot be compared
        if len(grown) == 1 and both.shape[grown[0]] == 2 * first.shape[grown[0]]:
            halves = zip((first, second), both.chunk(2, grown[0]), strict=True)
            if not draws and any(apart(alone, _common(half, alone)) for alone, half in halves):
                return None
            found.append(grown[0])
            continue
        # a mean over all, or the same for all; what pairs all with all has as many of both
        pairs = len(grown) == 2 and first.shape[grown[0]] == first.shape[grown[1]]
        if not (first.ndim == 0 or pairs or draws) and (grown or apart(first, both) or apart(second, both)):
            return None
        found.append(None)
    return found if any(axis is not None for axis in found) else None


def _common(half: Tensor, alone: Tensor) -> Tensor:
    """The part of a joined answer that there is of it alone, too: the longest of a batch says how long all are."""
    return half[tuple(slice(size) for size in alone.shape)] if half.ndim == alone.ndim else half
