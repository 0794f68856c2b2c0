"""Inputs that are in tuples or mappings, as the state of an LSTM is: each by a name of its own, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["flattened", "is_array", "nested", "plain"]


def is_array(part: Any) -> bool:
    """Whether this is an array of NumPy, a tensor of PyTorch, or anything that says shape and type as these do."""
    return hasattr(part, "shape") and hasattr(part, "dtype")


def plain(array: Any) -> NDArray[Any]:
    """An array or tensor, on whatever device, as an array of NumPy."""
    return np.asarray(array.detach().cpu() if hasattr(array, "detach") else array)


def flattened(given: Mapping[Any, Any]) -> dict[str, Any]:
    """Each array on its own, by the names and places on the way to it; lists of plain numbers are arrays.

    Example:
        >>> import numpy as np
        >>> list(flattened({"x": np.zeros(3), "state": (np.zeros(2), np.zeros(2)), "sizes": [1, 2]}))
        ['x', 'state.0', 'state.1', 'sizes']
    """
    found: dict[str, Any] = {}
    for name, part in given.items():
        parts = _parts(part)
        if parts is None:
            found[str(name)] = part
        else:
            found |= {f"{name}.{inner}": each for inner, each in flattened(parts).items()}
    return found


def nested(template: Any, leaves: Iterator[Any]) -> Any:
    """What ``flattened`` was given, ``template``, with other arrays in the places of its own, in order; lists become
    tuples.

    Example:
        >>> import numpy as np
        >>> nested({"x": 1, "state": [np.zeros(1), {"0": np.zeros(1)}]}, iter("abc"))
        {'x': 'a', 'state': ('b', {'0': 'c'})}
    """
    parts = _parts(template)
    if parts is None:
        return next(leaves)
    found = {name: nested(part, leaves) for name, part in parts.items()}
    return found if isinstance(template, Mapping) else tuple(found.values())


def _parts(part: Any) -> Mapping[Any, Any] | None:
    """What is in a mapping, or in a tuple or list of arrays; None for an array, or what becomes one."""
    if isinstance(part, Mapping):
        return part
    if isinstance(part, list | tuple) and any(is_array(each) or _parts(each) is not None for each in part):
        return dict(enumerate(part))
    return None
