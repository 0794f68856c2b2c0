"""What a file is made of, and the files that were tried beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native import program_archive

from smidgen.archive import Archive
from smidgen.code import Affine, Code
from smidgen.errors import FormatError
from smidgen.facts import curve_beside, facts_of
from smidgen.file import write
from smidgen.methods import Squeeze
from smidgen.pipeline import explanation


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


def squeezed(count: int) -> Archive:
    rng = np.random.default_rng(0)
    weights = {f"{place}.weight": rng.normal(size=(8, 8)).astype(np.float32) for place in range(count)}
    return Archive(b"", {name: Squeeze(1e-3)(weight) for name, weight in weights.items()})


@given(st.lists(st.floats(0, 50) | st.floats(1e4, 1e9) | st.floats(1e-14, 1e-5), min_size=1, max_size=4))
def test_the_harm_of_layers_is_told_to_two_digits_however_small(harms: list[float]) -> None:
    archive = squeezed(len(harms))
    metadata = explanation({}, dict(zip(archive.tensors, harms, strict=True)), None)
    told = [tensor["harm"] for tensor in facts_of(write(replace(archive, metadata=metadata)), "net")["tensors"]]
    most = max(harms)
    coarse = 1e-6 if 1e-4 <= most < 1e5 else most / 100
    np.testing.assert_allclose(told, harms, rtol=0.05, atol=max(1e-30, coarse))


@pytest.mark.parametrize("unit", ["1e-6", 0.0, -1.0, 1e40, 1, True, None])
def test_harm_in_parts_of_what_is_no_unit_is_not_told(unit: object) -> None:
    archive = replace(squeezed(1), metadata={"squeezed": {"harm": [3], "unit": unit}})
    assert facts_of(write(archive), "net")["tensors"][0]["harm"] is None


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
        {"bytes": 90, "kl": 0.3, "agreement": 90.0, "measure": "agreement", "best": False},
        {"bytes": 103, "kl": 0.2, "agreement": 90.0, "measure": "agreement", "best": True},
    ]
    file.write_bytes(bytes(104))
    assert curve_beside(file) is None  # the curve is that of another file
    curve.write_text('{"curve": 3}')
    assert curve_beside(file) is None
