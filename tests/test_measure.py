"""What measuring sums up, against explicit gradients of single inputs; and that it leaves the network alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from smidgen.code import Stats
from smidgen.errors import ModelError
from smidgen.measure import ACTIVITY, measure, need

CLASSES = 4


class Net(nn.Module):
    """A layer, then a mean over its positions, then scores; everything random."""

    def __init__(self, layer: nn.Module, channels: int, times: int = 1) -> None:
        super().__init__()
        self.layer, self.last, self.times = layer, nn.Linear(channels, CLASSES), times

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.times):
            x = torch.tanh(self.layer(x))
        return self.last(x.flatten(2).mean(2) if x.ndim > 2 else x)


def net(layer: nn.Module, channels: int, times: int = 1, seed: int = 0) -> Net:
    torch.manual_seed(seed)
    made = Net(layer, channels, times)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.4)
    return made


def inputs(*shape: int, count: int = 5, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.3, 1, (count, *shape)).astype(np.float32)


CASES = {
    "conv2d": (lambda: nn.Conv2d(3, 4, 3), (3, 6, 5), 4),
    "conv2d, stride and padding": (lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)), (3, 7, 6), 4),
    "conv2d, groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5, 5), 6),
    "conv2d, depthwise": (lambda: nn.Conv2d(3, 3, 3, groups=3), (3, 5, 5), 3),
    "conv2d, dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=2, stride=2), (2, 9, 8), 3),
    "conv2d, same": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same"), (2, 5, 6), 3),
    "conv2d, reflected": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 5, 6), 3),
    "conv2d, few positions": (lambda: nn.Conv2d(3, 8, 3, bias=False), (3, 4, 4), 8),
    "conv2d, groups, few positions": (lambda: nn.Conv2d(8, 8, 3, groups=2), (8, 3, 4), 8),
    "conv2d, depthwise, one position": (lambda: nn.Conv2d(4, 4, 3, groups=4), (4, 3, 3), 4),
    "conv1d": (lambda: nn.Conv1d(3, 4, 3, stride=2, padding=1), (3, 11), 4),
    "conv1d, groups": (lambda: nn.Conv1d(4, 4, 2, groups=2, dilation=2), (4, 9), 4),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3), padding=(0, 1, 1), stride=(1, 2, 1)), (2, 3, 4, 5), 3),
    "linear": (lambda: nn.Linear(7, 5), (7,), 5),
}


def vote_of(scores: Tensor, generator: torch.Generator) -> Tensor:
    """Signs are drawn for all of a batch; v = root - p (root 1), so that E[v v^T] = diag(p) - p p^T."""
    p = scores.softmax(1)
    root = p.sqrt() * (2 * torch.randint(0, 2, p.shape, generator=generator) - 1)
    return root - p * root.sum(1, keepdim=True)


def measured_names(module: nn.Module, batches: list[NDArray[np.float32]]) -> tuple[str, ...]:
    return need(module, batches[0], 1).measured


def slow_gradients(module: nn.Module, batches: list[NDArray[np.float32]], seed: int) -> dict[str, list[Tensor]]:
    """For every weight the gradient of each input on its own, as outputs x inputs."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, list[Tensor]] = {name: [] for name in measured_names(module, batches)}
    parameters = dict(module.named_parameters())
    for batch in map(torch.from_numpy, batches):
        votes = vote_of(module(batch).detach(), generator)
        for x, vote in zip(batch, votes, strict=True):
            loss = (module(x[None]) * vote).sum()
            for name, grad in zip(found, torch.autograd.grad(loss, [parameters[n] for n in found]), strict=True):
                found[name].append(grad.double().flatten(1))
    return found


def slow_activity(layer: nn.Module, x: Tensor) -> tuple[Tensor, int]:
    """The sum of x x^T over all positions and groups, and how many those are; by convolving with one-hot kernels."""
    if isinstance(layer, nn.Linear):
        return (x.T @ x).double(), len(x)
    per_group = layer.weight[0].numel()
    ones = torch.eye(per_group).reshape(per_group, *layer.weight.shape[1:])
    total, count = torch.zeros(per_group, per_group).double(), 0
    for part in x.chunk(layer.groups, 1):
        copied = type(layer)(
            part.shape[1],
            per_group,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            bias=False,
            padding_mode=layer.padding_mode,
        )
        with torch.no_grad():
            copied.weight.copy_(ones)
            seen = copied(part).flatten(2).transpose(1, 2).reshape(-1, per_group).double()
        total, count = total + seen.T @ seen, count + len(seen)
    return total, count


