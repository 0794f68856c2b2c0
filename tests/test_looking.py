"""Where a network looked, told from its graph: against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from PIL import Image
from torch import nn

from smidgen.archive import Preprocessing
from smidgen.read import from_module
from smidgen.run.looking import looking
from smidgen.web.networks import InFloat


class Means(nn.Module):
    """Scores by a mean, in one of the ways in which networks are written."""

    def __init__(self, way: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.way = way
        self.features = nn.Conv2d(3, 6, 3)
        self.linear = nn.Linear(6, 4, bias=way != "no bias")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.features(x)
        if self.way == "mean alone":
            return features.mean((2, 3))
        if self.way == "pool alone":
            return nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
        if self.way == "flat":
            return self.linear(features[:, :, 0, 0])
        means = (
            features.mean((-2, -1)) if self.way == "mean" else nn.functional.adaptive_avg_pool2d(features, 1).flatten(1)
        )
        scores = self.linear(means)
        return scores.softmax(1) if self.way == "softmax" else scores


@pytest.mark.parametrize("way", ["mean alone", "pool alone", "mean", "pool", "softmax", "no bias"])
def test_the_map_is_what_each_place_gave(way: str) -> None:
    module = Means(way)
    archive = replace(from_module(module, (3, 9, 10)), preprocessing=Preprocessing(9, 10, std=(255, 255, 255)))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 10, 3), np.uint8))
    found = InFloat(archive, "net", 0)(image, 1)
    given = torch.tensor(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 255)
    features = module.features(given)[0].detach().numpy()
    number = int(module(given).argmax())
    if "alone" in way:
        wanted = features[number]
    else:
        bias = 0 if way == "no bias" else module.linear.bias[number].item()
        wanted = np.tensordot(module.linear.weight[number].detach().numpy(), features, 1) + bias
    assert found.map.shape == (7, 8)
    assert found.answers[0].label.id == f"class {number}"
    assert np.reshape(found.map.values, (7, 8)) == pytest.approx(wanted, abs=1e-5)


def test_what_is_no_mean_is_not_told() -> None:
    assert looking(from_module(Means("flat"), (3, 9, 10)).onnx()) is None


@pytest.mark.parametrize("shape", [(4,), (1, 4), (1,), ()])
def test_biases_that_stand_for_more(shape: tuple[int, ...]) -> None:
    model = from_module(Means("pool"), (3, 9, 10)).onnx()
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    held = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[2])
    held.CopyFrom(numpy_helper.from_array(np.full(shape, 2.5, np.float32), held.name))
    onnx.checker.check_model(model)
    assert looking(model).map(np.zeros((6, 2, 2), np.float32), 3).tolist() == [[2.5, 2.5], [2.5, 2.5]]


def test_products_with_factors_are_not_told() -> None:
    model = from_module(Means("pool"), (3, 9, 10)).onnx()
    node = next(node for node in model.graph.node if node.op_type == "Gemm")
    del node.attribute[:]
    node.attribute.extend([helper.make_attribute("alpha", 0.5), helper.make_attribute("transB", 1)])
    assert looking(model) is None
