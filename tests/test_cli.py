"""The commands as a user types them: results, and one clear line for everything that can go wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file
from skimage import data

import smidgen
from smidgen.cli import main

NETS = """
import torch

def tiny():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
        torch.nn.Linear(8, 5),
    )

def broken():
    module = tiny()
    with torch.no_grad():
        module[0].weight[0, 0, 0, 0] = float("nan")
    return module

def number():
    return 3

def without_biases():
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

def masked():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Conv2d(3, 4, 3)
            self.register_buffer("mask", torch.tensor([0.0, float("-inf"), 0.0, 0.0]))
        def forward(self, x):
            return self.layer(x).mean((2, 3)) + self.mask
    return Net()

def empty():
    return torch.nn.Identity()

def large_constant():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.constant = torch.nn.Conv2d(3, 1, 1), torch.zeros(6000, 3072)
        def forward(self, x):
            return self.layer(x).sum() + self.constant
    return Net()
"""


@pytest.fixture(scope="session")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet 1.1, pretrained, compressed once after its plan."""
    path = tmp_path_factory.mktemp("network") / "net.smidgen"
    assert run("compress", "squeezenet1_1", "--plan", "squeezenet1_1", "-o", str(path)).status == 0
    return path


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("nets", None)
    return tmp_path


def run(*arguments: str) -> SimpleNamespace:
    """Runs a command in this process."""
    import contextlib
    import io

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
    return SimpleNamespace(status=status, out=out.getvalue(), err=err.getvalue())


def fails(status: int, *arguments: str) -> str:
    """The one line that a command ends with when it fails."""
    result = run(*arguments)
    assert result.status == status, result.err
    assert result.out == ""
    if status == 1:
        assert result.err.startswith("smidgen: ")
        assert result.err.count("\n") == 1
    return str(result.err)


def test_the_file_is_as_small_as_promised(network: Path) -> None:
    assert network.stat().st_size <= 800_000


def test_inspect_accounts_for_every_byte(network: Path) -> None:
    report = json.loads(run("inspect", str(network), "--json").out)
    stored = sum(tensor["stored"] for tensor in report["tensors"])
    assert stored == report["sections"]["payload"]
    assert sum(report["sections"].values()) == report["bytes"] == network.stat().st_size
    assert report["weights"] == 1_235_496
    assert "100.0 %" in run("inspect", str(network)).out


def test_recognize_names_the_cat(network: Path, tmp_path: Path) -> None:
    from PIL import Image

    photo = tmp_path / "cat.png"
    Image.fromarray(data.chelsea()).save(photo)
    answers = json.loads(run("recognize", str(network), str(photo), "--json").out)[str(photo)]
    assert len(answers) == 5
    assert answers[0]["name"] in ("Egyptian Mau", "tabby cat", "tiger cat")
    assert run("recognize", str(network), str(photo), "--top", "1").out.count("\n") == 1


