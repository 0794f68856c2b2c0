"""Where a network multiplies something with one of its weights: seen at the function, so in any layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Use", "watched"]


@dataclass(eq=False)
class Use:
    """One product of an input with a weight.

    Args:
        name: of the weight.
        kind: "linear", "convolution", "transposed" (convolution) or "lookup" (of the columns of the weight by index).
        x: the input, without a gradient.
        rows: the first and the last but one output of the weight that takes part; None for all.
        swapped: whether the weight is kept with its inputs first.
        geometry: of a convolution: kernel, stride, padding (pairs), dilation, groups.
        gradient: of the output, once it is known.
        output: without a gradient, where it is asked for.
    """

    name: str
    kind: str
    x: Tensor
    rows: tuple[int, int] | None = None
    swapped: bool = False
    geometry: Mapping[str, Any] | None = None
    gradient: Tensor | None = None
    output: Tensor | None = None

    def patches(self) -> Tensor:
        """The inputs that each output position sees: shape (n, groups, positions, inputs of a group)."""
        if self.geometry is None:
            return _sequence(self.x)
        given = self.geometry
        axes = len(given["kernel"])
        x = self.x if self.x.ndim == axes + 2 else self.x[None]
        x = functional.pad(x, [size for pair in reversed(given["padding"]) for size in pair])
        for axis, (kernel, stride, spread) in enumerate(
            zip(given["kernel"], given["stride"], given["dilation"], strict=True)
        ):
            x = x.unfold(2 + axis, (kernel - 1) * spread + 1, stride)[..., ::spread]
        # (n, channels, positions..., kernel...) to (n, groups, positions, channels of a group and kernel)
        n, channels, groups = *x.shape[:2], given["groups"]
        x = x.reshape(n, groups, channels // groups, -1, int(np.prod(given["kernel"])))
        return x.transpose(2, 3).flatten(3)

    def gradients(self, outputs: int) -> Tensor:
        """The gradient of the outputs: shape (n, groups, positions, outputs of a group)."""
        assert self.gradient is not None
        if self.geometry is None:
            g = _sequence(self.gradient)
            if self.rows is None:
                return g
            whole = g.new_zeros((*g.shape[:3], outputs))
            whole[..., slice(*self.rows)] = g
            return whole
        groups, axes = self.geometry["groups"], len(self.geometry["kernel"])
        g = self.gradient if self.gradient.ndim == axes + 2 else self.gradient[None]
        return g.reshape(g.shape[0], groups, g.shape[1] // groups, -1).transpose(2, 3)

    def scattered(self) -> tuple[Tensor, Tensor]:
        """Of a transposed convolution, inputs (n, positions, inputs) and for each what its windows gave back
        (n, positions, outputs, kernel)."""
        assert self.geometry is not None
        assert self.gradient is not None
        given, g = self.geometry, self.gradient
        for axis, (kernel, stride, spread) in enumerate(
            zip(given["kernel"], given["stride"], given["dilation"], strict=True)
        ):
            before, after = given["padding"][axis]
            pads = [0] * 2 * (g.ndim - 2 - axis)
            pads[-2:] = [before, after]
            g = functional.pad(g, pads) if before or after else g
            g = g.unfold(2 + axis, (kernel - 1) * spread + 1, stride)[..., ::spread]
            g = g.narrow(2 + axis, 0, self.x.shape[2 + axis])
        n, outputs, axes = *g.shape[:2], len(given["kernel"])
        windows = g.reshape(n, outputs, -1, int(np.prod(g.shape[2 + axes :]))).transpose(1, 2)
        return self.x.flatten(2).transpose(1, 2), windows


def _sequence(x: Tensor) -> Tensor:
    if x.ndim == 1:
        x = x[None]
    return x.reshape(len(x), 1, -1, x.shape[-1])


@contextmanager
def watched(module: nn.Module, kept: bool = False, replayed: Sequence[Use] = ()) -> Iterator[list[Use]]:
    """While this is open, every use of a weight of ``module`` is put into the list that it gives.

    The gradients of the outputs come with the backward pass; the weights themselves are given none.

    Args:
        module: to watch.
        kept: whether the uses hold their outputs.
        replayed: uses of an earlier run, in order; where one of them holds an output, that is given in place of the
            module's own.
    """
    names = {id(parameter): name for name, parameter in named_weights(module)}
    wanted = [parameter for parameter in module.parameters() if parameter.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        with torch.enable_grad(), _Watch(names, kept, replayed) as watch:
            yield watch.uses
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


def named_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every parameter by the name that an archive of the module gives it."""
    own = getattr(module, "named_weights", None)
    yield from (own() if own else module.named_parameters())


