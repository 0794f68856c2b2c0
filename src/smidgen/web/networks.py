"""Networks that answer many callers at once."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Protocol

from smidgen.errors import NOT_FINITE, UNPREPARED, ModelError
from smidgen.run.answer import Answer, likeliest
from smidgen.web.page import Shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from PIL.Image import Image

    from smidgen.archive import Archive, Label

__all__ = ["InCore", "InFloat", "Map", "Network", "Recognition"]


@dataclass(frozen=True)
class Map:
    """Where a network looked.

    Args:
        shape: rows and columns of places that the picture is cut into.
        values: what each place gave to the first answer, row by row.
    """

    shape: tuple[int, ...]
    values: Sequence[float]


@dataclass(frozen=True)
class Recognition:
    """What a network says of one picture.

    Args:
        answers: the likeliest first.
        milliseconds: that the network took, without reading the picture and making it as large as the input.
        map: where it looked for the first answer; None where that cannot be told.
    """

    answers: Sequence[Answer]
    milliseconds: float
    map: Map | None


def _map(shape: tuple[int, ...], values: Sequence[float]) -> Map | None:
    return Map(shape, values) if values and all(map(math.isfinite, values)) else None


class Network(Protocol):
    """What recognises pictures, also for several callers at once.

    Attributes:
        shown: what the page says of it.
    """

    shown: Shown

    def __call__(self, image: Image, top: int) -> Recognition:
        """What it says of an upright picture in RGB.

        Raises:
            ModelError: its numbers are not finite, or fit no labels.
        """


class InCore:
    """The network of a file, in the C core: so many pictures at once as there are copies.

    Args:
        data: all bytes of a file with a program.
        labels: theirs.
        title: what it is called.
        copies: how many lie ready, each with its own memory and one thread.

    Raises:
        FormatError: the weights or the program are not what an encoder wrote.
        ModelError: the file does not say how a picture becomes the input.
    """

    def __init__(self, data: bytes, labels: tuple[Label, ...], title: str, copies: int) -> None:
        from smidgen.run.native import Native

        self.shown, self._labels = Shown(title, "smidgen, 8-bit integers", len(data)), labels
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(copies):
            self._free.put(Native(data, threads=1))

    @contextmanager
    def _taken(self) -> Iterator[Any]:
        network = self._free.get()
        try:
            yield network
        finally:
            self._free.put(network)

    def __call__(self, image: Image, top: int) -> Recognition:
        """As ``Network`` says."""
        from smidgen.run.pictures import resized

        with self._taken() as network:
            height, width = network.shape[2:]
            pixels = resized(image, height, width, network.resample).tobytes()
            start = time.perf_counter()
            numbers, values = network.explained(pixels)
            spent = 1000 * (time.perf_counter() - start)
        if not all(map(math.isfinite, numbers)):
            raise ModelError(NOT_FINITE)
        answers = likeliest(numbers, network.probabilities, self._labels, top)
        return Recognition(answers, spent, _map(network.map_shape, values))


class InFloat:
    """A network in ONNX Runtime, in float32, with one thread for each picture.

    Args:
        archive: the network, with its preprocessing and labels.
        title: what it is called.
        size: bytes of its file, or of its weights where it has none.

    Raises:
        ModelError: it does not take one picture and give one number for each class, or ONNX Runtime refuses it.
    """

    def __init__(self, archive: Archive, title: str, size: int) -> None:
        from onnx import ValueInfoProto

        from smidgen.run.kinds import last_operator
        from smidgen.run.looking import looking
        from smidgen.run.session import session

        model = archive.onnx()
        if len(model.graph.input) != 1 or len(model.graph.output) != 1:
            raise ModelError(f"{title}: a network of one input and one output is needed to recognise pictures")
        self.shown = Shown(title, "ONNX Runtime, float32", size)
        self._labels, self._preprocessing = archive.labels, archive.preprocessing
        self._looking = looking(model)
        self._probabilities = last_operator(model, model.graph.output[0].name) == "Softmax"
        if self._looking:
            model.graph.output.append(ValueInfoProto(name=self._looking.features))
        self._session = session(model, threads=1)
        self._input = self._session.get_inputs()[0].name

    def __call__(self, image: Image, top: int) -> Recognition:
        """As ``Network`` says."""
        from smidgen.run.pictures import prepare
        from smidgen.run.session import reason

        if self._preprocessing is None:
            raise ModelError(UNPREPARED)
        batch = prepare(image, self._preprocessing)[None]
        start = time.perf_counter()
        try:
            scores, *features = self._session.run(None, {self._input: batch})
        except Exception as error:  # the runtime's exceptions have no public base class of their own
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason(error)}") from None
        spent = 1000 * (time.perf_counter() - start)
        numbers = scores.reshape(-1).tolist()
        if not all(map(math.isfinite, numbers)):
            raise ModelError(NOT_FINITE)
        answers = likeliest(numbers, self._probabilities, self._labels, top)
        if not self._looking:
            return Recognition(answers, spent, None)
        found = self._looking.map(features[0][0], numbers.index(max(numbers)))
        return Recognition(answers, spent, _map(found.shape, found.reshape(-1).tolist()))
