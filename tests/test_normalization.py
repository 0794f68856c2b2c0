"""Normalization at the door: part of the layer before it, or a layer of its own, with the same answers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from torch import Tensor, nn

from smidgen.api import compress_by_plan
from smidgen.archive import Archive, Preprocessing
from smidgen.arrange import arranged, normalized, turned
from smidgen.code import Code, Table
from smidgen.errors import ModelError
from smidgen.lower import lower
from smidgen.methods import Binarize
from smidgen.onnx_file import archive_of
from smidgen.plan import Plan
from smidgen.read import from_module, read_model
from smidgen.run.session import Engine

RNG = np.random.default_rng(0)
NORM = {"scale": (6,), "shift": (6,), "mean": (6,), "variance": (6,)}
NORMALIZED = "y = BatchNormalization(a, scale, shift, mean, variance)"


def archive(inputs: str, nodes: str, **constants: Any) -> Archive:
    """A network in ONNX's text format; a constant given as a shape gets random numbers, none of them negative."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[n,{inputs}] x) => (float[n,k] z) {{ {nodes} }}'
    model = parser.parse_model(re.sub(r"\s+", " ", text))
    for name, value in constants.items():
        if isinstance(value, tuple):
            value = RNG.uniform(0.5, 1.5, value).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return archive_of(model)


def answer(network: Archive, x: NDArray[np.float32]) -> NDArray[Any]:
    return Engine(network.onnx())({"x": x})[0]


def operators(network: Archive) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(network.graph).graph.node]


CONVOLUTION = "a = Conv<kernel_shape=[1,1]>(x, w)"
FOLDED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "linear": ("4", f"a = Gemm<transB=1>(x, w) {NORMALIZED}", {"w": (6, 4), **NORM}),
    "linear, inputs first": ("4", f"a = Gemm(x, w, b) {NORMALIZED}", {"w": (4, 6), "b": (1, 6), **NORM}),
    "transposed": ("4,5,5", f"a = ConvTranspose<kernel_shape=[2,2]>(x, w, b) {NORMALIZED}",
                   {"w": (4, 6, 2, 2), "b": (6,), **NORM}),
    "one axis": ("4,9", f"a = Conv<kernel_shape=[3]>(x, w) {NORMALIZED}", {"w": (6, 4, 3), **NORM}),
    "product": ("4,5,5", f"{CONVOLUTION} y = Mul(c, a)", {"w": (6, 4, 1, 1), "c": (6, 1, 1)}),
    "sum": ("4,5,5", f"{CONVOLUTION} y = Add(a, c)", {"w": (6, 4, 1, 1), "c": (1, 6, 1, 1)}),
    "one number": ("4,5,5", f"{CONVOLUTION} b = Div(a, c) y = Sub(b, d)", {"w": (6, 4, 1, 1), "c": (1,), "d": ()}),
    "as Caffe has it": ("4,5,5", f"{CONVOLUTION} {NORMALIZED.replace('y', 'b', 1)} "
                        "d = Mul(b, c) y = Add(d, e)", {"w": (6, 4, 1, 1), **NORM, "c": (6, 1, 1), "e": (6, 1, 1)}),
    "joined": ("4,5,5", f"p = Conv<kernel_shape=[1,1]>(x, v) q = Conv<kernel_shape=[1,1]>(x, w) "
               f"a = Concat<axis=1>(p, q) {NORMALIZED}", {"v": (2, 4, 1, 1), "w": (4, 4, 1, 1), **NORM}),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_what_is_done_to_channels_is_part_of_the_layer(case: str) -> None:
    inputs, nodes, constants = FOLDED[case]
    before = archive(inputs, f"{nodes} z = Relu(y)", **constants)
    after = arranged(before)
    x = RNG.normal(size=(2, *map(int, inputs.split(",")))).astype(np.float32)
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-4, atol=1e-4)
    assert set(operators(after)) <= {"Conv", "ConvTranspose", "Gemm", "Relu", "Concat", "Transpose"}


