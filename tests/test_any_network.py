"""Any network goes in with one call, from a module, an exported program, ONNX or weights alone, and comes out alike."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import smidgen
from smidgen.archive import Label
from smidgen.arrange import arranged, bias_names
from smidgen.budget import Budget, Outcome
from smidgen.cli import cli as main
from smidgen.code import Code
from smidgen.errors import InputError, ModelError
from smidgen.examples import batches, examples_from, examples_in, inputs_of
from smidgen.measure import measure, need
from smidgen.network import Network
from smidgen.pipeline import Settings, squeeze_to_budget
from smidgen.read import from_module, read_model
from smidgen.reporter import Reporter
from smidgen.run.compare import compare
from smidgen.run.outputs import Output, agreement, divergence, outputs_of
from smidgen.run.session import Engine

RNG = np.random.default_rng(3)


class Reader(nn.Module):
    """Tokens to a vector: an embedding, a recurrent layer, attention, a normalization; two inputs of free length."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(50, 16)
        self.memory = nn.LSTM(16, 12, batch_first=True, bidirectional=True)
        self.query, self.norm = nn.Linear(24, 24), nn.LayerNorm(24)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.norm(self.memory(self.words(ids))[0])
        weights = (self.query(x) @ x.transpose(1, 2)).softmax(2) * mask[:, None].float()
        x = (weights @ x * mask[:, :, None].float()).sum(1)
        return x / x.norm(dim=1, keepdim=True)


