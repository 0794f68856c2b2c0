"""Training with labels: recipes of stages, each of which makes a network smaller and trains it."""

from smidgen.train.recipe import Recipe
from smidgen.train.run import Outcome, train

__all__ = ["Outcome", "Recipe", "train"]
