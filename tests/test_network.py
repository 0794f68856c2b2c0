"""The interpreter of ONNX graphs, operator by operator, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from smidgen.archive import Archive
from smidgen.arrange import arranged
from smidgen.errors import ModelError
from smidgen.network import Network
from smidgen.network.operators import OPERATORS
from smidgen.onnx_file import archive_of
from smidgen.run.session import Engine

RNG = np.random.default_rng(0)


def floats(*shape: int) -> NDArray[np.float32]:
    return RNG.normal(size=shape).astype(np.float32)


def positive(*shape: int) -> NDArray[np.float32]:
    return np.abs(floats(*shape)) + np.float32(0.1)


def whole(*values: int, kind: type = np.int64) -> NDArray[Any]:
    return np.array(values, kind)


BOOLS = RNG.random((2, 3)) < 0.5
IMAGE, LINE, VOLUME = floats(2, 4, 7, 6), floats(2, 4, 9), floats(1, 2, 4, 5, 3)

# operator, inputs (None where left out), attributes; the last number of a case, if any, is the version
CASES: list[tuple[Any, ...]] = [
    *[(name, [floats(2, 3)], {}) for name in ("Abs", "Ceil", "Cos", "Erf", "Exp", "Floor", "Identity", "Neg")],
    *[(name, [floats(2, 3)], {}) for name in ("Relu", "Round", "Sigmoid", "Sign", "Sin", "Softplus", "Softsign")],
    *[(name, [floats(2, 3)], {}) for name in ("Tanh", "Elu", "Selu", "Celu", "LeakyRelu", "HardSigmoid", "HardSwish")],
    *[(name, [positive(2, 3)], {}) for name in ("Log", "Sqrt", "Reciprocal")],
    ("Mish", [floats(2, 3)], {}, 18),
    *[(name, [floats(2, 3), floats(3)], {}) for name in ("Add", "Sub", "Mul", "Div", "PRelu")],
    *[(name, [floats(2, 3), floats(3)], {}) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")],
    *[(name, [BOOLS, ~BOOLS[:1]], {}) for name in ("And", "Or", "Xor")],
    *[(name, [floats(2, 3), floats(3), floats(2, 1)], {}) for name in ("Max", "Min", "Sum", "Mean")],
    ("Not", [BOOLS], {}),
    ("IsNaN", [np.array([1, np.nan], np.float32)], {}),
    ("IsInf", [np.array([1, -np.inf], np.float32)], {}),
    ("Elu", [floats(5)], {"alpha": 0.5}),
    ("Selu", [floats(5)], {}),
    ("Gelu", [floats(5)], {}, 20),
    ("Gelu", [floats(5)], {"approximate": "tanh"}, 20),
    ("HardSigmoid", [floats(5)], {"alpha": 0.3, "beta": 0.4}),
    ("Div", [whole(7, -7, 8), whole(2, 2, -3)], {}),
    ("Pow", [positive(2, 3), floats(3)], {}),
    ("Mod", [whole(7, -7, 8), whole(3, 3, -3)], {}),
    ("Mod", [floats(4), positive(4)], {"fmod": 1}),
    ("Clip", [floats(9), np.float32(-0.5), np.float32(0.7)], {}),
    ("Clip", [floats(9), None, np.float32(0.7)], {}),
    ("Clip", [floats(9)], {"min": -0.5, "max": 0.5}, 10),
    ("Cast", [floats(5) * 9], {"to": TensorProto.INT32}),
    ("CastLike", [floats(5), whole(1)], {}),
    ("Where", [BOOLS, floats(2, 3), floats(3)], {}),
    ("Dropout", [floats(2, 3)], {}),
    ("Reshape", [floats(2, 3, 4), whole(0, -1)], {}),
    ("Reshape", [floats(0, 3), whole(3, 0)], {"allowzero": 1}),
    ("Shape", [floats(2, 3, 4)], {}),
    ("Shape", [floats(2, 3, 4)], {"start": 1, "end": -1}),
    ("Size", [floats(2, 3, 4)], {}),
    ("Flatten", [floats(2, 3, 4)], {"axis": 2}),
    ("Squeeze", [floats(1, 3, 1), whole(2)], {}),
    ("Squeeze", [floats(1, 3, 1)], {}),
    ("Squeeze", [floats(1, 3, 1)], {"axes": [0]}, 11),
    ("Unsqueeze", [floats(2, 3), whole(-1, 0)], {}),
    ("Unsqueeze", [floats(2, 3)], {"axes": [0, 3]}, 11),
    ("Transpose", [floats(2, 3, 4)], {}),
    ("Transpose", [floats(2, 3, 4)], {"perm": [1, 2, 0]}),
    ("Concat", [floats(2, 3), floats(2, 1)], {"axis": -1}),
    ("Split", [floats(2, 5), whole(2, 3)], {"axis": 1}, 17, 2),
    ("Split", [floats(2, 6)], {"axis": 1}, 13, 3),
    ("Split", [floats(7, 2)], {"num_outputs": 3}, 18, 3),
    ("Slice", [floats(4, 5), whole(1, 0), whole(99, -1)], {}),
    ("Slice", [floats(4, 5), whole(-1), whole(-99), whole(1), whole(-2)], {}),
    ("Slice", [floats(4, 5), whole(3), whole(1), whole(0)], {}),
    ("Slice", [floats(4, 5)], {"starts": [1], "ends": [3], "axes": [1]}, 9),
    ("Gather", [floats(4, 5), np.array([[0, -1], [2, 2]])], {"axis": 1}),
    ("Gather", [floats(4, 5), np.array([[0, -1], [2, 2]])], {}),
    ("Gather", [floats(4, 5), np.array(2)], {}),
    ("Gather", [whole(3, 4, 5), whole(-1)], {}),
    ("GatherElements", [floats(3, 3), np.array([[0, -1, 2]])], {"axis": 0}),
    ("GatherND", [floats(3, 4, 2), np.array([[0, 1], [2, 3]])], {}),
    ("ScatterND", [floats(4, 2), np.array([[1], [3]]), floats(2, 2)], {}),
    ("Expand", [floats(3, 1), whole(2, 1, 4)], {}),
    ("Tile", [floats(2, 3), whole(2, 1)], {}),
    ("Pad", [floats(2, 3), whole(0, 1, 1, 2), np.float32(0.5)], {}),
    ("Pad", [floats(2, 3), whole(1, 2), None, whole(1)], {}, 18),
    ("Pad", [IMAGE, whole(0, 0, 1, 2, 0, 0, 2, 1)], {"mode": "reflect"}),
    ("Pad", [floats(1, 5), whole(0, 2, 0, 1)], {"mode": "edge"}),
    ("Pad", [floats(2, 3)], {"pads": [0, 1, 0, 1], "value": 2.0}, 10),
    ("ConstantOfShape", [whole(2, 3)], {"value": numpy_helper.from_array(whole(4))}),
    ("ConstantOfShape", [whole(2)], {}),
    ("Range", [np.float32(1), np.float32(3), np.float32(0.5)], {}),
    ("NonZero", [BOOLS], {}),
    ("TopK", [floats(3, 6), whole(2)], {"axis": 1}, 17, 2),
    ("ArgMax", [floats(3, 4)], {"axis": 1, "keepdims": 0}),
    ("ArgMin", [floats(3, 4)], {}),
    ("OneHot", [whole(0, 2, -1), np.array(3), np.array([1, 5], np.float32)], {}),
    ("CumSum", [floats(2, 4), np.array(1)], {}),
    ("CumSum", [floats(2, 4), np.array(1)], {"exclusive": 1, "reverse": 1}),
    ("Trilu", [floats(3, 4)], {"upper": 0}),
    ("Trilu", [floats(3, 4), np.array(1)], {}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [floats(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [floats(1, 2, 4, 6)], {"blocksize": 2}),
    ("Einsum", [floats(2, 3), floats(3, 4)], {"equation": "ij, jk -> ik"}),
    *[(f"Reduce{name}", [positive(2, 3, 4)], {"axes": [1], "keepdims": 0}, 13) for name in ("Mean", "Max", "Min")],
    *[(f"Reduce{name}", [positive(2, 3, 4)], {"axes": [0, 2]}, 13) for name in ("L1", "L2", "LogSumExp", "SumSquare")],
    ("ReduceProd", [positive(2, 3, 4)], {"axes": [0, -1]}, 13),
    ("ReduceSum", [floats(2, 3, 4), whole(1, 2)], {"keepdims": 0}),
    ("ReduceMean", [floats(2, 3)], {}),
    ("ReduceSum", [floats(2, 3)], {"noop_with_empty_axes": 1}),
    ("Softmax", [floats(2, 3, 4)], {"axis": 1}),
    ("Softmax", [floats(2, 3, 4)], {}, 11),
    ("LogSoftmax", [floats(2, 3, 4)], {}),
    ("MatMul", [floats(2, 3, 4), floats(4, 5)], {}),
    ("Gemm", [floats(2, 3), floats(3, 4), floats(4)], {"alpha": 0.5, "beta": 2.0}),
    ("Gemm", [floats(3, 2), floats(4, 3)], {"transA": 1, "transB": 1}),
    ("Conv", [IMAGE, floats(5, 4, 3, 2), floats(5)], {"strides": [2, 1], "pads": [1, 0, 2, 1]}),
    ("Conv", [IMAGE, floats(6, 2, 3, 3)], {"group": 2, "dilations": [2, 1], "pads": [1, 1, 1, 1]}),
    ("Conv", [IMAGE, floats(4, 4, 4, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [IMAGE, floats(4, 4, 4, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [LINE, floats(3, 4, 3)], {"auto_pad": "VALID"}),
    ("Conv", [VOLUME, floats(3, 2, 2, 3, 1)], {"pads": [0, 1, 0, 0, 1, 0]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 2), floats(3)], {"strides": [2, 3], "pads": [1, 0, 1, 1]}),
    ("ConvTranspose", [IMAGE, floats(4, 3, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "group": 2}),
    ("ConvTranspose", [LINE, floats(4, 3, 4)], {"strides": [2], "auto_pad": "SAME_UPPER"}),
    ("ConvTranspose", [IMAGE, floats(4, 2, 3, 3)], {"strides": [2, 2], "output_shape": [14, 12]}),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("MaxPool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [IMAGE], {"kernel_shape": [2, 2], "dilations": [2, 2]}),
    ("MaxPool", [LINE], {"kernel_shape": [2], "strides": [3], "ceil_mode": 1, "pads": [0, 1]}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [IMAGE], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, 19),
    ("AveragePool", [LINE], {"kernel_shape": [3], "auto_pad": "SAME_UPPER"}),
    ("GlobalAveragePool", [IMAGE], {}),
    ("GlobalMaxPool", [IMAGE], {}),
    ("BatchNormalization", [IMAGE, floats(4), floats(4), floats(4), positive(4)], {"epsilon": 1e-3}),
    ("InstanceNormalization", [IMAGE, floats(4), floats(4)], {}),
    ("LayerNormalization", [floats(2, 3, 4), floats(4), floats(4)], {}),
    ("LayerNormalization", [floats(2, 3, 4), floats(3, 4)], {"axis": 1}),
    ("GroupNormalization", [IMAGE, floats(4), floats(4)], {"num_groups": 2}, 21),
    ("LRN", [IMAGE], {"size": 3, "alpha": 0.1, "beta": 0.5, "bias": 2.0}),
    ("LRN", [IMAGE], {"size": 5}),
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 1.5], np.float32)], {}),
    ("Resize", [IMAGE, None, None, whole(2, 4, 5, 9)], {"mode": "linear"}),
    (
        "Resize",
        [IMAGE, None, None, whole(2, 4, 14, 3)],
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        [IMAGE, None, np.array([1, 1, 2, 2], np.float32)],
        {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"},
    ),
    (
        "Resize",
        [IMAGE, None, np.array([1, 1, 0.6, 3], np.float32)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    ("Resize", [IMAGE, None, np.array([1, 1, 2, 3], np.float32)], {"mode": "cubic"}),
    ("Resize", [IMAGE, None, np.array([1, 1, 0.6, 1.5], np.float32)], {"mode": "cubic", "cubic_coeff_a": -0.5}),
    (
        "Resize",
        [IMAGE, None, None, whole(2, 4, 9, 9)],
        {"mode": "cubic", "coordinate_transformation_mode": "align_corners"},
    ),
    (
        "Resize",
        [IMAGE, None, np.array([1, 1, 2, 2], np.float32)],
        {"mode": "cubic", "exclude_outside": 1, "coordinate_transformation_mode": "asymmetric"},
    ),
    ("Upsample", [IMAGE, np.array([1, 1, 2, 2], np.float32)], {}, 9),
    ("QuantizeLinear", [floats(3, 4), np.float32(0.1), np.uint8(128)], {}),
    ("QuantizeLinear", [floats(3, 4), positive(4), np.zeros(4, np.int8)], {"axis": 1}),
    ("DequantizeLinear", [whole(3, 200, kind=np.uint8), np.float32(0.1), np.uint8(128)], {}),
    ("LSTM", [floats(5, 2, 3), floats(1, 16, 3), floats(1, 16, 4)], {"hidden_size": 4}, 17, 3),
    (
        "LSTM",
        [floats(5, 2, 3), floats(2, 8, 3), floats(2, 8, 2), floats(2, 16), None, floats(2, 2, 2), floats(2, 2, 2)],
        {"hidden_size": 2, "direction": "bidirectional"},
        17,
        3,
    ),
    ("GRU", [floats(5, 2, 3), floats(1, 12, 3), floats(1, 12, 4), floats(1, 24)], {"hidden_size": 4}, 17, 2),
    (
        "GRU",
        [floats(5, 2, 3), floats(1, 12, 3), floats(1, 12, 4), floats(1, 24)],
        {"hidden_size": 4, "linear_before_reset": 1, "direction": "reverse"},
        17,
        2,
    ),
    ("RNN", [floats(5, 2, 3), floats(1, 4, 3), floats(1, 4, 4), floats(1, 8)], {"hidden_size": 4}, 17, 2),
]


def single(case: Sequence[Any], constant: bool = False) -> tuple[onnx.ModelProto, dict[str, NDArray[Any]]]:
    """A model of one node, whose inputs but the first are constants if so wished."""
    operator, arrays, attributes, version, count = (*case, *(17, 1)[len(case) - 3 :])
    names = ["" if array is None else f"i{number}" for number, array in enumerate(arrays)]
    given = {name: np.asarray(array) for name, array in zip(names, arrays, strict=True) if array is not None}
    free = dict(list(given.items())[:1]) if constant else given
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for name, a in free.items()
    ]
    outputs = [onnx.ValueInfoProto(name=f"o{number}") for number in range(count)]
    fixed = [numpy_helper.from_array(array, name) for name, array in given.items() if name not in free]
    node = helper.make_node(operator, names, [value.name for value in outputs], **attributes)
    graph = helper.make_graph([node], "g", inputs, outputs, fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8), free


def assert_same(model: onnx.ModelProto, network: Network, inputs: Mapping[str, NDArray[Any]]) -> None:
    wanted = Engine(model, 1)._session.run(None, dict(inputs))
    with torch.no_grad():
        found = network.given({name: torch.from_numpy(array.copy()) for name, array in inputs.items()})
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.numpy().dtype == theirs.dtype
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-4, atol=2e-5)


def labelled(case: Sequence[Any]) -> str:
    return f"{case[0]}-{'-'.join(case[2])}"


@pytest.mark.parametrize("case", CASES, ids=labelled)
def test_operator_gives_what_the_runtime_gives(case: Sequence[Any]) -> None:
    model, inputs = single(case)
    network = Network(Archive(model.SerializeToString(), {}))
    assert network.foreign == []
    assert_same(model, network, inputs)


def test_every_operator_has_a_case() -> None:
    assert {case[0] for case in CASES} == set(OPERATORS)


TURNED = [case for case in CASES if case[0] in ("Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU", "RNN")]


@pytest.mark.parametrize("case", TURNED, ids=labelled)
def test_arranged_network_answers_alike(case: Sequence[Any]) -> None:
    model, inputs = single(case, constant=True)
    network = arranged(archive_of(onnx.ModelProto.FromString(model.SerializeToString())))
    assert_same(model, Network(network), inputs)
    assert_same(network.onnx(), Network(network), inputs)


def test_unknown_operator_runs_in_the_runtime() -> None:
    model, inputs = single(("Hardmax", [floats(2, 3)], {}))
    network = Network(Archive(model.SerializeToString(), {}))
    assert network.foreign == ["Hardmax"]
    assert_same(model, network, inputs)


def branching() -> onnx.ModelProto:
    """Adds or multiplies by constants inside its branches; both see what is outside."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    branches = {}
    for name, operator in (("then_branch", "Add"), ("else_branch", "Mul")):
        constant = helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(floats(3, 4), "c"))
        branches[name] = helper.make_graph(
            [constant, helper.make_node(operator, ["x", "c"], ["t"]), helper.make_node("Add", ["t", "w"], ["y"])],
            name,
            [],
            [value],
        )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Greater", ["s", "zero"], ["b"]),
        helper.make_node("If", ["b"], ["y"], **branches),
    ]
    fixed = [numpy_helper.from_array(np.float32(0), "zero"), numpy_helper.from_array(floats(3, 4), "w")]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 4])
    graph = helper.make_graph(nodes, "g", [x], [value], fixed)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("sign", [1, -1])
