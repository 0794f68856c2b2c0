"""The answers of networks in PyTorch; ``smidgen.run.outputs`` has their divergence in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.errors import ModelError
from smidgen.run.outputs import COORDINATES, Output
from smidgen.run.variance import over_variance

__all__ = ["divergence", "pull_back", "vote"]


def divergence(output: Output, reference: Tensor, other: Tensor) -> Tensor:
    """How far answers lie from those of a reference: the mean over inputs, as ``smidgen.run.outputs`` defines it.

    Example:
        >>> one, two = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 2.0]])
        >>> divergence(Output("y", "values", 1, variance=(10.0, 20.0)), one, two)
        tensor(0.0500)
    """
    reference, other = output.leading(reference), output.leading(other)
    if reference.numel() == 0:
        return other.sum()
    if output.kind in ("scores", "probabilities"):
        logs = [_logs(output, y) for y in (reference, other)]
        return (logs[0].exp() * (logs[0] - logs[1])).sum(-1).mean()
    if output.kind == "detections":
        (boxes, p), (found, q) = output.detections(reference), output.detections(other)
        expected, there = p.sum((1, 2)), p.amax(1, keepdim=True)
        error, square = ((there * each.square()).sum((1, 2)) for each in (boxes - found, boxes))
        apart = error / 2 / torch.where(square > 0, square, 1.0) * expected.clamp(max=1)
        total: Tensor = (_bernoulli(p, q).sum((1, 2)) / expected.clamp(min=1) + COORDINATES * apart).mean()
        return total
    if output.kind == "chances":
        return _bernoulli(reference, other).mean()
    error = (reference - other).square()
    if output.variance is not None:
        parts: Tensor = over_variance(error, error.new_tensor(output.variance), output.axis)
        return parts.mean() / 2
    square = reference.square().reshape(len(reference), -1).mean(1)
    return (error.reshape(len(error), -1).mean(1) / 2 / torch.where(square > 0, square, 1.0)).mean()


def _bernoulli(reference: Tensor, other: Tensor) -> Tensor:
    p, q = (y.clamp(1e-7, 1 - 1e-7) for y in (reference, other))
    return p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()


def _logs(output: Output, y: Tensor) -> Tensor:
    y = y.movedim(output.axis, -1)
    return (y.clamp(min=1e-12).log() if output.kind == "probabilities" else y).log_softmax(-1)


def vote(output: Output, y: Tensor, generator: torch.Generator) -> Tensor | None:
    """A random vector whose covariance is the second derivative of the divergence from ``y``.

    Args:
        output: what ``y`` is.
        y: an output of the network, one or more inputs.
        generator: of the draws.

    Returns:
        A tensor like ``y``; None if it holds no floats.

    Raises:
        ModelError: it is not finite.

    Example:
        >>> vote(Output("y", "values"), torch.full((1, 4), 2.0), torch.Generator()).abs()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """
    if not y.is_floating_point():
        return None
    if not bool(torch.isfinite(y).all()):
        raise ModelError(f"the network's output {output.name!r} is not finite; its weights or its inputs are damaged")
    found = _vote(output, output.leading(y), generator) if y.numel() else torch.zeros_like(output.leading(y))
    return found[0] if output.examples is None else found.swapaxes(0, output.examples)


def _vote(output: Output, y: Tensor, generator: torch.Generator) -> Tensor:
    if output.kind in ("scores", "probabilities"):
        moved = y.movedim(output.axis, -1)
        positions = max(1, moved[0, ..., 0].numel())
        if output.kind == "scores":
            return _class_vote(moved, generator).div(positions**0.5).movedim(-1, output.axis)
        p = moved.clamp(min=1e-12)
        return _class_vote(p.log(), generator).div(p).div(positions**0.5).movedim(-1, output.axis)
    signs: Tensor = (torch.randint(0, 2, y.shape, generator=generator) * 2 - 1).to(y.dtype)
    if output.kind == "detections":
        boxes, p = output.detections(y)
        expected, there = p.sum((1, 2), keepdim=True), p.amax(1, keepdim=True)
        weights = (p * (1 - p)).clamp(min=1e-6).mul(expected.clamp(min=1)).rsqrt()
        square = (there * boxes.square()).sum((1, 2), keepdim=True).clamp(min=1e-12)
        parts = [(COORDINATES * there * expected.clamp(max=1) / square).sqrt().expand_as(boxes), weights]
        told = torch.cat(parts if output.coordinates[0] == 0 else parts[::-1], 1)
        return signs * told.reshape(y.swapaxes(output.axis, 1).shape).swapaxes(output.axis, 1)
    if output.kind == "chances":
        return signs / (y * (1 - y)).clamp(min=1e-6).sqrt().mul(max(1, y[0].numel()) ** 0.5)
    if output.variance is not None:
        power: Tensor = over_variance(torch.ones_like(y), y.new_tensor(output.variance), output.axis)
        return signs * (power / y[0].numel()).sqrt()
    length = y.flatten(1).norm(dim=1) if y.ndim > 1 else y.abs()
    return signs / length.clamp(min=1e-12).reshape((-1,) + (1,) * (y.ndim - 1))


def pull_back(found: Sequence[Tensor], outputs: Sequence[Output], generator: torch.Generator) -> None:
    """Gradients, in everything that ``found`` was computed from, of a random vote of each output.

    Args:
        found: the outputs of a network, one or more inputs.
        outputs: what each of them is.
        generator: of the draws.

    Raises:
        ModelError: an output is not finite.
    """
    pairs = [(y, vote(kind, y.detach(), generator)) for kind, y in zip(outputs, found, strict=False)]
    live = [(y, vote) for y, vote in pairs if vote is not None and y.requires_grad]
    if live:
        torch.autograd.backward([y for y, _ in live], [vote for _, vote in live])


def _class_vote(scores: Tensor, generator: torch.Generator) -> Tensor:
    """For scores of classes, the last axis, a random vector of covariance diag(p) - p p^T."""
    p = scores.softmax(-1)
    signs = torch.randint(0, 2, p.shape, generator=generator).to(p.dtype) * 2 - 1
    root = p.sqrt() * signs
    return root - p * root.sum(-1, keepdim=True)