class Waves(nn.Module):
    """Convolutions of one and three axes, back and forth, grouped and normalized; a state goes in and out."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv1d(1, 8, 4, stride=2), nn.BatchNorm1d(8), nn.ReLU(), nn.Conv1d(8, 8, 3, groups=8)
        )
        self.up, self.cell = nn.ConvTranspose1d(8, 6, 4, stride=2), nn.GRU(6, 6, batch_first=True)
        self.head = nn.Linear(6, 1)
        with torch.no_grad():
            self.down[1].running_mean.normal_()
            self.down[1].running_var.uniform_(0.5, 2)

    def forward(self, wave: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        x, state = self.cell(self.up(self.down(wave[:, None])).transpose(1, 2), state)
        return self.head(x[:, -1]).sigmoid(), state


def seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


def sentences(count: int) -> list[dict[str, Any]]:
    lengths = RNG.integers(3, 9, count)
    return [{"ids": RNG.integers(0, 50, (1, n)), "mask": np.ones((1, n), np.int64)} for n in lengths]


def waves(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [
        (RNG.normal(size=(1, 40)).astype(np.float32), RNG.normal(size=(1, 1, 6)).astype(np.float32) / 4)
        for _ in range(count)
    ]


def reader() -> smidgen.Archive:
    return from_module(seeded(Reader), examples=sentences(4))


def waver() -> smidgen.Archive:
    return from_module(seeded(Waves), examples=waves(2))


def test_inputs_keep_their_names_types_and_free_axes() -> None:
    ids, mask = inputs_of(reader())
    assert (ids.name, ids.dtype, ids.shape) == ("ids", np.int64, (None, None))
    assert mask.shape == (None, None)
    wave, state = inputs_of(waver())
    assert (wave.name, wave.shape, state.shape) == ("wave", (1, 40), (1, 1, 6))


@pytest.mark.parametrize(("make", "kind", "given"), [(reader, Reader, sentences), (waver, Waves, waves)])
def test_answers_are_those_of_the_module(make: Any, kind: type[nn.Module], given: Any) -> None:
    archive, module = make(), seeded(kind)
    ready = arranged(archive)
    for item in given(3):
        named = item if isinstance(item, dict) else dict(zip(("wave", "state"), item, strict=True))
        with torch.no_grad():
            wanted = module(**{name: torch.as_tensor(value) for name, value in named.items()})
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        found = Engine(ready.onnx())(named)
        again = archive.module()(**{name: torch.as_tensor(value) for name, value in named.items()})
        for one, two, three in zip(wanted, found, again, strict=True):
            np.testing.assert_allclose(one.numpy(), two, rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(one.numpy(), three.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_every_weight_of_a_layer_is_measured_and_normalization_is_folded() -> None:
    ready = arranged(reader())
    stats = measure(Network(ready), batches(sentences(5), ready, 4), outputs=[Output("scores", "values")])
    matrices = {name for name, tensor in ready.tensors.items() if tensor.ndim > 1 and tensor.size > 100}
    assert set(stats) == matrices - set(bias_names(ready, stats))
    assert any(tensor.shape == (16, 50) for tensor in ready.tensors.values()), "words along the second axis"
    ready = arranged(waver())
    assert "BatchNormalization" not in {node.op_type for node in onnx.load_from_string(ready.graph).graph.node}
    needed = need(Network(ready), next(iter(batches(examples_from(waves(30), ready, 9, 0).calibration, ready, 4))), 2)
    assert len(needed.measured) == 6
    assert set(needed.measured) <= set(ready.tensors)


@pytest.mark.parametrize("turned", [False, True])
def test_look_ups_and_transposed_convolutions_have_explicit_gradients(turned: bool) -> None:
    """Against one backward pass for each input, of a random vote that is fixed."""
    torch.manual_seed(1)
    if turned:
        module: nn.Module = nn.Sequential(
            nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1), nn.Flatten(), nn.Linear(100, 5)
        )
        items = [(RNG.normal(size=(2, 3, 3, 3)).astype(np.float32),) for _ in range(2)]
    else:
        module = nn.Sequential(nn.Embedding(7, 4), nn.Flatten(), nn.Linear(12, 5))
        items = [(RNG.integers(0, 7, (2, 3)),) for _ in range(2)]
    ready = arranged(from_module(module, examples=items))
    network, name = Network(ready), next(iter(ready.tensors))
    found = measure(network, [{inputs_of(ready)[0].name: item[0]} for item in items], seed=5)[name]
    generator, gradients = torch.Generator().manual_seed(5), []
    from smidgen.answers import vote

    weight = dict(network.named_weights())[name]
    for item in items:
        batch = torch.from_numpy(item[0])
        votes = vote(Output("scores", "scores", 1), network(batch)[0].detach(), generator)
        assert votes is not None
        for x, v in zip(batch, votes, strict=True):
            (gradient,) = torch.autograd.grad((network(x[None])[0] * v).sum(), [weight])
            gradients.append(gradient.flatten(1).double())
    outputs = sum(g @ g.T for g in gradients) / len(gradients)
    assert found.output_moment is not None
    np.testing.assert_allclose(found.output_moment, outputs, rtol=1e-3, atol=1e-6)
    fisher = sum(g.T @ g for g in gradients) / (len(gradients) * len(gradients[0]))
    if turned:
        assert found.sensitivity * np.trace(found.second_moment) == pytest.approx(float(fisher.trace()), rel=1e-3)


@pytest.mark.parametrize(("make", "given", "wanted"), [(reader, sentences, 5_500), (waver, waves, 1_400)])
def test_any_network_gets_its_size(make: Any, given: Any, wanted: int, tmp_path: Path) -> None:
    original = make()
    archive = smidgen.compress(original, given(30), size=wanted)
    size = archive.save(tmp_path / "x.smidgen")
    assert 0.9 * wanted <= size <= wanted
    found = smidgen.open(tmp_path / "x.smidgen")
    assert sum(isinstance(tensor, Code) for tensor in found.tensors.values()) >= 4
    items = examples_from(given(20), original, 99, 1).calibration
    for one in compare([original, found], batches(items, original, 4))[1]:
        assert one.agreement > 80
    torch.manual_seed(0)
    repaired = smidgen.compress(original, given(30), size=wanted, finetune=1)
    assert len(repaired.tensors) == len(archive.tensors)


def test_exported_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    x = torch.randn(1, 3, 8, 8)
    torch.export.save(torch.export.export(module, (x,)), tmp_path / "net.pt2")
    archive = read_model(str(tmp_path / "net.pt2"))
    np.testing.assert_array_equal(archive.tensors["0.weight"], module[0].weight.detach())
    (found,) = Engine(archive.onnx())({inputs_of(archive)[0].name: x.numpy()})
    np.testing.assert_allclose(found, module(x).detach(), rtol=1e-4, atol=1e-5)
    (tmp_path / "bad.pt2").write_bytes(b"no program")
    with pytest.raises(ModelError, match="is not an exported PyTorch program") as caught:
        read_model(str(tmp_path / "bad.pt2"))
    assert "\n" not in str(caught.value)


def test_weights_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file, save_file

    monkeypatch.chdir(tmp_path)
    save_file({"a.weight": torch.randn(8, 9), "b": torch.randn(5).bfloat16(), "n": torch.arange(3)}, "w.safetensors")
    result = CliRunner().invoke(main, ["compress", "w.safetensors", "--plan", "int8", "-o", "w.smidgen"])
    assert result.exit_code == 0, result.output
    assert (
        CliRunner().invoke(main, ["export", "w.smidgen", "--to", "safetensors", "-o", "x.safetensors"]).exit_code == 0
    )
    before, after = load_file("w.safetensors"), load_file("x.safetensors")
    assert before.keys() == after.keys()
    assert torch.equal(before["n"], after["n"])
    torch.testing.assert_close(before["a.weight"], after["a.weight"], rtol=0, atol=0.02)
    Path("photos").mkdir()
    with pytest.raises(ModelError, match="holds only weights"):
        smidgen.compress(read_model("w.safetensors"), [np.zeros((1, 3))], size=100)
    Path("bad.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(ModelError, match="is not a safetensors file"):
        read_model("bad.safetensors")


@pytest.fixture
def speech(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an ONNX file and its inputs."""
    monkeypatch.chdir(tmp_path)
    onnx.save(waver().onnx(), "speech.onnx")
    given = waves(25)
    np.savez("inputs.npz", wave=np.stack([w for w, _ in given]), state=np.stack([s for _, s in given]))
    return tmp_path


