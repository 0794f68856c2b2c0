"""Pruning with retraining: weights that matter least become zero, all at once or by and by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from smidgen import methods
from smidgen.code import Code
from smidgen.methods.base import check_choice, check_int, check_number
from smidgen.train.family import Family, original, parametrized

__all__ = ["Prune"]

EVERY = 32
"""Updates between two choices of what is pruned."""

LOOKED_AT = EVERY // 2
"""Updates in which gradients are looked at before all is pruned at once."""

MEMORY = 0.98
"""How much of what was known about gradients is kept after each batch."""


class Masked(nn.Module):
    """A weight with zeros: what is trained, times a mask. Keeps what gradients told about it."""

    mask: Tensor
    mattering: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", (weight != 0).to(weight.dtype))
        self.register_buffer("mattering", torch.zeros_like(weight))

    def forward(self, weight: Tensor) -> Tensor:
        """The weight without what is pruned."""
        return weight * self.mask


@dataclass(frozen=True)
class Prune(Family):
    """Sets the weights that matter least to zero, and trains the others. What was zero stays zero.

    Args:
        density: share of the weights that is left in the end, as in ``smidgen.methods.Prune``.
        schedule: "one-shot": at once; "iterative": in ``rounds`` equal steps; "gradual": by the cubic law of Zhu and
            Gupta, ``density + (1 - density) (1 - t)^3``.
        until: the part of the stage in which that happens; for the rest of it the mask stays.
        rounds: of the schedule "iterative".
        importance: what says how much a weight w matters: its "magnitude" |w|; the "gradient", |w g|, what the loss
            changes to first order if it goes; "second-order", w^2 mean(g^2), twice what it costs by the diagonal of the
            Fisher matrix.
        scope: "layer": each layer keeps its share; "global": the network does.
        pattern: "N:M", as in ``smidgen.methods.Prune``; at once.

    Raises:
        PlanError: a field is not allowed.

    Source:
        Han et al., arXiv 1506.02626; Zhu and Gupta, arXiv 1710.01878, equation 1; Molchanov et al., arXiv 1611.06440,
        section 2.2, for the gradient; LeCun et al., "Optimal Brain Damage", 1990, with the Fisher matrix for the
        Hessian.
    """

    density: float = 0.1
    schedule: Literal["one-shot", "iterative", "gradual"] = "gradual"
    until: float = 0.6
    rounds: int = 4
    importance: Literal["magnitude", "gradient", "second-order"] = "magnitude"
    scope: Literal["layer", "global"] = "layer"
    pattern: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number(self, "density", 1.0)
        check_number(self, "until", 1.0)
        check_int(self, "rounds", 1, 1000)
        check_choice(self, "schedule", ("one-shot", "iterative", "gradual"))
        check_choice(self, "importance", ("magnitude", "gradient", "second-order"))
        check_choice(self, "scope", ("layer", "global"))
        self._method(self.density)

    def begin(self, module: nn.Module, pictures: Tensor, before: Family | None = None) -> None:
        """Masks every weight; nothing is pruned yet."""
        del pictures
        for layer in self.layers(module).values():
            parametrize.register_parametrization(layer, "weight", Masked(layer.weight.detach()))

    def update(self, module: nn.Module, part: float, turn: int) -> None:
        """Learns from the gradients, and prunes when it is time to."""
        masked = list(parametrized(module, Masked))
        for _, layer, mask in masked:
            weight = original(layer)
            if weight.grad is not None and self.importance != "magnitude":
                now = (weight * weight.grad).abs() if self.importance == "gradient" else weight.grad**2
                mask.mattering.lerp_(now.detach(), 1 - MEMORY)
        if self._due(masked, part, turn):
            self._choose(masked, self.density_at(part))

    def _due(self, masked: list[tuple[str, Any, Any]], part: float, turn: int) -> bool:
        """Whether it is time to prune: now and then at first, and at last when all that is left out should be."""
        if not self.at_once and part < self.until:
            return turn % EVERY == EVERY // 2
        if self.at_once and turn < LOOKED_AT and part < self.until:
            return False
        return self._is_left(masked)

    def _is_left(self, masked: list[tuple[str, Any, Any]]) -> bool:
        """Whether more is left than should be in the end; each layer keeps a whole number of weights."""
        left = sum(float(mask.mask.sum()) for _, _, mask in masked)
        count = sum(mask.mask.numel() for _, _, mask in masked)
        return bool(left > self.left * count + len(masked))

    def finish(self, module: nn.Module) -> dict[str, Code]:
        """Prunes what is left to prune, where there were too few updates for it."""
        masked = list(parametrized(module, Masked))
        if self._is_left(masked):
            self._choose(masked, self.density)
        return super().finish(module)

    @property
    def left(self) -> float:
        """Share of the weights that is left in the end."""
        if self.pattern is None:
            return self.density
        kept, run = self.pattern.split(":")
        return int(kept) / int(run)

    @property
    def at_once(self) -> bool:
        """Whether all is pruned in one step, once ``LOOKED_AT`` updates have shown gradients."""
        return self.schedule == "one-shot" or self.pattern is not None

    def density_at(self, part: float) -> float:
        """Share of the weights that is left when ``part`` of the stage is done.

        Example:
            >>> [round(Prune(density=0.2, until=0.5).density_at(part), 3) for part in (0, 0.25, 0.5, 1)]
            [1.0, 0.3, 0.2, 0.2]
        """
        done = min(1.0, part / self.until)
        if self.schedule == "iterative":
            done = min(1.0, (int(done * self.rounds) + 1) / self.rounds)
            return 1 - (1 - self.density) * done
        return self.density if self.at_once else self.density + (1 - self.density) * (1 - done) ** 3

    def _choose(self, masked: list[tuple[str, Any, Any]], density: float) -> None:
        scores = {}
        for name, layer, mask in masked:
            weight = original(layer).detach() * mask.mask
            mattering = {
                "magnitude": weight.abs(),
                "gradient": mask.mattering * mask.mask,
                "second-order": weight.abs() * mask.mattering.sqrt(),
            }[self.importance]
            # where gradients say nothing, as before the first of them, the larger weight matters more
            mattering = mattering + weight.abs() * (1e-12 * mattering.max() or 1.0)
            scores[name] = np.asarray(mattering.float().cpu().numpy(), np.float32)
        method = self._method(density).resolve(scores)
        for name, _, mask in masked:
            kept: NDArray[Any] = np.asarray(method(scores[name])) != 0
            mask.mask.copy_(torch.from_numpy(kept))

    def _method(self, density: float) -> methods.Prune:
        if self.pattern is not None:
            return methods.Prune(pattern=self.pattern)
        return methods.Prune(density, self.scope)
