"""Two networks on the same examples: figures, and of pictures those whose answer changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from smidgen.archive import Archive, Label
from smidgen.examples import Item, batches, inputs_of
from smidgen.report.document import Shot
from smidgen.run.evaluate import Evaluation, evaluate, latency
from smidgen.run.kinds import outputs_of
from smidgen.run.pictures import open_image
from smidgen.run.session import Engine

__all__ = ["Comparison", "Picture", "compared", "small", "why_not"]

MOST, FEW = 24, 6
SIDE = 200
TIMED, ROUNDS = 8, 24

Picture = Path | NDArray[np.uint8]


@dataclass(frozen=True)
class Comparison:
    """The original beside a file.

    Args:
        against: name of the original.
        original: what it did.
        file: what the file's weights did, in float32.
        milliseconds: of the file's own program for one picture, on one thread; None if it has none.
        milliseconds_original: of the original in ONNX Runtime, in float32, on one thread, in the same rounds.
        changed: how many pictures were given another answer.
        lost: how many of these the original named right; None if what they are is unknown.
        gained: how many of these the file names right.
        shots: some of these, each change of classes once before any comes again, the original's surest first; or if
            there are none, some that did not change.
    """

    against: str
    original: Evaluation
    file: Evaluation
    milliseconds: float | None
    milliseconds_original: float
    changed: int
    lost: int | None
    gained: int | None
    shots: tuple[Shot, ...]

    def told(self) -> dict[str, Any]:
        """All of it as plain values, but for the pixels."""
        shown = [{"name": shot.name, "says": dict(shot.says), "truth": shot.truth} for shot in self.shots]
        return {
            "against": self.against,
            "original": asdict(self.original),
            "file": asdict(self.file),
            "milliseconds": self.milliseconds,
            "milliseconds_original": self.milliseconds_original,
            "changed": self.changed,
            "lost": self.lost,
            "gained": self.gained,
            "shown": shown,
        }


def compared(
    original: Archive,
    file: Archive,
    names: tuple[str, str],
    pictures: Sequence[Picture],
    truth: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Comparison:
    """Runs both networks on the same pictures.

    Args:
        original: the network before.
        file: the network after.
        names: what they are called.
        pictures: files, or uint8 arrays of shape (height, width, 3) in RGB.
        truth: index of the true class of each, or None if unknown.
        on_progress: called with the number of pictures done.

    Raises:
        InputError: a picture cannot be read, or the networks have different classes.
        ModelError: a network cannot be run.
    """
    labels = file.labels or original.labels
    answers: list[list[tuple[int, float]]] = [[], []]

    def note(logs: Sequence[NDArray[np.float64]]) -> None:
        for found, log in zip(answers, logs, strict=True):
            best = log.argmax(axis=1)
            found += zip(best.tolist(), np.exp(log.max(axis=1)).tolist(), strict=True)

    runners = [archive.runner(1, "onnxruntime") for archive in (original, file)]
    results = evaluate(runners, pictures, truth, on_progress, note)
    changed = [place for place, (one, other) in enumerate(zip(*answers, strict=True)) if one[0] != other[0]]
    shown = _telling(changed, *answers)[:MOST] or list(range(min(FEW, len(pictures))))
    shots = [
        Shot(
            _name(pictures[place], place),
            small(pictures[place]),
            [
                (name, f"{_class(labels, found[place][0])}, {100 * found[place][1]:.0f} %")
                for name, found in zip(names, answers, strict=True)
            ],
            None if truth is None else _class(labels, truth[place]),
        )
        for place in shown
    ]
    mine, theirs = None, results[0].milliseconds
    if file.program:
        theirs, mine = latency([runners[0], file.runner(1, "native")], pictures[:TIMED], ROUNDS)
    lost, gained = (None if truth is None else sum(found[n][0] == truth[n] for n in changed) for found in answers)
    return Comparison(names[0], results[0], results[1], mine, theirs, len(changed), lost, gained, tuple(shots))


def _telling(
    changed: Sequence[int], ours: Sequence[tuple[int, float]], theirs: Sequence[tuple[int, float]]
) -> list[int]:
    """Changed pictures, those that say most first: each change of classes once, then again, the surest first.

    Example:
        >>> _telling([0, 1, 3], [(7, 0.9), (7, 0.8), (2, 1.0), (5, 0.3)], [(8, 0.5), (8, 0.5), (2, 0.9), (6, 0.5)])
        [0, 3, 1]
    """
    found: list[tuple[int, int]] = []
    seen: Counter[tuple[int, int]] = Counter()
    for place in sorted(changed, key=lambda place: -ours[place][1]):
        change = ours[place][0], theirs[place][0]
        seen[change] += 1
        found.append((seen[change], place))
    return [place for _, place in sorted(found, key=lambda one: one[0])]


def _class(labels: Sequence[Label], index: int) -> str:
    return labels[index].name if index < len(labels) else f"class {index}"


def _name(picture: Picture, place: int) -> str:
    return picture.name if isinstance(picture, Path) else f"picture {place + 1}"


def small(picture: Picture) -> bytes:
    """A JPEG file of a picture, small enough for a page."""
    image = open_image(picture) if isinstance(picture, Path) else Image.fromarray(picture)
    image.thumbnail((SIDE, SIDE))
    stream = BytesIO()
    image.save(stream, "JPEG", quality=72, optimize=True)
    return stream.getvalue()


def why_not(archive: Archive, examples: Sequence[Item], kind: str | None = None) -> str | None:
    """Why what a network says of examples cannot be shown on pictures, or None if it can.

    Args:
        archive: the network.
        examples: at least one.
        kind: what its output is, if it is known better than ``outputs_of`` finds out.

    Raises:
        ModelError: the network cannot be run.
    """
    if isinstance(examples[0], Mapping):
        return "The network was given arrays, no pictures."
    model = archive.onnx()
    if len(model.graph.output) != 1:
        return f"The network has {len(model.graph.output)} outputs."
    if inputs_of(archive)[0].dtype != np.float32:
        return f"The network takes {inputs_of(archive)[0].dtype}."
    together = inputs_of(archive)[0].shape[0]
    if together not in (None, 1):
        return f"The network takes {together} pictures at once."
    (answer,) = Engine(model)(next(batches(examples[:1], archive, 1)))
    (output,) = outputs_of(model, [answer], bool(archive.labels), kind)
    if output.kind not in ("scores", "probabilities"):
        return f"The network gives {output.kind}, no scores of classes."
    if answer.size != answer.shape[0] * answer.shape[output.axis]:
        return "The network gives more than one answer for each picture."
    return None
