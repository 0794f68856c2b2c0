"""Recurrent layers: their gates are one product with the inputs, and one with the states of each step."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from smidgen.errors import ModelError
from smidgen.network.call import Call, Operator, text

__all__ = ["RECURRENT"]


def _recurrent(call: Call, gates: int, step: Callable[..., tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """All directions of an LSTM, GRU or RNN: outputs (T, directions, N, H) and the last states (directions, N, H)."""
    if call.attributes.get("clip") or call.attributes.get("layout") or call.attributes.get("input_forget"):
        raise ModelError("recurrent layers with clip, layout or input_forget are not known")
    x, w, r = call[0].transpose(0, 1), call[1], call[2]
    bias, lengths = call.optional(3), call.optional(4)
    if lengths is not None and bool((lengths != len(call[0])).any()):
        raise ModelError("recurrent layers with sequences of different length are not known")
    size, direction = call.attributes["hidden_size"], text(call.attributes.get("direction", "forward"))
    backward = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[direction]
    given = [call.optional(index) for index in (5, 6)][: 2 if gates == 4 else 1]
    outputs, lasts = [], []
    for number, reverse in enumerate(backward):
        both = torch.zeros(2 * gates * size) if bias is None else bias[number]
        from_input = functional.linear(x, w[number])
        states = tuple(torch.zeros(len(x), size) if state is None else state[number] for state in given)
        steps = range(x.shape[1] - 1, -1, -1) if reverse else range(x.shape[1])
        seen: dict[int, Tensor] = {}
        for time in steps:
            states = step(from_input[:, time], r[number], (both[: gates * size], both[gates * size :]), states)
            seen[time] = states[0]
        outputs.append(torch.stack([seen[time] for time in range(x.shape[1])]))
        lasts.append(states)
    return torch.stack(outputs, 1), *(torch.stack(parts) for parts in zip(*lasts, strict=True))


def _lstm(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Sigmoid", b"Tanh", b"Tanh"))
    if call.optional(7) is not None and bool(call[7].any()):
        raise ModelError("LSTM with peepholes is not known")

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        hidden, cell = states
        i, o, f, c = (x + functional.linear(hidden, r) + bias[0] + bias[1]).chunk(4, 1)
        cell = f.sigmoid() * cell + i.sigmoid() * c.tanh()
        return o.sigmoid() * cell.tanh(), cell

    return _recurrent(call, 4, step)


def _gru(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Sigmoid", b"Tanh"))
    before = call.attributes.get("linear_before_reset", 0)

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor]) -> tuple[Tensor]:
        (hidden,) = states
        size = hidden.shape[1]
        xz, xr, xh = (x + bias[0]).chunk(3, 1)
        bz, br, bh = bias[1].chunk(3)
        if before:
            hz, hr, hh = functional.linear(hidden, r).chunk(3, 1)
            update, reset = (xz + hz + bz).sigmoid(), (xr + hr + br).sigmoid()
            new = (xh + reset * (hh + bh)).tanh()
        else:
            hz, hr = functional.linear(hidden, r[: 2 * size]).chunk(2, 1)
            update, reset = (xz + hz + bz).sigmoid(), (xr + hr + br).sigmoid()
            new = (xh + functional.linear(reset * hidden, r[2 * size :]) + bh).tanh()
        return ((1 - update) * new + update * hidden,)

    return _recurrent(call, 3, step)


def _rnn(call: Call) -> tuple[Tensor, ...]:
    _plain_activations(call, (b"Tanh",))

    def step(x: Tensor, r: Tensor, bias: tuple[Tensor, Tensor], states: tuple[Tensor]) -> tuple[Tensor]:
        return ((x + functional.linear(states[0], r) + bias[0] + bias[1]).tanh(),)

    return _recurrent(call, 1, step)


def _plain_activations(call: Call, usual: tuple[bytes, ...]) -> None:
    given = call.attributes.get("activations")
    if given and any(name != usual[index % len(usual)] for index, name in enumerate(given)):
        raise ModelError(f"a recurrent layer with activations {given} is not known")


RECURRENT: dict[str, Operator] = {
    "GRU": _gru,
    "LSTM": _lstm,
    "RNN": _rnn,
}