LEFT: dict[str, tuple[str, str, dict[str, Any]]] = {
    "read twice": ("4,5,5", f"{CONVOLUTION} y = Mul(a, c) z = Sub(y, a)", {"w": (6, 4, 1, 1), "c": (6, 1, 1)}),
    "along rows": ("4,5,6", f"{CONVOLUTION} y = Mul(a, c) z = Relu(y)", {"w": (6, 4, 1, 1), "c": (6,)}),
    "more axes": ("4,5,5", f"{CONVOLUTION} y = Mul(a, c) z = Relu(y)", {"w": (6, 4, 1, 1), "c": (1, 1, 6, 1, 1)}),
    "at each place": ("4,5,5", f"{CONVOLUTION} y = Add(a, c) z = Relu(y)", {"w": (6, 4, 1, 1), "c": (6, 5, 5)}),
    "weights twice": ("4,5,5", f"{CONVOLUTION} y = Mul(a, c) b = Conv<kernel_shape=[1,1]>(x, w) z = Add(y, b)",
                      {"w": (6, 4, 1, 1), "c": (6, 1, 1)}),
    "one channel, many factors": ("4,5,5", f"{CONVOLUTION} y = Mul(a, c) z = Relu(y)",
                                  {"w": (1, 4, 1, 1), "c": (6, 1, 1)}),
    "of the batch": ("4,5,5", f"{CONVOLUTION} y, m, v = BatchNormalization<training_mode=1>(a, scale, shift, mean, "
                     "variance) z = Relu(y)", {"w": (6, 4, 1, 1), **NORM}),
    "of a domain of its own": ("4,5,5", f"{CONVOLUTION} y = Mul(a, c) z = Relu(y)",
                               {"w": (6, 4, 1, 1), "c": (6, 1, 1)}),
    "turned around": ("4,5,5", f"{CONVOLUTION} y = Sub(c, a) z = Relu(y)", {"w": (6, 4, 1, 1), "c": (6, 1, 1)}),
    "grouped": ("4,5,5", f"a = ConvTranspose<kernel_shape=[2,2], group=2>(x, w) {NORMALIZED} z = Relu(y)",
                {"w": (4, 3, 2, 2), **NORM}),
}  # fmt: skip


@pytest.mark.parametrize("case", LEFT)
def test_what_no_layer_can_take_is_left(case: str) -> None:
    inputs, nodes, constants = LEFT[case]
    before = archive(inputs, nodes, **constants)
    if case == "of a domain of its own":
        assert_left_to_others(before)
        return
    after = arranged(before)
    x = RNG.normal(size=(2, *map(int, inputs.split(",")))).astype(np.float32)
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-4, atol=1e-4)
    assert Counter(name for name in operators(after) if name != "Transpose") == Counter(operators(before))


def test_a_plan_folds_what_a_view_of_a_constant_does() -> None:
    """As converters from Caffe write it; and the view goes, too."""
    nodes = f"{CONVOLUTION} {NORMALIZED.replace('y', 'b', 1)} v = Unsqueeze(c, axes) d = Mul(b, v) z = Relu(d)"
    axes = np.array([1, 2])
    before = archive("4,5,5", nodes, w=(6, 4, 1, 1), **NORM, c=(6,), axes=axes)
    after = compress_by_plan(before, Plan.find("int8"))
    x = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
    assert operators(after) == ["Conv", "Relu"]
    assert list(after.tensors) == ["w", "w_bias"]
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=0.05, atol=0.05)


def assert_left_to_others(before: Archive) -> None:
    """What an operator of somebody's own does is not known, though it has the name of one of ONNX's."""
    model = onnx.load_from_string(before.graph)
    next(node for node in model.graph.node if node.op_type == "Mul").domain = "somebody"
    after = arranged(replace(before, graph=model.SerializeToString()))
    assert operators(after) == operators(before)


def test_layers_that_share_a_bias_get_their_own() -> None:
    """Converters keep equal constants once, zeros above all."""
    nodes = "p = Conv<kernel_shape=[1,1]>(x, v, b) q = Conv<kernel_shape=[1,1]>(x, w, b) c = Mul(p, f) z = Add(c, q)"
    before = archive("4,5,5", nodes, v=(6, 4, 1, 1), w=(6, 4, 1, 1), b=(6,), f=(6, 1, 1))
    after = arranged(before)
    x = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-4, atol=1e-4)
    assert operators(after) == ["Conv", "Conv", "Add"]


def test_what_a_plan_does_not_name_keeps_its_type() -> None:
    nodes = "y = MatMul(x, w) a = Cast<to=11>(y) b = MatMul(a, v) z = Cast<to=1>(b)"
    before = archive("4", nodes, w=(4, 8), v=np.full((8, 3), 0.1))
    after = compress_by_plan(before, Plan((("w", Binarize()),)))
    kept = after.tensors["v"]
    assert isinstance(kept, np.ndarray)
    np.testing.assert_array_equal(kept, before.tensors["v"], strict=True)


