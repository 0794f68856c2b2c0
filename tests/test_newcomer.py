"""What somebody met who used smidgen for the first time, with nothing but the README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import smidgen
from smidgen.archive import Archive, Preprocessing
from smidgen.budget import Budget, Outcome, Point, search
from smidgen.cli import cli
from smidgen.errors import InputError, ModelError
from smidgen.examples import Examples, batches, inputs_of
from smidgen.file import write
from smidgen.given import examples_from
from smidgen.read import from_module, read_model
from smidgen.reference import Reference
from smidgen.run.compare import compare


class Deciding(nn.Module):
    """Its code looks at numbers, which a graph cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) if x.sum().item() > 0 else 2 * self.layer(x)


def test_a_graph_that_does_not_answer_as_its_module_is_refused() -> None:
    with pytest.raises(ModelError, match="does not answer as the module does") as caught:
        smidgen.compress(Deciding(), plan="lossless", input_shape=(5,))
    assert "\n" not in str(caught.value)


def test_a_module_that_draws_numbers_is_not_compared() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    assert from_module(Drawing(), (5,)).graph


def test_a_length_that_tracing_fixed_is_refused_with_a_way_out() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(1, int(x.shape[1]) * 4, -1).sum(2) if int(x.shape[1]) else x

    examples = [(torch.randn(1, n, 8),) for n in (3, 5)]
    with pytest.raises(ModelError, match="dynamo=True"):
        from_module(Fixed(), examples=examples)


def test_a_size_far_above_the_network_gives_the_finest_file() -> None:
    outcome = Outcome(Budget(size=10_000_000))
    tried = []

    def attempt(rate: float) -> Point:
        tried.append(rate)
        return outcome.add(Archive(b"", {}), Point(rate, 900))

    search(outcome, attempt, 1e-7, weights=1000)
    assert outcome.reached
    assert len(tried) <= 5


def test_a_program_keeps_its_free_sizes(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    free = torch.export.Dim("n", min=2, max=99)
    program = torch.export.export(module, (torch.randn(3, 6),), dynamic_shapes=({0: free},))
    torch.export.save(program, tmp_path / "net.pt2")
    assert inputs_of(read_model(str(tmp_path / "net.pt2")))[0].shape == (None, 6)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures, and a classifier of fixed batch as ONNX."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(5):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3), np.uint8)).save(f"photos/{number}.png")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model = from_module(module, (3, 12, 12)).onnx()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].Clear()
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, "fixed.onnx")
    return tmp_path


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, arguments)
    return result.exit_code, result.output + str(result.exception or "")


def test_a_fixed_batch_and_evaluation_with_what_the_file_knows(folder: Path) -> None:
    arguments = ("compress", "fixed.onnx", "--data", "photos", "--size", "900", "-o", "x.smidgen")
    status, said = run(*arguments)
    assert status == 1
    assert "say --preprocessing imagenet" in said
    status, said = run(*arguments, "--preprocessing", "unit")
    assert status == 0, said
    status, said = run("evaluate", "fixed.onnx", "x.smidgen", "--data", "photos")
    assert status == 0, said


