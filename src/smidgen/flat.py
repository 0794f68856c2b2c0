"""A module as a function of tensors in order, whatever it takes and gives; and its inputs and answers by name."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from smidgen.nested import flattened, nested

__all__ = ["Flat", "apart", "named_inputs", "tensors_of"]


def named_inputs(module: nn.Module, given: Mapping[str, Any] | Sequence[Any] | Tensor) -> dict[str, Any]:
    """Inputs by the names that the module's own function gives them; ``state.0`` and ``state.1``, as in files, are a
    tuple."""
    parameters = inspect.signature(module.forward).parameters
    if isinstance(given, Mapping):
        return _grouped({name: part for name, part in given.items() if part is not None}, parameters)
    given = [given] if isinstance(given, Tensor) else given
    names = [each.name for each in parameters.values() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)]
    names += [f"input_{number}" for number in range(len(names), len(given))]
    return {name: part for name, part in zip(names, given, strict=False) if part is not None}


def _grouped(given: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, part in given.items():
        first, dot, rest = str(name).partition(".")
        if dot and first in known and name not in known:
            found.setdefault(first, {})[rest] = part
        else:
            found[name] = part
    for name, part in found.items():
        if name not in given and list(part) == [str(place) for place in range(len(part))]:
            found[name] = tuple(part.values())
    return found


class Flat(nn.Module):
    """A module that takes tensors in order and gives all its tensors in a tuple, or its only one.

    Args:
        module: the original.
        template: inputs of it by name, perhaps in tuples and mappings.
    """

    def __init__(self, module: nn.Module, template: Mapping[str, Any]) -> None:
        super().__init__()
        self.module = module
        self.template = template
        self.named = [name for name in template if name in inspect.signature(module.forward).parameters]
        self.called: list[str] = []
        """What it called the tensors that it gave last: keys and fields on the way to each, "" where there are none."""

    def forward(self, *inputs: Tensor) -> Any:
        """What the module gives: one tensor, or a tuple of all."""
        given = nested(self.template, iter(inputs))
        unnamed = [part for name, part in given.items() if name not in self.named]
        leaves = list(_tensors(self.module(*unnamed, **{name: given[name] for name in self.named})))
        self.called = [_joined(path) for path, _ in leaves]
        found = tuple(leaf for _, leaf in leaves)
        return found if len(found) != 1 else found[0]

    def answers(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...] | None:
        """What it answers; None if it does not take such inputs."""
        try:
            with torch.no_grad():
                found = self(*inputs.values())
        except Exception:  # the user's code
            return None
        return tuple(each.detach() for each in (found if isinstance(found, tuple) else (found,)))


def tensors_of(given: Mapping[str, Any]) -> dict[str, Tensor]:
    """Inputs, flat, by name; in float32 what is in float64."""
    found = {name: torch.as_tensor(value).detach().cpu() for name, value in flattened(given).items()}
    return {name: t.float() if t.dtype == torch.float64 else t for name, t in found.items()}


def apart(one: Tensor, two: Tensor, room: float = 0.0) -> str | None:
    """How two answers differ by more than rounding, and by more than ``room``."""
    if one.shape != two.shape:
        return f"{tuple(two.shape)} in place of {tuple(one.shape)}"
    scale = float(one.abs().max()) if one.is_floating_point() and one.numel() else 0.0
    same = np.allclose(one.numpy(), two.numpy(), rtol=1e-2, atol=1e-3 * scale + 1e-6 + room, equal_nan=True)
    return None if same else "other numbers"


def _tensors(output: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Tensor]]:
    """The tensors in what a module gives, with the keys, fields and places on the way to each.

    Example:
        >>> [path for path, _ in _tensors({"boxes": torch.zeros(1), "masks": [torch.zeros(1), None]})]
        [('boxes',), ('masks', 0)]
    """
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, part in output.items():
            yield from _tensors(part, (*path, key))
    elif is_dataclass(output):
        for field in fields(output):
            yield from _tensors(getattr(output, field.name), (*path, field.name))
    elif isinstance(output, tuple | list):
        for key, part in zip(getattr(output, "_fields", range(len(output))), output, strict=True):
            yield from _tensors(part, (*path, key))
    else:  # a container of somebody's own, if PyTorch knows it
        for place, part in enumerate(_pytree.tree_leaves(output)):
            if isinstance(part, Tensor):
                yield (*path, place), part


def _joined(path: tuple[Any, ...]) -> str:
    """A name of keys and fields; "" where there are places alone."""
    return ".".join(map(str, path)) if any(isinstance(key, str) for key in path) else ""