def assert_stats(found: Stats, gradients: list[Tensor], activity: tuple[Tensor, int]) -> None:
    count = len(gradients)
    fisher = sum(g.T @ g for g in gradients) / (count * len(gradients[0]))
    outputs = sum(g @ g.T for g in gradients) / count
    active = activity[0] / activity[1]
    sensitivity = float(fisher.trace() / active.trace())
    assert found.samples == count
    assert found.sensitivity == pytest.approx(sensitivity, rel=1e-4)
    moment = ACTIVITY * active + (1 - ACTIVITY) / sensitivity * fisher
    np.testing.assert_allclose(found.second_moment, moment, rtol=1e-3, atol=1e-5 * float(moment.abs().max()))
    assert found.output_moment is not None
    np.testing.assert_allclose(found.output_moment, outputs, rtol=1e-3, atol=1e-5 * float(outputs.abs().max()))
    assert np.array_equal(found.second_moment, found.second_moment.T)
    assert np.array_equal(found.output_moment, found.output_moment.T)


@pytest.mark.parametrize("name", CASES)
def test_sums_are_those_of_explicit_gradients(name: str) -> None:
    build, shape, channels = CASES[name]
    module = net(build(), channels)
    batches = [inputs(*shape, count=3), inputs(*shape, count=2, seed=2)]
    found = measure(module, batches, seed=5)
    gradients = slow_gradients(module, batches, 5)
    assert list(found) == ["layer.weight", "last.weight"]
    x = torch.from_numpy(np.concatenate(batches))
    assert_stats(found["layer.weight"], gradients["layer.weight"], slow_activity(module.layer, x))
    with torch.no_grad():
        hidden = torch.tanh(module.layer(x))
        hidden = hidden.flatten(2).mean(2) if hidden.ndim > 2 else hidden
    assert_stats(found["last.weight"], gradients["last.weight"], slow_activity(module.last, hidden))


@pytest.mark.parametrize(
    ("layer", "shape", "channels"), [(nn.Conv2d(3, 3, 3, padding=1), (3, 5, 4), 3), (nn.Linear(6, 6), (6,), 6)]
)
def test_layer_used_twice_has_one_gradient(layer: nn.Module, shape: tuple[int, ...], channels: int) -> None:
    module = net(layer, channels, times=2)
    batch = inputs(*shape)
    found = measure(module, [batch], seed=3)["layer.weight"]
    x = torch.from_numpy(batch)
    with torch.no_grad():
        uses = [slow_activity(layer, use) for use in (x, torch.tanh(layer(x)))]
    activity = (uses[0][0] + uses[1][0], uses[0][1] + uses[1][1])
    assert_stats(found, slow_gradients(module, [batch], 3)["layer.weight"], activity)


def test_shared_weight_is_measured_once() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    module[2].weight = module[0].weight
    batch = inputs(4)
    found = measure(module, [batch], seed=3)
    assert list(found) == ["0.weight", "4.weight"]
    x = torch.from_numpy(batch)
    with torch.no_grad():
        uses = [slow_activity(module[0], use) for use in (x, torch.tanh(module[0](x)))]
    activity = (uses[0][0] + uses[1][0], uses[0][1] + uses[1][1])
    assert_stats(found["0.weight"], slow_gradients(module, [batch], 3)["0.weight"], activity)


