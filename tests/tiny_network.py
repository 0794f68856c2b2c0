"""A very small ONNX network for the tests: convolution, ReLU, global average pool, flatten."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from smidgen.archive import Archive, Label, Preprocessing

LABELS = (Label("n01", "tench, Tinca tinca"), Label("n02", "goldfish"), Label("n03", "great white shark"))
PREPROCESSING = Preprocessing(8, 6, "BGR", mean=(100.0, 110.0, 120.0), std=(60.0, 50.0, 70.0))


def weights(classes: int = 3, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return {
        "weight": rng.normal(size=(classes, 3, 3, 3)).astype(np.float32),
        "bias": rng.normal(size=classes).astype(np.float32),
    }


def graph(
    classes: int = 3,
    *,
    batch: int | str = "n",
    size: tuple[int | str, int | str] = (8, 6),
    tail: Sequence[Any] = (),
    outputs: Sequence[str] = (),
    kind: int = TensorProto.FLOAT,
) -> bytes:
    """``tail``: nodes after "scores"; ``outputs``: names of the outputs, ``scores`` by default."""
    nodes = [
        helper.make_node("Conv", ["picture", "weight", "bias"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["scores"]),
        *tail,
    ]
    initializers = [
        helper.make_tensor(name, TensorProto.FLOAT, value.shape, value.ravel())
        for name, value in weights(classes).items()
    ]
    for initializer in initializers:
        initializer.ClearField("float_data")
    proto = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("picture", kind, [batch, 3, *size])],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs or ("scores",)],
        initializers,
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def archive(classes: int = 3, seed: int = 0, **fields: Any) -> Archive:
    values = {
        "graph": graph(classes),
        "tensors": weights(classes, seed),
        "preprocessing": PREPROCESSING,
        "labels": LABELS if classes == len(LABELS) else (),
    }
    return Archive(**(values | fields))


def slow_scores(tensors: dict[str, NDArray[np.float32]], batch: NDArray[np.float32]) -> NDArray[np.float64]:
    """The same network in plain loops and float64."""
    weight, bias = tensors["weight"].astype(np.float64), tensors["bias"].astype(np.float64)
    padded = np.pad(batch.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    n, _, height, width = batch.shape
    scores = np.zeros((n, len(weight)))
    for picture in range(n):
        for out in range(len(weight)):
            total = 0.0
            for y in range(height):
                for x in range(width):
                    total += max(0.0, float((padded[picture, :, y : y + 3, x : x + 3] * weight[out]).sum() + bias[out]))
            scores[picture, out] = total / (height * width)
    return scores


def slow_log_softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([row - row.max() - np.log(sum(np.exp(row - row.max()))) for row in scores])


def pictures(count: int, seed: int = 0) -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(seed)
    # of very different means, so that the networks do not always give the same answer
    return [np.clip(rng.normal(rng.uniform(0, 255, 3), 30, (9, 11, 3)), 0, 255).astype(np.uint8) for _ in range(count)]
