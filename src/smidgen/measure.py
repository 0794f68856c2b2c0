"""What a network does with its inputs: the statistics that say which errors in which weights do harm."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smidgen.code import Stats
from smidgen.errors import ModelError

__all__ = ["Need", "layers", "measure", "need", "scores_of"]

ACTIVITY = 0.2
"""Part of plain activity in the second moment; the rest counts inputs by how much the loss depends on them."""

_Convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_Layer = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear


class Need(NamedTuple):
    """What measuring will take."""

    bytes: int
    weights: int
    skipped: tuple[str, ...]


def layers(module: nn.Module) -> dict[str, _Layer]:
    """The layers that can be measured, by the name of their weight, in the order of the module.

    A weight that several layers share is named once.

    Example:
        >>> list(layers(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2))))
        ['0.weight', '2.weight']
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    found: dict[str, _Layer] = {}
    for layer in module.modules():
        if isinstance(layer, (*_Convolution, nn.Linear)) and id(layer.weight) in names:
            found.setdefault(names[id(layer.weight)], layer)
    return found


def need(module: nn.Module, shape: tuple[int, ...], batch: int) -> Need:
    """What measuring takes: the moments of all layers, and the activations of one batch.

    Args:
        module: the network.
        shape: of one input, without the batch dimension.
        batch: how many inputs are computed at once.

    Returns:
        An estimate of bytes, the weights that will be measured, and the names of the parameters of two and more
        axes that will not.
    """
    found = layers(module)
    # two sums and the moment that they give at 8 bytes, and what is factored of it at 4; three times 8 for outputs
    moments = sum(28 * _inputs(layer) ** 2 + 24 * layer.weight.shape[0] ** 2 for layer in found.values())
    largest = max((16 * _inputs(layer) ** 2 for layer in found.values()), default=0)
    sizes: list[int] = []
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    handles = [m.register_forward_hook(lambda _, __, out: sizes.append(_numel(out))) for m in module.modules()]
    try:
        with torch.no_grad(), _evaluating(module):
            module(torch.zeros(1, *shape, dtype=dtype))
    finally:
        for handle in handles:
            handle.remove()
    activations = 4 * 4 * batch * (sum(sizes) + int(np.prod(shape)))
    skipped = tuple(name for name, p in module.named_parameters() if p.ndim > 1 and name not in found)
    return Need(moments + largest + activations, sum(layer.weight.numel() for layer in found.values()), skipped)