def test_onnx_from_the_command_line(speech: Path) -> None:
    run = CliRunner().invoke
    result = run(main, ["compress", "speech.onnx", "--data", "inputs.npz", "--size", "1.4KB", "-o", "s.smidgen"])
    assert result.exit_code == 0, result.output
    assert 1_300 <= Path("s.smidgen").stat().st_size <= 1_400
    result = run(main, ["evaluate", "speech.onnx", "s.smidgen", "--data", "inputs.npz"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["file", "bytes", "output", "kind"]
    assert [line.split()[0] for line in lines[1:5]] == ["speech.onnx"] * 2 + ["s.smidgen"] * 2
    assert lines[-1].startswith("25 examples from inputs.npz, against speech.onnx.")
    assert run(main, ["export", "s.smidgen", "--to", "onnx", "-o", "out.onnx"]).exit_code == 0
    script = (
        "import sys; sys.modules['torch'] = sys.modules['smidgen'] = None\n"
        "import onnxruntime, numpy as np\n"
        "given = np.load('inputs.npz')\n"
        "session = onnxruntime.InferenceSession('out.onnx')\n"
        "print(session.run(None, {'wave': given['wave'][0], 'state': given['state'][0]})[0].shape)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "(1, 1)"


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({}, "holds no arrays"),
        ({"wave": np.zeros((3, 1, 40), np.float32)}, "input 'state' of the network is missing; there are wave"),
        (
            {"wave": np.zeros((3, 1, 41), np.float32), "state": np.zeros((3, 1, 1, 6), np.float32)},
            r"input 'wave' is float32 \(1, 40\), not float32 \(1, 41\)",
        ),
        (
            {"wave": np.zeros((3, 1, 40), np.float32), "state": np.zeros((2, 1, 1, 6), np.float32)},
            "different numbers of examples",
        ),
        (
            {"wave": np.zeros((3, 1, 40), complex), "state": np.zeros((3, 1, 1, 6), np.float32)},
            "not complex128",
        ),
    ],
)
def test_inputs_that_do_not_fit(speech: Path, arrays: dict[str, np.ndarray], message: str) -> None:
    np.savez("other.npz", **arrays)
    with pytest.raises(InputError, match=message) as caught:
        examples_in(Path("other.npz"), read_model("speech.onnx"), 10, 0)
    assert "\n" not in str(caught.value)


def test_damaged_inputs(speech: Path) -> None:
    Path("other.npz").write_bytes(Path("inputs.npz").read_bytes()[:100])
    with pytest.raises(InputError, match=r"other\.npz: cannot be read as \.npz"):
        examples_in(Path("other.npz"), read_model("speech.onnx"), 10, 0)


def test_a_data_loader_will_do() -> None:
    """Batches of inputs and labels; the labels are left alone."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 3))
    data = torch.utils.data.TensorDataset(torch.randn(64, 6), torch.zeros(64))
    archive = from_module(module, (6,))
    found = examples_from(torch.utils.data.DataLoader(data, 16), archive, 1000, 0)
    assert (len(found.calibration), len(found.held_out)) == (52, 12)
    assert smidgen.compress(module, torch.utils.data.DataLoader(data, 16), size=900, input_shape=(6,)).tensors


def test_an_onnx_file_goes_in_by_its_name(speech: Path) -> None:
    assert (
        smidgen.compress("speech.onnx", waves(30), size=1_400).tensors.keys()
        == arranged(read_model("speech.onnx")).tensors.keys()
    )


def test_preprocessing_by_name() -> None:
    from smidgen.preprocess import PRESETS, with_preprocessing
    from smidgen.run.pictures import prepare

    archive = from_module(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), (3, 8, 6))
    white = np.full((4, 4, 3), 255, np.uint8)
    ends = {}
    for name in PRESETS:
        found = with_preprocessing(archive, name).preprocessing
        assert found
        assert (found.height, found.width) == (8, 6)
        ends[name] = [round(float(v), 2) for v in prepare(white, found)[:, 0, 0]]
    assert ends["symmetric"] == ends["unit"] == [1, 1, 1]
    assert ends["bytes"] == [255, 255, 255]
    assert ends["caffe"] == [151.06, 138.22, 131.32], "blue first"
    assert ends["imagenet"] == [2.25, 2.43, 2.64]
    for wrong, message in (("imagenet:9x6", "8 x 6"), ("imagnet", "is none of imagenet"), ("unit:8", "is none of")):
        with pytest.raises(InputError, match=message):
            with_preprocessing(archive, wrong)
    with pytest.raises(ModelError, match="does not take pictures"):
        with_preprocessing(reader(), "unit")


def test_pictures_of_unknown_preprocessing_are_refused_and_the_presets_named() -> None:
    archive = from_module(nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), (3, 2, 2))
    with pytest.raises(ModelError, match="say --preprocessing imagenet"):
        list(batches([np.zeros((4, 4, 3), np.uint8)], archive, 4))


def test_outputs_are_told_by_what_they_are() -> None:
    def kind(module: nn.Module, shape: tuple[int, ...], given: str | None = None) -> Output:
        archive = from_module(module, shape)
        model = archive.onnx()
        return outputs_of(model, Engine(model)({"image": RNG.normal(size=(2, *shape)).astype(np.float32)}), kind=given)[
            0
        ]

    assert kind(nn.Linear(3, 4), (3,)).kind == "scores"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Softmax(1)), (3,)).kind == "probabilities"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Sigmoid()), (3,)).kind == "chances"
    assert kind(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), (3,)).kind == "values"
    assert kind(nn.Conv2d(3, 4, 1), (3, 5, 5)).kind == "values"
    assert kind(nn.Linear(3, 1), (3,)).kind == "values"
    assert kind(nn.Sequential(nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)), (3, 5, 5)) == Output("scores", "scores", 1)
    assert kind(nn.Linear(3, 4), (3,), "values").kind == "values"
    with pytest.raises(InputError, match="cannot be probabilities"):
        kind(nn.Linear(3, 1), (3,), "probabilities")


class Boxed(nn.Module):
    """Where a thing is, and which of two it is, as face detectors give it."""

    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.box, self.which, self.last = nn.Linear(6, 4), nn.Linear(6, 2), last

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.box(x), self.last(self.which(x))


@pytest.mark.parametrize(
    ("last", "kinds"),
    [
        (nn.Softmax(1), ["values", "probabilities"]),
        (nn.Sigmoid(), ["values", "chances"]),
        (nn.Identity(), ["scores", "scores"]),
    ],
)
def test_what_is_linear_beside_probabilities_is_no_scores(last: nn.Module, kinds: list[str]) -> None:
    archive = from_module(Boxed(last), (6,))
    sample = Engine(archive.onnx())({"image": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)})
    outputs = outputs_of(onnx.load_from_string(archive.graph), sample)
    assert [output.kind for output in outputs] == kinds
    first = outputs_of(onnx.load_from_string(archive.graph), sample, labelled=True)[0]
    assert first.kind == "scores"


class Sure(nn.Module):
    """Gives scores, and how likely they make each class."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.layer(x)
        return scores, scores.softmax(1)


def test_scores_beside_their_own_probabilities_are_scores() -> None:
    archive = from_module(Sure(), (6,))
    sample = Engine(archive.onnx())({"image": np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)})
    outputs = outputs_of(onnx.load_from_string(archive.graph), sample)
    assert [output.kind for output in outputs] == ["scores", "probabilities"]


