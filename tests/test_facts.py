"""What a file is made of, and the files that were tried beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native import program_archive

from smidgen.archive import Archive
from smidgen.code import Affine, Code
from smidgen.errors import FormatError
from smidgen.facts import curve_beside, facts_of
from smidgen.file import write


def test_bytes_add_up_and_histograms_count_every_symbol() -> None:
    archive = program_archive()
    data = write(archive)
    facts = facts_of(data, "net", histograms=True)
    json.dumps(facts)  # plain values only
    assert facts["bytes"] == len(data) == sum(facts["sections"].values())
    assert sum(tensor["stored"] for tensor in facts["tensors"]) == facts["sections"]["payload"]
    for tensor in facts["tensors"]:
        held = archive.tensors[tensor["name"]]
        if not isinstance(held, Code):
            assert tensor["histogram"] is None
            continue
        told = tensor["histogram"]
        assert sum(told["counts"]) == held.symbols.size
        assert told["first"] == held.symbols.min()
        assert told["counts"][0] == np.sum(held.symbols < told["first"] + told["step"])
        assert told["counts"][-1] > 0


def test_many_symbols_are_counted_together() -> None:
    rng = np.random.default_rng(0)
    wide = Code(rng.integers(-100, 100, (40, 50)).astype(np.int16), Affine.per_tensor(0.1))
    facts = facts_of(write(Archive(b"", {"wide": wide})), "net", histograms=True)
    assert facts["running"].startswith("Holds weights and no network")
    told = facts["tensors"][0]["histogram"]
    assert len(told["counts"]) <= 64
    assert told["step"] > 1
    assert sum(told["counts"]) == wide.symbols.size


def test_what_is_no_file_has_no_facts() -> None:
    with pytest.raises(FormatError, match="letter"):
        facts_of(b"Dear all", "letter")


def point(size: int, kl: float, **more: Any) -> dict[str, Any]:
    fidelity = {"pictures": 9, "kl": kl, "agreement": 90.0, "drop": 10.0, "measure": "agreement"}
    return {"nats_per_bit": 1e-7, "bytes": size, "fidelity": fidelity, "repaired": False, **more}


def test_the_curve_names_the_file_that_it_lies_beside(tmp_path: Path) -> None:
    file, curve = tmp_path / "net.smidgen", tmp_path / "net.smidgen.curve.json"
    assert curve_beside(file) is None
    file.write_bytes(bytes(103))
    untold = {**point(50, 0.0), "fidelity": None}
    curve.write_text(json.dumps({"best": point(103, 0.2), "curve": [point(90, 0.3), point(100, 0.2), untold]}))
    assert curve_beside(file) == [
        {"bytes": 90, "kl": 0.3, "agreement": 90.0, "best": False},
        {"bytes": 103, "kl": 0.2, "agreement": 90.0, "best": True},
    ]
    file.write_bytes(bytes(104))
    assert curve_beside(file) is None  # the curve is that of another file
    curve.write_text('{"curve": 3}')
    assert curve_beside(file) is None
