"""How a tensor of the graph lies in a plane of the program: reshaping and transposing move nothing, but for orders."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

__all__ = ["Axis", "Factor", "Plane", "View", "dense", "reshaped"]


class Factor(NamedTuple):
    """Part of an axis: so many steps along the rows ("y"), columns ("x") or channels ("c") of a plane."""

    along: str
    size: int
    step: int


Axis = tuple[Factor, ...]
"""The parts of one axis of a tensor, the outermost first; nothing for an axis of size 1."""


@dataclass(frozen=True)
class Plane:
    """A tensor of the program whose place and scale are not known yet.

    Args:
        name: of the tensor of the graph whose values it holds, in whatever order.
        channels: of a pixel.
        height: in pixels.
        width: in pixels.
        border: pixels around it that those who read it need.
        numbers: whether it holds float32.
    """

    name: str
    channels: int
    height: int
    width: int
    border: int = 0
    numbers: bool = False

    @property
    def c(self) -> Axis:
        """All channels, as an axis."""
        return _whole("c", self.channels)

    @property
    def y(self) -> Axis:
        """All rows."""
        return _whole("y", self.height)

    @property
    def x(self) -> Axis:
        """All columns."""
        return _whole("x", self.width)

    @property
    def pixels(self) -> int:
        """How many there are."""
        return self.height * self.width


@dataclass(frozen=True)
class View:
    """A tensor of the graph in a plane.

    Args:
        plane: its number.
        axes: where the axes of the tensor, that of the batch included, are in the plane.
    """

    plane: int
    axes: tuple[Axis, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the tensor of the graph."""
        return tuple(math.prod(factor.size for factor in axis) for axis in self.axes)

    def transposed(self, order: tuple[int, ...]) -> View:
        """The same with its axes in another order."""
        return replace(self, axes=tuple(self.axes[axis] for axis in order))


def reshaped(view: View, shape: tuple[int, ...]) -> View | None:
    """The same values in another shape, or None where they do not lie in the plane so that steps could say it.

    Example:
        >>> plane = Plane("a", 6, 4, 1)
        >>> view = View(0, ((), plane.c, plane.y, plane.x))
        >>> reshaped(view, (1, 2, 12)).axes[1:]
        ((Factor(along='c', size=2, step=3),),
         (Factor(along='c', size=3, step=1), Factor(along='y', size=4, step=1)))
        >>> reshaped(view, (1, 4, 6)) is None
        True
    """
    left = [factor for axis in view.axes for factor in axis]
    axes = []
    for size in shape:
        taken: list[Factor] = []
        while size > 1:
            factor = left.pop(0)
            if factor.size > size:
                if factor.size % size:
                    return None
                inner = factor.size // size
                left.insert(0, Factor(factor.along, inner, factor.step))
                factor = Factor(factor.along, size, factor.step * inner)
            if size % factor.size:
                return None
            size //= factor.size
            taken.append(factor)
        axes.append(_merged(taken))
    return View(view.plane, tuple(axes))


def dense(sizes: tuple[int, ...], along: str) -> Axis:
    """Factors of these sizes that together are all steps along one direction.

    Example:
        >>> dense((2, 3), "c")
        (Factor(along='c', size=2, step=3), Factor(along='c', size=3, step=1))
    """
    return tuple(Factor(along, size, math.prod(sizes[place + 1 :])) for place, size in enumerate(sizes))


def _whole(along: str, size: int) -> Axis:
    return (Factor(along, size, 1),) if size > 1 else ()


def _merged(factors: list[Factor]) -> Axis:
    """Neighbours that are one factor, as one."""
    found: list[Factor] = []
    for factor in factors:
        if found and found[-1].along == factor.along and found[-1].step == factor.size * factor.step:
            factor = Factor(factor.along, found.pop().size * factor.size, factor.step)
        found.append(factor)
    return tuple(found)