def test_values_that_are_much_alike_are_told_where_a_drop_is_asked_for() -> None:
    """Of boxes with a large mean, a point of cosine is much of what they differ by."""

    def said(shift: float) -> list[str]:
        module = nn.Linear(6, 4)
        with torch.no_grad():
            module.bias.fill_(shift)
        lines: list[str] = []
        data = [np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)]
        archive = from_module(module, (6,))
        examples, outcome = examples_from(data, archive, 10, 0), Outcome(Budget(max_drop=1.0))
        squeeze_to_budget(archive, examples, outcome, Settings(outputs="values"), Reporter(say=lines.append))
        return [line for line in lines if "much alike" in line]

    assert not said(0.0)
    (line,) = said(5.0)
    assert "points of cosine may be" in line


def test_what_a_linear_output_is_taken_for_is_said() -> None:
    def said(kind: str | None, labels: tuple[Label, ...] = ()) -> list[str]:
        archive = from_module(nn.Linear(6, 3), (6,), labels=labels)
        lines: list[str] = []
        data = [np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)]
        outcome = Outcome(Budget(size=500))
        examples = examples_from(data, archive, 10, 0)
        squeeze_to_budget(archive, examples, outcome, Settings(outputs=kind), Reporter(say=lines.append))
        return [line for line in lines if "taken for" in line]

    assert said(None) == [
        "'scores' is taken for scores of 3 classes; if that is wrong, say what it is (--outputs, outputs=)"
    ]
    assert not said("values")
    assert not said(None, tuple(Label(name, name) for name in "abc"))


