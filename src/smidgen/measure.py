"""What a network does with its inputs: the statistics that say which errors in which weights do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree

from smidgen.answers import pull_back
from smidgen.code import Stats
from smidgen.errors import ModelError
from smidgen.run.outputs import Output
from smidgen.uses import Use, named_weights, watched

__all__ = ["Inputs", "Need", "measure", "need"]

ACTIVITY = 0.2
"""Part of plain activity in the second moment; the rest counts inputs by how much the loss depends on them."""

WIDE = 8192
"""Inputs of a weight beyond which only the diagonal of their second moment is kept."""

UNSEEN = 0.5
"""How often a word that was never looked up is taken to have been seen, so that its errors count, too."""

Inputs = NDArray[np.float32] | Mapping[str, NDArray[np.generic]]


class Need(NamedTuple):
    """What measuring will take."""

    bytes: int
    weights: int
    measured: tuple[str, ...]


def need(module: nn.Module, batch: Inputs, size: int) -> Need:
    """What measuring takes: the moments of all weights, and the activations of one batch.

    Args:
        module: the network.
        batch: an example, which is run once.
        size: how many times as much is computed at once.

    Returns:
        An estimate of bytes, how many weights will be measured, and their names.

    Raises:
        ModelError: the network cannot be run.
    """
    with evaluating(module), watched(module) as uses:
        called(module, batch)
    names = {use.name for use in uses}
    found = {name: weight for name, weight in named_weights(module) if name in names}
    # two sums and the moment that they give at 8 bytes, and what is factored of it at 4; three times 8 for outputs
    sizes = [(weight.shape[0], weight.numel() // weight.shape[0]) for weight in found.values()]
    moments = sum((28 * d**2 if d <= WIDE else 28 * d) + 24 * n**2 for n, d in sizes)
    largest = max((16 * d**2 for _, d in sizes if d <= WIDE), default=0)
    # inputs are kept for the way back, with what lies between them; the largest is unfolded for the moments
    inputs = [use.x.numel() for use in uses]
    activations = 4 * size * (4 * sum(inputs) + 9 * max(inputs, default=0))
    return Need(moments + largest + activations, sum(w.numel() for w in found.values()), tuple(found))


def measure(
    module: nn.Module,
    batches: Iterable[Inputs],
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
    outputs: Sequence[Output] | None = None,
) -> dict[str, Stats]:
    """Second moments and sensitivities of every weight that inputs are multiplied with, in one pass without labels.

    The loss is the divergence from the network's own answers (``smidgen.run.outputs.divergence``); to second order it
    is half the square of the gradient of a random vote, drawn so that its covariance is the second derivative of the
    divergence. One backward pass of one vote gives, for every weight and every input on its own, its gradient: summed
    over positions, so that what cancels out between positions, or adds up, is seen. Memory does not grow with the
    inputs. Convolutions, their transposes, linear functions and look-ups are seen wherever they happen, in whatever
    layers.

    Args:
        module: the network; computed in evaluation mode, and not changed.
        batches: inputs: one array of shape (n, ...), or arrays by name.
        seed: of the votes.
        on_progress: called with the number of inputs done.
        outputs: what the outputs are; by default there is one, of scores (or probabilities) of classes.

    Returns:
        The statistics of each weight that was used so, by its name.

    Raises:
        ModelError: an output is not finite or not what it is said to be, or there is no input.

    Source:
        The Fisher information as in Martens & Grosse, "K-FAC", arXiv 1503.05671, with the whole gradient of an input
        in place of independent positions; the idea of using it for rounding: Tseng et al., "YAQA", arXiv 2505.22988.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 5))
        >>> stats = measure(network, [np.ones((2, 3, 3, 3), np.float32)])
        >>> stats["0.weight"].second_moment.shape, stats["3.weight"].samples
        ((27, 27), 2)
    """
    generator = torch.Generator().manual_seed(seed)
    weights = dict(named_weights(module))
    sums: dict[str, _Sums] = {}
    done = 0
    with evaluating(module), watched(module) as uses:
        for batch in batches:
            found = called(module, batch)
            kinds = outputs or scores(found)
            pull_back(found, kinds, generator)
            for name, mine in _by_name(uses).items():
                sums.setdefault(name, _Sums(weights[name].shape)).add(mine)
            uses.clear()
            done += number_of(found, kinds)
            if on_progress:
                on_progress(done)
    if not done:
        raise ModelError("measuring needs at least one input")
    return {name: sums[name].stats(done) for name in weights if name in sums and sums[name].positions}


def called(module: nn.Module, batch: Inputs) -> tuple[Tensor, ...]:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)

    def tensor(array: NDArray[np.generic]) -> Tensor:
        found = torch.from_numpy(np.array(array))
        return found.to(dtype) if found.dtype == torch.float32 else found

    if isinstance(batch, Mapping):
        output = module(**{name: tensor(array) for name, array in batch.items()})
    else:
        output = module(tensor(batch))
    found = [leaf for leaf in _pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
    if not found:
        raise ModelError("measuring needs a network that gives tensors")
    return tuple(found)


def _by_name(uses: list[Use]) -> dict[str, list[Use]]:
    found: dict[str, list[Use]] = {}
    for use in uses:
        found.setdefault(use.name, [])
        if use.gradient is not None:
            found[use.name].append(use)
    return found


class _Sums:
    """What adds up for one weight."""

    def __init__(self, shape: torch.Size) -> None:
        self.rows, self.inputs = shape[0], shape[1:].numel()
        square = (self.inputs,) if self.inputs > WIDE else (self.inputs, self.inputs)
        self.activity = torch.zeros(square, dtype=torch.float64)
        self.fisher = torch.zeros(square, dtype=torch.float64)
        self.outputs = torch.zeros(self.rows, self.rows, dtype=torch.float64)
        self.positions = 0
        self.seen: Tensor | None = None

    def add(self, uses: list[Use]) -> None:
        """Adds a batch: a weight that was used several times has one gradient, the sum over its uses."""
        with torch.no_grad():
            plain = [use for use in uses if use.kind in ("linear", "convolution")]
            for swapped in (False, True):
                same = [use for use in plain if use.swapped == swapped]
                if same:
                    ends = [(use.patches(), use.gradients(self.rows)) for use in same]
                    x, g = (torch.cat(parts, 2) for parts in zip(*ends, strict=True))
                    self._add(*((g, x) if swapped else (x, g)))
            for use in uses:
                if use.kind == "transposed":
                    self._add_transposed(use)
                elif use.kind == "lookup":
                    self._add_lookup(use)

    def _add(self, x: Tensor, g: Tensor) -> None:
        """Inputs (n, groups, positions, inputs) and gradients (n, groups, positions, outputs)."""
        n, groups, positions, inputs = x.shape
        flat = x.reshape(-1, inputs)
        self.activity += (flat.square().sum(0) if self.activity.ndim == 1 else flat.T @ flat).double()
        self.positions += len(flat)
        x, g = x.flatten(0, 1), g.flatten(0, 1)
        if positions <= g.shape[2] and self.fisher.ndim == 2:
            # the same sum by the positions, which are fewer than the outputs: a linear layer has one
            weighted = torch.bmm(torch.bmm(g, g.transpose(1, 2)), x)
            self.fisher += (flat.T @ weighted.reshape(-1, inputs)).double()
            gram = torch.bmm(x, x.transpose(1, 2)).reshape(n, groups, positions, positions)
            grouped = g.reshape(n, groups, positions, -1)
            if groups == 1:
                answered = torch.matmul(gram, grouped)
                self.outputs += torch.einsum("bgtm,bgtn->mn", grouped, answered).double()
            else:
                self._add_outputs(torch.bmm(g.transpose(1, 2), x), n)
        else:
            gradient = torch.bmm(g.transpose(1, 2), x).reshape(-1, inputs)
            self.fisher += (gradient.square().sum(0) if self.fisher.ndim == 1 else gradient.T @ gradient).double()
            self._add_outputs(gradient, n)

    def _add_outputs(self, gradient: Tensor, n: int) -> None:
        by_output = gradient.reshape(n, self.rows, -1)
        self.outputs += torch.einsum("bmi,bni->mn", by_output, by_output).double()

    def _add_transposed(self, use: Use) -> None:
        """The weight (outputs, kernel, inputs): an output sees an input through one place of the kernel."""
        x, windows = use.scattered()
        n, _, inputs = x.shape
        gradient = torch.einsum("npi,npok->noki", x, windows).reshape(n, self.rows, -1)
        flat = gradient.reshape(-1, self.inputs)
        self.fisher += (flat.T @ flat).double()
        self._add_outputs(gradient, n)
        assert use.gradient is not None
        seen = use.gradient[0, 0].numel() * n
        active = x.reshape(-1, inputs)
        self.activity += torch.kron(torch.eye(self.inputs // inputs), active.T @ active).double()
        self.positions += max(1, seen)

    def _add_lookup(self, use: Use) -> None:
        """A look-up is a product with a vector that is zero but for a one."""
        assert use.gradient is not None
        indices, g = use.x.reshape(len(use.x), -1).long(), use.gradient.reshape(len(use.x), -1, self.rows)
        n, positions = indices.shape
        keys = indices + self.inputs * torch.arange(n)[:, None]
        found, places = torch.unique(keys, return_inverse=True)
        gradient = torch.zeros(len(found), self.rows, dtype=g.dtype).index_add_(0, places.reshape(-1), g.flatten(0, 1))
        columns = found % self.inputs
        square = torch.zeros(self.inputs, dtype=torch.float64)
        square.index_add_(0, columns, gradient.double().square().sum(1))
        counts = torch.bincount(indices.reshape(-1), minlength=self.inputs).double()
        if self.fisher.ndim == 1:
            self.fisher += square
            self.activity += counts
        else:  # of a small table also how two words of one input go together
            table = torch.zeros(n, self.inputs, self.rows, dtype=g.dtype)
            table[found // self.inputs, columns] = gradient
            self.fisher += torch.einsum("bir,bjr->ij", table, table).double()
            self.activity += torch.diag(counts)
        self.outputs += (gradient.T @ gradient).double()
        self.positions += n * positions
        self.seen = counts if self.seen is None else self.seen + counts

    def stats(self, samples: int) -> Stats:
        if self.seen is not None:
            self._expect_others()
        activity = (self.activity / self.positions).numpy()
        fisher = (self.fisher / (samples * self.rows)).numpy()
        power, harm = (float(moment.sum() if moment.ndim == 1 else np.trace(moment)) for moment in (activity, fisher))
        sensitivity = harm / power if power else 0.0
        moment = activity
        if sensitivity:
            moment = ACTIVITY * activity + (1 - ACTIVITY) / sensitivity * fisher
        outputs = (self.outputs / samples).numpy()
        return Stats((moment + moment.T) / 2, sensitivity, samples, (outputs + outputs.T) / 2)

    def _expect_others(self) -> None:
        """What was looked up in a sample is not all that ever will be."""
        assert self.seen is not None
        square = self.fisher if self.fisher.ndim == 1 else self.fisher.diagonal()
        square += UNSEEN * square.sum() / self.seen.sum().clamp(min=1)
        active = self.activity if self.activity.ndim == 1 else self.activity.diagonal()
        active += UNSEEN


def number_of(found: Sequence[Tensor], outputs: Sequence[Output]) -> int:
    """How many inputs a network has answered."""
    many = [len(output.leading(y)) for output, y in zip(outputs, found, strict=False) if output.examples is not None]
    return many[0] if many else 1


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def scores(found: Sequence[Tensor]) -> list[Output]:
    """What the output of a classifier is."""
    y = found[0]
    if len(found) != 1 or y.ndim < 2 or not y.is_floating_point() or y.flatten(1).shape[1] < 2:
        raise ModelError("measuring needs a network that gives one tensor of scores, of shape (n, classes)")
    with torch.no_grad():
        sums = bool((y >= 0).all()) and torch.allclose(
            y.flatten(1).sum(1), torch.ones(len(y), dtype=y.dtype), atol=1e-3
        )
    return [Output("scores", "probabilities" if sums else "scores", 1)]
