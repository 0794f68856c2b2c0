"""Networks of sequences: of any length, along any axis, with or without an axis of examples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor, nn

import smidgen
from smidgen.archive import Archive
from smidgen.cli import cli
from smidgen.given import examples_from
from smidgen.read import from_module
from smidgen.reference import Reference
from smidgen.run.session import Engine


def layer(**how: bool) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, **how)


class Padded(nn.Module):
    """Classes of sequences of tokens, which are padded with zeros to a common length."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(30, 16, padding_idx=0), nn.Linear(16, 5)
        self.layers = nn.TransformerEncoder(layer(batch_first=True), 2, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        seen = (ids != 0).unsqueeze(-1).float()
        y = self.layers(self.words(ids), src_key_padding_mask=ids == 0)
        return self.last((y * seen).sum(1) / seen.sum(1).clamp(min=1))


class Decoded(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.layers = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 2, 32, batch_first=first), 1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.layers(x, memory)


class Causal(nn.Module):
    def __init__(self, first: bool) -> None:
        super().__init__()
        self.layers, self.axis = (
            nn.TransformerEncoder(layer(batch_first=first), 1, enable_nested_tensor=False),
            int(first),
        )

    def forward(self, x: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[self.axis])
        return self.layers(x, mask=mask, is_causal=True)


class Weighted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y, weights = self.attention(x, x, x)
        return {"y": y, "weights": weights}


def free_axes(archive: Archive) -> list[list[str | int]]:
    inputs = archive.onnx().graph.input
    return [[d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in inputs]


def floats(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def tokens(*shape: int) -> Tensor:
    return torch.randint(1, 30, shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize(
    ("build", "shapes", "fresh", "free", "make"),
    [
        (Padded, [[(1, 5)], [(1, 8)]], [(3, 11)], [["batch", "ids_1"]], tokens),
        (
            lambda: Decoded(first=True),
            [[(1, 5, 16), (1, 7, 16)], [(1, 6, 16), (1, 9, 16)]],
            [(3, 2, 16), (3, 4, 16)],
            [["batch", "x_1", 16], ["batch", "memory_1", 16]],
            floats,
        ),
        (
            lambda: Decoded(first=False),
            [[(5, 1, 16), (7, 1, 16)], [(6, 1, 16), (9, 1, 16)]],
            [(2, 1, 16), (4, 1, 16)],
            [["x_0_no_examples", 1, 16], ["memory_0_no_examples", 1, 16]],
            floats,
        ),
        (lambda: Causal(first=True), [[(1, 5, 16)], [(1, 8, 16)]], [(4, 3, 16)], [["batch", "x_1", 16]], floats),
        (lambda: Causal(first=False), [[(5, 1, 16)], [(8, 1, 16)]], [(3, 1, 16)], [["x_0_no_examples", 1, 16]], floats),
        (Weighted, [[(1, 5, 16)], [(1, 8, 16)]], [(4, 3, 16)], [["batch", "x_1", 16]], floats),
        (lambda: nn.LSTM(16, 8), [[(5, 1, 16)], [(8, 1, 16)]], [(3, 1, 16)], [["input_0_no_examples", 1, 16]], floats),
        (lambda: nn.GRU(16, 8), [[(5, 16)], [(8, 16)]], [(3, 16)], [["input_0_no_examples", 16]], floats),
    ],
)
def test_pytorch_s_own_layers_take_any_length(
    build: Callable[[], nn.Module],
    shapes: list[list[tuple[int, ...]]],
    fresh: list[tuple[int, ...]],
    free: list[list[str | int]],
    make: Callable[..., Tensor],
) -> None:
    torch.manual_seed(0)
    module = build().eval()
    archive = from_module(module, examples=[tuple(make(*shape) for shape in one) for one in shapes])
    assert free_axes(archive) == free
    given = [make(*shape) for shape in fresh]
    with torch.no_grad():
        wanted = module(*given)
    wanted = next(iter(wanted.values())) if isinstance(wanted, dict) else wanted
    wanted = wanted[0] if isinstance(wanted, tuple) else wanted
    names = [value.name for value in archive.onnx().graph.input]
    found = Engine(archive.onnx())({name: one.numpy() for name, one in zip(names, given, strict=True)})
    np.testing.assert_allclose(found[0], wanted.numpy(), atol=1e-5)


@pytest.mark.parametrize("wide", [True, False])
def test_files_of_sequences_with_and_without_an_axis_of_examples(
    wide: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sequences").mkdir()
    rng = np.random.default_rng(0)
    for number in range(30):
        x = rng.normal(size=(1, 3 + number % 4, 5)).astype(np.float32)
        np.savez(f"sequences/{number:02}.npz", x=x if wide else x[0])
    name = f"recurrent_nets_{wide}"
    Path(f"{name}.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Recurrent(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        torch.manual_seed(0)\n"
        "        self.memory, self.last = nn.GRU(5, 16, batch_first=True), nn.Linear(16, 2)\n"
        "    def forward(self, x):\n"
        "        return self.last(self.memory(x)[0])\n"
    )
    arguments = ["compress", f"{name}:Recurrent", "--data", "sequences", "--size", "1600", "-o", "x.smidgen"]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "on 24 inputs; judging on 6 others" in result.output
    assert free_axes(smidgen.open("x.smidgen")) == [["batch", "x_1", 5] if wide else ["x_0_no_examples", 5]]
    result = CliRunner().invoke(cli, ["evaluate", f"{name}:Recurrent", "x.smidgen", "--data", "sequences"])
    assert result.exit_code == 0, result.output
    assert "30 examples" in result.output


class Stateful(nn.Module):
    """Takes and gives its state as PyTorch's LSTM does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.memory, self.last = nn.LSTM(5, 16, 2, batch_first=True), nn.Linear(16, 3)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.memory(x, state)
        return self.last(y), state


def states(examples: int, length: int, seed: int = 0) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    x, *state = (torch.randn(s, generator=generator) for s in ((examples, length, 5), *[(2, examples, 16)] * 2))
    return x, (state[0], state[1])


@pytest.mark.parametrize("examples", [1, 4])
def test_states_in_tuples_have_names_and_any_number_of_examples(examples: int) -> None:
    data = [states(examples, 3 + number % 3, number) for number in range(30)]
    archive = smidgen.compress(Stateful(), data, size=9000)
    assert free_axes(archive) == [["batch", "x_1", 5], [2, "batch", 16], [2, "batch", 16]]
    model = archive.onnx()
    assert [value.name for value in model.graph.input] == ["x", "state.0", "state.1"]
    assert [value.name for value in model.graph.output] == ["output", "output_2", "output_3"]
    x, (h, c) = states(7, 4, 99)
    found = Engine(model)({"x": x.numpy(), "state.0": h.numpy(), "state.1": c.numpy()})
    wanted, (h, c) = Stateful().eval()(x, (h, c))
    for ours, theirs in zip(found, (wanted, h, c), strict=True):
        assert ours.shape == tuple(theirs.shape)
        assert np.corrcoef(ours.reshape(-1), theirs.detach().numpy().reshape(-1))[0, 1] > 0.99
    again = archive.module()(x, torch.zeros_like(h), torch.zeros_like(c))
    assert again[0].shape == wanted.shape
    reference = Reference(archive, examples_from(data, archive, 100, 0))
    assert [output.examples for output in reference.outputs] == [0, 1, 1]
    assert len(reference) == 6 * examples


class Last(nn.Module):
    """Answers with what a layer says at the last step of a sequence that has no axis of examples, or of their mean."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.memory, self.mean = nn.GRU(5, 8), mean

    def forward(self, x: Tensor) -> Tensor:
        y = self.memory(x)[0]
        return y.mean(0) if self.mean else y[-1]


class Words(nn.Module):
    """Attention between steps along the first axis."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layers = nn.Embedding(30, 16), nn.TransformerEncoder(layer(), 1, enable_nested_tensor=False)

    def forward(self, ids: Tensor) -> Tensor:
        return self.layers(self.words(ids))


class Centred(nn.Module):
    """What it says of one depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(x - x.mean(0))


class Asked(nn.Module):
    """Two inputs of which each pairs with all of the other."""

    def forward(self, x: Tensor, q: Tensor) -> Tensor:
        return x @ q.T


@pytest.mark.parametrize(
    ("module", "example"),
    [
        (Last(mean=False), (floats(4, 5),)),
        (Last(mean=True), (floats(4, 5),)),
        (Words(), (torch.ones(5, 1, dtype=torch.int64),)),
        (Words(), (tokens(5),)),
        (layer(), (torch.zeros(5, 1, 16),)),
        (Centred(), (torch.zeros(4, 6),)),
        (Centred(), (floats(4, 6),)),
        (Asked(), (floats(1, 8), floats(7, 8))),
    ],
)
def test_what_depends_on_others_is_no_example(module: nn.Module, example: tuple[Tensor, ...]) -> None:
    archive = from_module(module.eval(), examples=[example])
    assert not any("batch" in axes for axes in free_axes(archive))


def test_rows_that_are_answered_one_by_one_are_examples() -> None:
    """Beside a loss that is a mean over all, and what is the same for all."""

    class Judged(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last, self.anchors = nn.Linear(6, 3), nn.Parameter(torch.zeros(9, 2))

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            y = self.last(x)
            return {"y": y, "loss": y.square().mean(), "anchors": self.anchors}

    archive = from_module(Judged().eval(), examples=[(floats(5, 6),)])
    assert free_axes(archive) == [["batch", 6]]
    reference = Reference(archive, examples_from([floats(40, 6)], archive, 100, 0))
    assert [output.examples for output in reference.outputs] == [0, None, None]


def test_states_in_files_are_called_by_their_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("streams").mkdir()
    for number in range(30):
        x, (h, c) = states(1, 3 + number % 3, number)
        np.savez(f"streams/{number:02}.npz", **{"x": x.numpy(), "state.0": h.numpy(), "state.1": c.numpy()})
    archive = smidgen.compress(Stateful(), "streams", size=9000)
    assert [value.name for value in archive.onnx().graph.input] == ["x", "state.0", "state.1"]


class Tagged(nn.Module):
    """Says something of each token, also of padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.last = nn.Embedding(30, 16), nn.Linear(16, 3)
        self.layers = nn.TransformerEncoder(layer(batch_first=True), 1)

    def forward(self, ids: Tensor) -> Tensor:
        return self.last(self.layers(self.words(ids), src_key_padding_mask=ids == 0))


def test_padding_in_a_batch_is_no_reason_to_refuse_a_transformer() -> None:
    ids = torch.tensor([[3, 4, 5, 6, 7, 8], [3, 4, 5, 0, 0, 0], [9, 8, 0, 0, 0, 0], [1, 2, 3, 4, 0, 0]])
    before = torch.backends.mha.get_fastpath_enabled()
    archive = from_module(Tagged(), examples=[(ids,), (ids[:, :5],)])
    assert free_axes(archive) == [["batch", "ids_1"]]
    assert torch.backends.mha.get_fastpath_enabled() == before


class Packed(nn.Module):
    """Gives as many steps as the longest of a batch has."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.last = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True)
        return self.last(nn.utils.rnn.pad_packed_sequence(self.memory(packed)[0], batch_first=True)[0])


def test_a_batch_as_long_as_its_longest_is_one_of_examples() -> None:
    archive = from_module(Packed(), examples=[(floats(4, 9, 5), torch.tensor([9, 7, 5, 4]))])
    assert free_axes(archive)[0] == ["batch", 9, 5]


def test_a_large_batch_is_not_run_whole_to_be_traced() -> None:
    class Counted(nn.Module):
        most = 0

        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            Counted.most = max(Counted.most, len(x))
            return self.last(x)

    assert free_axes(from_module(Counted(), examples=[(floats(500, 6),)])) == [["batch", 6]]
    assert 2 <= Counted.most <= 4