def test_a_normalization_of_other_floats_is_left() -> None:
    nodes = f"a = Cast<to=10>(x) {NORMALIZED} z = Cast<to=1>(y)"
    before = archive("6,5,5", nodes, **{name: np.full(6, 0.5, np.float16) for name in NORM})
    after = arranged(before)
    x = RNG.normal(size=(2, 6, 5, 5)).astype(np.float32)
    np.testing.assert_array_equal(answer(after, x), answer(before, x))


class Dense(nn.Module):
    """A block of a DenseNet: normalization comes before convolutions, of all that was found so far."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.rest = nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for channels in (8, 16))
        self.answer = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.max_pool2d(self.first(x), 2)
        x = torch.cat([x, self.rest(torch.relu(self.norms[0](x)))], 1)
        scores: Tensor = self.answer(torch.relu(self.norms[1](x)).mean((2, 3)))
        return scores


def seen(make: Callable[[], nn.Module], side: int) -> Archive:
    """A network for pictures, whose normalizations have seen some."""
    torch.manual_seed(0)
    module = make().train()
    for _ in range(20):
        module(2 * torch.randn(16, 3, side, side) + 1)
    return from_module(module.eval(), (3, side, side), Preprocessing(side, side))


def test_a_normalization_without_a_layer_becomes_one_and_runs_in_integers() -> None:
    before = seen(Dense, 18)
    after = arranged(before)
    assert "BatchNormalization" not in operators(after)
    assert after.tensors["norms.1.weight"].shape == (16, 1, 1, 1)
    assert not [name for name in after.tensors if "running" in name]
    x = (2 * RNG.normal(size=(16, 3, 18, 18)) + 1).astype(np.float32)
    wanted = Engine(before.onnx())({"image": x})[0]
    np.testing.assert_allclose(Engine(after.onnx())({"image": x})[0], wanted, rtol=1e-4, atol=1e-5)
    program = replace(after, program=lower(after, [{"image": x}]))
    found = np.concatenate([program.runner(engine="native")(one[None]) for one in x])
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted - wanted.mean(0)).max()


def test_normalizations_that_share_numbers_become_layers_of_their_own() -> None:
    second = "z = BatchNormalization(c, s, t, mean, variance)"
    nodes = f"a = Relu(x) b = BatchNormalization(a, s, t, t, s) c = Sigmoid(b) {second}"
    before = archive("6,5,5", nodes, s=(6,), t=(6,), **{name: NORM[name] for name in ("mean", "variance")})
    after = arranged(before)
    x = RNG.normal(size=(2, 6, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-4, atol=1e-4)
    assert operators(after) == ["Relu", "Conv", "Sigmoid", "Conv"]


CONSTANT = "b = Constant<value = float[6] {1.0, 2.0, 1.5, 1.2, 0.5, 0.7}>()"
AFTERWARDS = "y = Mul(a, f) z = Relu(y)"
LONE = "y = BatchNormalization(r, s, t, m, v) z = Conv<kernel_shape=[1,1]>(y, w)"
FOUR = {"m": (4,), "v": (4,), "w": (6, 4, 1, 1)}
MADE: dict[str, tuple[str, dict[str, Any]]] = {
    "a constant as bias": (f"{CONSTANT} a = Conv<kernel_shape=[1,1]>(x, w, b) {AFTERWARDS}", {}),
    "a view as bias": (f"v = Reshape(b, shape) a = Conv<kernel_shape=[1,1]>(x, w, v) {AFTERWARDS}",
                       {"b": (6, 1), "shape": np.array([6])}),
    "a view as weight": (f"v = Identity(w) a = Conv<kernel_shape=[1,1]>(x, v) {AFTERWARDS}", {}),
    "a constant of a normalization": (f"r = Relu(x) s = Constant<value = float[4] {{1.0, 2.0, 1.5, 1.2}}>() {LONE}",
                                      {"t": (4,), **FOUR}),
    "views of a normalization": (f"r = Relu(x) s = Identity(q) t = Identity(q) {LONE}", {"q": (4,), **FOUR}),
}  # fmt: skip


@pytest.mark.parametrize("case", MADE)
def test_what_nodes_give_is_not_written_over(case: str) -> None:
    """Such a name is no tensor's: what is changed there would be lost, or be there twice."""
    nodes, constants = MADE[case]
    before = archive("4,5,5", nodes, **{"w": (6, 4, 1, 1), "f": (6, 1, 1), **constants})
    x = RNG.normal(size=(2, 4, 5, 5)).astype(np.float32)
    wanted = answer(before, x)
    np.testing.assert_allclose(answer(arranged(before), x), wanted, rtol=1e-4, atol=1e-5)
    small = compress_by_plan(before, Plan.find("int8"))
    np.testing.assert_allclose(answer(small, x), wanted, rtol=0.02, atol=0.06)


