"""A file's network, running: from pictures to scores and names."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.container import read_bytes
from smidgen.errors import NOT_FINITE, UNPREPARED, FormatError, InputError, ModelError
from smidgen.run.answer import Answer, likeliest
from smidgen.run.kinds import last_operator
from smidgen.run.outputs import Output, log_probabilities
from smidgen.run.pictures import open_picture, prepare

if TYPE_CHECKING:
    from smidgen.run.native import Native

__all__ = ["ENGINES", "Graph", "Runner", "open_runner", "runner_of"]

ENGINES = ("native", "onnxruntime")
RUN = "a runner recognises pictures: the network must"
OTHERWISE = "; archive.onnx() is any network for ONNX Runtime, archive.module() for PyTorch"


class Runner:
    """A network that runs: ``runner(batch)`` gives its scores.

    Args:
        network: what computes: ``Graph`` in ONNX Runtime, ``smidgen.run.native.Native`` in the core.
        preprocessing: how a picture becomes the input, or None if unknown.
        labels: the classes in the order of the scores; empty if unknown.

    Example:
        >>> import smidgen  # doctest: +SKIP
        >>> smidgen.open("small.smidgen").runner().recognize("cat.jpg", top=1)  # doctest: +SKIP
        [Answer(label=Label(id='n02123045', name='tabby, tabby cat'), score=0.71)]
    """

    def __init__(
        self, network: Graph | Native, preprocessing: Preprocessing | None = None, labels: tuple[Label, ...] = ()
    ) -> None:
        self.preprocessing = preprocessing
        self.labels = labels
        self._network = network
        self._shape = network.shape
        self._output = Output("scores", "probabilities" if network.probabilities else "scores", axis=1)

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The raw scores, as the network gives them.

        Args:
            batch: float32 of shape (n, 3, height, width). A graph whose batch size is fixed runs as often as needed.

        Returns:
            float32 of shape (n, classes).

        Raises:
            InputError: the batch does not fit the graph.
            ModelError: the runtime fails, or the scores are not one finite number per picture and class.
        """
        self._check(batch)
        step = self._shape[0] or len(batch)
        parts = [self._network(batch[start : start + step]) for start in range(0, len(batch), step)]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(scores) != len(batch) or scores.ndim < 2 or scores.size != len(batch) * scores.shape[1]:
            raise ModelError(f"the network gives scores of shape {scores.shape} for {len(batch)} pictures")
        if not np.isfinite(scores).all():
            raise ModelError(NOT_FINITE)
        return scores.reshape(len(batch), -1)

    def log_probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float64]:
        """Natural logarithms of the probabilities, computed without overflow or loss for the unlikely classes.

        Args:
            batch: as for ``runner(batch)``, which also says what is raised.

        Returns:
            float64 of shape (n, classes): the log-softmax of the scores, or, if the graph itself ends in a softmax,
            the logarithm of what it gives (never below that of the smallest normal float32).
        """
        return log_probabilities(self._output, self(batch))[:, 0]

    def probabilities(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The softmax of the scores: float32 of shape (n, classes), each row with the sum 1.

        A graph that itself ends in a softmax does not get a second one. Raises as ``runner(batch)`` does.
        """
        return np.exp(self.log_probabilities(batch)).astype(np.float32)

    def prepare(self, picture: str | os.PathLike[str] | NDArray[np.uint8]) -> NDArray[np.float32]:
        """The input for one picture: float32 of shape (3, height, width).

        Args:
            picture: a file, or uint8 of shape (height, width, 3) in RGB.

        Raises:
            InputError: the picture cannot be read, or has another shape or type.
            ModelError: the archive does not say how pictures are prepared.
        """
        if self.preprocessing is None:
            raise ModelError(UNPREPARED)
        pixels = picture if isinstance(picture, np.ndarray) else open_picture(picture)
        return prepare(pixels, self.preprocessing)

    def recognize(self, picture: str | os.PathLike[str] | NDArray[np.uint8], top: int = 5) -> list[Answer]:
        """Name what is in a picture.

        Args:
            picture: a file, or uint8 of shape (height, width, 3) in RGB.
            top: how many answers, at most as many as there are classes.

        Returns:
            The likeliest classes with their probabilities, the likeliest first; of equal ones the lower index.
            Where the archive has no labels, class 17 is called "class 17".

        Raises:
            InputError: the picture cannot be used, or ``top`` is below 1.
            ModelError: no preprocessing, labels that do not fit the scores, or the runtime fails.
        """
        numbers = self(self.prepare(picture)[None])[0].tolist()
        return likeliest(numbers, self._output.kind == "probabilities", self.labels, top)

    def _check(self, batch: NDArray[np.float32]) -> None:
        fixed, wanted = self._shape[0], self._shape[1:]
        fits = batch.ndim == 4 and all(want in (None, size) for want, size in zip(wanted, batch.shape[1:], strict=True))
        if batch.dtype != np.float32 or not fits or batch.size == 0 or (fixed and len(batch) % fixed):
            first = f"a multiple of {fixed}" if fixed else "n"
            shape = ", ".join([first, *("any" if size is None else str(size) for size in wanted)])
            raise InputError(f"input: the network takes float32 of shape ({shape}), not {batch.dtype} {batch.shape}")


class Graph:
    """An archive's graph in ONNX Runtime, in float32.

    Args:
        archive: graph and weights.
        threads: how many compute; 0 lets the runtime take one for each core.

    Raises:
        InputError: a negative number of threads.
        ModelError: the graph cannot be filled or loaded, or is not a network of one input and one output.
    """

    def __init__(self, archive: Archive, threads: int = 0) -> None:
        from smidgen.run.onnx_graph import fill_graph
        from smidgen.run.session import session

        if threads < 0:
            raise InputError(f"threads: {threads} is not a number of threads; give 1 or more, or 0 for all cores")
        model = fill_graph(archive.graph, archive.decoded())
        self._session = session(model, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"{RUN} have one input and one output, not {len(inputs)} and {len(outputs)}{OTHERWISE}")
        if inputs[0].type != "tensor(float)" or outputs[0].type != "tensor(float)":
            raise ModelError(f"{RUN} take and give 32-bit floats, not {inputs[0].type} to {outputs[0].type}{OTHERWISE}")
        self._input = inputs[0].name
        # a free dimension has a name or none in place of its size
        self.shape = tuple(size if isinstance(size, int) else None for size in inputs[0].shape)
        if len(self.shape) != 4:
            raise ModelError(f"{RUN} take (n, channels, height, width), not {len(self.shape)} axes{OTHERWISE}")
        self.probabilities = last_operator(model, outputs[0].name) == "Softmax"

    def __call__(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        """The output for float32 of shape (n, channels, height, width).

        Raises:
            ModelError: the runtime fails.
        """
        from smidgen.run.session import reason

        try:
            found: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        except Exception as error:  # the runtime's exceptions have no public base class of their own
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason(error)}") from None
        return found


def runner_of(archive: Archive, threads: int = 0, engine: str | None = None) -> Runner:
    """An archive's network, ready to run.

    Args:
        archive: what to run.
        threads: how many compute; 0 for one on each core.
        engine: "native", in integers by the archive's program; "onnxruntime", in float32 by its graph; None for the
            first where there is a program.

    Raises:
        InputError: there is no such engine, or a negative number of threads.
        ModelError: the archive has no program, or ONNX Runtime refuses its graph.
    """
    from smidgen.file import write

    if _is_native(engine, archive.program):
        # what is decoded at once need not be small
        return _native(write(archive, ("raw",)), archive, threads)
    return Runner(Graph(archive, threads), archive.preprocessing, archive.labels)


def open_runner(path: str | os.PathLike[str], threads: int = 0, engine: str | None = None) -> Runner:
    """A file's network, ready to run; as ``runner_of``, but with a program the weights are decoded by the core alone.

    Raises:
        FormatError: the file is not valid.
        InputError: it cannot be read, or as for ``runner_of``.
        ModelError: as for ``runner_of``.
    """
    from smidgen.file import outline, read

    data = read_bytes(path)
    around = outline(data, str(path))
    if _is_native(engine, around.program):
        return _native(data, around, threads, str(path))
    return runner_of(read(data, str(path)), threads, "onnxruntime")


def _is_native(engine: str | None, program: bytes) -> bool:
    if engine not in (None, *ENGINES):
        raise InputError(f"engine {engine!r} is unknown; choose {' or '.join(ENGINES)}")
    return engine == "native" or (engine is None and bool(program))


def _native(data: bytes, around: Archive, threads: int, origin: str = "the archive") -> Runner:
    from smidgen.run.native import Native

    try:
        return Runner(Native(data, threads), around.preprocessing, around.labels)
    except (FormatError, ModelError) as error:
        raise type(error)(f"{origin}: {error}") from None
