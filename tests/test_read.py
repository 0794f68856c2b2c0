from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.errors import InputError, ModelError, SmidgenError, WeightError
from smidgen.examples import Input, inputs_of
from smidgen.file import read, write
from smidgen.read import from_module, read_model, to_module
from smidgen.zoo import build
from smidgen.zoo.pretrained import SQUEEZENET1_1_PREPROCESSING, squeezenet1_1_weights

NETS = """
import torch
from torch import nn
from smidgen.archive import Label, Preprocessing
from smidgen.zoo import build

number = 7

def plain():
    return nn.Conv2d(3, 1, 1)

def described():
    module = build("squeezenet1_1", classes=2)
    module.__dict__.update(input_shape=[3, 48, 64], labels=[Label("a", "cat"), Label("b", "dog")])
    module.__dict__.update(preprocessing=Preprocessing(48, 64))
    return module

def sized():
    module = plain()
    module.__dict__.update(preprocessing=Preprocessing(48, 64))
    return module

def fails():
    raise OSError("no weights here\\nnor there")

def imports():
    import helper_beside
    return helper_beside.make()

def wrong_preprocessing():
    module = plain()
    module.__dict__.update(preprocessing="RGB")
    return module

def wrong_labels():
    module = plain()
    module.__dict__.update(labels=["cat"])
    return module

def wrong_shape():
    module = plain()
    module.__dict__.update(input_shape=(3, -1, 5))
    return module
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory of a user with own modules."""
    (tmp_path / "some_nets.py").write_text(NETS)
    (tmp_path / "helper_beside.py").write_text("from torch import nn\n\ndef make():\n    return nn.ReLU()\n")
    (tmp_path / "broken_nets.py").write_text("def f(:\n")
    monkeypatch.chdir(tmp_path)
    for name in ("some_nets", "helper_beside", "broken_nets"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_the_pretrained_network_comes_with_all_that_it_needs() -> None:
    random = torch.get_rng_state()
    model = read_model("squeezenet1_1")
    assert torch.equal(torch.get_rng_state(), random)
    assert inputs_of(model) == [Input("image", np.dtype(np.float32), (None, 3, 227, 227), True)]
    assert model.preprocessing == SQUEEZENET1_1_PREPROCESSING
    assert model.metadata == {"zoo": {"name": "squeezenet1_1"}}
    assert len(model.labels) == 1000
    assert all(np.array_equal(model.tensors[name], weight) for name, weight in squeezenet1_1_weights().items())


@pytest.mark.usefixtures("nets")
def test_a_function_of_the_user_is_called() -> None:
    path = list(sys.path)
    model = read_model("some_nets:plain")
    assert inputs_of(model)[0].shape == (None, 3, 224, 224)
    assert (model.preprocessing, model.labels, model.metadata) == (None, (), {})
    assert sys.path == path


@pytest.mark.usefixtures("nets")
def test_attributes_of_the_module_are_used() -> None:
    model = read_model("some_nets:described")
    assert inputs_of(model)[0].shape == (None, 3, 48, 64)
    assert model.preprocessing == Preprocessing(48, 64)
    assert model.labels == (Label("a", "cat"), Label("b", "dog"))
    assert model.metadata == {"zoo": {"name": "squeezenet1_1", "classes": 2}}
    assert inputs_of(read_model("some_nets:sized"))[0].shape == (None, 3, 48, 64)
    assert not read_model("some_nets:imports").tensors


@pytest.mark.usefixtures("nets")
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("squeezenet1_0", "no pretrained weights of it; .*package.module:function"),
        ("alexnet", "no pretrained weights of it; .*package.module:function"),
        ("net.onnx", "net.onnx: cannot be read: No such file"),
        ("net.pt2", "net.pt2: cannot be read: No such file"),
        ("net.safetensors", "net.safetensors: cannot be read: No such file"),
        (
            "resnet",
            "'resnet' names no model; possible are squeezenet1_1, resnet20, squeezenet32, files that end in .smidgen",
        ),
        ("", "names no model"),
        ("net.pth", "net.pth: what torch.save wrote may be weights alone, .* name that as package.module:function"),
        ("a:b:c", "names no model"),
        ("some-nets:plain", "names no model"),
        ("no_such_nets:plain", "failed with ModuleNotFoundError: No module named 'no_such_nets'"),
        ("broken_nets:f", "failed with SyntaxError"),
        ("some_nets:absent", "some_nets has no function 'absent'"),
        ("some_nets:number", "some_nets has no function 'number'"),
        ("some_nets:fails", "failed with OSError: no weights here$"),
        ("builtins:dict", "returns a dict, not a torch.nn.Module"),
        ("some_nets:wrong_preprocessing", "preprocessing is not a smidgen.archive.Preprocessing"),
        ("some_nets:wrong_labels", "labels are not all smidgen.archive.Label"),
        ("some_nets:wrong_shape", r"input_shape is \(3, -1, 5\)"),
    ],
)
def test_other_models_are_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises((ModelError, InputError), match=message) as caught:
        read_model(spec)
    assert "\n" not in str(caught.value)


