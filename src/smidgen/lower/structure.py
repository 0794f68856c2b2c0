"""The program of a network but for its numbers: which operations, on planes of which sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from smidgen.errors import ModelError
from smidgen.lower.functions import Function
from smidgen.lower.graph import Graph, refusal, where
from smidgen.lower.views import Factor, Plane, View, dense, reshaped
from smidgen.run.program import (
    MOST,
    Convolution,
    Lookup,
    Mean,
    Move,
    Operation,
    Product,
    SignsConvolution,
    Sum,
    reads,
)

__all__ = ["Elementwise", "Ending", "Moves", "Padded", "Structure", "Value", "Work", "finished"]

LARGEST = 65532
"""Channels, rows or columns of a plane; pixels lie apart by a multiple of four, which has 16 bits."""
MOST_NUMBERS = 16383
MOST_PRODUCTS = 2**38
CLAMPED = (Convolution, SignsConvolution, Sum, Product)
"""Operations that clamp what they write, so that a Relu after them costs nothing."""

Moves = tuple[tuple[Factor, Factor], ...]
"""Of a move: the steps in the input and those in the output, for each axis."""


@dataclass(frozen=True)
class Elementwise:
    """A tensor that is a function of another one, number by number; a lookup once something else needs it."""

    name: str
    view: View
    function: Function


@dataclass(frozen=True)
class Padded:
    """A tensor with zeros around it: top, left, bottom, right. Only a convolution can take it, as padding."""

    view: View
    pads: tuple[int, int, int, int]


@dataclass(frozen=True)
class Ending:
    """The softmax of a tensor, with which a network may end."""

    view: View


Value = View | Elementwise | Padded | Ending


@dataclass(frozen=True)
class Structure:
    """A program whose numbers are still missing.

    Args:
        planes: its tensors; the first is the input.
        operations: without what follows from scales and places: clamps, tables, steps.
        clamps: least and greatest number that an operation writes, by the plane that it writes.
        functions: of lookups, by the plane that they write.
        moves: of moves, likewise.
        output: number of the plane with the answer.
        softmax: whether the answer is the softmax of that.
        names: what the nodes that operations come from are called in errors.
    """

    planes: tuple[Plane, ...]
    operations: tuple[Operation, ...]
    clamps: dict[int, tuple[float, float]]
    functions: dict[int, Function]
    moves: dict[int, Moves]
    output: int
    softmax: bool
    names: tuple[str, ...]


@dataclass
class Work:
    """A structure in the making, node by node."""

    graph: Graph
    planes: list[Plane] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    clamps: dict[int, tuple[float, float]] = field(default_factory=dict)
    functions: dict[int, Function] = field(default_factory=dict)
    moves: dict[int, Moves] = field(default_factory=dict)
    parts: set[int] = field(default_factory=set)
    node: Any = None

    def refuse(self, reason: str) -> ModelError:
        """What is raised where the node at work, or the input, has no form in a program."""
        return ModelError(f"the input: {reason}") if self.node is None else refusal(self.node, reason)

    # planes and operations

    def plane(self, name: str, channels: int, height: int, width: int) -> int:
        """The number of a new plane.

        Raises:
            ModelError: it is too large.
        """
        if not all(1 <= size <= LARGEST for size in (channels, height, width)):
            raise self.refuse(f"a tensor of {channels} x {height} x {width} is too large")
        if len(self.planes) == MOST:
            raise self.refuse(f"a program has at most {MOST} tensors")
        self.planes.append(Plane(name, channels, height, width))
        return len(self.planes) - 1

    def emit(self, operation: Operation, products: int = 1) -> None:
        """Appends an operation that takes so many products for each element of its output.

        Raises:
            ModelError: that is too many.
        """
        plane = self.planes[operation.output]
        if products * plane.channels * plane.pixels > MOST_PRODUCTS:
            raise self.refuse("it takes more than 2^38 products")
        if len(self.operations) == MOST:
            raise self.refuse(f"a program has at most {MOST} operations")
        self.operations.append(operation)
        self.names.append(where(self.node))

    def rename(self, plane: int, name: str) -> None:
        """Says that a plane holds the values of another tensor of the graph."""
        self.planes[plane] = replace(self.planes[plane], name=name)

    def widen(self, plane: int, border: int) -> None:
        """Gives a plane at least this border."""
        if border > self.planes[plane].border:
            if border > 255:
                raise self.refuse(f"a padding of {border} is more than 255")
            self.planes[plane] = replace(self.planes[plane], border=border)

    def whole(self, plane: int) -> View:
        """A plane as a tensor (1, channels, height, width)."""
        p = self.planes[plane]
        return View(plane, ((), p.c, p.y, p.x))

    # tensors of the graph

    def value(self, name: str) -> Value:
        """A tensor that changes from input to input."""
        if name not in self.values:
            raise self.refuse(f"its input {name!r} is constant, or computed from weights")
        return self.values[name]

    def view(self, name: str) -> View:
        """The same as a view of a plane; a function becomes a lookup.

        Raises:
            ModelError: it is padded, or a softmax.
        """
        value = self.value(name)
        if isinstance(value, Elementwise):
            source = self.planes[value.view.plane]
            output = self.plane(value.name, source.channels, source.height, source.width)
            self.functions[output] = value.function
            self.emit(Lookup(value.view.plane, output, b""))
            self.values[name] = value = View(output, value.view.axes)
        if isinstance(value, Padded):
            raise self.refuse("it reads what a Pad made, which only convolutions can")
        if isinstance(value, Ending):
            raise self.refuse("it reads what a Softmax made, which can only be the answer itself")
        return value

    def image(self, name: str) -> View:
        """A tensor of four axes as a view that has channels, rows and columns where the graph has them."""
        view = self.view(name)
        if len(view.axes) != 4 or view.axes[0]:
            raise self.refuse(f"a tensor of shape {view.shape} is no (1, channels, height, width)")
        return self.gathered(view)

    def gathered(self, view: View) -> View:
        """A view whose plane has, by a move if need be, the axes of a tensor (1, channels[, height, width])."""
        if len(view.axes) not in (2, 4) or view.axes[0]:
            raise self.refuse(f"a tensor of shape {view.shape} would have to be moved")
        channels, height, width = (*view.shape[1:], 1, 1)[:3]
        p = self.planes[view.plane]
        rank, sizes = len(view.axes), (p.channels, p.height, p.width)
        if sizes == (channels, height, width) and view.axes == self.whole(view.plane).axes[:rank]:
            return view
        pairs: list[tuple[Factor, Factor]] = []
        for along, axis in zip("cyx", view.axes[1:], strict=False):
            pairs += zip(axis, dense(tuple(factor.size for factor in axis), along), strict=True)
        output = self.moved(view.plane, (channels, height, width), tuple(pairs))
        return View(output, self.whole(output).axes[:rank])

    def moved(self, source: int, size: tuple[int, int, int], moves: Moves) -> int:
        """A new plane (channels, height, width) with the bytes of another one in other places."""
        if len(moves) > 6:
            raise self.refuse("values would have to be moved along more than 6 axes")
        output = self.plane(self.planes[source].name, *size)
        self.moves[output] = moves or ((Factor("c", 1, 1), Factor("c", 1, 1)),)
        self.emit(Move(source, output, ()))
        return output

    def copied(self, source: int) -> int:
        """A copy of a plane."""
        p = self.planes[source]
        factors = [*p.y, *p.x, *p.c]
        return self.moved(source, (p.channels, p.height, p.width), tuple(zip(factors, factors, strict=True)))

    def flat(self, name: str) -> View:
        """A tensor (1, n) as a view of a single pixel with n channels."""
        view = self.view(name)
        whole = reshaped(view, (1, math.prod(view.shape)))
        if whole is None:
            raise self.refuse("values would have to be moved in an order that steps cannot say")
        return self.gathered(whole)

    def just_made(self, name: str, kinds: tuple[type[Any], ...] = CLAMPED) -> int | None:
        """The operation that made a tensor for one reader alone, so that it may yet be changed."""
        value = self.values.get(name)
        if not isinstance(value, View) or self.graph.uses[name] != 1 or self.planes[value.plane].name != name:
            return None
        for number, operation in enumerate(self.operations):
            if operation.output == value.plane:
                return number if isinstance(operation, kinds) and value.plane not in self.clamps else None
        return None


def finished(work: Work) -> Structure:
    """The structure, with the answer in one pixel: as numbers where a convolution or a mean gives it, else integers."""
    name = work.graph.output
    value = work.value(name)
    softmax = isinstance(value, Ending)
    if isinstance(value, Ending):
        work.values[name] = value.view
    view = work.flat(name)
    if not work.operations:
        raise ModelError("the network computes nothing")
    plane = work.planes[view.plane]
    makers = [each for each in work.operations if each.output == view.plane]
    read = any(view.plane in reads(each) for each in work.operations)
    exact = makers and isinstance(makers[0], Convolution | Mean) and view.plane not in work.clamps and not read
    if exact and plane.channels <= MOST_NUMBERS:
        work.planes[view.plane] = replace(plane, numbers=True)
    return Structure(
        tuple(work.planes),
        tuple(work.operations),
        work.clamps,
        work.functions,
        work.moves,
        view.plane,
        softmax,
        tuple(work.names),
    )
