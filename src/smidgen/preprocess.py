"""How pictures become the input of a network that does not say so itself: named by the user, or found by trying."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from smidgen.archive import Archive, Preprocessing
from smidgen.errors import InputError, ModelError
from smidgen.examples import Item, batches, inputs_of
from smidgen.run.outputs import log_probabilities, outputs_of
from smidgen.run.session import Engine

__all__ = ["PRESETS", "detected", "with_preprocessing"]

PRESETS: dict[str, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    "imagenet": ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375)),
    "symmetric": ((127.5, 127.5, 127.5), (127.5, 127.5, 127.5)),
    "unit": ((0.0, 0.0, 0.0), (255.0, 255.0, 255.0)),
    "bytes": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and deviation on the scale of 0 to 255: as most PyTorch networks want it, -1 to 1, 0 to 1, and 0 to 255."""

TRIED = 64
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
    found = re.fullmatch(r"(\w+)(?::(\d+)x(\d+))?", text)
    if not found or found[1] not in PRESETS:
        raise InputError(f"preprocessing {text!r} is none of {', '.join(PRESETS)}, with or without a size (:224x224)")
    height, width = _size(archive, (int(found[2]), int(found[3])) if found[2] else None)
    mean, std = PRESETS[found[1]]
    return replace(archive, preprocessing=Preprocessing(height, width, "RGB", mean, std))


def detected(archive: Archive, pictures: Sequence[Item], say: Callable[[str], None]) -> Archive:
    """The archive with the preset that makes its network surest of what it sees; networks are unsure of odd numbers.

    Args:
        archive: of a classifier of pictures.
        pictures: some that it should know.
        say: is told which one was taken.

    Raises:
        ModelError: the network does not take pictures, or is no classifier.
    """
    doubt, model = {}, archive.onnx()
    engine = Engine(model)
    for name in PRESETS:
        tried = with_preprocessing(archive, name)
        answers = [engine(batch) for batch in batches(pictures[:TRIED], tried, 8)]
        output = outputs_of(model, answers[0], bool(archive.labels))[0]
        if output.kind not in ("scores", "probabilities"):
            raise ModelError(
                f"how pictures become the input cannot be found out; say --preprocessing {'|'.join(PRESETS)}"
            )
        logs = np.concatenate([log_probabilities(output, answer[0]) for answer in answers])
        doubt[name] = float(-(np.exp(logs) * logs).sum(2).mean())
    best, next_best = sorted(doubt, key=lambda name: doubt[name])[:2]
    say(
        f"preprocessing: {best}, by how sure the network is (entropy {doubt[best]:.2f} nats, {next_best} "
        f"{doubt[next_best]:.2f}); say --preprocessing if that is wrong"
    )
    return with_preprocessing(archive, best)


def _size(archive: Archive, given: tuple[int, int] | None) -> tuple[int, int]:
    inputs = inputs_of(archive)
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] not in (None, 3):
        shapes = "; ".join(f"{name} {shape}" for name, _, shape in inputs)
        raise ModelError(f"the network does not take pictures (n, 3, height, width), but {shapes}; give inputs as .npz")
    wanted = inputs[0].shape[2:]
    sides = given or tuple(side or DEFAULT_SIDE for side in wanted)
    if any(want not in (None, side) for want, side in zip(wanted, sides, strict=True)):
        raise InputError(f"preprocessing: the network takes pictures of {wanted[0]} x {wanted[1]}, not {sides}")
    return sides[0], sides[1]