def test_true_classes_are_those_of_the_pictures_that_fill_batches(folder: Path) -> None:
    model = onnx.load("fixed.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, "pairs.onnx")
    archive = replace(read_model("pairs.onnx"), preprocessing=Preprocessing(12, 12))
    pictures = [np.zeros((12, 12, 3), np.uint8)] * 5
    reference = Reference(archive, Examples(pictures, pictures, truth=[0, 1, 2, 0, 1]))
    assert len(reference) == 4
    assert reference.fidelity(archive).drop == 0


def test_bytes_of_onnx_count_what_lies_beside(folder: Path) -> None:
    onnx.save(onnx.load("fixed.onnx"), "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    whole = Path("big.onnx").stat().st_size + Path("big.data").stat().st_size
    status, said = run("evaluate", "big.onnx", "--data", "photos", "--preprocessing", "unit")
    assert status == 0, said
    assert f"{whole:,}" in said


def test_attributes_count_from_python_too() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    module.preprocessing = Preprocessing(8, 8)  # type: ignore[assignment]
    assert smidgen.compress(module, plan="lossless").preprocessing == Preprocessing(8, 8)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    words.example_inputs = (torch.zeros(1, 3, dtype=torch.int64),)  # type: ignore[assignment]
    assert smidgen.compress(words, plan="lossless").tensors["0.weight"].shape == (9, 4)


class Heard(nn.Module):
    """Answers for sequences of any length; a second input may be left out."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.memory, self.answer = nn.GRU(5, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, frames: Tensor, weight: Tensor | None = None) -> Tensor:
        found: Tensor = self.answer(self.memory(frames)[0][:, -1])
        return found if weight is None else found * weight


def heard() -> nn.Module:
    return Heard().eval()


def sounds(lengths: Sequence[int], rows: int = 2) -> list[NDArray[np.float64]]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(rows, length, 5)) for length in lengths]


def test_files_of_arrays_show_what_a_module_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    Path("sounds").mkdir()
    for number, frames in enumerate(sounds([4, 4, 7] * 4)):
        np.savez(f"sounds/{number}.npz", frames=frames)
    given = ("--data", "sounds", "--size", "2KB", "-o", "heard.smidgen")
    status, said = run("compress", "test_newcomer:heard", *given)
    assert status == 0, said
    status, said = run("evaluate", "test_newcomer:heard", "heard.smidgen", "--data", "sounds")
    assert status == 0, said
    (free,) = onnx.load_from_string(smidgen.open("heard.smidgen").graph).graph.input
    assert [axis.dim_value for axis in free.type.tensor_type.shape.dim] == [0, 0, 5]
    status, said = run("compress", "test_newcomer:heard", "--plan", "int8", "-o", "x.smidgen")
    assert status == 1
    assert "pictures were tried: give the module an attribute `example_inputs`" in said


class Wide(nn.Module):
    """Takes pictures of 8 x 8, and calls them so."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(192, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels.flatten(1))  # type: ignore[no-any-return]


def wide() -> nn.Module:
    module = Wide()
    with torch.no_grad():
        module.layer.weight.fill_(0.01)
    return module


def test_arrays_of_labels_are_ignored_and_inputs_may_have_another_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    frames = np.random.default_rng(0).normal(size=(30, 3, 8, 8)).astype(np.float32)
    smidgen.compress(wide(), plan="int8", input_shape=(3, 8, 8)).save("early.smidgen")  # its input is "image"
    for known in ("pixels", "what"):
        np.savez("data.npz", **{known: frames, "label": np.arange(30)})
        if known == "pixels":
            status, said = run(
                "compress", "test_newcomer:wide", "--data", "data.npz", "--size", "1KB", "-o", "w.smidgen"
            )
            assert status == 0, said
        np.savez("data.npz", **{known: frames})
        status, said = run("evaluate", "test_newcomer:wide", "early.smidgen", "--data", "data.npz")
        assert status == 0, said
        status, said = run("evaluate", "early.smidgen", "test_newcomer:wide", "--data", "data.npz")
        assert status == 0, said


def test_a_size_may_be_written_as_on_the_command_line() -> None:
    data = [each.astype(np.float32) for each in sounds([4] * 12)]
    assert len(write(smidgen.compress(heard(), data, size="2KB"))) <= 2000
    with pytest.raises(InputError, match="write a number and B, KB"):
        smidgen.compress(heard(), data, size="two")


def test_what_is_not_there_is_said_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    for data, what in (("x.csv", "file"), ("nowhere/", "folder")):
        status, said = run("compress", "test_newcomer:heard", "--data", data, "--size", "2KB", "-o", "x.smidgen")
        assert status == 1
        assert f"{data.rstrip('/')}: no such {what}" in said


def test_what_is_no_data_is_said() -> None:
    with pytest.raises(InputError, match="data: int: give a folder"):
        smidgen.compress(heard(), 5, plan="int8")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="data: frames: not arrays"):
        smidgen.compress(heard(), [([[1.0], [1.0, 2.0]],)], plan="int8")
    with pytest.raises(ModelError, match=r"examples of shapes \{'frames': \(16,\)\}"):
        smidgen.compress(heard(), [np.ones(16)] * 30, plan="int8")
    with pytest.raises(ModelError) as caught:
        smidgen.compress(nn.Linear(3, 3), plan="int8", input_shape=(3, 224, 225))
    assert "were tried" not in str(caught.value)


def test_batches_show_what_a_module_takes() -> None:
    labelled = ((torch.from_numpy(frames).float(), torch.zeros(2)) for frames in sounds([4] * 12))
    archive = smidgen.compress(heard(), labelled, plan="int8")
    (frames,) = inputs_of(archive)
    assert (frames.name, frames.shape) == ("frames", (None, 4, 5))
    both = smidgen.compress(heard(), [{"frames": each, "weight": np.ones(3)} for each in sounds([4] * 12)], plan="int8")
    assert [given.name for given in inputs_of(both)] == ["frames", "weight"]
    more = smidgen.compress(heard(), [{"frames": each, "labels": np.ones(2)} for each in sounds([4] * 12)], plan="int8")
    assert [given.name for given in inputs_of(more)] == ["frames"]
    longer = smidgen.compress(heard(), sounds([4, 6] * 6), size=2000)
    assert inputs_of(longer)[0].shape == (None, None, 5)
    assert longer.module()(torch.zeros(3, 9, 5))[0].shape == (3, 3)


def test_a_single_array_goes_to_the_single_input() -> None:
    archive = from_module(nn.Linear(6, 2), (6,))
    examples = examples_from([{"whatever": np.ones((3, 6), np.float32)}], archive, 10, 0)
    assert [batch["image"].shape for batch in batches(examples.calibration, archive, 10)] == [(3, 6)]


def test_weights_alone_are_no_network(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"a.weight": torch.randn(8, 9)}, "w.safetensors")
    assert run("compress", "w.safetensors", "--plan", "int8", "-o", "w.smidgen")[0] == 0
    status, said = run("export", "w.smidgen", "--to", "onnx", "-o", "w.onnx")
    assert (status, Path("w.onnx").exists()) == (1, False)
    assert "holds only weights" in said


