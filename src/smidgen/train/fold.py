"""Changes of a module's layers: normalization folded into the weights before it, and layers made to fit a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from smidgen.errors import ModelError

__all__ = ["fit_", "fold_normalization_"]

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
FEW = 4
"""Pictures that show what follows what."""

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_normalization_(module: nn.Module, pictures: Tensor) -> None:
    """Makes each batch normalization that follows a convolution part of its weight and bias, in place.

    Args:
        module: computes the same afterwards, in evaluation mode; ``nn.Identity`` is where a normalization was.
        pictures: a few inputs, which show what follows what.

    Raises:
        ModelError: it does not compute the same, since what a convolution gives is used elsewhere, too.

    Example:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.BatchNorm2d(4))
        >>> fold_normalization_(network, torch.zeros(1, 3, 2, 2))
        >>> network[0].bias.shape, network[1]
        (torch.Size([4]), Identity())
    """
    was_training = module.training
    module.eval()
    with torch.no_grad():
        pictures = pictures[:FEW]
        pairs, before = _pairs(module, pictures)
        for convolution, norm in pairs.values():
            _fold_(convolution, norm)
        for name in pairs:
            _replace_(module, name, nn.Identity())
        after = module(pictures)
        if not torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.abs().max())):
            raise ModelError(
                "normalization cannot be folded: what a convolution before it gives is used elsewhere, too"
            )
    module.train(was_training)


def _pairs(module: nn.Module, pictures: Tensor) -> tuple[dict[str, tuple[nn.Module, nn.Module]], Tensor]:
    """Each normalization by its name, with the convolution before it; and what the network gives."""
    makers: dict[int, tuple[nn.Module, int]] = {}
    calls: dict[nn.Module, int] = {}
    kept, pairs, handles = [], {}, []

    def made(layer: nn.Module, inputs: object, output: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        makers[id(output)] = layer, output._version
        kept.append(output)  # so that no other tensor gets its number

    def met(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        maker, version = makers.get(id(inputs[0]), (None, 0))
        if maker is not None and version == inputs[0]._version:  # nothing was done to it in place
            pairs[name] = maker, layer

    for name, layer in module.named_modules():
        if isinstance(layer, CONVOLUTIONS):
            handles.append(layer.register_forward_hook(made))
        elif isinstance(layer, NORMS) and layer.track_running_stats:
            handles.append(layer.register_forward_pre_hook(lambda layer, inputs, name=name: met(name, layer, inputs)))
    try:
        before = module(pictures)
        return {name: pair for name, pair in pairs.items() if calls[pair[0]] == 1}, before
    finally:
        for handle in handles:
            handle.remove()


def _fold_(convolution: Any, norm: Any) -> None:
    deviation = (norm.running_var.double() + norm.eps).sqrt()
    factor = (1 if norm.weight is None else norm.weight.double()) / deviation
    old = 0 if convolution.bias is None else convolution.bias.double()
    shifted = (old - norm.running_mean.double()) * factor + (0 if norm.bias is None else norm.bias.double())
    shape = (-1,) + (1,) * (convolution.weight.dim() - 1)
    convolution.weight.copy_(convolution.weight.double() * factor.reshape(shape))
    convolution.bias = nn.Parameter(shifted.to(convolution.weight.dtype))


def _replace_(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, last = name.rpartition(".")
    setattr(module.get_submodule(parent), last, layer)


def fit_(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Gives a module the layers that a state was made with, and loads it.

    Normalization that the state does not know was folded; a convolution may have got a bias by that, and layers may
    have lost channels.

    Raises:
        ModelError: the state is that of another module.
    """
    for name, layer in list(module.named_modules()):
        if isinstance(layer, NORMS) and layer.track_running_stats and f"{name}.running_mean" not in state:
            _replace_(module, name, nn.Identity())
    for name, layer in module.named_modules():
        start = f"{name}." if name else ""
        if f"{start}bias" in state and isinstance(layer, CONVOLUTIONS) and layer.bias is None:
            layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
        for own in ("weight", "bias", "running_mean", "running_var"):
            _resize_(layer, own, state.get(start + own))
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise ModelError(f"the state is not one of this network: {str(error).splitlines()[-1].strip()}") from None


def _resize_(layer: nn.Module, name: str, wanted: Tensor | None) -> None:
    """Makes a tensor of a layer as large as the wanted one, and lets the layer know."""
    have = getattr(layer, name, None)
    if wanted is None or not isinstance(have, Tensor) or have.shape == wanted.shape:
        return
    new = torch.empty_like(wanted)
    setattr(layer, name, nn.Parameter(new) if isinstance(have, nn.Parameter) else new)
    if isinstance(layer, CONVOLUTIONS) and name == "weight":
        if layer.groups == layer.in_channels == layer.out_channels > 1:
            layer.groups = wanted.shape[0]
        layer.out_channels, layer.in_channels = wanted.shape[0], wanted.shape[1] * layer.groups
    elif isinstance(layer, nn.Linear) and name == "weight":
        layer.out_features, layer.in_features = wanted.shape[0], wanted.shape[-1]
    elif isinstance(layer, NORMS):
        layer.num_features = len(wanted)