def test_recognize_imports_no_torch(network: Path, tmp_path: Path) -> None:
    from PIL import Image

    Image.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    command = [sys.executable, "-c", "from smidgen.cli import main; main()", "recognize", network, "coffee.png"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "espresso" in done.stdout


def test_evaluate_against_the_original(network: Path, tmp_path: Path) -> None:
    from PIL import Image

    for name in ("chelsea", "coffee", "astronaut"):
        Image.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
    original, small = json.loads(run("evaluate", "squeezenet1_1", str(network), "--data", str(tmp_path), "--json").out)
    assert (original["bytes"], original["kl"], original["agreement"]) == (4_941_984, 0, 100)
    assert small["bytes"] == network.stat().st_size
    assert 0 < small["kl"] < 0.1
    assert small["agreement"] == 100
    assert small["top1"] is None
    assert "agreement %" in run("evaluate", str(network), "--data", str(tmp_path)).out


def test_onnx_agrees_with_the_runner(network: Path, tmp_path: Path) -> None:
    assert run("export", str(network), "--to", "onnx", "-o", str(tmp_path / "net.onnx")).status == 0
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    archive = smidgen.open(network)
    batch = np.random.default_rng(0).normal(0, 60, (2, 3, 227, 227)).astype(np.float32)
    expected = archive.runner()(batch)
    np.testing.assert_allclose(session.run(None, {session.get_inputs()[0].name: batch})[0], expected, atol=1e-4)
    with torch.no_grad():
        np.testing.assert_allclose(archive.module()(torch.from_numpy(batch)).numpy(), expected, atol=1e-3, rtol=1e-4)


def test_safetensors_is_the_state_dict(network: Path, tmp_path: Path) -> None:
    assert run("export", str(network), "--to", "safetensors", "-o", str(tmp_path / "net.safetensors")).status == 0
    state = smidgen.open(network).module().state_dict()
    stored = load_file(tmp_path / "net.safetensors")
    assert stored.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(stored[name], value.numpy())


def test_same_input_same_bytes(nets: Path) -> None:
    for name in ("a", "b"):
        assert run("compress", "nets:tiny", "--plan", "share", "-o", f"{name}.smidgen").status == 0
    assert Path("a.smidgen").read_bytes() == Path("b.smidgen").read_bytes()


@pytest.mark.parametrize(
    "codec",
    ["smallest", "fast", "raw", "bitpack", "huffman", "relative", "rans", "adaptive", "mixed", "mixed64", "lines"],
)
def test_every_codec_gives_the_same_network(nets: Path, codec: str) -> None:
    out = json.loads(run("compress", "nets:tiny", "--plan", "int8", "--codec", codec, "-o", "x.smidgen", "--json").out)
    assert out["bytes"] == Path("x.smidgen").stat().st_size
    module = __import__("nets").tiny()
    expected = smidgen.compress(module, plan="int8").weights()
    for name, weight in smidgen.open("x.smidgen").weights().items():
        np.testing.assert_array_equal(weight, expected[name])


def test_wrong_usage_is_status_2(network: Path) -> None:
    assert "No such command" in fails(2, "shrink")
    assert "--plan" in fails(2, "compress", "squeezenet1_1", "-o", "x.smidgen")
    assert "'--to'" in fails(2, "export", str(network), "--to", "word", "-o", "x")


def test_bad_files(network: Path, tmp_path: Path) -> None:
    whole = network.read_bytes()
    (tmp_path / "short.smidgen").write_bytes(whole[:-1])
    (tmp_path / "text.smidgen").write_text("hello")
    (tmp_path / "empty.smidgen").write_bytes(b"")
    (tmp_path / "bent.smidgen").write_bytes(whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:])
    for command in (["inspect"], ["export", "--to", "onnx", "-o", str(tmp_path / "o")]):
        assert "cannot be read: No such file" in fails(1, *command, str(tmp_path / "missing.smidgen"))
        assert "truncated" in fails(1, *command, str(tmp_path / "short.smidgen"))
        assert "not a smidgen file" in fails(1, *command, str(tmp_path / "text.smidgen"))
        assert "not a smidgen file" in fails(1, *command, str(tmp_path / "empty.smidgen"))
        assert "checksum" in fails(1, *command, str(tmp_path / "bent.smidgen"))
    assert not (tmp_path / "o").exists()


def test_bad_pictures(network: Path, tmp_path: Path) -> None:
    (tmp_path / "no.jpg").write_text("no picture")
    assert "no.jpg" in fails(1, "recognize", str(network), str(tmp_path / "no.jpg"))
    assert "missing.jpg" in fails(1, "recognize", str(network), str(tmp_path / "missing.jpg"))
    assert "nowhere" in fails(1, "evaluate", str(network), "--data", str(tmp_path / "nowhere"))
    (tmp_path / "photos" / "unicorn").mkdir(parents=True)
    shutil.copy(tmp_path / "no.jpg", tmp_path / "photos" / "unicorn")
    assert "unicorn" in fails(1, "evaluate", str(network), "--data", str(tmp_path / "photos"))


def test_bad_models_leave_the_output_as_it_was(nets: Path) -> None:
    Path("x.smidgen").write_text("before")
    for model, message in [
        ("nets:broken", "NaN"),
        ("nets:number", "not a"),
        ("nets:absent", "absent"),
        ("absent:tiny", "absent"),
        ("squeezenet9", "squeezenet1_1"),
        ("alexnet", "alexnet"),
        ("nets:empty", "no weights"),
        ("nets:large_constant", "buffers"),
    ]:
        plan = "lossless" if model == "nets:empty" else "int8"
        assert message in fails(1, "compress", model, "--plan", plan, "-o", "x.smidgen")
        assert Path("x.smidgen").read_text() == "before"