class Before(nn.Module):
    """A ResNet with normalization before its layers: what the first gives goes around them, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.layer = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        scores: Tensor = self.last((x + self.layer(torch.relu(self.norm(x)))).mean((2, 3)))
        return scores


def test_a_normalization_after_what_is_read_elsewhere_is_a_layer_of_its_own() -> None:
    before = seen(Before, 8)
    x = RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)
    wanted = Engine(before.onnx())({"image": x})[0]
    for after in (arranged(before), compress_by_plan(before, Plan.find("int8"))):
        assert operators(after).count("Conv") == 3
        np.testing.assert_allclose(Engine(after.onnx())({"image": x})[0], wanted, rtol=0.05, atol=0.05)
        assert lower(after, [{"image": x}])


def test_sums_are_additions() -> None:
    before = archive("4", "z = Sum(x, a, b)", a=(4,), b=(1, 4))
    after = turned(before)
    assert operators(after) == ["Add", "Add"]
    x = RNG.normal(size=(3, 4)).astype(np.float32)
    np.testing.assert_allclose(answer(after, x), answer(before, x), rtol=1e-6)


class Normalized(nn.Module):
    """A convolution, its normalization, and a layer behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.last = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.last(torch.relu(self.norm(self.layer(x)))).mean((2, 3))
        return scores


def test_a_plan_sees_what_was_trained_and_its_file_runs_by_itself() -> None:
    before = seen(Normalized, 8)
    for name in ("int8", "ternary"):
        plan = Plan.find(name)
        small = compress_by_plan(before, plan)
        whole = plan.steps[0][1](np.asarray(before.tensors["layer.weight"]))
        code = small.tensors["layer.weight"]
        assert isinstance(code, Code)
        np.testing.assert_array_equal(code.symbols, whole.symbols)
        assert "norm.weight" not in small.tensors
        x = RNG.normal(size=(4, 3, 8, 8)).astype(np.float32)
        kept = {
            **before.tensors,
            **{n: t for n, t in small.tensors.items() if n == "last.weight"},
            "layer.weight": whole,
        }
        wanted = Engine(replace(before, tensors=kept).onnx())({"image": x})[0]
        np.testing.assert_allclose(Engine(small.onnx())({"image": x})[0], wanted, rtol=1e-4, atol=1e-4)
        assert lower(small, [{"image": x}])


def test_a_codebook_keeps_its_normalization() -> None:
    before = from_module(Normalized().eval(), (3, 8, 8))
    small = compress_by_plan(before, Plan.find("share"))
    code = small.tensors["layer.weight"]
    assert isinstance(code, Code)
    assert isinstance(code.rule, Table)
    assert "BatchNormalization" in operators(small)
    with pytest.raises(ModelError, match="no layer before it could take it"):
        lower(small, [{"image": np.zeros((1, 3, 8, 8), np.float32)}])


def test_a_plan_without_steps_changes_nothing() -> None:
    before = from_module(Normalized().eval(), (3, 8, 8))
    after = compress_by_plan(before, Plan.find("lossless"))
    assert (after.graph, list(after.tensors)) == (before.graph, list(before.tensors))


def test_a_network_of_the_zoo_without_its_normalization_is_none_of_the_zoo() -> None:
    original = read_model("resnet20")
    for small in (arranged(original), compress_by_plan(original, Plan.find("int8"))):
        assert "zoo" not in small.metadata
        x = torch.randn(2, 3, 32, 32)
        (found,) = small.module()(x)
        with torch.no_grad():
            wanted = original.module().eval()(x)
        assert torch.nn.functional.cosine_similarity(found, wanted).min() > 0.99
    squeezenet = read_model("squeezenet1_1")
    assert "zoo" in compress_by_plan(squeezenet, Plan.find("int8")).metadata
    assert normalized(squeezenet).tensors.keys() == squeezenet.tensors.keys()
