"""The bar that the project is measured by, on real labelled pictures, where they are."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

import smidgen
from smidgen.api import compress_by_plan
from smidgen.plan import Plan
from smidgen.read import from_module, read_model
from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_labelled

PICTURES = Path(__file__).parents[2] / "shared" / "data" / "imagenet-measure.zip"


@pytest.mark.data
@pytest.mark.skipif(not PICTURES.exists(), reason=f"{PICTURES} is not there")
def test_squeezenet_under_800_kb_within_half_a_point(tmp_path: Path) -> None:
    with zipfile.ZipFile(PICTURES) as pictures:
        pictures.extractall(tmp_path)
    model = read_model("squeezenet1_1")
    small = compress_by_plan(model, Plan.find("squeezenet1_1"))
    assert small.save(tmp_path / "small.smidgen") <= 800_000
    original = from_module(model.module, model.input_shape, model.preprocessing, model.labels)
    found = find_labelled(tmp_path / "imagenet-measure", model.labels)
    assert found is not None
    assert len(found) == 1150
    runners = [original.runner(), smidgen.open(tmp_path / "small.smidgen").runner()]
    fp32, coded = evaluate(runners, [path for path, _ in found], [index for _, index in found])
    assert fp32.top1 is not None
    assert coded.top1 is not None
    assert fp32.top1 > 70  # so that a network that is broken on both sides does not pass
    assert coded.top1 >= fp32.top1 - 0.5
    assert coded.kl < 0.0093  # NNCodec's at the same size
