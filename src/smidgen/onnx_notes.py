"""What an ONNX model says beside its graph: how pictures become its input, and which classes its scores are of."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.errors import FormatError, InputError, ModelError
from smidgen.file import parse_preprocessing
from smidgen.label import parse_labels, text_of_labels

__all__ = ["note_", "take_notes_"]

PREPROCESSING, LABELS = "smidgen.preprocessing", "smidgen.labels"
"""Keys of the model's ``metadata_props``: JSON with the fields of ``Preprocessing``; and for each class its id, a tab,
its name and a line break."""


def note_(model: Any, archive: Archive) -> None:
    """Writes into a model what the archive says of its pictures and classes, in place of what it said before.

    Raises:
        InputError: a label with half a character.
    """
    _take_(model)
    try:
        if archive.preprocessing:
            model.metadata_props.add(key=PREPROCESSING, value=json.dumps(asdict(archive.preprocessing)))
        if archive.labels:
            model.metadata_props.add(key=LABELS, value=text_of_labels(archive.labels))
    except UnicodeEncodeError as error:
        raise InputError(f"labels must be whole characters: {error}") from None


def take_notes_(model: Any) -> tuple[Preprocessing | None, tuple[Label, ...]]:
    """Takes out of a model what was written into it.

    Raises:
        ModelError: something else is in its place, or it does not fit the model.

    Example:
        >>> import onnx
        >>> model = onnx.ModelProto()
        >>> note_(model, Archive(b"", {}, Preprocessing(32, 32), (Label("n01", "cat"),)))
        >>> take_notes_(model)[1], len(model.metadata_props)
        ((Label(id='n01', name='cat'),), 0)
    """
    notes = _take_(model)
    try:
        known = parse_preprocessing(json.loads(notes[PREPROCESSING])) if PREPROCESSING in notes else None
        labels = parse_labels(notes.get(LABELS, b""))
    except (ValueError, RecursionError, FormatError):
        raise ModelError(f"its metadata {PREPROCESSING} or {LABELS} is not what smidgen writes; remove it") from None
    taken, given = (_sides(list(values)[:1]) for values in (model.graph.input, model.graph.output))
    pictures = len(taken) == 4 and taken[1] in (0, 3)
    if known and pictures and not (taken[2] in (0, known.height) and taken[3] in (0, known.width)):
        raise ModelError(
            f"its metadata {PREPROCESSING} says {known.height} x {known.width}, but it takes "
            f"{' x '.join(str(side or 'any') for side in taken[2:])}; remove it"
        )
    if labels and len(given) == 2 and given[1] not in (0, len(labels)):
        raise ModelError(f"its metadata {LABELS} has {len(labels)} classes, but it gives {given[1]} scores; remove it")
    return known, labels


def _sides(values: list[Any]) -> tuple[int, ...]:
    """The size of a tensor along its axes, 0 for any; nothing where there is none."""
    return tuple(dim.dim_value for value in values for dim in value.type.tensor_type.shape.dim)


def _take_(model: Any) -> dict[str, bytes]:
    """Takes the notes out of a model, as they are."""
    notes, kept = {}, []
    for prop in model.metadata_props:
        if prop.key in (PREPROCESSING, LABELS):
            notes[prop.key] = prop.value if isinstance(prop.value, bytes) else prop.value.encode()
        else:
            kept.append(type(prop).FromString(prop.SerializeToString()))
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return notes
