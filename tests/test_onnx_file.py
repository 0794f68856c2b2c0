"""ONNX files at the door: what is taken out, what stays, and files that are broken or hostile."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import smidgen
from smidgen.arrange import layer_weights
from smidgen.code import Code
from smidgen.errors import InputError, ModelError, PlanError, WeightError
from smidgen.onnx_file import archive_of, read_onnx
from smidgen.plan import Plan
from smidgen.read import from_module
from smidgen.run.int8 import quantize

WEIGHT = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def value(name: str, *shape: int | str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(nodes: list[Any], fixed: list[Any], version: int = 17, inputs: list[Any] | None = None) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "g", inputs or [value("x", "n", 6)], [value("y", "n", 4)], fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)


def linear(version: int = 17) -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(WEIGHT, "w")], version)


@pytest.mark.parametrize("version", [9, 13, 17, onnx.defs.onnx_opset_version()])
def test_versions(tmp_path: Path, version: int) -> None:
    made = linear(version)
    made.ir_version = 10
    onnx.save(made, tmp_path / "m.onnx")
    archive = read_onnx(tmp_path / "m.onnx")
    np.testing.assert_array_equal(archive.tensors["w"], WEIGHT)
    assert smidgen.open(saved(archive, tmp_path)).onnx().opset_import[0].version == version


def saved(archive: smidgen.Archive, folder: Path) -> Path:
    archive.save(folder / "m.smidgen")
    return folder / "m.smidgen"


def test_too_old(tmp_path: Path) -> None:
    onnx.save(linear(8), tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="operators are of version 8; 9 and newer"):
        read_onnx(tmp_path / "m.onnx")


def test_constants_are_weights_and_equal_ones_are_kept_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["a"], value=numpy_helper.from_array(WEIGHT, "t")),
        helper.make_node("Constant", [], ["small"], value=numpy_helper.from_array(np.float32(2), "t")),
        helper.make_node("MatMul", ["x", "a"], ["t"]),
        helper.make_node("MatMul", ["x", "w"], ["u"]),
        helper.make_node("Add", ["t", "u"], ["v"]),
        helper.make_node("Mul", ["v", "small"], ["y"]),
    ]
    unused = numpy_helper.from_array(WEIGHT + 1, "unused")
    made = model(nodes, [numpy_helper.from_array(WEIGHT, "w"), unused])
    made.metadata_props.add(key="names", value="a b c")
    onnx.save(made, tmp_path / "m.onnx")
    archive = read_onnx(tmp_path / "m.onnx")
    assert list(archive.tensors) == ["w"]
    x = np.ones((2, 6), np.float32)
    from smidgen.run.session import Engine

    (found,) = Engine(archive.onnx())({"x": x})
    np.testing.assert_allclose(found, 4 * x @ WEIGHT, rtol=1e-5)
    kept = {prop.key: prop.value for prop in archive.onnx().metadata_props}
    assert kept == {"names": "a b c"}, "what a model says about itself is what its users read"


def test_initializers_that_are_inputs_are_no_inputs(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    made = model(nodes, [numpy_helper.from_array(WEIGHT, "w")], inputs=[value("x", "n", 6), value("w", 6, 4)])
    onnx.save(made, tmp_path / "m.onnx")
    assert [i.name for i in read_onnx(tmp_path / "m.onnx").onnx().graph.input] == ["x"]


def external(folder: Path, location: str = "m.data", **change: int) -> Path:
    path = folder / "m.onnx"
    onnx.save(linear(), path, save_as_external_data=True, location="m.data", size_threshold=0)
    made = onnx.load(path, load_external_data=False)
    for entry in made.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = location
        elif entry.key in change:
            entry.value = str(change[entry.key])
    path.write_bytes(made.SerializeToString())
    return path


def test_external_data(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read_onnx(external(tmp_path)).tensors["w"], WEIGHT)


@pytest.mark.parametrize(
    ("location", "change", "message"),
    [
        ("../m.data", {}, "lies outside the folder"),
        ("/etc/passwd", {}, "lies outside the folder"),
        ("", {}, "lies outside the folder"),
        ("absent.data", {}, "cannot be read: FileNotFoundError"),
        ("m.data", {"length": 3_000_000_000}, "should be 96 bytes"),
        ("m.data", {"offset": 8}, "should be 96 bytes at 8 of 'm.data', which has 96"),
        ("m.data", {"offset": -4}, "should be 96 bytes at -4"),
    ],
)
def test_external_data_that_is_not_there(tmp_path: Path, location: str, change: dict[str, int], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read_onnx(external(tmp_path, location, **change))
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = external(inside)
    (inside / "m.data").rename(tmp_path / "m.data")
    (inside / "m.data").symlink_to(tmp_path / "m.data")
    with pytest.raises(ModelError, match="lies outside the folder"):
        read_onnx(path)


def cyclic() -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Add", ["a", "x"], ["b"])], [])


def without_weight() -> onnx.ModelProto:
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], [])


def short_weight() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer[0].raw_data = b"1234"
    return made


def huge_claim() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer[0].dims[:] = [30_000, 25_000]
    return made


def negative_claim() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer[0].dims[:] = [-6, -4]
    return made


def unknown_type() -> onnx.ModelProto:
    made = linear()
    made.graph.initializer[0].data_type = 99
    return made


@pytest.mark.parametrize("make", [cyclic, without_weight, short_weight, huge_claim, negative_claim, unknown_type])
def test_broken_graphs_are_one_line(tmp_path: Path, make: Any) -> None:
    (tmp_path / "m.onnx").write_bytes(make().SerializeToString())
    with pytest.raises(ModelError, match=r"m\.onnx: ") as caught:
        read_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("content", [b"", b"no model", b"\x08" * 100, b"\x89SMG" * 9])
def test_other_bytes_are_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="ONNX model") as caught:
        read_onnx(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_not_finite(tmp_path: Path) -> None:
    broken = WEIGHT.copy()
    broken[1, 2] = np.nan
    onnx.save(
        model([helper.make_node("MatMul", ["x", "w"], ["y"])], [numpy_helper.from_array(broken, "w")]),
        tmp_path / "m.onnx",
    )
    with pytest.raises(WeightError, match="w: holds NaN or infinity"):
        read_onnx(tmp_path / "m.onnx")


def test_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_onnx(tmp_path / "m.onnx")


def described_archive() -> smidgen.Archive:
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    how = smidgen.Preprocessing(24, 20, "BGR", (1.5, 2.0, 3.0), (4.0, 5.0, 6.0), "bicubic")
    return from_module(network, (3, 24, 20), how, (smidgen.Label("n01", "cat"), smidgen.Label("n02", "höund")))


@pytest.mark.parametrize("quantized", [False, True])
def test_what_is_known_of_pictures_and_classes_comes_back(tmp_path: Path, quantized: bool) -> None:
    archive = described_archive()
    exported = archive.onnx()
    if quantized:
        exported = quantize(exported, [{"image": np.ones((1, 3, 24, 20), np.float32)}] * 2)
    onnx.save(exported, tmp_path / "m.onnx")
    back = read_onnx(tmp_path / "m.onnx")
    assert (back.preprocessing, back.labels) == (archive.preprocessing, archive.labels)
    assert not onnx.load_from_string(back.graph).metadata_props  # they are not in the file twice


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("preprocessing", "{"),
        ("preprocessing", "[" * 100_000),
        ("preprocessing", '{"height": 3}'),
        ("preprocessing", '{"height": 3, "width": 1e400, "mean": [0, 0, 0], "std": [1, 1, 1]}'),
        ("labels", "cat"),
        ("labels", b"n01\t\xff\xfe\n"),
    ],
)
def test_notes_that_are_none_of_ours(tmp_path: Path, key: str, text: str | bytes) -> None:
    made = linear()
    place = "~" * len(text) if isinstance(text, bytes) else text
    made.metadata_props.add(key=f"smidgen.{key}", value=place)
    made.metadata_props.add(key="alphabet", value="abc")
    data = made.SerializeToString()
    if isinstance(text, bytes):
        data = data.replace(place.encode(), text)
    (tmp_path / "m.onnx").write_bytes(data)
    with pytest.raises(ModelError, match=r"m.onnx: its metadata smidgen.preprocessing or smidgen.labels is not what"):
        read_onnx(tmp_path / "m.onnx")


def test_notes_of_another_network(tmp_path: Path) -> None:
    """As where a head was replaced by other tools."""
    archive = described_archive()
    for changed, message in (
        (replace(archive, labels=archive.labels[:1]), "smidgen.labels has 1 classes, but it gives 2 scores; remove it"),
        (
            replace(archive, preprocessing=smidgen.Preprocessing(32, 20)),
            "smidgen.preprocessing says 32 x 20, but it takes 24 x 20; remove it",
        ),
    ):
        onnx.save(changed.onnx(), tmp_path / "m.onnx")
        with pytest.raises(ModelError, match=message):
            read_onnx(tmp_path / "m.onnx")


def test_labels_of_half_characters_and_numbers_of_numpy(tmp_path: Path) -> None:
    how = smidgen.Preprocessing(24, 20, mean=tuple(np.float32([1, 2, 3])))  # type: ignore[arg-type]
    archive = replace(described_archive(), preprocessing=how)
    onnx.save(archive.onnx(), tmp_path / "m.onnx")
    assert read_onnx(tmp_path / "m.onnx").preprocessing == smidgen.Preprocessing(24, 20, mean=(1.0, 2.0, 3.0))
    with pytest.raises(InputError, match="labels must be whole characters"):
        replace(archive, labels=(smidgen.Label("n01", "\ud800"),) * 2).onnx()


def layers_of_any_name() -> smidgen.Archive:
    """A table that is looked up, a matrix that is turned before it is used, a plain one, and what is no layer's."""
    nodes = [
        helper.make_node("Gather", ["17", "ids"], ["a"]),
        helper.make_node("Add", ["a", "mask"], ["b"]),
        helper.make_node("Transpose", ["turned"], ["t"]),
        helper.make_node("MatMul", ["b", "t"], ["c"]),
        helper.make_node("Gemm", ["c", "B.w"], ["y"]),
    ]
    rng = np.random.default_rng(0)
    shapes = {"17": (9, 6), "mask": (4, 6), "turned": (5, 6), "B.w": (5, 4)}
    fixed = [numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), n) for n, shape in shapes.items()]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [4])
    graph = helper.make_graph(nodes, "g", [ids], [value("y", 4, 4)], fixed)
    return archive_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