def test_branches(sign: int) -> None:
    model = branching()
    archive = archive_of(onnx.ModelProto.FromString(model.SerializeToString()))
    assert sorted(a.shape for a in archive.tensors.values()) == [(3, 4)] * 3, "weights within branches are weights, too"
    inputs = {"x": np.full((3, 4), sign, np.float32)}
    assert_same(model, Network(archive), inputs)
    assert_same(model, Network(arranged(archive)), inputs)
    assert_same(archive.onnx(), Network(archive), inputs)


def test_a_loop_is_refused_by_name() -> None:
    body = helper.make_graph([], "b", [], [])
    graph = helper.make_graph([helper.make_node("Loop", ["", "t"], [], body=body)], "g", [], [])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    with pytest.raises(ModelError, match="Loop cannot be measured"):
        Network(Archive(model.SerializeToString(), {}))


def test_what_cannot_be_computed_names_the_node() -> None:
    model, _ = single(("MatMul", [floats(2, 3), floats(3, 2)], {}))
    network = Network(Archive(model.SerializeToString(), {}))
    with pytest.raises(ModelError, match=r"^MatMul \(o0\) cannot be computed: RuntimeError"):
        network(torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ModelError, match=r"missing: \['i1'\]"):
        network(torch.zeros(2, 3))


@pytest.mark.parametrize("names", [("w", "w.x"), ("a..b", ""), ("graph", "forward"), ("a.b.c", "a.b")])
def test_any_name_of_a_weight_will_do(names: tuple[str, str]) -> None:
    nodes = [helper.make_node("Add", ["x", names[0]], ["t"])]
    arrays = {name: floats(9) for name in names if name}
    nodes.append(helper.make_node("Add", ["t", names[1] or names[0]], ["y"]))
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [9]) for name in "xy")
    fixed = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], fixed), ir_version=8)
    network = Network(archive_of(onnx.ModelProto.FromString(model.SerializeToString())))
    assert {name for name, _ in network.named_weights()} == set(arrays)
    assert_same(model, network, {"x": floats(9)})
