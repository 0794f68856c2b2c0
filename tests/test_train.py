"""Recipes: every family is trained on real digits, ends in a real file, and goes on after a kill as if nothing were."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from digits import small, write_digits
from safetensors.torch import load_file, save_file

import smidgen
from smidgen.cli import main
from smidgen.code import Affine, Code, Table
from smidgen.disk import alone_in
from smidgen.errors import InputError, ModelError, RecipeError
from smidgen.reporter import SILENT, Reporter
from smidgen.train import Outcome, Recipe, train
from smidgen.train.families import FAMILIES
from smidgen.train.fold import fit_

DENSE = 'network = "digits:small"\n[[stage]]\nname = "dense"\nepochs = 12\nlearning_rate = 0.1\nbatch = 50\nshift = 1\n'
DENSE += "mirror = false\n"
LATER = "batch = 50\nshift = 1\nmirror = false\nlearning_rate = 0.03\n"

STAGES = {
    "Train": "bits = 8\nepochs = 1",
    "Prune": 'density = 0.3\nepochs = 4\nimportance = "second-order"\nscope = "global"',
    "Cluster": "levels = 8\nepochs = 3\nlearning_rate = 0.01",
    "Squeeze": 'bits = 1.6\nepochs = 16\nlearning_rate = 0.01\noptimizer = "adam"',
    "Quantize": "bits = 4\nactivations = 4\nepochs = 4",
    "Binarize": "epochs = 8",
    "Cut": "multiply_adds = 0.6\nalign = 2\nepochs = 6",
    "Fire": "ratio = 0.25\nepochs = 8",
}


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="session")
def dense(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the first stage of every recipe of these tests is done."""
    return run(DENSE, digits, tmp_path_factory.mktemp("dense"))[1]


def run(text: str, digits: Path, out: Path, reporter: Reporter = SILENT) -> tuple[Outcome, Path]:
    recipe = out.parent / f"{out.name}.toml"
    recipe.write_text(text)
    return train(str(recipe), digits, out, reporter), out


def continued(dense: Path, stage: str, out: Path) -> str:
    """A recipe whose first stage is done in ``out``, and one stage more."""
    out.mkdir()
    text = f"{DENSE}[[stage]]\n{LATER if 'learning_rate' not in stage else LATER.rsplit('learning', 1)[0]}{stage}\n"
    for file in dense.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    (out / "recipe.toml").write_text(text)
    return text


@pytest.mark.parametrize("method", FAMILIES)
def test_a_family_ends_in_a_file_that_says_what_the_weights_are(
    method: str, digits: Path, dense: Path, tmp_path: Path
) -> None:
    text = continued(dense, f'method = "{method}"\n{STAGES[method]}', tmp_path / "out")
    outcome, out = run(text, digits, tmp_path / "out")
    before, after = outcome.results
    assert after.bytes == os.stat(out / after.file).st_size
    assert after.accuracy > before.accuracy - (30 if method == "Fire" else 8)  # its layers have new weights
    archive = smidgen.open(out / after.file)
    assert archive.labels[3].id == "3"
    loaded = load_file(out / f"2-{method.lower()}.safetensors")
    order = [*small().state_dict(), *loaded]
    state = {name: loaded[name] for name in sorted(loaded, key=order.index)}
    folded = not any("norm" in name for name in state)
    for name, code in archive.tensors.items():
        if isinstance(code, Code) and name.endswith("weight") and name in state and folded:
            np.testing.assert_allclose(code.values(), state[name].numpy(), rtol=1e-3, atol=1e-6)
    CHECKS[method](archive, state, outcome)


def weights_of(state: dict[str, Any]) -> dict[str, Any]:
    return {n: t for n, t in state.items() if n.endswith("weight") and t.ndim > 1}


def check_train(archive: Any, state: Any, outcome: Outcome) -> None:
    assert {type(archive.tensors[name]) for name in weights_of(state)} == {Code}


