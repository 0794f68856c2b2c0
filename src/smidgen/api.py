"""Compression in one call: a module and a plan in, an archive out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.plan import Plan
from smidgen.read import from_module
from smidgen.transform import transform

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["compress"]


def compress(
    module: Module,
    plan: Plan | str,
    input_shape: tuple[int, ...] = (3, 224, 224),
    preprocessing: Preprocessing | None = None,
    labels: tuple[Label, ...] = (),
) -> Archive:
    """Compresses a network after a plan.

    Args:
        module: the network; it is not changed.
        plan: a plan, the path of one in TOML, or the name of one that ships with smidgen.
        input_shape: shape of one input, without the batch dimension.
        preprocessing: how a picture becomes the input, to be kept in the file.
        labels: the classes, in the order of the scores, to be kept in the file.

    Raises:
        PlanError: the plan cannot be read, or a pattern in it matches nothing.
        WeightError: a weight is NaN or infinite.
        ModelError: the module cannot be turned into a graph.

    Example:
        >>> import smidgen
        >>> from smidgen.zoo import build
        >>> archive = smidgen.compress(build("squeezenet1_1", classes=10), "int8")
        >>> archive.tensors["features.0.weight"].alphabet[2] <= 256
        True
    """
    archive = from_module(module, input_shape, preprocessing, labels)
    plan = plan if isinstance(plan, Plan) else Plan.find(plan)
    return replace(archive, tensors=transform(archive.weights(), plan))