class Placed(nn.Module):
    """What is added for each place belongs to no layer."""

    def __init__(self) -> None:
        super().__init__()
        self.places, self.layer = nn.Parameter(torch.randn(1, 8)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x + self.places)


def test_a_plan_tells_what_it_leaves_alone(folder: Path) -> None:
    onnx.save(from_module(Placed(), (8,)).onnx(), "m.onnx")
    status, said = run("compress", "m.onnx", "--plan", "int8", "-o", "m.smidgen")
    assert status == 0, said
    assert [line for line in said.splitlines() if "kept" in line] == [
        "kept without loss: places, which no step of the plan changes"
    ]


def test_a_network_that_gives_more_than_classes_is_compared_by_its_outputs(folder: Path) -> None:
    """As one that finds things in pictures."""
    detector = from_module(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(2)), (3, 12, 12), Preprocessing(12, 12))
    detector.save("whole.smidgen")
    smidgen.compress(detector, plan="int8").save("small.smidgen")
    status, said = run("evaluate", "whole.smidgen", "small.smidgen", "--data", "photos")
    assert status == 0, said
    assert "relative error" in said


def test_a_module_that_says_nothing_takes_pictures_of_the_size_that_is_named(folder: Path) -> None:
    Path("mine_small.py").write_text(
        "from torch import nn\n"
        "def small():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 10 * 14, 3))\n"
    )
    arguments = ("compress", "mine_small:small", "--data", "photos", "--size", "2500", "-o", "x.smidgen")
    status, said = run(*arguments, "--preprocessing", "symmetric:12x16")
    assert status == 0, said
    assert smidgen.open("x.smidgen").preprocessing == Preprocessing(12, 16, "RGB", (127.5,) * 3, (127.5,) * 3)
    status, said = run(
        "evaluate", "mine_small:small", "x.smidgen", "--data", "photos", "--preprocessing", "symmetric:12x16"
    )
    assert status == 0, said
    assert "integers" in said
    status, said = run(*arguments, "--preprocessing", "symmetric:12x0")
    assert status == 1
    assert "with or without a size" in said