def check_prune(archive: Any, state: Any, outcome: Outcome) -> None:
    weights = weights_of(state).values()
    left = sum(int((w != 0).sum()) for w in weights) / sum(w.numel() for w in weights)
    assert left == pytest.approx(0.3, abs=0.005)


def check_cluster(archive: Any, state: Any, outcome: Outcome) -> None:
    for name in weights_of(state):
        code = archive.tensors[name]
        assert isinstance(code.rule, Table)
        assert code.rule.levels.shape[1] <= 8
    assert not any("norm" in name for name in state)


def check_squeeze(archive: Any, state: Any, outcome: Outcome) -> None:
    bits = 0.0
    for name in (names := weights_of(state)):
        counts = np.unique(archive.tensors[name].symbols, return_counts=True)[1]
        bits += float((counts * np.log2(counts.sum() / counts)).sum())
    assert bits / sum(archive.tensors[name].symbols.size for name in names) == pytest.approx(1.6, rel=0.1)


def check_quantize(archive: Any, state: Any, outcome: Outcome) -> None:
    inner = list(weights_of(state))[1:-1]
    for name in inner:
        assert isinstance(archive.tensors[name].rule, Affine)
        assert np.abs(archive.tensors[name].symbols).max() <= 8
    # activations are on their grids in every runtime: the same answers in float32 and in integers, nearly
    assert outcome.results[1].native == pytest.approx(outcome.results[1].accuracy, abs=3)


def check_binarize(archive: Any, state: Any, outcome: Outcome) -> None:
    for name in list(weights_of(state))[1:-1]:
        assert set(np.unique(archive.tensors[name].symbols)) == {-1, 1}
    assert outcome.results[1].native == pytest.approx(outcome.results[1].accuracy, abs=3)


def check_cut(archive: Any, state: Any, outcome: Outcome) -> None:
    def cost(s: dict[str, Any]) -> int:
        return sum(64 * w.numel() for name, w in weights_of(s).items() if "last" not in name)

    assert cost(state) <= 0.6 * cost(small().state_dict())
    assert state["left.weight"].shape[0] + state["right.weight"].shape[0] == state["passed.weight"].shape[1]
    assert state["passed.weight"].shape[0] == state["last.weight"].shape[1]


def check_fire(archive: Any, state: Any, outcome: Outcome) -> None:
    assert state["passed.expand3x3.weight"].shape == (8, 4, 3, 3)
    assert not any(node.op_type == "BatchNormalization" for node in archive.onnx().graph.node)


CHECKS: dict[str, Callable[[Any, Any, Outcome], None]] = {name: globals()[f"check_{name.lower()}"] for name in FAMILIES}


@contextmanager
def _counting(stop: int, seen: list[int]) -> Iterator[Callable[[int], None]]:
    def advance(done: int) -> None:
        seen.append(done)
        if len(seen) == stop:
            raise KeyboardInterrupt

    yield advance


@pytest.mark.parametrize("stop", [1, 14, 30])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(stop: int, digits: Path, dense: Path, tmp_path: Path) -> None:
    stage = 'method = "Squeeze"\nbits = 1.5\nepochs = 3\nlearning_rate = 0.01\noptimizer = "adam"'
    text = continued(dense, stage, tmp_path / "whole")
    continued(dense, stage, tmp_path / "stopped")
    whole = run(text, digits, tmp_path / "whole")[1]
    seen: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run(text, digits, tmp_path / "stopped", Reporter(lambda length, label: _counting(stop, seen)))
    assert not (tmp_path / "stopped/2-squeeze.smidgen").exists()
    said: list[str] = []
    outcome, out = run(text, digits, tmp_path / "stopped", Reporter(say=said.append))
    assert (f"squeeze: goes on after epoch {stop // 12}" in said) == (stop > 12)  # batches of an epoch
    assert (out / "2-squeeze.smidgen").read_bytes() == (whole / "2-squeeze.smidgen").read_bytes()
    assert [(e.stage, e.epoch) for e in outcome.epochs] == [("dense", n) for n in range(1, 13)] + [
        ("squeeze", n) for n in (1, 2, 3)
    ]


