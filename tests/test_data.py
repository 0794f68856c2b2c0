"""The bar that the project is measured by, on real labelled pictures, where they are."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

import smidgen
from smidgen.api import compress_by_plan
from smidgen.budget import Budget, Outcome
from smidgen.given import examples_in
from smidgen.pipeline import squeeze_to_budget
from smidgen.plan import Plan
from smidgen.read import read_model
from smidgen.run.evaluate import evaluate
from smidgen.run.int8 import quantize
from smidgen.run.pictures import find_labelled
from smidgen.train.files import named_right
from smidgen.train.pictures import pictures_in

DATA = Path(__file__).parents[2] / "shared" / "data"
PICTURES, PHOTOS = DATA / "imagenet-measure.zip", DATA / "photos-unlabelled.zip"
CIFAR = DATA / "cifar10-jpeg.zip"


@pytest.mark.data
@pytest.mark.skipif(not PICTURES.exists(), reason=f"{PICTURES} is not there")
def test_squeezenet_under_800_kb_within_half_a_point(tmp_path: Path) -> None:
    with zipfile.ZipFile(PICTURES) as pictures:
        pictures.extractall(tmp_path)
    model = read_model("squeezenet1_1")
    small = compress_by_plan(model, Plan.find("squeezenet1_1"))
    assert small.save(tmp_path / "small.smidgen") <= 800_000
    found = find_labelled(tmp_path / "imagenet-measure", model.labels)
    assert found is not None
    assert len(found) == 1150
    runners = [model.runner(), smidgen.open(tmp_path / "small.smidgen").runner()]
    fp32, coded = evaluate(runners, [path for path, _ in found], [index for _, index in found])
    assert fp32.top1 is not None
    assert coded.top1 is not None
    assert fp32.top1 > 70  # so that a network that is broken on both sides does not pass
    assert coded.top1 >= fp32.top1 - 0.5
    assert coded.kl < 0.0093  # NNCodec's at the same size


@pytest.mark.data
@pytest.mark.skipif(not (PICTURES.exists() and PHOTOS.exists()), reason=f"{PICTURES} or {PHOTOS} is not there")
def test_squeezed_squeezenet_is_as_good_as_nncodec_at_0_72_of_its_bytes(tmp_path: Path) -> None:
    """Calibrated on 250 photographs only, so that it is quick; NNCodec needs 644,847 bytes for a KL of 0.0445."""
    with zipfile.ZipFile(PICTURES) as pictures:
        pictures.extractall(tmp_path)
    with zipfile.ZipFile(PHOTOS) as photos:
        photos.extractall(tmp_path, [name for name in photos.namelist() if name.endswith(".jpg")][::8])
    model = read_model("squeezenet1_1")
    outcome = Outcome(Budget(size=int(0.72 * 644_847)))
    squeeze_to_budget(model, examples_in(tmp_path / "photos-unlabelled", model, 250, 0), outcome)
    assert outcome.archive
    assert 0.99 * 0.72 * 644_847 <= outcome.archive.save(tmp_path / "small.smidgen") <= 0.72 * 644_847
    found = [path for path, _ in find_labelled(tmp_path / "imagenet-measure", model.labels) or []]
    assert len(found) == 1150
    squeezed = evaluate([model.runner(), smidgen.open(tmp_path / "small.smidgen").runner()], found)[1]
    assert squeezed.kl <= 0.0445


@pytest.mark.data
@pytest.mark.skipif(not (PICTURES.exists() and PHOTOS.exists()), reason=f"{PICTURES} or {PHOTOS} is not there")
def test_squeezenet_in_integers_within_a_point(tmp_path: Path) -> None:
    """Calibrated on 100 photographs; onnxruntime's quantize_static has a KL of 0.0151 with weights of 7 bits."""
    with zipfile.ZipFile(PICTURES) as pictures:
        pictures.extractall(tmp_path)
    with zipfile.ZipFile(PHOTOS) as photos:
        names = [name for name in photos.namelist() if name.endswith(".jpg")][::28][:100]
        photos.extractall(tmp_path, names)
    model = read_model("squeezenet1_1")
    original = model
    runner = original.runner()
    quantized = quantize(original.onnx(), ({"image": runner.prepare(tmp_path / name)[None]} for name in names))
    integers = replace(original, graph=quantized.SerializeToString(), tensors={}).runner()
    found = find_labelled(tmp_path / "imagenet-measure", model.labels)
    assert found is not None
    assert len(found) == 1150
    fp32, int8 = evaluate([runner, integers], [path for path, _ in found], [index for _, index in found])
    assert fp32.top1 is not None
    assert int8.top1 is not None
    assert int8.top1 >= fp32.top1 - 1.0
    assert int8.kl < 0.0125


@pytest.mark.data
@pytest.mark.skipif(not CIFAR.exists(), reason=f"{CIFAR} is not there")
def test_the_trained_resnet20_names_what_it_did_when_it_was_trained(tmp_path: Path) -> None:
    with zipfile.ZipFile(CIFAR) as pictures:
        names = [name for name in pictures.namelist() if "/test/" in name and name.endswith(".jpg")]
        pictures.extractall(tmp_path, names)
    model = read_model("resnet20")
    found = pictures_in(tmp_path / "cifar10-jpeg" / "test", model.labels, (32, 32), "bilinear", 0)
    assert len(found.training) + len(found.measuring) == 10_000
    # one in ten is 1000 pictures; docs/results.md has the figure for all
    assert named_right(model.runner(), found.measuring) == pytest.approx(88.0, abs=2.5)
