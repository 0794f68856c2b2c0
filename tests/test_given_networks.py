"""What networks of others bring along: metadata, scalar inputs, odd shapes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper
from safetensors.numpy import load
from test_int8 import network
from torch import nn

from smidgen.archive import Archive, Preprocessing
from smidgen.arrange import arranged, bias_names
from smidgen.budget import Budget, Outcome
from smidgen.cli import cli
from smidgen.code import Affine, Code, Stats
from smidgen.examples import batches
from smidgen.facts import facts_of
from smidgen.file import UNIT, write
from smidgen.given import examples_from
from smidgen.measure import measure
from smidgen.methods import Quantize, Squeeze
from smidgen.network import Network
from smidgen.onnx_file import archive_of
from smidgen.parts import split, split_like, taken_out
from smidgen.pipeline import Settings, squeeze_to_budget, with_program
from smidgen.read import from_module
from smidgen.reference import Reference
from smidgen.run.session import Engine
from smidgen.squeezer import Squeezer
from smidgen.zoo import build

PREPROCESSING = Preprocessing(9, 9, std=(60.0, 60.0, 60.0))


def scaled() -> Archive:
    """A linear layer whose outputs are multiplied by a single number, which is an input."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 16]) for name in "xy")
    factor = helper.make_tensor_value_info("factor", TensorProto.FLOAT, [])
    weight = numpy_helper.from_array(np.random.default_rng(0).normal(size=(16, 16)).astype(np.float32), "w")
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Mul", ["h", "factor"], ["y"])]
    model = helper.make_model(helper.make_graph(nodes, "g", [x, factor], [y], [weight]), ir_version=8)
    helper.set_model_props(model, {"alphabet": "a\nb"})
    return archive_of(model)


def test_metadata_of_the_model_is_kept() -> None:
    assert {entry.key: entry.value for entry in scaled().onnx().metadata_props} == {"alphabet": "a\nb"}


def test_a_single_number_stays_one() -> None:
    archive = scaled()
    data = [{"x": np.ones((1, 16), np.float32), "factor": np.array(2)} for _ in range(20)]
    examples = examples_from(data, archive, 10, 0)
    assert all(batch["factor"].shape == () for batch in batches(examples.calibration, archive, 10))
    assert len(Reference(archive, examples)) == 4


def branching() -> Archive:
    """y = x w if flag else x [top; low]; the weights of the second branch are put together in a branch of a branch."""
    rng = np.random.default_rng(1)
    arrays = {"w": rng.normal(size=(16, 16)), "top": rng.normal(size=(8, 16)), "low": rng.normal(size=(8, 16))}
    weights = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])

    def graph(name: str, *nodes: NodeProto) -> GraphProto:
        out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["n", 16])
        return helper.make_graph(nodes, name, [], [out])

    def joined(end: str) -> GraphProto:
        made = helper.make_node("Concat", ["top", "low"], ["made" + end], axis=0)
        return graph("joined" + end, made, helper.make_node("MatMul", ["x", "made" + end], ["out" + end]))

    inner = helper.make_node("If", ["flag2"], ["inner"], then_branch=joined("1"), else_branch=joined("2"))
    plain = graph("plain", helper.make_node("MatMul", ["x", "w"], ["product"]))
    outer = helper.make_node("If", ["flag"], ["y"], then_branch=plain, else_branch=graph("other", inner))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16])]
    inputs += [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("flag", "flag2")]
    model = helper.make_graph([outer], "g", inputs, [y], weights)
    return archive_of(helper.make_model(model, ir_version=8, opset_imports=[helper.make_opsetid("", 17)]))


def test_weights_computed_within_branches_are_computed_once_and_kept_once() -> None:
    before = branching()
    after = arranged(before)
    assert sorted(tensor.shape for tensor in after.tensors.values()) == [(16, 16), (16, 16)]
    x = np.random.default_rng(2).normal(size=(3, 16)).astype(np.float32)
    for flags in itertools.product((False, True), repeat=2):
        given = {"x": x, **{name: np.array(flag) for name, flag in zip(("flag", "flag2"), flags, strict=True)}}
        one, two = (Engine(archive.onnx())(given)[0] for archive in (before, after))
        np.testing.assert_allclose(one, two, atol=1e-5)


