"""Any network goes in with one call, from a module, an exported program, ONNX or weights alone, and comes out alike."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import smidgen
from smidgen.arrange import arranged, bias_names
from smidgen.cli import cli as main
from smidgen.code import Code
from smidgen.errors import InputError, ModelError
from smidgen.examples import batches, inputs_of
from smidgen.given import examples_from, examples_in
from smidgen.measure import measure, need
from smidgen.network import Network
from smidgen.read import from_module, read_model
from smidgen.run.compare import compare
from smidgen.run.outputs import Output
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
    assert (wave.name, wave.shape, state.shape) == ("wave", (None, 40), (1, None, 6))


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
            r"input 'wave' is float32 \(any, 40\), not float32 \(1, 41\)",
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