def test_an_archive_holds_the_weights_that_the_graph_uses() -> None:
    module = build("squeezenet1_1", classes=3).double()
    archive = from_module(module, (3, 32, 32), Preprocessing(32, 32), (Label("a", "cat"),))
    state = module.state_dict()
    assert set(archive.tensors) == set(state)
    for name, tensor in archive.weights().items():
        assert tensor.dtype == np.float32
        assert np.array_equal(tensor, state[name].float().numpy())
    assert archive.preprocessing == Preprocessing(32, 32)
    assert archive.labels == (Label("a", "cat"),)
    assert archive.metadata == {"zoo": {"name": "squeezenet1_1", "classes": 3}}


def test_an_archive_shares_no_memory_with_the_module() -> None:
    module = nn.Linear(2, 2)
    archive = from_module(module, (2,))
    before = archive.weights()["weight"].copy()
    with torch.no_grad():
        module.weight.add_(1)
    assert np.array_equal(archive.weights()["weight"], before)
    assert archive.metadata == {}


def test_what_the_graph_does_not_use_stays_out() -> None:
    module = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    module.add_module("spare", nn.Identity())
    module.spare.register_parameter("weight", nn.Parameter(torch.zeros(9)))
    tensors = from_module(module, (3, 4, 4)).tensors
    assert set(module.state_dict()) - set(tensors) == {"1.num_batches_tracked", "spare.weight"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(value: float) -> None:
    module = build("squeezenet1_1", classes=2)
    with torch.no_grad():
        module.features[4].squeeze.bias[3] = value
    with pytest.raises(WeightError, match=r"^features\.4\.squeeze\.bias: holds NaN or infinity"):
        from_module(module, (3, 32, 32))


def test_a_weight_too_large_for_float32_is_refused() -> None:
    module = nn.Linear(2, 2).double()
    nn.init.constant_(module.weight, 1e300)
    with pytest.raises(WeightError, match=r"^weight: "):
        from_module(module, (2,))


@pytest.mark.parametrize("arguments", [{}, {"bypass": "complex", "first_padding": 1}])
def test_a_module_survives_the_file(arguments: dict) -> None:
    torch.manual_seed(2)
    module = build("squeezenet1_1", classes=3, **arguments).eval()
    again = to_module(read(write(from_module(module, (3, 32, 32)), ("raw",)), "test"))
    assert again.zoo == module.zoo
    assert not again.training
    batch = torch.randn(2, 3, 40, 40)
    assert torch.equal(again(batch), module(batch))


def archive_of(metadata: dict, *left_out: str, **more: np.ndarray) -> Archive:
    archive = from_module(build("squeezenet1_1", classes=2), (3, 32, 32))
    tensors = {name: tensor for name, tensor in archive.tensors.items() if name not in left_out}
    return replace(archive, tensors={**tensors, **more}, metadata=metadata)


ZOO = {"name": "squeezenet1_1", "classes": 2}


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (archive_of({"zoo": {"name": "vgg"}}), "the zoo has no 'vgg'"),
        (archive_of({"zoo": {**ZOO, "depth": 2}}), "takes no argument 'depth'"),
        (archive_of({"zoo": {**ZOO, "bypass": []}}), "bypass"),
        (archive_of({"zoo": {**ZOO, "classes": 3}}), r"classifier\.1\.weight is \(2, 512, 1, 1\), but"),
        (archive_of({"zoo": {**ZOO, "classes": 10**12}}), r"wants \(1000000000000, 512, 1, 1\)"),
        (archive_of({"zoo": {**ZOO, "classes": 10**30}}), "cannot be built"),
        (archive_of({"zoo": ZOO}, "features.0.bias"), r"features\.0\.bias is missing"),
        (archive_of({"zoo": ZOO}, more=np.ones(2, np.float32)), r"more is \(2,\), but .* no such weight"),
    ],
)
def test_files_that_are_no_network_of_the_zoo_are_refused(archive: Archive, message: str) -> None:
    with pytest.raises(SmidgenError, match=message) as caught:
        to_module(archive)
    assert "\n" not in str(caught.value)