def test_bad_plans_leave_the_output_as_it_was(nets: Path) -> None:
    Path("x.smidgen").write_text("before")
    for plan, message in [
        ('[[step]]\nmatch = "*.wight"\nmethod = "Prune"', "wight"),
        ('[[step]]\nmatch = "*"\nmethod = "Shrink"', "Shrink"),
        ('[[step]]\nmatch = "*"\nmethod = "Prune"\ndensty = 1', "densty"),
        ('[[step]]\nmatch = "*"\nmethod = "Quantize"\nbits = 12', "bits"),
        ("[[step", "TOML"),
    ]:
        Path("plan.toml").write_text(plan)
        assert message in fails(1, "compress", "nets:tiny", "--plan", "plan.toml", "-o", "x.smidgen")
        assert Path("x.smidgen").read_text() == "before"
    assert "nowhere.toml" in fails(1, "compress", "nets:tiny", "--plan", "nowhere.toml", "-o", "x.smidgen")
    assert "codec 'zip'" in fails(1, "compress", "nets:tiny", "--plan", "int8", "--codec", "zip", "-o", "x.smidgen")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, which is always full")
def test_a_full_disk_is_one_line(nets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("x.smidgen").write_text("before")

    def write_to_full_disk(path: Path, content: bytes) -> None:
        with open("/dev/full", "wb") as stream:
            stream.write(content)

    monkeypatch.setattr(Path, "write_bytes", write_to_full_disk)
    assert "No space left" in fails(1, "compress", "nets:tiny", "--plan", "int8", "-o", "x.smidgen")
    assert Path("x.smidgen").read_text() == "before"
    assert sorted(path.name for path in Path().glob("*smidgen*")) == ["x.smidgen"]


def test_a_missing_folder_is_one_line(nets: Path) -> None:
    assert "cannot be written" in fails(1, "compress", "nets:tiny", "--plan", "int8", "-o", "no/folder/x.smidgen")


@pytest.mark.parametrize("command", [["compress", "squeezenet1_1", "--plan", "small", "-o", "x"], ["demo", "-o", "x"]])
def test_without_torch_the_line_says_what_to_install(command: list[str], tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from smidgen.cli import main; main(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "smidgen: this needs torch; pip install 'smidgen[compress]' brings it\n"


@pytest.mark.parametrize("model", ["nets:without_biases", "nets:masked"])
def test_small_is_for_any_network(nets: Path, model: str) -> None:
    assert run("compress", model, "--plan", "small", "-o", "x.smidgen").status == 0


def test_a_link_stays_a_link(nets: Path) -> None:
    Path("link.smidgen").symlink_to("x.smidgen")
    assert run("compress", "nets:tiny", "--plan", "small", "-o", "link.smidgen").status == 0
    assert Path("link.smidgen").is_symlink()
    assert Path("x.smidgen").stat().st_size > 100


def test_a_demo_without_a_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be made" in run("demo", "-o", str(tmp_path / "file" / "x")).err


SQUEEZABLE = """
import torch
from smidgen.archive import Preprocessing

def small():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, stride=2), torch.nn.ReLU(), torch.nn.Conv2d(16, 40, 3), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(40, 5),
    )
    with torch.no_grad():
        net[6].weight *= 50
    net.preprocessing = Preprocessing(12, 10, std=(60, 60, 60), mean=(110, 110, 110))
    return net

def without_preprocessing():
    net = small()
    del net.preprocessing
    net.input_shape = (3, 12, 10)
    return net
"""


@pytest.fixture
def squeezable(nets: Path) -> Path:
    """A small network that says what its pictures are, and a folder of 24 pictures."""
    from PIL import Image
    from tiny_network import pictures

    (nets / "nets.py").write_text(SQUEEZABLE)
    (nets / "photos").mkdir()
    for number, picture in enumerate(pictures(24)):
        Image.fromarray(picture).save(nets / "photos" / f"{number}.png")
    return nets


WITH_DATA = ("compress", "nets:small", "--data", "photos", "-o", "x.smidgen")


def test_compress_to_a_size(squeezable: Path) -> None:
    result = run(*WITH_DATA, "--size", "4KB")
    assert result.status == 0, result.err
    size = Path("x.smidgen").stat().st_size
    assert 3_960 <= size <= 4_000
    summary, advice, verdict = result.out.splitlines()
    assert summary.startswith(f"x.smidgen: {size:,} bytes, ")
    assert advice.startswith("Most harm alone: ")
    assert verdict.startswith(f"reached: 4,000 bytes, by {size:,} bytes; on 4 others to judge by KL ")
    assert "measuring 6,392 weights on 20 pictures" in result.err
    curve = json.loads(Path("x.smidgen.curve.json").read_text())
    assert curve["reached"]
    assert curve["best"]["bytes"] == size
    assert smidgen.open("x.smidgen").runner(1)(np.zeros((1, 3, 12, 10), np.float32)).shape == (1, 5)
    assert sorted(path.name for path in Path().iterdir() if path.name.startswith("x")) == [
        "x.smidgen",
        "x.smidgen.curve.json",
    ]
    assert "harm alone" in run("inspect", "x.smidgen").out
    first = Path("x.smidgen").read_bytes()
    report = json.loads(run(*WITH_DATA, "--size", "4000", "--json").out)
    assert Path("x.smidgen").read_bytes() == first
    assert (report["bytes"], report["reached"], report["weights"]) == (size, True, 6_448 + 5)
    assert report["curve"] == json.loads(json.dumps(report["curve"]))
    assert report["verdict"] == verdict


def test_compress_to_a_drop_with_repair(squeezable: Path) -> None:
    report = json.loads(run(*WITH_DATA, "--max-drop", "50", "--finetune", "1", "--budget", "5m", "--json").out)
    assert report["reached"]
    assert report["best"]["fidelity"]["drop"] <= 50
    assert any(point["repaired"] for point in report["curve"])
    assert Path("x.smidgen").stat().st_size == report["bytes"] == report["best"]["bytes"]
    assert not Path("x.smidgen.checkpoint").exists()


def test_impossible_size_keeps_the_nearest_and_is_status_1(squeezable: Path) -> None:
    result = run(*WITH_DATA, "--size", "100B")
    assert result.status == 1
    size = Path("x.smidgen").stat().st_size
    assert result.out.splitlines()[-1] == f"not reached: 100 bytes; the nearest is {size:,} bytes"
    assert smidgen.open("x.smidgen").tensors
    assert json.loads(Path("x.smidgen.curve.json").read_text())["reached"] is False


def test_ctrl_c_keeps_the_best_file(squeezable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from smidgen import pipeline, survey

    told, describe = [], pipeline.describe

    def interrupting(point: object) -> str:
        told.append(point)
        if len(told) == 3:
            raise KeyboardInterrupt
        return describe(point)

    monkeypatch.setattr(pipeline, "describe", interrupting)
    result = run(*WITH_DATA, "--size", "100")
    assert result.status == 1
    size = Path("x.smidgen").stat().st_size
    assert result.out.splitlines()[-1] == f"interrupted: not reached: 100 bytes; the nearest is {size:,} bytes"
    assert len(json.loads(Path("x.smidgen.curve.json").read_text())["curve"]) == 3
    assert "Traceback" not in result.err
    told.clear()
    monkeypatch.setattr(survey, "measure", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    before = Path("x.smidgen").read_bytes()
    assert "stopped before the first file" in run(*WITH_DATA, "--size", "100").err
    assert Path("x.smidgen").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "give one of --size, --max-drop and --plan"),
        (("--size", "4KB", "--max-drop", "1"), "not --size and --max-drop"),
        (("--size", "4KB", "--plan", "int8"), "not --plan and --size"),
        (("--size", "4KB", "--plan", "int8", "--max-drop", "1"), "not --plan and --size and --max-drop"),
        (("--size", "4KB"), "need --data"),
        (("--max-drop", "1"), "need --data"),
        (("--plan", "int8", "--budget", "1m"), "not with --plan"),
        (("--plan", "int8", "--finetune", "2"), "not with --plan"),
        (("--data", "photos", "--size", "4 apples"), "size '4 apples': write a number"),
        (("--data", "photos", "--size", "0"), "size '0': write a number"),
        (("--data", "photos", "--size", "4KB", "--budget", "soon"), "time 'soon': write a number"),
        (("--data", "photos", "--max-drop", "-1"), "give 0 to 100"),
        (("--data", "photos", "--max-drop", "much"), "not a valid float"),
        (("--data", "photos", "--size", "4KB", "--finetune", "-1"), "--finetune"),
        (("--data", "photos", "--size", "4KB", "--pictures", "0"), "--pictures"),
    ],
)
def test_wrong_usage_of_compress(squeezable: Path, arguments: tuple[str, ...], message: str) -> None:
    Path("x.smidgen").write_text("before")
    assert message in " ".join(fails(2, "compress", "nets:small", *arguments, "-o", "x.smidgen").split())
    assert Path("x.smidgen").read_text() == "before"


def test_bad_pictures_and_models_leave_the_output_as_it_was(squeezable: Path) -> None:
    Path("x.smidgen").write_text("before")
    Path("none").mkdir()
    for model, folder, message in [
        ("nets:small", "nowhere", "nowhere: no such folder"),
        ("nets:small", "none", "no pictures in it"),
        ("nets:absent", "photos", "no function 'absent'"),
        ("nets:without_preprocessing", "photos", "not known how pictures become"),
    ]:
        result = run("compress", model, "--data", folder, "--size", "4KB", "-o", "x.smidgen")
        assert result.status == 1
        assert message in result.err.splitlines()[-1]
        assert result.out == ""
        assert Path("x.smidgen").read_text() == "before"


def test_integers_for_onnx_runtime(squeezable: Path) -> None:
    assert run("compress", "nets:small", "--plan", "lossless", "-o", "x.smidgen").status == 0
    command = ("export", "x.smidgen", "--to", "onnx-int8", "--data", "photos", "-o", "x.onnx")
    result = run(*command, "--pictures", "20")
    assert result.status == 0, result.err
    first, cost, verdict = result.out.splitlines()
    assert cost.startswith("beside float32, on the 20 inputs that it was calibrated on: divergence ")
    assert "agreement " in cost
    assert first == f"x.onnx: {Path('x.onnx').stat().st_size:,} bytes"
    assert re.fullmatch(r"(warning: not faster on this machine: )?one picture .* ms.*, float32 .* ms \(.*\)", verdict)
    report = json.loads(run(*command, "--pictures", "20", "--json").out)
    assert report["file"] == "x.onnx"
    assert report["bytes"] == Path("x.onnx").stat().st_size
    assert min(report["milliseconds"], report["milliseconds_float32"]) > 0
    session = onnxruntime.InferenceSession("x.onnx")
    runner = smidgen.open("x.smidgen").runner(1)
    for path in sorted(Path("photos").iterdir()):
        batch = runner.prepare(path)[None]
        scores = session.run(None, {session.get_inputs()[0].name: batch})[0]
        np.testing.assert_allclose(scores, runner(batch), atol=0.03 * np.abs(runner(batch)).max())


def test_integers_that_cannot_be_made(squeezable: Path) -> None:
    for model in ("nets:small", "nets:without_preprocessing"):
        assert run("compress", model, "--plan", "lossless", "-o", f"{model[5:]}.smidgen").status == 0
    Path("none").mkdir()
    Path("x.onnx").write_text("before")
    command = ("export", "small.smidgen", "-o", "x.onnx", "--to")
    assert "needs --data" in fails(2, *command, "onnx-int8")
    assert "needs --data" in fails(2, *command, "onnx", "--data", "photos")
    assert "nowhere: no such folder" in fails(1, *command, "onnx-int8", "--data", "nowhere")
    assert "no pictures in it" in fails(1, *command, "onnx-int8", "--data", "none")
    with_data = ("--to", "onnx-int8", "--data", "photos", "-o")
    assert "there is no folder absent" in fails(1, "export", "small.smidgen", *with_data, "absent/x.onnx")
    result = run("export", "without_preprocessing.smidgen", *with_data, "x.onnx")
    assert result.status == 1
    assert "not known how pictures become" in result.err.splitlines()[-1]
    assert Path("x.onnx").read_text() == "before"
