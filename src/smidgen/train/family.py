"""What every family of compression is while a network is trained, and what they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen.code import Code
from smidgen.errors import RecipeError
from smidgen.methods.base import refusal

__all__ = [
    "Family",
    "layers_of",
    "original",
    "parametrized",
    "plain_",
    "put_before_",
    "seen_inputs",
    "steps_of",
    "straight_through",
]

LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)

NEAR = 1e-3
"""Steps that a value may be beside a point of a grid and still lie on it; float32 is finer."""


@dataclass(frozen=True)
class Family:
    """One way to make a network small while it is trained: a frozen dataclass that is its own configuration.

    While a stage lasts, weights are PyTorch's parametrizations (``torch.nn.utils.parametrize``): the network computes
    with what they give, and the gradient passes through them to what is trained. Afterwards the module is plain again.

    Args:
        match: patterns of the names of weights (``fnmatch``); the others are trained as they are.
        keep: patterns of weights that are left out nevertheless.
    """

    match: tuple[str, ...] = ("*",)
    keep: tuple[str, ...] = ()

    LEARNING_RATE: ClassVar[float] = 0.02
    """Of a stage that does not say."""

    def __post_init__(self) -> None:
        for name in ("match", "keep"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(pattern, str) for pattern in value):
                raise refusal(self, name, f'{name} must be a list of name patterns, such as ["conv1.*"]')

    def restructure(self, module: nn.Module) -> None:
        """Changes which layers there are, in place, whatever their weights. Later stages find it so."""

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Makes weights parametrized, from what they are now.

        Args:
            module: restructured.
            pictures: inputs of the network, to see what activations are.
            before: what the stage before this one did, if there was one; another of its kind goes on with its grids.
        """

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Called after the gradients of each batch are known, and before the weights move.

        Args:
            module: as ``begin`` left it.
            part: how much of the stage is done, 0 to 1.
            turn: updates done in this stage.
        """

    def penalty(self, module: nn.Module) -> Tensor | None:
        """What is added to the loss."""
        return None

    def remark(self, module: nn.Module) -> str:
        """What a report should say of what was reached, before the stage is finished; nothing where that is plain."""
        del module
        return ""

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """Makes weights plain again, with the values that they end with; the codes of those that have one."""
        plain_(module)
        return {}

    def layers(self, module: nn.Module) -> dict[str, Any]:
        """The layers whose weights are changed, by the names of these weights, in the order of the module.

        Raises:
            RecipeError: there are none.
        """
        every = layers_of(module)
        for pattern in (*self.match, *self.keep):
            if not any(fnmatchcase(name, pattern) for name in every):
                raise RecipeError(f"{pattern!r} matches none of the weights: {', '.join(every)}")
        found = {name: layer for name, layer in every.items() if self._takes(name)}
        if not found:
            raise RecipeError(f"match={list(self.match)} keep={list(self.keep)}: leave no weight to change")
        return found

    def inner(self, module: nn.Module) -> dict[str, Any]:
        """The same without the first and the last layer of the network.

        Raises:
            RecipeError: there are none.
        """
        names = list(layers_of(module))
        found = {name: layer for name, layer in self.layers(module).items() if name not in (names[0], names[-1])}
        if not found:
            raise RecipeError("there is no layer between the first and the last one to change")
        return found

    def _takes(self, name: str) -> bool:
        return any(fnmatchcase(name, p) for p in self.match) and not any(fnmatchcase(name, p) for p in self.keep)


def layers_of(module: nn.Module) -> dict[str, Any]:
    """Convolutions and linear layers by the names of their weights.

    Example:
        >>> list(layers_of(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(2, 2))))
        ['0.weight', '3.weight']
    """
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, LAYERS):
            found[f"{name}.weight" if name else "weight"] = layer
    return found


def parametrized(module: nn.Module, kind: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each weight that a parametrization of this kind makes: its name, its layer, and the parametrization."""
    for name, layer in layers_of(module).items():
        if parametrize.is_parametrized(layer, "weight"):
            first = layer.parametrizations["weight"][0]
            if isinstance(first, kind):
                yield name, layer, first


def seen_inputs(module: nn.Module, layers: Mapping[str, Any], pictures: Tensor, without: str) -> dict[str, Tensor]:
    """What each layer is given for some pictures, before the module of it that is called ``without``."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers.items():

        def keep(_: nn.Module, given: tuple[Tensor, ...], name: str = name) -> None:
            seen.setdefault(name, given[0].detach())

        handles.append(layer.get_submodule(without).register_forward_pre_hook(keep))
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            module(pictures)
    finally:
        module.train(was_training)
        for handle in handles:
            handle.remove()
    return seen


def plain_(module: nn.Module) -> None:
    """Gives every weight the value that its parametrization makes, and takes that away."""
    for layer in list(module.modules()):
        if isinstance(layer, LAYERS) and parametrize.is_parametrized(layer, "weight"):
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def original(layer: Any) -> nn.Parameter:
    """What is trained in place of a parametrized weight."""
    found: nn.Parameter = layer.parametrizations["weight"].original
    return found


def put_before_(layer: nn.Module, name: str, module: nn.Module) -> None:
    """Makes the input of a layer go through a module, which becomes its child of this name; or replaces that child."""
    if not hasattr(layer, name):
        layer.register_forward_pre_hook(partial(_through, name))
    layer.add_module(name, module)


def _through(name: str, layer: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (layer.get_submodule(name)(given[0]), *given[1:])


def steps_of(rows: Tensor, low: int, high: int) -> Tensor:
    """The steps of the grids that weights lie on after an earlier stage, so that a later one can go on with them.

    Args:
        rows: weights, those of each grid in a row.
        low: least number of steps that a grid has.
        high: largest.

    Returns:
        The largest step of which all weights of the row are whole multiples; zero if there is none.

    Example:
        >>> steps_of(torch.tensor([[0.5, 0.0, -0.75], [0.5, 0.3, 0.7123]]), -4, 3)
        tensor([0.2500, 0.0000])
    """
    rows = rows.detach()
    magnitudes = rows.abs()
    least, most = magnitudes.masked_fill(magnitudes == 0, torch.inf).amin(1), magnitudes.amax(1)
    steps = torch.zeros_like(most)
    for times in range(1, 1 + max(-low, high)):  # that the least magnitude is of the step
        step = least / times
        left = ((steps == 0) & (most > 0) & (most < (max(-low, high) + NEAR) * step)).nonzero()[:, 0]
        if not len(left):
            break
        places = rows[left] / step[left, None]
        whole = places.round()
        on = ((places - whole).abs() < NEAR) & (whole >= low) & (whole <= high)
        steps[left] = torch.where(on.all(1), step[left], 0.0)
    return steps


def straight_through(value: Tensor, ideal: Tensor) -> Tensor:
    """``value``, with the gradient of ``ideal``: Bengio et al., arXiv 1308.3432."""
    return ideal + (value - ideal).detach()
