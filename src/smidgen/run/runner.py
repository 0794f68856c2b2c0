"""A file's network, running in ONNX Runtime: from pictures to scores and names."""

from __future__ import annotations

import math
import os
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from smidgen.archive import Archive, Label
from smidgen.errors import InputError, ModelError
from smidgen.run.outputs import Output, last_operator, log_probabilities
from smidgen.run.pictures import open_picture, prepare
from smidgen.run.session import reason, session

__all__ = ["Answer", "Runner"]


class Answer(NamedTuple):
    """One class that a picture may show, and its probability (0..1)."""

    label: Label
    score: float


class Runner:
    """A network that runs in ONNX Runtime: ``runner(batch)`` gives its scores.

    Args:
        archive: graph and weights; preprocessing and labels where they are known.
        threads: how many compute; 0 lets the runtime take one for each core.

    Raises:
        InputError: a negative number of threads.
        ModelError: the graph cannot be filled or loaded, or is not a network of one input and one output.

    Example:
        >>> import smidgen  # doctest: +SKIP
        >>> smidgen.open("small.smidgen").runner().recognize("cat.jpg", top=1)  # doctest: +SKIP
        [Answer(label=Label(id='n02123045', name='tabby, tabby cat'), score=0.71)]
    """

    def __init__(self, archive: Archive, threads: int = 0) -> None:
        from smidgen.run.onnx_graph import fill_graph

        if threads < 0:
            raise InputError(f"threads: {threads} is not a number of threads; give 1 or more, or 0 for all cores")
        model = fill_graph(archive.graph, archive.weights())
        self.preprocessing = archive.preprocessing
        self.labels = archive.labels
        self._session = session(model, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(f"a graph of one input and one output can be run, not {len(inputs)} and {len(outputs)}")
        if inputs[0].type != "tensor(float)" or outputs[0].type != "tensor(float)":
            raise ModelError(f"the graph must take and give 32-bit floats, not {inputs[0].type} and {outputs[0].type}")
        self._input = inputs[0].name
        # a free dimension has a name or none in place of its size
        self._shape = [size if isinstance(size, int) else None for size in inputs[0].shape]
        if len(self._shape) != 4:
            raise ModelError(f"the graph's input must be (n, channels, height, width), not of {len(self._shape)} axes")
        softmax = last_operator(model, outputs[0].name) == "Softmax"
        self._output = Output(outputs[0].name, "probabilities" if softmax else "scores", axis=1)

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
        parts = [self._run(batch[start : start + step]) for start in range(0, len(batch), step)]
        scores = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if len(scores) != len(batch) or scores.ndim < 2 or scores.size != len(batch) * scores.shape[1]:
            raise ModelError(f"the network gives scores of shape {scores.shape} for {len(batch)} pictures")
        if not np.isfinite(scores).all():
            raise ModelError("the network gives scores that are not finite; its weights are damaged or too coarse")
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
            raise ModelError(
                "the file does not say how pictures are prepared; give the module an attribute `preprocessing` and "
                "compress it again"
            )
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
        if top < 1:
            raise InputError(f"top: {top} is not a number of answers; give 1 or more")
        # ranked by logarithms: beside a sure answer the probabilities of the others can all round to 0
        scores = self.log_probabilities(self.prepare(picture)[None])[0]
        labels = self.labels or tuple(Label(f"class {index}", f"class {index}") for index in range(len(scores)))
        if len(labels) != len(scores):
            raise ModelError(f"the file has {len(labels)} labels, but its network gives {len(scores)} scores")
        best = np.argsort(-scores, kind="stable")[:top]
        return [Answer(labels[index], math.exp(scores[index])) for index in best]

    def _check(self, batch: NDArray[np.float32]) -> None:
        fixed, wanted = self._shape[0], self._shape[1:]
        fits = batch.ndim == 4 and all(want in (None, size) for want, size in zip(wanted, batch.shape[1:], strict=True))
        if batch.dtype != np.float32 or not fits or batch.size == 0 or (fixed and len(batch) % fixed):
            first = f"a multiple of {fixed}" if fixed else "n"
            shape = ", ".join([first, *("any" if size is None else str(size) for size in wanted)])
            raise InputError(f"input: the network takes float32 of shape ({shape}), not {batch.dtype} {batch.shape}")

    def _run(self, batch: NDArray[np.float32]) -> NDArray[np.float32]:
        try:
            scores: NDArray[np.float32] = self._session.run(None, {self._input: batch})[0]
        except Exception as error:  # the runtime's exceptions have no public base class of their own
            raise ModelError(f"ONNX Runtime cannot run the graph: {reason(error)}") from None
        return scores
