"""How pictures become the input of a network that does not say so itself."""

from __future__ import annotations

import re
from dataclasses import replace

from smidgen.archive import Archive, Preprocessing
from smidgen.errors import InputError, ModelError
from smidgen.examples import inputs_of

__all__ = ["PRESETS", "size_in", "with_preprocessing"]

PRESETS: dict[str, tuple[str, tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ("RGB", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "caffe": ("BGR", (103.939, 116.779, 123.68), (1.0, 1.0, 1.0)),
    "symmetric": ("RGB", (127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "unit": ("RGB", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "bytes": ("RGB", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Order of channels, mean and deviation on the scale of 0 to 255: as most PyTorch networks want it, as older ones do,
-1 to 1, 0 to 1, and 0 to 255."""

DEFAULT_SIDE = 224


def with_preprocessing(archive: Archive, text: str | None) -> Archive:
    """The archive with the preprocessing that a user names: one of ``PRESETS``, and a size where the network takes any.

    Raises:
        InputError: no such name, or a size that does not fit the network.

    Example:
        >>> from smidgen.read import from_module
        >>> from torch import nn
        >>> archive = from_module(nn.Conv2d(3, 4, 1), (3, 32, 48))
        >>> with_preprocessing(archive, "unit").preprocessing
        Preprocessing(height=32, width=48, ..., std=(255.0, 255.0, 255.0), resample='bilinear')
    """
    if text is None:
        return archive
    height, width = _size(archive, size_in(text))
    return replace(archive, preprocessing=Preprocessing(height, width, *PRESETS[text.partition(":")[0]]))


def size_in(text: str | None) -> tuple[int, int] | None:
    """Height and width in what a user names as for ``with_preprocessing``, if they are there.

    Raises:
        InputError: no such name, or no such size.

    Example:
        >>> size_in("symmetric:32x48"), size_in("symmetric"), size_in(None)
        ((32, 48), None, None)
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\w+)(?::([1-9]\d{0,4})x([1-9]\d{0,4}))?", text)
    if not found or found[1] not in PRESETS:
        raise InputError(f"preprocessing {text!r} is none of {', '.join(PRESETS)}, with or without a size (:224x224)")
    return (int(found[2]), int(found[3])) if found[2] else None


def _size(archive: Archive, given: tuple[int, int] | None) -> tuple[int, int]:
    inputs = inputs_of(archive)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (None, 3):
        shapes = "; ".join(f"{name} {shape}" for name, _, shape, _ in inputs)
        raise ModelError(f"the network does not take pictures (n, 3, height, width), but {shapes}; give inputs as .npz")
    wanted = inputs[0].shape[2:]
    sides = given or tuple(side or DEFAULT_SIDE for side in wanted)
    if any(want not in (None, side) for want, side in zip(wanted, sides, strict=True)):
        raise InputError(f"preprocessing: the network takes pictures of {wanted[0]} x {wanted[1]}, not {sides}")
    return sides[0], sides[1]