class Finding(nn.Module):
    """For each place two coordinates and three chances, in one tensor, as detectors are exported."""

    def __init__(self, last: bool, order: int) -> None:
        super().__init__()
        self.layer, self.last, self.order = nn.Conv2d(3, 5, 1), last, order

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y = torch.cat([(80 + 9 * y[:, :2]).flatten(2), y[:, 2:].sigmoid().flatten(2)][:: self.order], 1)
        return y.transpose(1, 2) if self.last else y


@pytest.mark.parametrize(("order", "coordinates"), [(1, (0, 2)), (-1, (3, 5))])
@pytest.mark.parametrize("last", [False, True])
def test_coordinates_beside_chances_are_detections(last: bool, order: int, coordinates: tuple[int, int]) -> None:
    module = Finding(last, order)
    model = from_module(module, (3, 5, 5)).onnx()
    (answer,) = Engine(model)({"image": RNG.normal(size=(2, 3, 5, 5)).astype(np.float32)})
    (output,) = outputs_of(model, [answer])
    assert output == Output("scores", "detections", 2 if last else 1, coordinates)
    boxes, chances = output.detections(answer)
    assert boxes.shape == (2, 2, 25)
    assert chances.shape == (2, 3, 25)
    assert boxes.min() > 1
    lost = answer.copy()
    lost[(answer > 0.25) & (answer <= 1)] = 0.1  # all that was found is not found any more, and all boxes are as before
    assert (agreement(output, answer, lost) == 0).all()
    assert (divergence(output, answer, lost) > 0.05).all()
    moved = answer.copy()
    moved[answer > 1] *= 1.5  # boxes alone, and of what is there
    assert (divergence(output, answer, moved) > 1).all()
    if not last:
        nothing = np.where(answer > 1, answer, np.float32(1e-6))
        where = np.where(answer > 1, 3 * answer, nothing)
        assert (divergence(output, nothing, where) < 0.1).all()  # boxes of nothing say nothing


