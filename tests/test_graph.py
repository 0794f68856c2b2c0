from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree

from smidgen.errors import ModelError
from smidgen.graph import export_graph
from smidgen.read import from_module
from smidgen.run.onnx_graph import fill_graph
from smidgen.run.session import Engine
from smidgen.zoo import build


def initializers(graph: bytes) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in onnx.load_from_string(graph).graph.initializer}


def weights_for(module: nn.Module, graph: bytes) -> dict[str, np.ndarray]:
    state = module.state_dict()
    return {name: state[name].numpy() for name in initializers(graph) if name in state}


def run(model: onnx.ModelProto, batch: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(["scores"], {"image": batch})[0]


class Residual(nn.Module):
    """Batch normalization, equal biases, a tied weight, an unused one, and a constant that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.tied = self.one
        self.unused = nn.Linear(2, 2)
        self.register_buffer("offset", torch.arange(4.0).reshape(4, 1, 1), persistent=False)
        for layer in (self.one, self.two):
            nn.init.zeros_(layer.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.tied(torch.relu(self.norm(self.two(self.one(x))))) + self.offset
        return x.mean((2, 3))


CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "squeezenet1_0": (lambda: build("squeezenet1_0", classes=5, bypass="complex"), (3, 48, 40)),
    "squeezenet1_1": (lambda: build("squeezenet1_1", classes=5, bypass="simple"), (3, 48, 48)),
    "residual": (Residual, (4, 6, 6)),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Dropout(), nn.Softmax(1)), (3, 2, 2)),
    "recurrent": (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.LayerNorm(8), nn.Linear(8, 2)), (5, 4)),
}


@pytest.mark.parametrize("case", CASES)
def test_runtime_agrees_with_torch_for_any_batch(case: str) -> None:
    torch.manual_seed(1)
    make, shape = CASES[case]
    module = make().eval()
    graph = export_graph(module, shape)
    model = fill_graph(graph, weights_for(module, graph))
    onnx.checker.check_model(model, full_check=True)
    for count in (1, 3):
        batch = torch.randn(count, *shape)
        with torch.no_grad():
            np.testing.assert_allclose(run(model, batch.numpy()), module(batch).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_graph_is_reproducible_and_carries_no_weights(case: str) -> None:
    make, shape = CASES[case]
    module = make()
    graph = export_graph(module, shape)
    assert export_graph(module, shape) == graph
    state = module.state_dict()
    for name, tensor in initializers(graph).items():
        if name in state:
            assert tuple(tensor.dims) == tuple(state[name].shape)
            assert tensor.data_type == onnx.TensorProto.FLOAT
            assert not any(field.name.endswith("_data") for field, _ in tensor.ListFields())


def test_graph_does_not_depend_on_the_values_of_weights() -> None:
    torch.manual_seed(1)
    module = Residual()
    before = export_graph(module, (4, 6, 6))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    assert export_graph(module, (4, 6, 6)) == before


def test_weights_keep_their_names() -> None:
    network = build("squeezenet1_1", classes=3)
    assert set(initializers(export_graph(network, (3, 32, 32)))) == set(network.state_dict())
    # equal biases stay two, batch normalization stays itself, a tied weight is there once, an unused one not at all
    names = set(initializers(export_graph(Residual(), (4, 6, 6)))) & set(Residual().state_dict())
    convolutions = {f"{layer}.{kind}" for layer in ("one", "two") for kind in ("weight", "bias")}
    assert names == convolutions | {f"norm.{kind}" for kind in ("weight", "bias", "running_mean", "running_var")}


def test_graph_says_nothing_that_no_runtime_needs() -> None:
    graph = export_graph(build("squeezenet1_1"), (3, 227, 227))
    assert len(graph) < 7500
    model = onnx.load_from_string(graph)
    assert not model.producer_name
    assert not model.graph.value_info
    assert not any(node.name or node.doc_string for node in model.graph.node)
    assert b"/" not in graph


def test_module_is_left_as_it_was() -> None:
    module = Residual().double().train()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    random = torch.get_rng_state()
    assert initializers(export_graph(module, (4, 6, 6)))["one.weight"].data_type == onnx.TensorProto.FLOAT
    assert [part.training for part in (module, module.one, module.norm)] == [True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())
    assert module.one.weight.dtype == torch.float64
    assert torch.equal(torch.get_rng_state(), random)


def test_names_of_input_output_and_what_lies_between() -> None:
    module = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.ReLU())
    graph = onnx.load_from_string(export_graph(module, (2,))).graph
    assert [(*node.input, *node.output) for node in graph.node] == [("image", "0"), ("0", "1"), ("1", "scores")]


class Two(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x + 1, x + 2


class Unexportable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.qr(x)[0]


@pytest.mark.parametrize(
    ("module", "shape", "message"),
    [
        (Unexportable(), (2, 2), "Unexportable: cannot be traced"),
        (nn.Conv2d(3, 1, 1), (4, 5, 5), r"inputs of shape \(4, 5, 5\)"),
        (nn.Linear(2, 2, device="meta"), (2,), "Linear: cannot be traced"),
    ],
)
def test_what_cannot_be_a_graph_is_refused_in_one_line(module: nn.Module, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        export_graph(module, shape)
    assert "\n" not in str(caught.value)


GRAPH = export_graph(nn.Linear(3, 2), (3,))
WEIGHTS = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.ones(2, np.float32)}


def test_data_is_little_endian_and_row_major() -> None:
    turned = {"weight": np.asfortranarray(WEIGHTS["weight"]), "bias": WEIGHTS["bias"]}
    for tensor in fill_graph(GRAPH, turned).graph.initializer:
        assert tensor.raw_data == WEIGHTS[tensor.name].astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"weight": WEIGHTS["weight"]}, "'bias' of the graph is missing"),
        ({**WEIGHTS, "more": WEIGHTS["bias"]}, "'more' has no place in the graph"),
        ({**WEIGHTS, "bias": np.ones(3, np.float32)}, r"'bias' is float32 \(3,\), but the graph wants float32 \(2,\)"),
        ({**WEIGHTS, "bias": np.ones(2)}, "'bias' is float64"),
        ({**WEIGHTS, "weight": WEIGHTS["weight"].T}, r"\(3, 2\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        fill_graph(GRAPH, weights)


@pytest.mark.parametrize("data", [b"\xff\xff\xff", GRAPH[:-5]], ids=["noise", "truncated"])
def test_bytes_that_are_no_graph_are_refused(data: bytes) -> None:
    with pytest.raises(ModelError, match="not an ONNX model") as caught:
        fill_graph(data, WEIGHTS)
    assert "\n" not in str(caught.value)


def test_an_unknown_type_is_refused() -> None:
    model = onnx.load_from_string(GRAPH)
    model.graph.initializer[0].data_type = 12345
    with pytest.raises(ModelError, match="unknown type 12345"):
        fill_graph(model.SerializeToString(), WEIGHTS)


@pytest.mark.parametrize("place", ["initializer", "attribute", "inner graph", "function"])
def test_a_graph_that_reads_other_files_is_refused(place: str) -> None:
    spy = onnx.TensorProto(name="spy", dims=[2], data_type=onnx.TensorProto.FLOAT)
    spy.data_location = onnx.TensorProto.EXTERNAL
    spy.external_data.add(key="location", value="/etc/passwd")
    constant = onnx.NodeProto(op_type="Constant", output=["spy"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(spy)
    model = onnx.load_from_string(GRAPH)
    if place == "initializer":
        model.graph.initializer.append(spy)
    elif place == "attribute":
        model.graph.node.append(constant)
    elif place == "inner graph":
        branch = model.graph.node.add(op_type="If").attribute.add(name="then", type=onnx.AttributeProto.GRAPH)
        branch.g.node.append(constant)
    else:
        model.functions.add(name="f").node.append(constant)
    with pytest.raises(ModelError, match="'spy' in another file"):
        fill_graph(model.SerializeToString(), WEIGHTS)


class Found(NamedTuple):
    boxes: Tensor
    masks: list[Tensor]


@dataclass
class Kept:
    last: Tensor
    states: tuple[Tensor, Tensor]


class Own:
    """A container that PyTorch takes apart, though not by names."""

    def __init__(self, parts: list[Tensor]) -> None:
        self.parts = parts


_pytree.register_pytree_node(Own, lambda own: (own.parts, None), lambda parts, _: Own(list(parts)))


class Several(nn.Module):
    """Gives what ``wrap`` makes of three tensors."""

    def __init__(self, wrap: Callable[[Tensor, Tensor, Tensor], object]) -> None:
        super().__init__()
        self.layer, self.wrap = nn.Linear(3, 4), wrap

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return self.wrap(y, y.relu(), y.sigmoid())


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda a, b, c: {"boxes": a, "chances": b, "": c}, ["boxes", "chances", "output_3"]),
        (lambda a, b, c: Found(a, [b, c]), ["boxes", "masks.0", "masks.1"]),
        (lambda a, b, c: {"out": {"x": a, "y": b}, 7: c}, ["out.x", "out.y", "output_3"]),
        (
            lambda a, b, c: {"x": a, "layer.bias": b, "x_output": c},
            ["x_output", "layer.bias_output", "x_output_output"],
        ),
        (lambda a, b, c: {"0": a, "1": b, "pool": c}, ["0", "1", "pool"]),
        (lambda a, b, c: {"module": {"x": a}, "module.layer.bias": b, "4": c}, ["module.x", "module.layer.bias", "4"]),
        (lambda a, b, c: {"/Relu_output_0": a, "onnx::Relu_3": b, "a b,c=\u00e9": c}, None),
        (lambda a, b, c: Kept(a, (b, c)), ["last", "states.0", "states.1"]),
        (lambda a, b, c: Own([a, b, c]), ["output", "output_2", "output_3"]),
        (lambda a, b, c: {"own": Own([a, b]), "c": c}, ["own.0", "own.1", "c"]),
        (lambda a, b, c: {"same": a, "again": a, "x again": c}, ["same", "again", "x again"]),
        (lambda a, b, c: (a, [b, c]), ["output", "output_2", "output_3"]),
        (lambda a, b, c: {"logits": a, "loss": None}, ["logits"]),
        (lambda a, b, c: a, ["output"]),
    ],
)
def test_outputs_are_called_what_the_module_calls_them(
    wrap: Callable[[Tensor, Tensor, Tensor], Any], names: list[str] | None
) -> None:
    module = Several(wrap).eval()
    archive = from_module(module, examples=[(torch.zeros(1, 3),)])
    x = torch.randn(5, 3)
    given = module(x)
    names = list(given) if names is None else names
    assert [value.name for value in archive.onnx().graph.output] == names
    assert set(archive.tensors) == {"layer.weight", "layer.bias"}
    given = [given.last, *given.states] if isinstance(given, Kept) else given
    wanted = [leaf for leaf in _pytree.tree_leaves(given) if isinstance(leaf, Tensor)]
    for ours, theirs in zip(Engine(archive.onnx())({"x": x.numpy()}), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-6)