def test_integers_of_a_network_that_takes_two_pictures_at_once(folder: Path) -> None:
    model = onnx.load("fixed.onnx")
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(model, "pairs.onnx")
    preprocessing = ("--preprocessing", "unit")
    status, said = run("compress", "pairs.onnx", "--plan", "lossless", "-o", "x.smidgen", *preprocessing)
    assert status == 0, said
    status, said = run("export", "x.smidgen", "--to", "onnx-int8", "--data", "photos", "-o", "x.onnx")
    assert status == 0, said
    assert "beside float32, on the 4 inputs that it was calibrated on" in said


def test_outputs_that_are_no_numbers(tmp_path: Path) -> None:
    """As the converter of scikit-learn leaves them."""
    weights = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "w"], ["y"]),
        onnx.helper.make_node("Softmax", ["y"], ["probabilities"], axis=1),
        onnx.helper.make_node("ArgMax", ["y"], ["place"], axis=1, keepdims=0),
        onnx.helper.make_node("Gather", ["names", "place"], ["label"]),
    ]
    info, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    outputs = [info("label", kinds.STRING, ["n"]), info("probabilities", kinds.FLOAT, ["n", 3])]
    names = onnx.helper.make_tensor("names", kinds.STRING, [3], [b"a", b"b", b"c"])
    constants = [onnx.numpy_helper.from_array(weights, "w"), names]
    graph = onnx.helper.make_graph(nodes, "g", [info("x", kinds.FLOAT, ["n", 6])], outputs, constants)
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8),
        tmp_path / "s.onnx",
    )
    rows = np.random.default_rng(1).normal(size=(80, 6)).astype(np.float32)
    np.savez(tmp_path / "x.npz", x=rows)
    name, data, small = (str(tmp_path / each) for each in ("s.onnx", "x.npz", "s.smidgen"))
    status, said = run("compress", name, "--data", data, "--max-drop", "10", "-o", small)
    assert status == 1
    assert "constants of text cannot be computed; leave out the outputs that are made of them" in said
    assert run("compress", name, "--plan", "int8", "-o", small)[0] == 0
    status, said = run("evaluate", name, small, "--data", data)
    assert status == 0, said


def test_outputs_that_are_no_tensors_are_named(tmp_path: Path) -> None:
    zipped = onnx.helper.make_node("ZipMap", ["p"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2])
    info, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
    maps = onnx.helper.make_sequence_type_proto(
        onnx.helper.make_map_type_proto(kinds.INT64, onnx.helper.make_tensor_type_proto(kinds.FLOAT, []))
    )
    weights = onnx.numpy_helper.from_array(np.eye(6, 3, dtype=np.float32), "w")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["p"]), zipped],
        "g",
        [info("x", kinds.FLOAT, ["n", 6])],
        [onnx.helper.make_value_info("z", maps)],
        [weights],
    )
    versions = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=versions, ir_version=8), tmp_path / "z.onnx")
    np.savez(tmp_path / "x.npz", x=np.ones((30, 6), np.float32))
    status, said = run("evaluate", str(tmp_path / "z.onnx"), "--data", str(tmp_path / "x.npz"))
    assert status == 1
    assert "output 'z' is no tensor" in said


def test_networks_of_more_outputs_are_not_compared() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x * 2, x * 3

    one = from_module(nn.Sequential(nn.Linear(6, 6)), examples=[(torch.zeros(1, 6),)])
    two = from_module(Both(), examples=[(torch.zeros(1, 6),)])
    rows = {"input": np.ones((4, 6), np.float32)}
    for pair in ([one, two], [two, one]):
        with pytest.raises(InputError, match="compare like with like"):
            compare(pair, [rows])