def spiky() -> tuple[nn.Module, Archive]:
    """Two convolutions; the second has a few weights that are a thousand times as large as the others."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 32, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        module[2].weight[::8, 3, 1, 1] = 60.0
    return module, from_module(module, (3, 9, 9), PREPROCESSING)


def apart(archive: Archive) -> Archive:
    """The network with the spikes in a code of their own."""
    spikes = (archive.weights()["2.weight"] > 50).astype(np.int16)
    return split(archive, {"2.weight": Code(spikes, Affine.per_tensor(56.0))})


def test_a_part_gets_a_code_of_its_own_and_the_sum_is_exact() -> None:
    module, before = spiky()
    after = apart(before)
    assert taken_out(after) == {"2.weight": "2.weight_2"}
    both = after.decoded()
    np.testing.assert_array_equal(both["2.weight"] + both["2.weight_2"], module[2].weight.detach().numpy())
    assert np.abs(both["2.weight"]).max() < 8
    assert bias_names(after, ["0.weight", "2.weight"]) == ["0.bias", "2.bias"]
    np.testing.assert_array_equal(after.weights()["2.weight"], before.weights()["2.weight"])
    assert after.weights().keys() == before.weights().keys()
    stored = load(after.safetensors())
    np.testing.assert_array_equal(stored["2.weight"], before.weights()["2.weight"])
    assert stored.keys() == before.weights().keys()
    assert split_like(before, after).tensors.keys() == after.tensors.keys()
    assert split_like(after, after) is after


def test_a_part_takes_no_name_that_is_there_and_leaves_answers_alone() -> None:
    """A graph that also gives a weight and a constant, called as the part would be."""

    def model(outputs: str) -> Archive:
        nodes = "y = Gemm(x, w)"
        return archive_of(network("float[n,16] x", outputs, nodes, w=(16, 16), w_2=np.float32([1, 2])))

    one = Code(np.eye(16, dtype=np.int16), Affine.per_tensor(1.0))
    assert not taken_out(split(model("float[n,16] y, float[16,16] w"), {"w": one}))
    before = model("float[n,16] y, float[2] w_2")
    after = split(before, {"w": one})
    assert taken_out(after) == {"w": "w_3"}
    x = {"x": np.ones((1, 16), np.float32)}
    for wanted, found in zip(Engine(before.onnx())(x), Engine(after.onnx())(x), strict=True):
        np.testing.assert_allclose(wanted, found, rtol=1e-5)


def test_what_a_graph_adds_to_several_weights_or_in_another_shape_is_no_part() -> None:
    nodes = "u = Add(w, c) v = Add(c, c) z = Add(b, c) y = MatMul(x, w)"
    archive = archive_of(network("float[n,32] x", "float[n,32] y", nodes, w=(32, 32), b=(32, 32), c=(1, 32)))
    assert not taken_out(replace(archive, tensors={**archive.tensors, "c": Quantize(8)(archive.weights()["c"])}))
    assert archive.weights().keys() == archive.tensors.keys()
    model = onnx.load_from_string(archive.graph)
    for node in model.graph.node:
        del node.input[1:]
    broken = replace(archive, graph=model.SerializeToString())
    assert broken.weights().keys() == archive.tensors.keys()


def test_inspect_says_what_a_second_code_is(tmp_path: Path) -> None:
    apart(spiky()[1]).save(tmp_path / "x.smidgen")
    said = CliRunner().invoke(cli, ["inspect", str(tmp_path / "x.smidgen")]).output
    assert "Second codes, of weights that one of 255 levels is too coarse for: 1, as 2.weight_2 of 2.weight." in said


def test_facts_count_a_weight_of_two_parts_once() -> None:
    before = spiky()[1]
    facts = [facts_of(write(archive), "x") for archive in (before, apart(before))]
    assert facts[0]["weights"] == facts[1]["weights"]
    assert {tensor["name"]: tensor["part_of"] for tensor in facts[1]["tensors"]}["2.weight_2"] == "2.weight"


def test_a_program_adds_the_part_as_the_graph_does() -> None:
    _, before = spiky()
    pictures = list(np.random.default_rng(0).integers(0, 256, (8, 9, 9, 3), np.uint8))
    before = with_program(before, pictures)
    after = apart(before)
    x = np.concatenate([batch["image"] for batch in batches(pictures, before, 8)])
    wanted, found = (archive.runner(engine="native")(x) for archive in (before, after))
    np.testing.assert_array_equal(wanted, found)
    assert after.program != before.program


def test_a_bias_is_found_behind_views_and_what_is_added_by_place_is_none() -> None:
    """As JAX writes a convolution: an axis more, a slice, an axis less, and then the bias."""
    nodes = """
        y = Conv(x, weight)
        z = Slice(y, start, end)
        u = Squeeze(z, axis)
        v = Add(u, bias)
        p = Add(u, places)
        m = Add(u, mask)
        w = Sum(v, p, m)"""
    constants = {"start": np.int64([0, 0]), "end": np.int64([9, 9]), "axis": np.int64([3]), "weight": (32, 3, 2, 1)}
    constants |= {"bias": (1, 32, 1), "places": (1, 32, 4), "mask": np.full((1, 32, 1), -np.inf, np.float32)}
    archive = archive_of(network("float[n,3,5,1] x", "float[n,32,4] w", nodes, **constants))
    assert bias_names(archive, ["weight"]) == ["bias"]


def test_a_weight_of_two_parts_is_measured_as_if_whole() -> None:
    module, before = spiky()
    x = [np.random.default_rng(0).normal(size=(4, 3, 9, 9)).astype(np.float32) for _ in range(3)]
    whole, parted = measure(module, x), measure(Network(apart(before)), x)
    assert parted.keys() == whole.keys()
    for name, stats in whole.items():
        np.testing.assert_allclose(parted[name].second_moment, stats.second_moment, rtol=1e-4, atol=1e-6)


def test_outliers_do_not_make_the_grid_of_the_others_coarse() -> None:
    pictures = list(np.random.default_rng(0).integers(0, 256, (30, 9, 9, 3), np.uint8))
    archive = spiky()[1]
    outcome = Outcome(Budget(size=8000))
    squeeze_to_budget(archive, examples_from(pictures, archive, 20, 0), outcome, Settings(epochs=1))
    assert outcome.archive is not None
    codes = {name: tensor for name, tensor in outcome.archive.tensors.items() if isinstance(tensor, Code)}
    assert len(np.unique(codes["2.weight"].symbols)) > 50
    assert isinstance(codes["2.weight_2"].rule, Affine)


def test_what_compares_weights_one_by_one_knows_of_parts() -> None:
    """Targets, distillation and each layer's harm alone: a part counted twice or not at all ruins any of them."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (30, 9, 9, 3), np.uint8))
    archive, outcome = spiky()[1], Outcome(Budget(size=4000))
    squeeze_to_budget(archive, examples_from(pictures, archive, 20, 0), outcome, Settings(epochs=1))
    assert outcome.archive
    assert taken_out(outcome.archive)
    judged = {point.refined: point.fidelity for point in outcome.curve if point.bytes > 3900 and not point.repaired}
    repaired = [point.fidelity for point in outcome.curve if point.repaired]
    plain, refined = judged[False], judged[True]
    assert plain
    for fidelity in (refined, *repaired):
        assert fidelity
        assert fidelity.kl < 5 * plain.kl
    assert repaired
    told = outcome.archive.metadata["squeezed"]
    assert sum(told["harm"]) * told.get("unit", UNIT) < 5 * plain.kl + 2e-6


