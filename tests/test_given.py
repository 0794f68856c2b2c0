"""Data as users give it: arrays, tensors, tuples, datasets and files of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import smidgen
from smidgen.archive import Preprocessing
from smidgen.errors import InputError, ModelError
from smidgen.given import examples_from, examples_in
from smidgen.read import from_module


class Rows:
    """A dataset that knows its length, and does not fail beyond it."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        return self.rows[place % len(self.rows)][None], 1


@pytest.mark.parametrize(
    "wrap",
    [
        np.asarray,
        torch.from_numpy,
        lambda rows: {"input": rows},
        lambda rows: [rows, rows],
        lambda rows: (rows, rows[:, 0]),
        lambda rows: (rows, rows + 1000),
        lambda rows: tuple(rows[place : place + 5] for place in range(0, 50, 5)),
        lambda rows: [(rows, 3), (rows, "two", None)],
        Rows,
    ],
)
def test_one_array_is_a_batch(wrap: Callable[[np.ndarray], object]) -> None:
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3), nn.Tanh())
    rows = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    archive = smidgen.compress(module, wrap(rows), size=900)  # type: ignore[arg-type]
    sizes = [[d.dim_value or d.dim_param for d in v.type.tensor_type.shape.dim] for v in archive.onnx().graph.input]
    assert sizes == [["batch", 6]]
    with pytest.raises(ModelError, match=r"archive.onnx\(\) is any network"):
        archive.runner()


def test_an_array_of_pictures_is_pictures() -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    pictures = np.random.default_rng(0).integers(0, 256, (30, 10, 10, 3), np.uint8)
    archive = smidgen.compress(module, pictures, size=1200, preprocessing=Preprocessing(8, 8))
    assert archive.preprocessing == Preprocessing(8, 8)
    with pytest.raises(InputError, match="data: int: give a folder"):
        smidgen.compress(module, 3, size=1200)  # type: ignore[arg-type]


def test_what_is_no_number_is_told_with_its_place(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3), nn.Tanh())
    rows = np.ones((50, 6), np.float32)
    rows[7, 2] = np.nan
    with pytest.raises(InputError, match=r"data: input 'input' holds NaN, first at \(7, 2\)"):
        smidgen.compress(module, rows, size=900)
    np.savez(tmp_path / "rows.npz", x=rows)
    with pytest.raises(InputError, match=r"rows.npz: input 'x' holds NaN, first at \(7, 2\)"):
        smidgen.compress(module, tmp_path / "rows.npz", size=900)
    rows[7, 2] = np.inf
    with pytest.raises(ModelError, match=r"its weights or its inputs are damaged|what it was given is not finite"):
        smidgen.compress(nn.Linear(6, 3), rows, size=900)


def test_a_network_of_one_example_takes_the_rows_of_a_file(tmp_path: Path) -> None:
    class Streamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.memory = nn.GRU(5, 16, batch_first=True)

        def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return self.memory(x, state)  # type: ignore[no-any-return]

    rng = np.random.default_rng(0)
    x, state = (rng.normal(size=(40, *shape)).astype(np.float32) for shape in ((7, 5), (1, 16)))
    np.savez(tmp_path / "rows.npz", x=x, state=state)
    archive = smidgen.compress(Streamed(), tmp_path / "rows.npz", size=2500)
    assert len(examples_in(tmp_path / "rows.npz", archive, 100, 0).calibration) == 32


def test_targets_that_look_like_inputs_are_left_alone() -> None:
    module = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.linspace(-3, 3, 80)[:, None]
    archive = from_module(module, (1,))
    found = examples_from((x, x.sin() + 100), archive, 1000, 0)
    assert (len(found.calibration), len(found.held_out)) == (64, 16)
    assert max(float(item["image"].max()) for item in found.calibration) <= 3  # type: ignore[call-overload, index]


def test_one_row_at_a_time_from_an_array_as_from_a_file() -> None:
    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(60, 8), nn.Tanh())

        def forward(self, x: Tensor) -> Tensor:
            return self.layers(x.view(1, 60))

    rows = np.random.default_rng(0).normal(size=(80, 60)).astype(np.float32)
    for data in (rows, {"x": rows}, (rows, np.zeros(80))):
        assert smidgen.compress(One(), data, size=2500).tensors  # type: ignore[arg-type]