def measure(
    module: nn.Module,
    batches: Iterable[NDArray[np.float32]],
    seed: int = 0,
    on_progress: Callable[[int], None] | None = None,
) -> dict[str, Stats]:
    """Second moments and sensitivities of every convolution and linear layer, in one pass over unlabelled inputs.

    The loss is the Kullback-Leibler divergence from the network's own answers; to second order it is half the square
    of the gradient of a random vote of the classes, drawn so that its covariance is that of the answer. One backward
    pass of one vote gives, for every layer and every input on its own, the gradient of its weight: summed over
    positions, so that what cancels out between positions, or adds up, is seen. Memory does not grow with the inputs.

    Args:
        module: the network; computed in evaluation mode, and not changed. It gives one score (or one probability) for
            each class.
        batches: float32 inputs of shape (n, ...).
        seed: of the votes.
        on_progress: called with the number of inputs done.

    Returns:
        The statistics of each layer that was used, by the name of its weight.

    Raises:
        ModelError: the network does not give one finite number per class, or there is no input.

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
    sums = {name: _Sums(layer) for name, layer in layers(module).items()}
    by_weight = {id(total.layer.weight): total for total in sums.values()}
    done = 0
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    with _evaluating(module), _watched(module, by_weight):
        for batch in batches:
            scores = scores_of(module(torch.from_numpy(np.ascontiguousarray(batch, np.float32)).to(dtype)))
            if scores.requires_grad:
                scores.backward(_vote(scores.detach(), generator))  # type: ignore[no-untyped-call]
            for total in sums.values():
                total.close()
            done += len(batch)
            if on_progress:
                on_progress(done)
    if not done:
        raise ModelError("measuring needs at least one input")
    return {name: total.stats(done) for name, total in sums.items() if total.positions}


class _Sums:
    """What adds up for one layer."""

    def __init__(self, layer: _Layer) -> None:
        inputs = _inputs(layer)
        self.layer = layer
        self.activity = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.fisher = torch.zeros(inputs, inputs, dtype=torch.float64)
        self.outputs = torch.zeros(layer.weight.shape[0], layer.weight.shape[0], dtype=torch.float64)
        self.positions = 0
        self.calls: list[_Call] = []

    def close(self) -> None:
        """Adds a batch: a layer that was used several times has one gradient, the sum over its uses."""
        calls, self.calls = [call for call in self.calls if call.gradient is not None], []
        if not calls:
            return
        with torch.no_grad():
            x = torch.cat([_patches(call.x, call.layer) for call in calls], 2)
            g = torch.cat([_gradients(call.gradient, call.layer) for call in calls], 2)
            n, groups, positions, inputs = x.shape
            flat = x.reshape(-1, inputs)
            self.activity += (flat.T @ flat).double()
            self.positions += len(flat)
            x, g = x.flatten(0, 1), g.flatten(0, 1)
            if positions <= g.shape[2]:
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
                self.fisher += (gradient.T @ gradient).double()
                self._add_outputs(gradient, n)

    def _add_outputs(self, gradient: Tensor, n: int) -> None:
        by_output = gradient.reshape(n, self.layer.weight.shape[0], -1)
        self.outputs += torch.einsum("bmi,bni->mn", by_output, by_output).double()

    def stats(self, samples: int) -> Stats:
        activity = (self.activity / self.positions).numpy()
        fisher = (self.fisher / (samples * self.layer.weight.shape[0])).numpy()
        power = float(np.trace(activity))
        sensitivity = float(np.trace(fisher)) / power if power else 0.0
        moment = activity
        if sensitivity:
            moment = ACTIVITY * activity + (1 - ACTIVITY) / sensitivity * fisher
        outputs = (self.outputs / samples).numpy()
        return Stats((moment + moment.T) / 2, sensitivity, samples, (outputs + outputs.T) / 2)


@dataclass(eq=False)
class _Call:
    layer: _Layer
    x: Tensor
    gradient: Tensor | None = None


@contextmanager
def _watched(module: nn.Module, sums: dict[int, _Sums]) -> Iterator[None]:
    """Every use of a layer leaves its input and the gradient of its output."""
    anchor = torch.zeros((), requires_grad=True)

    def after(layer: _Layer, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        total = sums.get(id(layer.weight))
        if total is None:
            return output
        call = _Call(layer, (inputs[0] if inputs else named["input"]).detach())
        total.calls.append(call)
        output = output + anchor  # so that there is a gradient, though no parameter asks for one
        output.register_hook(lambda gradient: setattr(call, "gradient", gradient))  # type: ignore[no-untyped-call]
        return output

    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    handles = [
        layer.register_forward_hook(after, with_kwargs=True)
        for layer in module.modules()
        if isinstance(layer, (*_Convolution, nn.Linear))
    ]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.enable_grad():
            yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
        for handle in handles:
            handle.remove()


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def scores_of(output: object) -> Tensor:
    """One score for each class; of probabilities their logarithms."""
    if not isinstance(output, Tensor) or output.ndim < 2 or not output.is_floating_point():
        raise ModelError("measuring needs a network that gives one tensor of scores, of shape (n, classes)")
    scores = output.flatten(1)
    if scores.shape[1] < 2:
        raise ModelError("a network of a single score has no classes to tell apart; squeezing it needs a plan (--plan)")
    if not bool(torch.isfinite(scores).all()):
        raise ModelError("the network gives scores that are not finite")
    with torch.no_grad():
        probabilities = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-3)
    return (scores + 1e-12).log() if probabilities else scores


def _vote(scores: Tensor, generator: torch.Generator) -> Tensor:
    """A random vector of covariance diag(p) - p p^T, the second derivative of the divergence from p."""
    p = scores.softmax(1)
    signs = torch.randint(0, 2, p.shape, generator=generator).to(p.dtype) * 2 - 1
    root = p.sqrt() * signs
    return root - p * root.sum(1, keepdim=True)


def _inputs(layer: _Layer) -> int:
    return layer.weight.numel() // layer.weight.shape[0]


def _numel(output: object) -> int:
    return output.numel() if isinstance(output, Tensor) else 0


def _patches(x: Tensor, layer: _Layer) -> Tensor:
    """The inputs that each output position sees: shape (n, groups, positions, inputs of a group)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(len(x), 1, -1, x.shape[-1])
    axes = len(layer.kernel_size)
    if x.ndim == axes + 1:
        x = x[None]
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    x = functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    for axis, (kernel, stride, spread) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        x = x.unfold(2 + axis, (kernel - 1) * spread + 1, stride)[..., ::spread]
    # (n, channels, positions..., kernel...) to (n, groups, positions, channels of a group and kernel)
    n, channels = x.shape[:2]
    x = x.reshape(n, layer.groups, channels // layer.groups, -1, int(np.prod(layer.kernel_size)))
    return x.transpose(2, 3).flatten(3)


def _gradients(gradient: Tensor | None, layer: _Layer) -> Tensor:
    """The gradient of the outputs: shape (n, groups, positions, outputs of a group)."""
    assert gradient is not None
    if isinstance(layer, nn.Linear):
        return gradient.reshape(len(gradient), 1, -1, gradient.shape[-1])
    if gradient.ndim == len(layer.kernel_size) + 1:
        gradient = gradient[None]
    return gradient.reshape(len(gradient), layer.groups, gradient.shape[1] // layer.groups, -1).transpose(2, 3)