@pytest.mark.parametrize("last", [nn.ReLU(), nn.SiLU(), nn.Sigmoid()])
def test_what_is_not_beside_sigmoids_is_no_detection(last: nn.Module) -> None:
    answer = RNG.uniform(0, 1, (2, 5, 25)).astype(np.float32)
    answer[:, :2] += 80
    plain = from_module(nn.Sequential(nn.Conv2d(3, 5, 1), last, nn.Flatten(2)), (3, 5, 5)).onnx()
    assert outputs_of(plain, [answer])[0].kind in ("values", "chances")


class Detector(nn.Module):
    """Coordinates and chances from layers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.boxes, self.found = (
            nn.Sequential(
                nn.Conv2d(3, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, 24, 3, 2, 1), nn.ReLU(), nn.Conv2d(24, n, 1)
            )
            for n in (4, 5)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([(80 + 9 * self.boxes(x)).flatten(2), (9 * self.found(x) - 2).sigmoid().flatten(2)], 1)


def test_a_detector_is_squeezed_for_what_it_finds() -> None:
    torch.manual_seed(0)
    module, given = Detector(), RNG.uniform(-1, 1, (40, 3, 32, 32)).astype(np.float32)
    seen = [given[i : i + 1] for i in range(30)]
    answer = Engine(from_module(module, (3, 32, 32)).onnx())({"image": given})[0]
    harm = {}
    for outputs, epochs in ((None, 0), ("values", 0), (None, 1)):
        archive = smidgen.compress(module, seen, size=4_000, input_shape=(3, 32, 32), outputs=outputs, finetune=epochs)
        other = Engine(archive.onnx())({"image": given})[0]
        harm[outputs, epochs] = divergence(Output("scores", "detections", 1, (0, 4)), answer, other).mean()
    assert 4 * max(harm[None, 0], harm[None, 1]) < harm["values", 0]


ANSWERS = [
    (Output("y", "scores", 1), lambda y: y),
    (Output("y", "probabilities", 1), lambda y: y.softmax(1)),
    (Output("y", "chances", 1), lambda y: y.sigmoid()),
    (Output("y", "values", 1), lambda y: y),
    (
        Output("y", "detections", 1, (0, 2)),
        lambda y: torch.cat([50 * y[:, :2], y[:, 2:].sigmoid()], 1)[..., None].repeat(1, 1, 2),
    ),
    (
        Output("y", "detections", 2, (4, 6)),
        lambda y: torch.cat([y[:, :4].sigmoid(), 50 * y[:, 4:]], 1)[:, None].repeat(1, 2, 1),
    ),
]


@pytest.mark.parametrize(("output", "made"), ANSWERS)
def test_votes_expect_the_divergence(output: Output, made: Callable[[Tensor], Tensor]) -> None:
    """Half the mean square of a vote times a small error is the divergence; and both halves agree on that."""
    from smidgen import answers

    torch.manual_seed(0)
    y = made(torch.randn(3, 6))
    error = 1e-3 * torch.randn(y.shape)
    error = error - error.mean(1, keepdim=True)
    generator = torch.Generator().manual_seed(0)
    expected = torch.zeros(3)
    for _ in range(1500):
        vote = answers.vote(output, y, generator)
        assert vote is not None
        expected += (vote * error).flatten(1).sum(1).square() / 2 / 1500
    found = divergence(output, y.double().numpy(), (y.double() + error.double()).numpy())
    np.testing.assert_allclose(expected, found, rtol=0.2)
    both = answers.divergence(output, y.double(), y.double() + error.double())
    assert float(both) == pytest.approx(found.mean(), rel=1e-3)
    assert (agreement(output, y.numpy(), y.numpy()) > 0.999).all()
