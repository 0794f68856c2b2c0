"""Several processes under torchrun learn what one learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from digits import write_digits

ALIKE = """
import os, sys
from pathlib import Path
import digits, torch
from smidgen import distributed
from smidgen.train import train
distributed.join()
train(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
own = torch.cat([p.detach().reshape(-1) for p in digits.MADE[-1].parameters()])
first = own.clone()
distributed.share([first])
assert torch.equal(own, first), float((own - first).abs().max())
torch.distributed.barrier()
os._exit(0)  # on a regular exit gloo may abort when the other process was faster
"""


def test_two_processes_have_the_same_weights(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", 200, 50)
    (tmp_path / "alike.py").write_text(ALIKE)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'network = "digits:unseeded"\n[[stage]]\nepochs = 1\nbatch = 50\n'
        '[[stage]]\nmethod = "Fire"\nepochs = 1\nbatch = 50\n[[stage]]\nmethod = "Quantize"\nepochs = 1\nbatch = 50\n'
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*start, str(tmp_path / "alike.py"), str(recipe), str(folder), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_two_processes_learn_what_one_learns(tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "digits", 300, 100)
    recipe = tmp_path / "recipe.toml"
    common = "batch = 50\nshift = 1\nmirror = false\n"
    recipe.write_text(
        f'network = "digits:plain"\n[[stage]]\nepochs = 10\nlearning_rate = 0.05\n{common}'
        f'[[stage]]\nmethod = "Prune"\ndensity = 0.5\nepochs = 2\n{common}'
        f'[[stage]]\nmethod = "Cluster"\nepochs = 2\nlearning_rate = 0.001\n{common}'
    )
    paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    together = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "smidgen"]
    for start, out in (([sys.executable, "-m", "smidgen"], "one"), (together, "two")):
        command = [*start, "train", str(recipe), "--data", str(folder), "-o", str(tmp_path / out), "--json"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / out / "curves.json").read_text()) for out in ("one", "two")]
    losses = [[epoch["loss"] for epoch in each["epochs"] if epoch["stage"] != "train"] for each in found]
    accuracies = [[stage["accuracy"] for stage in each["stages"]] for each in found]
    assert found[0]["epochs"][9]["accuracy"] > 60
    # each process knows the loss of its own half of every batch; their sum moves the weights, up to rounding
    assert losses[1] == pytest.approx(losses[0], rel=0.2)
    assert accuracies[1] == pytest.approx(accuracies[0], abs=2)
