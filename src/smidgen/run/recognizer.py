"""The shortest way from a file with a program to the names of what is in pictures: by the core, without NumPy.

To decode the weights takes longest, and the core does that while Python does other things; so it begins before what it
does not need is loaded, such as Pillow.
"""

from __future__ import annotations

import os
import threading
from functools import cached_property
from typing import TYPE_CHECKING, Any

from smidgen._core import lib
from smidgen.container import open_header, read_bytes, read_section
from smidgen.errors import NOT_FINITE, FormatError, ModelError
from smidgen.run.native import Native

if TYPE_CHECKING:
    from smidgen.label import Label
    from smidgen.run.answer import Answer
    from smidgen.run.runner import Runner

__all__ = ["Recognizer", "open_recognizer"]


def open_recognizer(path: str | os.PathLike[str], engine: str | None = None) -> Recognizer | Runner:
    """What recognizes by a file: its program, or where it has none or another engine is asked for, a ``Runner``.

    Raises:
        FormatError: the file is not valid.
        InputError: it cannot be read, or there is no such engine.
        ModelError: as for ``smidgen.run.runner.open_runner``.
    """
    data = read_bytes(path)
    try:
        header = open_header(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None
    if header.sections[lib.SMIDGEN_PROGRAM].size and engine in (None, "native"):
        return Recognizer(data, header, str(path))
    from smidgen.run.runner import open_runner

    return open_runner(path, engine=engine)


class _Loading(threading.Thread):
    """A network that is being loaded; ``result`` waits for it, and raises what went wrong."""

    def __init__(self, data: bytes) -> None:
        super().__init__(name="loading")
        self._data = data
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._network = Native(self._data)
        except Exception as error:
            self._error = error

    def result(self) -> Native:
        self.join()
        if self._error:
            raise self._error
        return self._network


class Recognizer:
    """A file's network; what it recognizes is what ``Runner`` does.

    A thread of its own begins at once to decode the weights; Pillow, the first picture and the labels are read
    meanwhile.

    Args:
        data: all bytes of a file with a program.
        header: theirs, as ``smidgen.container.open_header`` gives it.
        origin: what to call it in an error.
    """

    def __init__(self, data: bytes, header: Any, origin: str) -> None:
        self._data, self._header, self._origin = data, header, origin
        self._network = _Loading(data)

    @cached_property
    def _labels(self) -> tuple[Label, ...]:
        from smidgen.label import parse_labels

        return parse_labels(read_section(self._data, self._header, lib.SMIDGEN_LABELS))

    def recognize(self, picture: str | os.PathLike[str], top: int = 5) -> list[Answer]:
        """The likeliest classes with their probabilities, as ``Runner.recognize`` gives them for a file.

        Raises:
            FormatError: the weights, the labels or the program are not what an encoder wrote.
            InputError: the picture cannot be used, or ``top`` is below 1.
            ModelError: the file does not say how a picture becomes the input, or its labels do not fit.
        """
        from math import isfinite

        from smidgen.run.answer import likeliest
        from smidgen.run.pictures import open_image, resized

        image = open_image(picture)
        try:
            labels = self._labels
            network = self._network.result()
            small = resized(image, *network.shape[2:], network.resample)
            numbers = network.picture(small.tobytes())
            if not all(map(isfinite, numbers)):
                raise ModelError(NOT_FINITE)
            return likeliest(numbers, network.probabilities, labels, top)
        except (FormatError, ModelError) as error:
            raise type(error)(f"{self._origin}: {error}") from None
