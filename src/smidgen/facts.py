"""What a file is made of, as plain values for JSON: for ``inspect``, the page and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.code import Code
from smidgen.container import read_bytes
from smidgen.errors import ModelError
from smidgen.file import TensorInfo, inspect, outline, read, section_sizes
from smidgen.reporter import small

__all__ = ["advice", "curve_beside", "described", "facts_beside", "facts_of", "running"]

BINS = 64


def facts_of(data: bytes, origin: str, histograms: bool = False) -> dict[str, Any]:
    """What a file is made of.

    Args:
        data: its bytes.
        origin: what to call it.
        histograms: whether to count symbols, for which all weights are decoded.

    Returns:
        ``file``, ``bytes``, ``weights``, ``original_bytes`` (4 for each weight), ``sections`` (bytes of each),
        ``tensors`` (see ``described``; ``part_of`` names the weight that a second code is added to; with ``histogram``:
        ``first``, ``last``, ``step`` and ``counts``, None for an array that is no code), ``running`` (what runs it, and
        if that is ONNX Runtime alone, why), and ``advice`` where the harm of layers is known.

    Raises:
        FormatError: the bytes are no valid file.
    """
    tensors, total = inspect(data, origin), len(data)
    parts = _parts(outline(data, origin).graph, tensors)
    weights = sum(tensor.elements for tensor in tensors if tensor.name not in parts)
    facts: dict[str, Any] = {"file": origin, "bytes": total, "weights": weights, "original_bytes": 4 * weights}
    facts["sections"] = section_sizes(data)
    facts["tensors"] = [{**described(tensor, total), "part_of": parts.get(tensor.name)} for tensor in tensors]
    facts["running"] = running(data)
    if any(tensor.harm is not None for tensor in tensors):
        facts["advice"] = advice(tensors)
    if histograms:
        archive = read(data, origin)
        for tensor in facts["tensors"]:
            held = archive.tensors[tensor["name"]]
            tensor["histogram"] = _histogram(held.symbols) if isinstance(held, Code) else None
    return facts


def _parts(graph: bytes, tensors: Sequence[TensorInfo]) -> dict[str, str]:
    """The codes that are parts of weights which have another one, and the names of these weights."""
    from smidgen.parts import added

    codes = {tensor.name for tensor in tensors if tensor.levels}
    return {part: name for name, part in added(graph, {tensor.name for tensor in tensors}, codes).items()}


def facts_beside(path: Path) -> dict[str, Any]:
    """All of ``facts_of`` for a file, which is called by its name alone, and its ``curve`` (see ``curve_beside``).

    Raises:
        FormatError: it is no valid file.
        InputError: it cannot be read.
    """
    facts = facts_of(read_bytes(path), str(path), histograms=True)
    return {**facts, "file": path.name, "curve": curve_beside(path)}


def _histogram(symbols: NDArray[np.int16]) -> dict[str, Any]:
    """How often each symbol occurs; of many, how often those of each of at most ``BINS`` neighbouring ones do.

    Example:
        >>> _histogram(np.array([-1, 0, 0, 2], np.int16))
        {'first': -1, 'last': 2, 'step': 1, 'counts': [1, 2, 0, 1]}
    """
    first, last = int(symbols.min()), int(symbols.max())
    step = -(-(last - first + 1) // BINS)
    counts = np.bincount((symbols.astype(np.int64).reshape(-1) - first) // step)
    return {"first": first, "last": last, "step": step, "counts": counts.tolist()}


def curve_beside(path: Path) -> list[dict[str, Any]] | None:
    """The files that were tried for this one, if ``compress`` left them beside it.

    Returns:
        For each one ``bytes``, ``kl``, ``agreement`` and its ``measure`` (see ``smidgen.budget.Fidelity``), and whether
        it is the ``best``: this file.
    """
    try:
        told = json.loads(Path(f"{path}.curve.json").read_text())
        if told["best"]["bytes"] != path.stat().st_size:
            return None  # of a file that lay here before
        return [_point(point, told["best"]) for point in told["curve"] if point["fidelity"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _point(point: dict[str, Any], best: dict[str, Any]) -> dict[str, Any]:
    # a few bytes are added to the best one afterwards: what its layers cost alone
    same = {**point, "bytes": 0} == {**best, "bytes": 0}
    size, fidelity = (best if same else point)["bytes"], point["fidelity"]
    figures = {name: float(fidelity[name]) for name in ("kl", "agreement")}
    return {"bytes": int(size), **figures, "measure": str(fidelity["measure"]), "best": same}


def running(data: bytes) -> str:
    """One line on what the network of a file runs by, and if that is ONNX Runtime alone, why."""
    import onnx

    from smidgen.lower import structure

    around = outline(data)
    if not onnx.load_from_string(around.graph).graph.output:
        return "Holds weights and no network: it cannot be run; export it as safetensors."
    if around.program:
        return "Runs by itself, in integers of 8 bits; ONNX Runtime runs it, too, in float32."
    try:
        structure(read(data))
    except ModelError as error:
        return f"Runs by ONNX Runtime only: {error}"
    return "Runs by ONNX Runtime only: what ranges activations have is not known; compress it with --data."


def described(tensor: TensorInfo, total: int) -> dict[str, object]:
    """One tensor for JSON, in a file of ``total`` bytes."""
    share = {"bits_per_weight": 8 * tensor.stored / max(1, tensor.elements), "share": tensor.stored / total}
    return {**asdict(tensor), **share}


def advice(tensors: Sequence[TensorInfo]) -> str:
    """Which layer does most harm, and which to give more bits first.

    One bit more for each weight divides the harm by about four, so what it brings for a byte is harm by weights; layers
    of less than a hundredth of all harm are not worth the trouble.
    """
    harm = {tensor.name: tensor.harm for tensor in tensors if tensor.harm is not None}
    sizes = {tensor.name: tensor.elements for tensor in tensors}
    total = sum(harm.values())
    worst = max(harm, key=lambda name: harm[name])
    first = max((name for name in harm if harm[name] >= total / 100), key=lambda name: harm[name] / sizes[name])
    return (
        f"Most harm alone: {worst}, {small(harm[worst])} of {small(total)}. Spare first: {first}, where a byte "
        "more takes most harm away."
    )
