"""English to calibrate on: sentences out of what Python says about itself. To judge by there is sentences.txt."""

from __future__ import annotations

import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

WRITTEN = Path(__file__).parents[1] / "sentences.txt"
SKIPPED = {"antigravity", "this", "idlelib", "turtle", "turtledemo", "tkinter", "test", "lib2to3", "__main__"}


def written() -> list[str]:
    """The sentences that were written for this bench, one in each line."""
    return [line for line in WRITTEN.read_text().splitlines() if line]


def found(count: int, seed: int = 0) -> list[str]:
    """So many different sentences of documentation, drawn at random."""
    sentences = sorted({sentence for text in documentation() for sentence in split(text)})
    order = np.random.default_rng(seed).permutation(len(sentences))
    return [sentences[place] for place in order[:count]]


def split(text: str) -> Iterator[str]:
    """The sentences of a text, those that are no code."""
    for part in re.split(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n", text):
        line = " ".join(part.split())
        if 20 <= len(line) <= 300 and re.fullmatch(r"[A-Z][\w\s,;:.'\"()/-]+[.!?]", line):
            yield line


def documentation() -> Iterator[str]:
    """The help topics, and the docstrings of modules of the standard library and of what is in them."""
    yield from topics.values()
    for info in pkgutil.iter_modules([str(Path(inspect.__file__).parent)]):
        if info.name in SKIPPED or info.name not in sys.stdlib_module_names or info.name.startswith("_"):
            continue
        module = import_module(info.name)
        for thing in (module, *vars(module).values()):
            if inspect.ismodule(thing) and thing is not module:
                continue
            for one in (thing, *(vars(thing).values() if inspect.isclass(thing) else ())):
                text = getattr(one, "__doc__", None)
                if isinstance(text, str):
                    yield text
