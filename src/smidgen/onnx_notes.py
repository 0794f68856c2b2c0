"""What an ONNX model says beside its graph: how pictures become its input, and which classes its scores are of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.errors import FormatError, ModelError
from smidgen.file import parse_preprocessing
from smidgen.label import parse_labels, text_of_labels

__all__ = ["PREPROCESSING", "note_", "take_notes_"]

PREPROCESSING, LABELS = "smidgen.preprocessing", "smidgen.labels"
"""Keys of the model's ``metadata_props``: JSON with the fields of ``Preprocessing``; and for each class its id, a tab,
its name and a line break."""


def note_(model: Any, archive: Archive) -> None:
    """Writes into a model what the archive says of its pictures and classes."""
    if archive.preprocessing:
        model.metadata_props.add(key=PREPROCESSING, value=json.dumps(asdict(archive.preprocessing)))
    if archive.labels:
        model.metadata_props.add(key=LABELS, value=text_of_labels(archive.labels))


def take_notes_(model: Any) -> tuple[Preprocessing | None, tuple[Label, ...]]:
    """Takes out of a model what was written into it.

    Raises:
        ModelError: something else is in its place.

    Example:
        >>> import onnx
        >>> model = onnx.ModelProto()
        >>> note_(model, Archive(b"", {}, Preprocessing(32, 32), (Label("n01", "cat"),)))
        >>> take_notes_(model)[1], len(model.metadata_props)
        ((Label(id='n01', name='cat'),), 0)
    """
    notes = {prop.key: prop.value for prop in model.metadata_props if prop.key in (PREPROCESSING, LABELS)}
    kept = [prop for prop in model.metadata_props if prop.key not in notes]
    kept = [type(prop).FromString(prop.SerializeToString()) for prop in kept]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    try:
        known = parse_preprocessing(json.loads(notes[PREPROCESSING])) if PREPROCESSING in notes else None
        return known, parse_labels(notes.get(LABELS, "").encode())
    except (ValueError, RecursionError, FormatError):
        raise ModelError(f"its metadata {PREPROCESSING} or {LABELS} is not what smidgen writes; remove it") from None