def test_sequence_of_a_linear_layer_counts_its_positions() -> None:
    """Of inputs (n, positions, features) every position is an input of the layer, and an input has one gradient."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 3), nn.Linear(3, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.tanh(self.first(x)).mean(1))

    torch.manual_seed(0)
    module, batch = Tokens(), inputs(6, 5)
    x = torch.from_numpy(batch).reshape(-1, 5)
    gradients = slow_gradients(module, [batch], 0)["first.weight"]
    assert_stats(measure(module, [batch])["first.weight"], gradients, slow_activity(module.first, x))


def test_same_seed_same_result_and_activity_is_free_of_votes() -> None:
    module = net(nn.Conv2d(3, 4, 3), 4)
    batch = inputs(3, 5, 5, count=6)
    one, same, other = (measure(module, [batch], seed=seed)["layer.weight"] for seed in (1, 1, 2))
    for field in ("second_moment", "output_moment", "sensitivity", "samples"):
        assert np.array_equal(getattr(one, field), getattr(same, field))
    assert one.sensitivity != other.sensitivity
    # other votes, the same inputs: what is left of a moment without its fisher part has the same trace
    assert np.trace(one.second_moment) == pytest.approx(np.trace(other.second_moment), rel=1e-5)
    split = measure(module, [batch[:2], batch[2:]], seed=1)["layer.weight"]
    assert split.samples == 6
    assert np.trace(one.second_moment) == pytest.approx(np.trace(split.second_moment), rel=1e-5)


def test_batches_do_not_matter_once_votes_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.answers.vote", lambda _, scores, __: torch.tanh(scores - scores.mean(1, keepdim=True)))
    module, batch = net(nn.Conv2d(4, 4, 3, groups=2), 4), inputs(4, 5, 5, count=7)
    whole = measure(module, [batch])["layer.weight"]
    parts = measure(module, [batch[:1], batch[1:5], batch[5:]])["layer.weight"]
    np.testing.assert_allclose(parts.second_moment, whole.second_moment, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.output_moment, whole.output_moment, rtol=1e-4, atol=1e-6)
    assert parts.sensitivity == pytest.approx(whole.sensitivity, rel=1e-4)


def test_votes_have_the_covariance_of_the_answer() -> None:
    from smidgen.answers import vote
    from smidgen.run.outputs import Output

    scores = torch.tensor([[0.0, 1.0, -1.0, 2.0]]).repeat(40_000, 1)
    votes = vote(Output("y", "scores", 1), scores, torch.Generator().manual_seed(0)).double()
    p = scores[0].softmax(0).double()
    np.testing.assert_allclose(votes.T @ votes / len(votes), torch.diag(p) - p[:, None] * p, atol=0.01)
    np.testing.assert_allclose(votes.sum(1), 0, atol=1e-5)


class Watched(nn.Sequential):
    """With everything that measuring must restore: modes, a frozen weight, a hook, a buffer that training changes."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Flatten(),
            nn.Linear(36, CLASSES),
        )
        self[0].bias.requires_grad_(False)
        self.train()
        self[3].eval()
        self.calls = 0
        self[5].register_forward_hook(self.count)

    def count(self, *_: object) -> None:
        self.calls += 1


@pytest.mark.parametrize("failing", [False, True])
def test_network_is_left_as_it_was(failing: bool) -> None:
    torch.manual_seed(0)
    module = Watched()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    modes = [part.training for part in module.modules()]
    wanted = [parameter.requires_grad for parameter in module.parameters()]
    batches = [inputs(3, 5, 5)] + [np.full((1, 3, 5, 5), np.nan, np.float32)] * failing
    if failing:
        with pytest.raises(ModelError, match="not finite"):
            measure(module, batches)
    else:
        assert list(measure(module, batches)) == ["0.weight", "5.weight"]
    need(module, inputs(3, 5, 5, count=1), 10)
    assert [part.training for part in module.modules()] == modes
    assert [parameter.requires_grad for parameter in module.parameters()] == wanted
    assert all(parameter.grad is None for parameter in module.parameters())
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.calls == 2 + failing
    assert [len(part._forward_hooks) for part in module.modules()] == [0, 0, 0, 0, 0, 0, 1]


def test_probabilities_are_taken_for_what_they_are() -> None:
    scores = net(nn.Conv2d(3, 4, 3), 4)
    batch = inputs(3, 5, 5)
    with torch.no_grad():  # all scores are positive, and are not taken for probabilities
        scores.last.bias += 10
    plain = measure(scores, [batch])["layer.weight"]
    likely = measure(Likely(scores), [batch])["scores.layer.weight"]
    assert likely.sensitivity == pytest.approx(plain.sensitivity, rel=1e-3)
    np.testing.assert_allclose(likely.second_moment, plain.second_moment, rtol=1e-3, atol=1e-4)