@pytest.mark.parametrize("name", sorted(set(Plan.shipped()) - {"lossless", "squeezenet1_1"}))
def test_plans_find_layers_whatever_their_weights_are_called(name: str) -> None:
    archive = layers_of_any_name()
    assert layer_weights(archive) == ["17", "turned", "B.w"]
    done = smidgen.compress(archive, plan=name)
    changed = [n for n, t in done.tensors.items() if isinstance(t, Code) or not np.array_equal(t, archive.tensors[n])]
    assert changed == ["17", "turned", "B.w"]


def test_names_that_are_too_long_are_cut(tmp_path: Path) -> None:
    names = [("/merged;" * 45) + end for end in ("one", "zwö")]
    nodes = [helper.make_node("MatMul", ["x", names[0]], ["t"]), helper.make_node("MatMul", ["t", names[1]], ["y"])]
    fixed = [numpy_helper.from_array(WEIGHT, names[0]), numpy_helper.from_array(WEIGHT[:4, ::-1].copy(), names[1])]
    onnx.save(model(nodes, fixed), tmp_path / "m.onnx")
    archive = read_onnx(tmp_path / "m.onnx")
    assert [len(name) for name in archive.tensors] == [200, 202]
    x = np.ones((2, 6), np.float32)
    running = onnxruntime.InferenceSession(smidgen.open(saved(archive, tmp_path)).onnx().SerializeToString())
    (answer,) = running.run(None, {"x": x})
    np.testing.assert_allclose(answer, x @ WEIGHT @ WEIGHT[:4, ::-1], rtol=1e-5)


class Layered(nn.Module):
    """Weights that are put together or scaled before a layer takes them, and a product that is written out."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.GRU(6, 5, batch_first=True)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(5, 4))
        self.written = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("nti,io->nto", self.normed(self.memory(x)[0]), self.written)


def test_layers_take_weights_that_are_computed_from_others() -> None:
    archive = from_module(Layered(), (7, 6))
    found = layer_weights(archive)
    assert found == [n for n, t in archive.tensors.items() if t.ndim > 1 and min(t.shape) > 1]
    coded = smidgen.compress(archive, plan="int8")
    assert layer_weights(coded) == found
    assert smidgen.compress(coded, plan="small").tensors.keys() == coded.tensors.keys()


def test_a_network_without_layers_has_no_plan() -> None:
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    archive = archive_of(model(nodes, [numpy_helper.from_array(WEIGHT, "w")], inputs=[value("x", 6, 4)]))
    with pytest.raises(
        PlanError, match="none of the 1 weights is a layer's, or they are integers; match others by name"
    ):
        smidgen.compress(archive, plan="int8")
