"""Structured pruning: whole filters are cut out, and with them what reads them, so that a smaller network is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from smidgen import distributed
from smidgen.errors import RecipeError
from smidgen.methods.base import check_int, check_number
from smidgen.read import from_module
from smidgen.train.channels import Channels, Layer, channels_of
from smidgen.train.family import Family, layers_of

__all__ = ["Cut"]

LEFT = "multiply_adds_left"
"""Attribute of the module while it is trained."""

LEAST = 8
"""One of so many channels of a layer is left at least."""

SHORT = 0.95
"""Of the multiply-adds asked for; where fewer are left, channels are given back."""

BATCH = 16
"""Pictures whose gradient is one look at the loss."""


@dataclass(frozen=True)
class Cut(Family):
    """Cuts out the filters that matter least for what they cost, until so many multiply-adds are left; then trains.

    Channels that are added (a bypass) go together; where they are joined, each goes on its own. How much a channel
    matters is its share in the loss to first order, squared, with classes drawn from the network's own answers.

    Args:
        multiply_adds: the share of them that is left.
        align: channels of each group of layers are kept in multiples of this, which processors like; a group keeps at
            least so many, and at least an eighth of what it has.

    Raises:
        PlanError: a field is not allowed.

    Source:
        Molchanov et al., "Importance Estimation for Neural Network Pruning", arXiv 1906.10771, equation 8.
    """

    multiply_adds: float = 0.5
    align: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "multiply_adds", 1.0)
        check_int(self, "align", 1, 1024)

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Cuts."""
        device = pictures.device
        archive = from_module(module.cpu().eval(), tuple(pictures.shape[1:]))
        module.to(device)
        channels = channels_of(archive, set(layers_of(module)))
        groups = self._groups(channels, set(self.layers(module)))
        if not groups:
            raise RecipeError("Cut: no layer of this network can lose filters")
        harm = _harm(module, channels, pictures)
        kept = distributed.broadcast(self._chosen(channels, groups, harm))
        vars(module)[LEFT] = cost(channels, kept) / cost(channels, _every(channels))
        _cut_(module, channels, kept)

    def remark(self, module: nn.Module) -> str:
        """How many multiply-adds are left."""
        return f"{vars(module)[LEFT]:.2f} of the multiply-adds are left, of {self.multiply_adds:g} asked for"

    def _groups(self, channels: Channels, names: set[str]) -> list[list[int]]:
        """Channels that are made by the same layers, of which any may go; those of named layers only."""
        fixed, makers = channels.is_fixed(), dict[int, set[str]]()
        for layer in channels.layers:
            for root in channels.roots(layer.outputs).tolist():
                makers.setdefault(root, set()).add(layer.name)
        groups: dict[tuple[str, ...], list[int]] = {}
        for root, made in makers.items():
            if root not in fixed and all(f"{name}.weight" in names for name in made):
                groups.setdefault(tuple(sorted(made)), []).append(root)
        return list(groups.values())

    def _chosen(self, channels: Channels, groups: list[list[int]], harm: dict[int, float]) -> set[int]:
        """The channels that stay: those that are cut harm least for each multiply-add that they take."""
        every = _every(channels)
        whole = cost(channels, every)
        price = {root: whole - cost(channels, every - {root}) for group in groups for root in group}
        order = {id(group): sorted(group, key=lambda root: -harm.get(root, 0.0)) for group in groups}
        worth = {root: harm.get(root, 0.0) / max(1, price[root]) for root in price}
        ranked = sorted(worth.values())
        kept = every
        for threshold in ranked:
            kept = set(every)
            for group in groups:
                count = sum(worth[root] > threshold for root in group)
                count = max(count, len(group) // LEAST)
                count = min(len(group), max(self.align, -(-count // self.align) * self.align))
                kept -= set(order[id(group)][count:])
            if cost(channels, kept) <= self.multiply_adds * whole:
                return self._restored(channels, list(order.values()), kept, self.multiply_adds * whole)
        advice = "lower align" if self.align > 1 else "the other layers can lose none"
        raise RecipeError(
            f"Cut: with {self.align} channels or an eighth of each layer, {cost(channels, kept) / whole:.3f} of the "
            f"multiply-adds are left, more than {self.multiply_adds}; {advice}"
        )

    def _restored(self, channels: Channels, orders: list[list[int]], kept: set[int], most: float) -> set[int]:
        """Gives back channels, of each layer the best ones first, where the last one to go took many others with it."""
        while cost(channels, kept) < SHORT * most:
            more = [[root for root in order if root not in kept][: self.align] for order in orders]
            fitting = [kept | set(some) for some in more if some and cost(channels, kept | set(some)) <= most]
            if not fitting:
                break
            kept = max(fitting, key=lambda each: cost(channels, each))
        return kept


def _every(channels: Channels) -> set[int]:
    ids = [ids for layer in channels.layers for ids in (layer.inputs, layer.outputs)]
    return {root for each in ids for root in channels.roots(each).tolist()}


def cost(channels: Channels, kept: set[int]) -> int:
    """Multiply-adds for one picture with these channels."""
    total = 0
    for layer in channels.layers:
        inputs, outputs = (int(np.isin(channels.roots(ids), list(kept)).sum()) for ids in (layer.inputs, layer.outputs))
        total += layer.positions * layer.kernel * inputs * outputs
    return total


def _harm(module: nn.Module, channels: Channels, pictures: Tensor) -> dict[int, float]:
    """For each channel the mean square of the loss's first-order change if it goes."""
    module.eval()
    generator = torch.Generator().manual_seed(0)
    found: dict[int, float] = {}
    for batch in torch.split(pictures, BATCH):
        scores = module(batch)
        drawn = torch.multinomial(torch.softmax(scores.detach().float().cpu(), 1), 1, generator=generator)[:, 0]
        module.zero_grad()
        functional.cross_entropy(scores.float(), drawn.to(scores.device)).backward()  # type: ignore[no-untyped-call]
        change: dict[int, float] = {}
        for ids, tensors in _affine(module, channels):
            moved = sum((t * t.grad).reshape(len(ids), -1).sum(1) for t in tensors if t.grad is not None)
            for root, value in zip(channels.roots(ids).tolist(), torch.as_tensor(moved).tolist(), strict=True):
                change[root] = change.get(root, 0.0) + value
        for root, value in change.items():
            found[root] = found.get(root, 0.0) + value**2
    module.zero_grad()
    return found


def _affine(module: nn.Module, channels: Channels) -> list[tuple[Any, list[nn.Parameter]]]:
    """What scales and shifts channels: normalizations, and layers that none follows."""
    normed = {tuple(ids.tolist()) for ids in channels.norms.values()}
    found = [(ids, _tensors(module, name)) for name, ids in channels.norms.items()]
    bare = [layer for layer in channels.layers if tuple(layer.outputs.tolist()) not in normed]
    found += [(layer.outputs, _tensors(module, layer.name)) for layer in bare]
    return [(ids, tensors) for ids, tensors in found if tensors]


def _tensors(module: nn.Module, name: str) -> list[nn.Parameter]:
    return [p for p in module.get_submodule(name).parameters(recurse=False) if p.requires_grad]


def _cut_(module: nn.Module, channels: Channels, kept: set[int]) -> None:
    """Makes every layer smaller, in place."""
    alive = list(kept)
    for layer in channels.layers:
        own = module.get_submodule(layer.name)
        outputs, inputs = (np.flatnonzero(np.isin(channels.roots(i), alive)) for i in (layer.outputs, layer.inputs))
        _keep_layer_(own, layer, torch.from_numpy(outputs), torch.from_numpy(inputs))
    for name, ids in channels.norms.items():
        norm: Any = module.get_submodule(name)
        places = torch.from_numpy(np.flatnonzero(np.isin(channels.roots(ids), alive)))
        for tensor in ("weight", "bias", "running_mean", "running_var"):
            _narrow_(norm, tensor, (places,))
        norm.num_features = len(places)


def _keep_layer_(own: Any, layer: Layer, outputs: Tensor, inputs: Tensor) -> None:
    if getattr(own, "groups", 1) > 1 and not own.groups == own.in_channels == own.out_channels:
        return  # none of its channels can go
    depthwise = getattr(own, "groups", 1) > 1
    _narrow_(own, "weight", (outputs,) if depthwise else (outputs, inputs))
    _narrow_(own, "bias", (outputs,))
    if isinstance(own, nn.Linear):
        own.out_features, own.in_features = len(outputs), len(inputs)
    else:
        own.out_channels, own.in_channels = len(outputs), len(outputs) if depthwise else len(inputs)
        if depthwise:
            own.groups = len(outputs)


def _narrow_(layer: Any, name: str, places: tuple[Tensor, ...]) -> None:
    tensor = getattr(layer, name, None)
    if tensor is None:
        return
    new = tensor.detach()
    for axis, kept in enumerate(places):
        new = new.index_select(axis, kept.to(new.device))
    setattr(layer, name, nn.Parameter(new.clone()) if isinstance(tensor, nn.Parameter) else new.clone())
