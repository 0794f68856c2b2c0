"""What smidgen raises.

SmidgenError            anything the user can mend; one line: what, where, what to do
├── FormatError         bytes that are not a valid smidgen file, or not of this version
├── PlanError           a plan that cannot be read or matches nothing
├── RecipeError         a recipe for training that cannot be read or does not fit the network
├── WeightError         weights that cannot be compressed: NaN, infinite, empty, wrong type
├── ModelError          a model, state dict or graph that cannot be read, built or run
└── InputError          a picture, folder, table or option that cannot be used
    └── LimitError      a size or loss that cannot be reached; it has the best archive that was found
"""

import os
import sys
from typing import Any

__all__ = [
    "NOT_FINITE",
    "UNPREPARED",
    "FormatError",
    "InputError",
    "LimitError",
    "ModelError",
    "PlanError",
    "RecipeError",
    "SmidgenError",
    "WeightError",
    "one_line",
    "output_lost",
    "told",
]

NOT_FINITE = "the network gives scores that are not finite; its weights are damaged or too coarse"
UNPREPARED = (
    "the file does not say how pictures are prepared; give the module an attribute `preprocessing` and compress it "
    "again"
)


class SmidgenError(Exception):
    """Base of all errors that smidgen raises on purpose; the message is one line for the user."""


class FormatError(SmidgenError):
    """The bytes are not a valid smidgen file: truncated, damaged, foreign, or of a later version."""


class PlanError(SmidgenError):
    """A plan cannot be read, names an unknown method or field, or has a pattern that matches nothing."""


class RecipeError(SmidgenError):
    """A recipe that cannot be read, asks for something unknown, or does not fit the network."""


class WeightError(SmidgenError):
    """A weight tensor holds NaN or infinity, is empty, or has a type that no method can take."""


class ModelError(SmidgenError):
    """A model, its weights or its graph cannot be found, built, loaded or run."""


class InputError(SmidgenError):
    """A picture, folder or option given by the user cannot be used."""


class LimitError(InputError):
    """A size or a loss of accuracy that cannot be reached.

    Args:
        message: the line for the user, which says what was reached.
        archive: the nearest that was found, an ``Archive``; None if time was up before the first.
    """

    def __init__(self, message: str, archive: Any = None) -> None:
        super().__init__(message)
        self.archive = archive


def told(error: SmidgenError | MemoryError | KeyboardInterrupt) -> str:
    """The line by which a command ends that cannot do its work.

    Example:
        >>> told(InputError("cat.jpg: no such file"))
        'smidgen: cat.jpg: no such file'
    """
    if isinstance(error, MemoryError):
        return "smidgen: not enough memory for this model"
    if isinstance(error, KeyboardInterrupt):
        return "smidgen: interrupted; nothing that existed was changed"
    return f"smidgen: {error}"


def output_lost(error: OSError) -> InputError:
    """What is said where standard output cannot be written; from now on it goes nowhere, since the end of the process
    would fail to write it again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return InputError(f"standard output: cannot be written: {error.strerror}")


def one_line(error: BaseException) -> str:
    """The type of an error of another library and the first line of what it says.

    Example:
        >>> one_line(ValueError("no\\nway"))
        'ValueError: no'
    """
    return f"{type(error).__name__}: {(str(error).strip() or '(no message)').splitlines()[0][:300]}"