def test_a_command_that_was_killed_goes_on_to_the_same_bytes(digits: Path, dense: Path, tmp_path: Path) -> None:
    stage = 'method = "Fire"\nratio = 0.25\nepochs = 30'
    (tmp_path / "recipe.toml").write_text(continued(dense, stage, tmp_path / "killed"))
    continued(dense, stage, tmp_path / "whole")
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths}

    def command(out: str) -> list[str]:
        start = [sys.executable, "-m", "smidgen", "train", str(tmp_path / "recipe.toml"), "--data", str(digits)]
        return [*start, "-o", str(tmp_path / out)]

    process = subprocess.Popen(command("killed"), env=environment, stderr=subprocess.DEVNULL)
    curves = tmp_path / "killed/curves.json"
    while '"fire"' not in curves.read_text() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed/2-fire.smidgen").exists()
    (tmp_path / "killed/.checkpoint.safetensors.torn").touch()  # as if killed while it was written
    for out in ("killed", "whole"):
        subprocess.run(command(out), env=environment, check=True, capture_output=True)
    files = [(tmp_path / out / "2-fire.smidgen").read_bytes() for out in ("killed", "whole")]
    assert files[0] == files[1]
    assert not list((tmp_path / "killed").glob(".*"))


def test_two_runs_do_not_share_a_folder(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 0', tmp_path / "out")
    with alone_in(tmp_path / "out"), pytest.raises(InputError, match="another run is at work in it; wait for that, or"):
        run(text, digits, tmp_path / "out")
    assert len(run(text, digits, tmp_path / "out")[0].results) == 2


def test_what_is_finished_is_not_done_again(digits: Path, dense: Path, tmp_path: Path) -> None:
    first, out = run(
        continued(dense, 'method = "Cut"\nepochs = 1\nalign = 2', tmp_path / "out"), digits, tmp_path / "out"
    )
    written = (out / "2-cut.smidgen").stat().st_mtime_ns
    again, _ = run((out / "recipe.toml").read_text(), digits, out)
    assert (out / "2-cut.smidgen").stat().st_mtime_ns == written
    assert again.results == first.results


def test_a_state_fits_only_its_network(dense: Path) -> None:
    module = small()
    with pytest.raises(ModelError, match="the state is not one of this network"):
        fit_(module, {"first.weight": torch.zeros(4, 3, 3, 3)})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("network = ", "not valid TOML"),
        ("[[stage]]", "no network"),
        ('network = "x"', r"no \[\[stage\]\]"),
        ('network = "x"\nstage = 3', r"stage=3 is no list; write \[\[stage\]\]"),
        ('network = "x"\nteacher = []', r"teacher=\[\], but it must be a name or a list of names"),
        ('network = "x"\nteacher = 3', r"teacher=3 is no str . list"),
        ('network = "x"\nteacher = [3]', r"teacher=\[3\], but it must be a name or a list of names"),
        ('network = "x"\nlayers = 3\n[[stage]]', "unknown key 'layers'"),
        ('network = "x"\n[[stage]]\nmethod = "Shrink"', "stage 1: unknown method 'Shrink'"),
        ('network = "x"\n[[stage]]\nmethod = "Prune"\ndensty = 1', "unknown key 'densty'; did you mean 'density'"),
        ('network = "x"\n[[stage]]\nmethod = "Prune"\ndensity = 1.5', "stage 1 .prune.: Prune: density=1.5"),
        ('network = "x"\n[[stage]]\nmethod = "Prune"\npattern = "4:2"', "pattern"),
        ('network = "x"\n[[stage]]\nmethod = "Cluster"\nlevels = 300', "levels=300"),
        ('network = "x"\n[[stage]]\nmethod = "Quantize"\nbits = 1', "bits=1"),
        ('network = "x"\n[[stage]]\nmethod = "Binarize"\nweights = "wild"', "weights='wild'"),
        ('network = "x"\n[[stage]]\nepochs = -1', "epochs=-1"),
        ('network = "x"\nseed = -1\n[[stage]]', "seed=-1"),
        ('network = "x"\nseed = false\n[[stage]]', "seed=False"),
        ('network = "x"\n[[stage]]\nmethod = ["Prune"]', "unknown method"),
        ('network = "x"\n[[stage]]\nlearning_rate = 0', "learning_rate=0.*above 0, up to 1000"),
        ('network = "x"\n[[stage]]\ndistill = -1', "distill=-1.*from 0 on, up to 1"),
        ('network = "x"\n[[stage]]\ndensity = 0.1', 'stage 1, without a method "Train": unknown key'),
        ('network = "x"\n[[stage]]\nname = "a/b"', "name='a/b'"),
        ('network = "x"\n[[stage]]\n[[stage]]', "two stages are called 'train'"),
        ('network = "x"\n[[stage]]\nmatch = 3', "match=3"),
    ],
)
def test_a_recipe_that_is_wrong_says_where(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        Recipe.parse(text, "my.toml")
    assert str(caught.value).startswith("my.toml: ")
    assert "\n" not in str(caught.value)


def test_every_shipped_recipe_can_be_read() -> None:
    assert Recipe.shipped()
    others = sorted((Path(__file__).parents[1] / "benchmarks/recipes").glob("*.toml"))
    assert others
    for name in (*Recipe.shipped(), *map(str, others)):
        Recipe.parse(Recipe.read(name), name)


def test_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path, digits: Path) -> None:
    with pytest.raises(SystemExit) as status:
        main(["train", "resnet21", "--data", str(digits), "-o", str(tmp_path / "out")])
    assert status.value.code == 1
    assert "did you mean 'resnet20'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("stage", "error", "message"),
    [
        (
            'match = ["nothing*"]\nmethod = "Prune"',
            RecipeError,
            "stage prune: .nothing.*. matches none of the weights: first.weight",
        ),
        ('method = "Cut"\nmultiply_adds = 0.01\nalign = 8', RecipeError, "stage cut: .*lower align"),
        ('method = "Cut"\nmultiply_adds = 0.01\nalign = 1', RecipeError, "the other layers can lose none"),
        ('method = "Binarize"\nactivations = true', RecipeError, "stage binarize: .*has one sign .after a ReLU"),
    ],
)
def test_a_stage_that_cannot_be(
    stage: str, error: type[Exception], message: str, digits: Path, dense: Path, tmp_path: Path
) -> None:
    text = continued(dense, stage, tmp_path / "out")
    with pytest.raises(error, match=message):
        run(text, digits, tmp_path / "out")