def test_channels_of_all_magnitudes_get_the_codes_that_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same function, but every channel of the first layer is another power of two smaller, as after folding."""
    pictures = list(np.random.default_rng(0).integers(0, 256, (30, 9, 9, 3), np.uint8))

    def divergence() -> float:
        module = spiky()[0]
        factors = 2.0 ** torch.linspace(0, -12, 16).round()
        with torch.no_grad():
            module[2].weight.clamp_(max=1)
            module[0].weight *= factors[:, None, None, None]
            module[0].bias *= factors
            module[2].weight /= factors[:, None, None]
        archive = from_module(module, (3, 9, 9), PREPROCESSING)
        outcome = Outcome(Budget(size=6000))
        squeeze_to_budget(archive, examples_from(pictures, archive, 20, 0), outcome)
        assert outcome.best
        assert outcome.best.fidelity
        return outcome.best.fidelity.kl

    found = divergence()
    monkeypatch.setattr(Squeeze, "coarse", lambda *arguments: None)
    assert found < 0.02 * divergence()


def test_a_network_of_the_zoo_keeps_its_weights_whole() -> None:
    archive = from_module(build("squeezenet1_1", classes=2), (3, 32, 32))
    weight = np.array(archive.tensors["features.0.weight"])
    weight[0, 0, 0, 0] = 1e4
    archive = replace(archive, tensors={**archive.tensors, "features.0.weight": weight})
    squeezer = Squeezer(archive, {"features.0.weight": Stats(np.eye(27), 2.0, 1)})
    assert not taken_out(squeezer(1e-6)[0])
    assert squeezer(1e-6)[0].module() is not None
    assert taken_out(replace(squeezer, original=replace(archive, metadata={}))(1e-6)[0])