class _Watch(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], kept: bool, replayed: Sequence[Use]) -> None:
        super().__init__()
        self.names, self.kept, self.replayed = dict(names), kept, iter(replayed)
        self.sums: dict[str, Tensor] = {}
        self.uses: list[Use] = []
        self.anchor = torch.zeros((), requires_grad=True)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        if func is torch.add:
            self._name_sum(args[0], output)
        reader = _READERS.get(func)
        if reader is None or not isinstance(output, Tensor):
            return output
        arguments = dict(zip(reader[0], args, strict=False)) | (kwargs or {})
        weight = arguments["other" if "other" in arguments else "weight"]
        base = weight if id(weight) in self.names else weight._base
        name = self.names.get(id(base))
        use = None if name is None else reader[1](name, base, arguments)
        if use is None:
            return output
        self.uses.append(use)
        before = next(self.replayed, None)
        if before and before.output is not None and (before.name, before.output.shape) == (use.name, output.shape):
            output = before.output
        if self.kept:
            use.output = output.detach()
        output = output + self.anchor  # so that there is a gradient, though no parameter asks for one
        output.register_hook(lambda gradient: setattr(use, "gradient", gradient))  # type: ignore[no-untyped-call]
        return output

    def _name_sum(self, weight: Tensor, output: Tensor) -> None:
        """A weight plus fixed numbers goes by its name: an error in it is the same error in the sum."""
        name = self.names.get(id(weight))
        if name is not None and output.shape == weight.shape and not output.requires_grad:
            self.names.pop(id(self.sums.get(name)), None)
            self.names[id(output)], self.sums[name] = name, output


def _rows(base: Tensor, view: Tensor) -> tuple[tuple[int, int] | None, bool] | None:
    """Which rows of a weight a matrix (outputs x inputs) is, and whether the weight is kept the other way round."""
    base = base.flatten(1)
    if view.ndim != 2:
        return None
    if view.shape[1] == base.shape[1] and view.stride() == base.stride():
        start = view.storage_offset() // max(1, base.shape[1])
        return (None if len(view) == len(base) else (start, start + len(view))), False
    if view.shape == base.T.shape and view.stride() == base.T.stride() and view.storage_offset() == 0:
        return None, True
    return None


def _linear(name: str, base: Tensor, given: Mapping[str, Any]) -> Use | None:
    found = _rows(base, given["weight"])
    return found and Use(name, "linear", given["input"].detach(), *found)


def _product(name: str, base: Tensor, given: Mapping[str, Any]) -> Use | None:
    if given["other"].ndim != 2:
        return None
    return _linear(name, base, {"input": given["input"], "weight": given["other"].T})


def _convolution(name: str, base: Tensor, given: Mapping[str, Any]) -> Use | None:
    weight = given["weight"]
    if weight is not base:
        return None
    geometry = _geometry(given, weight.shape[2:], ("stride", "padding", "dilation"))
    return Use(name, "convolution", given["input"].detach(), geometry=geometry)


def _transposed(name: str, base: Tensor, given: Mapping[str, Any]) -> Use | None:
    weight = given["weight"]
    turned = base.permute(base.ndim - 1, *range(base.ndim - 1)) if base.ndim > 2 else base
    if given.get("groups", 1) != 1 or weight.shape != turned.shape or weight.stride() != turned.stride():
        return None
    if given["input"].ndim != weight.ndim:
        return None
    geometry = _geometry(given, weight.shape[2:], ("stride", "padding", "dilation"))
    return Use(name, "transposed", given["input"].detach(), geometry=geometry)


def _geometry(given: Mapping[str, Any], kernel: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"kernel": list(kernel), "groups": given.get("groups", 1)}
    for name in names:
        value = given.get(name, 0 if name == "padding" else 1)
        value = 0 if value == "valid" else value
        found[name] = value if isinstance(value, str) else list(value) if isinstance(value, Sequence) else [value]
        if not isinstance(value, str) and len(found[name]) == 1:
            found[name] = found[name] * len(kernel)
    if found["padding"] == "same":
        total = [(size - 1) * spread for size, spread in zip(kernel, found["dilation"], strict=True)]
        found["padding"] = [(size // 2, size - size // 2) for size in total]
    else:
        found["padding"] = [(size, size) for size in found["padding"]]
    return found


def _lookup(name: str, base: Tensor, given: Mapping[str, Any]) -> Use | None:
    found = _rows(base, given["weight"])
    if found is None or not found[1]:
        return None
    return Use(name, "lookup", given["input"])


_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_READERS: dict[Any, tuple[tuple[str, ...], Callable[[str, Tensor, Mapping[str, Any]], Use | None]]] = {
    functional.linear: (("input", "weight", "bias"), _linear),
    torch.matmul: (("input", "other"), _product),
    Tensor.matmul: (("input", "other"), _product),
    Tensor.__matmul__: (("input", "other"), _product),
    functional.embedding: (("input", "weight"), _lookup),
    **dict.fromkeys((torch.conv1d, torch.conv2d, torch.conv3d), (_CONVOLUTION, _convolution)),
    torch.conv_transpose1d: (_TRANSPOSED, _transposed),
    torch.conv_transpose2d: (_TRANSPOSED, _transposed),
    torch.conv_transpose3d: (_TRANSPOSED, _transposed),
}