class Likely(nn.Module):
    def __init__(self, scores: nn.Module) -> None:
        super().__init__()
        self.scores = scores

    def forward(self, x: Tensor) -> Tensor:
        return functional.softmax(self.scores(x), 1)


class Broken(nn.Module):
    """Gives what no classifier gives."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer, self.kind = nn.Linear(3, 2), kind

    def forward(self, x: Tensor) -> object:
        y = self.layer(x)
        return {"pair": (y, y), "infinite": y / 0, "whole": y.argmax(1, keepdim=True), "flat": y.sum(1)}[self.kind]


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("pair", "one tensor of scores"),
        ("infinite", "not finite"),
        ("whole", "one tensor of scores"),
        ("flat", "one tensor of scores"),
    ],
)
def test_scores_that_cannot_be_measured(kind: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        measure(Broken(kind), [np.ones((2, 3), np.float32)])


def test_no_inputs() -> None:
    with pytest.raises(ModelError, match="at least one input"):
        measure(nn.Linear(3, 2), [])


def test_layer_that_is_not_used_is_absent_and_one_without_effect_has_no_sensitivity() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.idle, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(x) + 0 * self.idle(x).sum()

    found = measure(Odd(), [inputs(3)])
    assert list(found) == ["idle.weight", "last.weight"]
    assert found["idle.weight"].sensitivity == 0
    assert np.isfinite(found["idle.weight"].second_moment).all()


def test_inputs_of_zeros_give_finite_statistics() -> None:
    found = measure(nn.Sequential(nn.Conv2d(3, 2, 1), nn.Flatten()), [np.zeros((2, 3, 2, 2), np.float32)])["0.weight"]
    assert (found.sensitivity, found.second_moment.any()) == (0, False)
    assert (found.input_elimination.remaining > 0).all()


def test_progress_tells_inputs_done() -> None:
    done: list[int] = []
    measure(nn.Linear(3, 2), [inputs(3, count=4), inputs(3, count=2)], on_progress=done.append)
    assert done == [4, 6]


def test_need_grows_with_what_it_counts() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.table = nn.Conv2d(3, 8, 3), nn.Parameter(torch.zeros(8, 2))

        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("ni,io->no", self.conv(x).mean((2, 3)), self.table)

    found = need(Odd(), inputs(3, 10, 10, count=1), 4)
    assert found.weights == 8 * 27
    assert found.measured == ("conv.weight",)
    # at least two moments in float64, and all activations of a batch once
    assert found.bytes > 2 * 8 * 27**2 + 4 * 4 * (8 * 8 * 8 + 3 * 100)
    assert found.bytes < 100 * (8 * 27**2 + 4 * 4 * (8 * 8 * 8 + 3 * 100))
    assert found.bytes < need(Odd(), inputs(3, 10, 10, count=1), 8).bytes < 2 * found.bytes
    assert need(Odd(), inputs(3, 20, 20, count=1), 4).bytes > found.bytes
    assert need(nn.ReLU(), inputs(3, 4, 4, count=1), 1)[1:] == (0, ())


class Tied(nn.Module):
    """Two layers of other padding that share a weight, called by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3, padding=1)
        self.two.weight = self.one.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.two(input=self.one(input=x)).flatten(2).mean(2)


def test_tied_layers_keep_their_own_padding_and_take_keywords() -> None:
    (stats,) = measure(Tied(), [inputs(3, 6, 6)]).values()
    assert stats.samples == 5
    assert np.isfinite(stats.second_moment).all()


def test_network_of_doubles() -> None:
    network = net(nn.Linear(7, 5), 5)
    single = measure(network, [inputs(7)])["layer.weight"]
    double = measure(network.double(), [inputs(7)])["layer.weight"]
    np.testing.assert_allclose(double.second_moment, single.second_moment, rtol=1e-3)
    assert need(network, inputs(7, count=1), 2).weights == 7 * 5 + 5 * CLASSES
