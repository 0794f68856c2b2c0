"""The network that a recipe names, and whether it can be trained on the pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smidgen.archive import Label, Preprocessing
from smidgen.errors import ModelError, RecipeError, one_line
from smidgen.read import call, from_module, read_model, to_module
from smidgen.train.fold import fit_
from smidgen.train.pictures import Labelled, Pictures
from smidgen.train.recipe import Recipe
from smidgen.zoo import ZOO, build

__all__ = ["Given", "check", "check_graph", "given", "measured", "named", "seeded", "shown"]

SHOWN = 96
"""Pictures that show what activations are."""

MEASURED = 2000
"""Pictures that the mean and deviation of channels come from."""


@dataclass(frozen=True, eq=False)
class Given:
    """A network to be trained or to teach.

    Args:
        module: in evaluation mode or not.
        preprocessing: how a picture becomes its input; None if it does not say.
        labels: its classes; empty if it does not say.
    """

    module: nn.Module
    preprocessing: Preprocessing | None
    labels: tuple[Label, ...] = ()


def given(recipe: Recipe) -> Given:
    """The network that a recipe starts with.

    Raises:
        RecipeError: there is no such network, or the recipe contradicts itself.
        ModelError: the user's function fails.
    """
    seeded(recipe.seed)
    network = _given(recipe)
    if recipe.weights is not None:
        try:
            fit_(network.module, load_file(recipe.weights))
        except (OSError, SafetensorError) as error:
            raise RecipeError(f"weights = {recipe.weights!r}: cannot be read: {one_line(error)}") from None
    return network


def _given(recipe: Recipe) -> Given:
    if not recipe.fresh:
        if recipe.arguments:
            raise RecipeError("arguments are for a network of the zoo with new weights; say fresh = true")
        return named(recipe.network)
    if recipe.network not in ZOO:
        raise RecipeError(f"network = {recipe.network!r}: fresh is for the zoo: {', '.join(ZOO)}")
    return Given(build(recipe.network, **recipe.arguments), None)


def named(name: str) -> Given:
    """The network of a name, with its weights: of the zoo, a file of one of the zoo, or what a function returns.

    Raises:
        RecipeError: it is read as a graph, which cannot be trained.
        ModelError: there is no such network.
    """
    if ":" in name:
        module = call(name)
        return Given(module, getattr(module, "preprocessing", None), tuple(getattr(module, "labels", ())))
    archive = read_model(name)
    if "zoo" not in archive.metadata:
        raise RecipeError(f"{name}: what is read as a graph cannot be trained; name a function that makes the module")
    module = to_module(archive)
    vars(module)["zoo"] = dict(archive.metadata["zoo"])
    return Given(module, archive.preprocessing, archive.labels)


def seeded(*numbers: int) -> None:
    """Sets PyTorch's random numbers, from which new weights are drawn."""
    torch.manual_seed(sum(number * 1_000_003**place for place, number in enumerate(numbers)) % 2**63)


def measured(pictures: Labelled, size: tuple[int, int]) -> Preprocessing:
    """That brings the training pictures, of which ``MEASURED`` are looked at, to about a mean of 0 and a deviation of 1
    in each channel."""
    sums, count = torch.zeros(2, 3, dtype=torch.float64), 0
    for places in torch.split(_spread(len(pictures), MEASURED), SHOWN):
        seen = pictures[places].double()
        sums += torch.stack([seen.sum((0, 2, 3)), (seen**2).sum((0, 2, 3))])
        count += seen.numel() // 3
    mean = sums[0] / count
    deviation = (sums[1] / count - mean**2).clamp(min=1.0).sqrt()
    first, second = (tuple(round(float(v), 2) for v in each) for each in (mean, deviation))
    return Preprocessing(*size, "RGB", first, second)  # type: ignore[arg-type]


def shown(pictures: Labelled) -> Tensor:
    """A few of the pictures, of all classes alike: they are sorted by these."""
    return pictures[_spread(len(pictures), SHOWN)]


def _spread(count: int, most: int) -> Tensor:
    return torch.linspace(0, count - 1, min(count, most)).round().long()


def check(network: Given, pictures: Pictures, inputs: Tensor, what: str) -> None:
    """Looks whether a network answers for the classes of the pictures.

    Args:
        network: asked, and not changed.
        pictures: with the classes.
        inputs: what it is given.
        what: it is, in messages.

    Raises:
        ModelError: it fails, or gives other than scores of shape (n, classes), such as probabilities.
        RecipeError: it has other classes.
    """
    module = copy.deepcopy(network.module).eval()
    try:
        with torch.no_grad():
            scores = module(inputs)
    except Exception as error:  # the user's code raises what it likes
        raise ModelError(f"{what}: fails for pictures of shape {tuple(inputs.shape)}: {one_line(error)}") from None
    if not isinstance(scores, Tensor) or scores.dim() != 2 or len(scores) != len(inputs):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise ModelError(f"{what}: gives {shape}, and not scores of shape ({len(inputs)}, classes)")
    if scores.shape[1] != len(pictures.labels):
        raise RecipeError(
            f"{what}: answers for {scores.shape[1]} classes, but there are {len(pictures.labels)} folders"
        )
    if bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones(len(scores)), atol=1e-4):
        raise ModelError(f"{what}: gives probabilities (a softmax comes last?); training needs the scores before them")
    ids = [label.id for label in pictures.labels]
    if network.labels and [label.id for label in network.labels] != ids:
        raise RecipeError(f"{what}: has other classes than the pictures, or in another order")


def check_graph(network: Given, shape: tuple[int, ...]) -> None:
    """Raises ModelError where a network cannot be made a graph, as its file needs."""
    from_module(copy.deepcopy(network.module).cpu().eval(), shape)
