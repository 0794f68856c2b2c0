"""Inputs that are in tuples or mappings, as the state of an LSTM is: each by a name of its own, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["flattened", "nested"]


def flattened(given: Mapping[str, Any]) -> dict[str, Any]:
    """Each array on its own, by the names and places on the way to it; lists of plain numbers are arrays.

    Example:
        >>> import numpy as np
        >>> list(flattened({"x": np.zeros(3), "state": (np.zeros(2), np.zeros(2)), "sizes": [1, 2]}))
        ['x', 'state.0', 'state.1', 'sizes']
    """
    found: dict[str, Any] = {}
    for name, part in given.items():
        if isinstance(part, list | tuple) and part and all(_is_part(each) for each in part) and _holds_arrays(part):
            part = {str(place): each for place, each in enumerate(part)}
        if isinstance(part, Mapping):
            found |= {f"{name}.{inner}": each for inner, each in flattened(part).items()}
        else:
            found[name] = part
    return found


def nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    """What ``flattened`` was given, with tuples in place of lists.

    Example:
        >>> nested({"x": 1, "state.0": 2, "state.1": 3, "more.a": 4})
        {'x': 1, 'state': (2, 3), 'more': {'a': 4}}
    """
    found: dict[str, Any] = {}
    for name, part in flat.items():
        first, inside, rest = name.partition(".")
        if inside:
            found.setdefault(first, {})[rest] = part
        else:
            found[first] = part
    return {
        name: _as_given(nested(part)) if isinstance(part, dict) else part  # only what was put together here
        for name, part in found.items()
    }


def _is_part(part: Any) -> bool:
    return hasattr(part, "shape") or isinstance(part, Mapping | list | tuple)


def _holds_arrays(part: Any) -> bool:
    if isinstance(part, Mapping):
        part = part.values()
    elif not isinstance(part, list | tuple):
        return hasattr(part, "shape")
    return any(_holds_arrays(each) for each in part)


def _as_given(parts: dict[str, Any]) -> Any:
    places = [str(place) for place in range(len(parts))]
    return tuple(parts.values()) if list(parts) == places else parts
