"""Targets: what a weight should be, once the inputs that it is multiplied with are those of a squeezed network."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smidgen.answers import pull_back
from smidgen.measure import ACTIVITY, WIDE, Inputs, called, evaluating, number_of, scores
from smidgen.network import Network
from smidgen.run.outputs import Output
from smidgen.uses import Use, watched

__all__ = ["targets"]

DAMPING = 50
"""Part of its mean that is added to the diagonal of the inputs' moment, divided by the number of inputs seen."""

POSITIONS = 200
"""So many positions of an input are looked at, at most; neighbours are alike."""


def targets(
    original: Network,
    squeezed: Network,
    inputs: Iterable[Inputs],
    names: Collection[str],
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
    outputs: Sequence[Output] | None = None,
) -> dict[str, NDArray[np.float32]]:
    """For every second squeezed weight on the way through the network, what makes up for errors of those between.

    With inputs x in the original and x' in the squeezed network, W + W E[(x - x') x'^T] (E[x' x'^T] + damping)^-1
    gives outputs of least squared error, positions weighted as in the second moment. If every weight made up for all
    errors before it, these would be corrected many times over; so the weights with targets are taken to give
    the original's outputs, and x' has only the errors of the others, whose codes stay as they are.

    Args:
        original: the network before.
        squeezed: the same with its codes.
        inputs: batches by name.
        names: of the squeezed weights.
        seed: of votes and positions.
        on_progress: called with the number of inputs done.
        outputs: what the outputs are; by default one of scores of classes.

    Returns:
        Weights by name; none for a weight whose inputs are not changed, or that is no plain factor of its inputs.
    """
    generator = torch.Generator().manual_seed(seed)
    weights = dict(original.named_weights())
    sums: dict[str, tuple[Tensor, Tensor]] = {}
    done = 0
    with evaluating(original), evaluating(squeezed):
        for batch in inputs:
            with watched(original, kept=True) as before:
                found = called(original, batch)
                kinds = outputs or scores(found)
                pull_back(found, kinds, generator)
            wanted = _every_second(before, names)
            replayed = [use if use.name in wanted else replace(use, output=None) for use in before]
            with watched(squeezed, replayed=replayed) as after:
                called(squeezed, batch)
            for one, other in zip(before, after, strict=False):
                if one.name == other.name and one.name in wanted and one.x.shape == other.x.shape:
                    pair = _sums(one, other, generator)
                    if one.name in sums:
                        pair = tuple(a + b for a, b in zip(sums[one.name], pair, strict=True))  # type: ignore[assignment]
                    sums[one.name] = pair
            done += number_of(found, kinds)
            if on_progress:
                on_progress(done)
    return {
        name: _solved(weights[name].detach(), *pair, DAMPING / done)
        for name, pair in sums.items()
        if bool(pair[0].any())
    }


def _every_second(uses: Sequence[Use], names: Collection[str]) -> set[str]:
    """The weights at odd places in order of use, where those that have one input are at one place."""
    place, last = -1, None
    places: dict[str, int] = {}
    for use in uses:
        if use.name in names:
            here = use.x.data_ptr(), use.x.shape
            place, last = place + (here != last), here
            places.setdefault(use.name, place)
    other = {use.name for use in uses if not _plain(use)}
    return {name for name, place in places.items() if place % 2 and name not in other}


def _plain(use: Use) -> bool:
    if use.kind not in ("linear", "convolution") or use.swapped or use.rows or use.gradient is None:
        return False
    width = use.x.shape[-1] if use.geometry is None else use.x.shape[1] * int(np.prod(use.geometry["kernel"]))
    return width <= WIDE


def _sums(one: Use, other: Use, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of (x - x') x'^T and x' x'^T, for each group, positions weighted by what depends on them."""
    x, y = one.patches(), other.patches()
    harm = one.gradients(0).square().sum(-1, keepdim=True)
    harm = ACTIVITY * harm.mean() + (1 - ACTIVITY) * harm
    some = torch.randperm(x.shape[2], generator=generator)[:POSITIONS]
    x, y, harm = (part[:, :, some].transpose(0, 1).flatten(1, 2) for part in (x, y, harm))
    weighted = y * harm
    return ((x - y).mT @ weighted).double(), (y.mT @ weighted).double()


def _solved(weight: Tensor, errors: Tensor, moment: Tensor, damping: float) -> NDArray[np.float32]:
    groups, inputs, _ = moment.shape
    rows = weight.reshape(groups, -1, inputs).double()
    least = torch.finfo(torch.float32).tiny
    added = damping * moment.diagonal(dim1=1, dim2=2).mean(1) + least
    damped = moment + added[:, None, None] * torch.eye(inputs, dtype=torch.float64)
    found = rows + torch.linalg.solve(damped, rows @ errors, left=False)
    return np.asarray(found.reshape(weight.shape).float().numpy())