def test_training_that_diverges(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="stage dense: training diverged in epoch 1; lower its learning_rate"):
        run(DENSE.replace("digits:small", "digits:broken"), digits, tmp_path / "out")


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("few", RecipeError, "answers for 7 classes, but there are 10 folders"),
        ("pair", ModelError, "gives tuple, and not scores"),
        ("image", ModelError, "gives .2, 10, 1., and not scores"),
        ("chances", ModelError, "gives probabilities .a softmax comes last..; training needs the scores before them"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_before_it_is_trained(
    network: str, error: type[Exception], message: str, digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        run(DENSE.replace("digits:small", f"digits:{network}"), digits, tmp_path / "out")


def test_a_teacher_of_other_classes_is_refused(digits: Path, dense: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="teacher 'resnet20': has other classes than the pictures"):
        run('teacher = "resnet20"\n' + DENSE, digits, tmp_path / "out")


def test_a_network_that_views_its_channels_is_trained(digits: Path, tmp_path: Path) -> None:
    text = DENSE.replace("digits:small", "digits:viewed").replace("epochs = 12", "epochs = 1")
    assert run(text, digits, tmp_path / "out")[0].results[0].bytes > 0


def test_a_folder_of_another_recipe_is_left_alone(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    with pytest.raises(RecipeError, match="its stage 'dense' was finished with other settings"):
        run(text.replace("epochs = 12", "epochs = 11"), digits, tmp_path / "out")
    with pytest.raises(RecipeError, match="begun with another recipe, network or pictures"):
        run(text.replace("digits:small", "digits:plain"), digits, tmp_path / "out")
    with pytest.raises(RecipeError, match="begun with another recipe, network or pictures"):
        run(text, write_digits(tmp_path / "fewer", 500, 100), tmp_path / "out")


def test_stages_that_are_not_finished_may_change(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    changed = "# a comment\n" + text.replace('"Prune"', '"Cluster"')
    written = (tmp_path / "out/1-dense.smidgen").stat().st_mtime_ns
    outcome, out = run(changed, digits, tmp_path / "out")
    assert [result.stage for result in outcome.results] == ["dense", "cluster"]
    assert (out / "1-dense.smidgen").stat().st_mtime_ns == written


def test_a_file_that_is_gone_is_made_again(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    out = run(text, digits, tmp_path / "out")[1]
    data = (out / "2-prune.smidgen").read_bytes()
    (out / "2-prune.smidgen").write_bytes(data[:100])
    said: list[str] = []
    run(text, digits, out, Reporter(say=said.append))
    assert (out / "2-prune.smidgen").read_bytes() == data
    assert any("2-prune.smidgen: gone or changed" in line for line in said)


@pytest.mark.parametrize("damage", ["no file of tensors", "other tensors"])
def test_a_checkpoint_that_cannot_be_taken_up_is_told(damage: str, digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    checkpoint = tmp_path / "out/checkpoint.safetensors"
    checkpoint.write_bytes(b"damaged")
    if damage == "other tensors":  # as of another version
        epoch = {"stage": "prune", "epoch": 1, "loss": 1.0, "accuracy": 50.0, "seconds": 1.0}
        save_file({"module.gone": torch.zeros(1)}, checkpoint, {"history": json.dumps([epoch])})
    said: list[str] = []
    run(text, digits, tmp_path / "out", Reporter(say=said.append))
    assert any("checkpoint.safetensors: damaged, or of another stage; prune begins anew" in line for line in said)


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        ("Cluster", 'method = "Squeeze"', None),
        ("Cluster", 'method = "Prune"', "prune: makes floats again of weights that cluster made few values of, such as "
         "left.weight; put it before cluster"),
        ("Cluster", 'method = "Squeeze"\nkeep = ["last.*"]', "squeeze: leaves out weights that cluster made few values "
         "of, such as last.weight; in its file they are floats"),
        ("Train", 'method = "Prune"', None),
    ],
)  # fmt: skip
def test_a_stage_that_undoes_another_is_told(
    first: str, second: str, line: str | None, digits: Path, dense: Path, tmp_path: Path
) -> None:
    before = 'levels = 4\nkeep = ["first.*"]' if first == "Cluster" else "bits = 8"
    text = continued(dense, f'method = "{first}"\n{before}\nepochs = 0', tmp_path / "out")
    said: list[str] = []
    run(f"{text}[[stage]]\n{LATER}epochs = 0\n{second}\n", digits, tmp_path / "out", Reporter(say=said.append))
    assert [told for told in said if " made few values of" in told] == ([line] if line else [])


def test_a_class_that_is_not_measured_is_told(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "digits")
    shutil.rmtree(tmp_path / "digits/test/9")
    said: list[str] = []
    run(DENSE.replace("epochs = 12", "epochs = 0"), tmp_path / "digits", tmp_path / "out", Reporter(say=said.append))
    assert "none to measure on of '9': accuracy is that of the other classes" in said


def test_a_recipe_that_starts_from_the_weights_of_another(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = f'network = "digits:small"\nweights = "{dense}/1-dense.safetensors"\n'
    text += '[[stage]]\nmethod = "Cluster"\nepochs = 0\n'
    outcome, _ = run(text, digits, tmp_path / "out")
    assert outcome.start == json.loads((dense / "curves.json").read_text())["stages"][0]["accuracy"]
    with pytest.raises(RecipeError, match=r"weights = .*cannot be read"):
        run(text.replace("1-dense", "2-dense"), digits, tmp_path / "other")


def test_keys_at_the_top_are_for_all_stages() -> None:
    recipe = Recipe.parse('network = "x"\nbatch = 16\nmirror = false\n[[stage]]\n[[stage]]\nname = "b"\nbatch = 8')
    assert [(stage.schedule.batch, stage.schedule.mirror) for stage in recipe.stages] == [(16, False), (8, False)]


def test_stages_say_what_they_reached(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Cut"\nmultiply_adds = 0.7\nalign = 2\nepochs = 0', tmp_path / "out")
    text += '[[stage]]\nmethod = "Squeeze"\nbits = 1.5\nepochs = 0\n'
    (tmp_path / "out/recipe.toml").write_text(text)
    results = run(text, digits, tmp_path / "out")[0].results
    assert "of the multiply-adds are left, of 0.7 asked for" in results[1].remark
    assert "bits of the 1.5 asked for" in results[2].remark


def test_the_command_shows_every_stage(
    digits: Path, dense: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    (tmp_path / "recipe.toml").write_text(text)
    arguments = ["train", str(tmp_path / "recipe.toml"), "--data", str(digits), "-o", str(tmp_path / "out")]
    main(arguments)
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split() == [
        *("stage", "method", "bytes", "size", "bits/weight", "accuracy", "in", "integers", "trained")
    ]
    assert "accuracy on 197 pictures (test)" in shown or "accuracy on 200 pictures (test)" in shown
    assert (tmp_path / "out/curves.png").read_bytes().startswith(b"\x89PNG")
    main([*arguments, "--json", "--report", str(tmp_path / "report")])
    found = json.loads(capsys.readouterr().out)
    told = json.loads((tmp_path / "report/report.json").read_text())
    assert told["stages"] == found["stages"]
    assert told["last"]["bytes"] == found["stages"][-1]["bytes"]
    assert all(stage["stage"] in (tmp_path / "report/report.html").read_text() for stage in found["stages"])
    assert [stage["method"] for stage in found["stages"]] == ["Train", "Prune"]
    assert found["float32_bytes"] == 4 * sum(p.numel() for p in small().parameters())


def test_curves_that_were_edited(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"', tmp_path / "out")
    (tmp_path / "out/curves.json").write_text('{"start": 1, "stages": [{}], "epochs": []}')
    with pytest.raises(InputError, match="move it away to begin anew"):
        run(text, digits, tmp_path / "out")


def test_a_stage_whose_state_is_gone_is_done_again_with_what_follows(digits: Path, dense: Path, tmp_path: Path) -> None:
    text = continued(dense, 'method = "Prune"\nepochs = 1', tmp_path / "out")
    first, out = run(text, digits, tmp_path / "out")
    (out / "1-dense.safetensors").unlink()
    again, _ = run(text, digits, out)
    assert [epoch.stage for epoch in again.epochs] == ["dense"] * 12 + ["prune"]
    assert again.results[1].bytes == first.results[1].bytes


def test_pictures_without_classes(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such folder"):
        run(DENSE, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "half/train/a").mkdir(parents=True)
    with pytest.raises(InputError, match="none called test beside it"):
        run(DENSE, tmp_path / "half", tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(InputError, match="a sub-folder for each class"):
        run(DENSE, tmp_path / "bare", tmp_path / "out")
