"""Quantized networks: near the float ones, and integers where ONNX Runtime has them."""

from __future__ import annotations

import re
import subprocess
import sys
import weakref
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from smidgen.errors import InputError, ModelError
from smidgen.read import read_model
from smidgen.run.int8 import quantize
from smidgen.run.ranges import Histogram, best_affine, wide_affine

RNG = np.random.default_rng


def network(inputs: str, outputs: str, nodes: str, **constants: Any) -> onnx.ModelProto:
    """A model from ONNX's text format; a constant given as a shape gets random numbers."""
    text = f'<ir_version: 8, opset_import: ["" : 17]> g ({inputs}) => ({outputs}) {{ {nodes} }}'
    model = parser.parse_model(re.sub(r"\s+", " ", text))
    for seed, (name, value) in enumerate(constants.items()):
        if isinstance(value, tuple):
            scale = 1 / np.sqrt(max(1, np.prod(value[1:])))
            value = (RNG(seed).normal(size=value) * scale).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def batches(model: onnx.ModelProto, count: int = 32, seed: int = 0) -> list[dict[str, np.ndarray]]:
    rng = RNG(seed)

    def one(value: Any) -> np.ndarray:
        kind = value.type.tensor_type
        shape = [dim.dim_value or 2 for dim in kind.shape.dim]
        if kind.elem_type == onnx.TensorProto.INT64:
            return rng.integers(0, 4, shape)
        return rng.normal(0.3, 1, shape).astype(np.float32)

    return [{value.name: one(value) for value in model.graph.input} for _ in range(count)]


def run(model: onnx.ModelProto, batch: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, dict(batch))


def optimized(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime really computes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def error(model: onnx.ModelProto, quantized: onnx.ModelProto) -> float:
    """The largest relative error of an output, on batches that nothing was calibrated on."""
    worst = 0.0
    for batch in batches(model, 3, seed=1):
        for exact, rounded in zip(run(model, batch), run(quantized, batch), strict=True):
            assert exact.shape == rounded.shape
            assert exact.dtype == rounded.dtype
            worst = max(worst, float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact)))
    return worst


FIRE = network(
    "float[n,3,17,17] x",
    "float[n,10] y",
    """
    a = Conv<strides=[2,2]>(x, w0, b0)
    b = Relu(a)
    c = Conv(b, w1, b1)
    d = Relu(c)
    e = Conv<pads=[1,1,1,1]>(b, w2)
    f = Relu(e)
    g = Concat<axis=1>(d, f)
    h = MaxPool<kernel_shape=[2,2], strides=[2,2]>(g)
    i = Conv(h, w3, b3)
    j = Relu(i)
    k = GlobalAveragePool(j)
    y = Flatten(k)
    """,
    w0=(16, 3, 3, 3),
    b0=(16,),
    w1=(8, 16, 1, 1),
    b1=(8,),
    w2=(8, 16, 3, 3),
    w3=(10, 16, 1, 1),
    b3=(10,),
)
MOBILE = network(
    "float[n,3,16,16] x",
    "float[n,5] y",
    """
    a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)
    b = Clip(a, zero, six)
    c = Conv<pads=[1,1,1,1], group=8>(b, w1, b1)
    d = BatchNormalization(c, gamma, beta, mean, variance)
    e = Clip(d, zero, six)
    f = Conv(e, w2)
    g = Add(f, b)
    h = GlobalAveragePool(g)
    i = Flatten(h)
    y = Gemm<transB=1>(i, w3, b3)
    """,
    w0=(8, 3, 3, 3),
    b0=(8,),
    zero=np.float32(0),
    six=np.float32(6),
    w1=(8, 1, 3, 3),
    b1=(8,),
    gamma=np.full(8, 2, np.float32),
    beta=(8,),
    mean=(8,),
    variance=np.ones(8, np.float32),
    w2=(8, 8, 1, 1),
    w3=(5, 8),
    b3=(5,),
)
GEMM = network(
    "float[n,20] x",
    "float[n,5] y",
    "a = Gemm(x, w0, b0)  b = Relu(a)  c = Gemm<transB=1>(b, w1)  d = LeakyRelu(c)  y = Gemm(d, w2, b2)",
    w0=(20, 30),
    b0=(30,),
    w1=(25, 30),
    w2=(25, 5),
    b2=(1, 5),
)
MATMUL = network(
    "float[n,7,20] x",
    "float[n,7,5] y",
    """
    a = MatMul(x, w0)  b = Add(a, b0)  c = Relu(b)  d = MatMul(c, w1)  e = Sigmoid(d)  f = Mul(d, e)  y = MatMul(f, w2)
    """,
    w0=(20, 30),
    b0=(30,),
    w1=(30, 25),
    w2=(25, 5),
)
ONE_DIMENSION = network(
    "float[n,4,32] x",
    "float[n,6,m] y",
    "a = Conv<group=2>(x, w0, b0)  b = Relu(a)  c = AveragePool<kernel_shape=[2], strides=[2]>(b)  y = Conv(c, w1)",
    w0=(8, 2, 3),
    b0=(8,),
    w1=(6, 8, 3),
)
CASES = {
    "fire": (FIRE, {"QLinearConv": 4, "QLinearConcat": 1, "NhwcMaxPool": 1, "Pad": 1}),
    "mobile": (MOBILE, {"QLinearConv": 3, "QLinearAdd": 1, "QLinearGlobalAveragePool": 1, "QGemm": 1}),
    "gemm": (GEMM, {"QGemm": 3, "QLinearLeakyRelu": 1}),
    "matmul": (MATMUL, {"QLinearMatMul": 2, "QLinearSigmoid": 1, "QLinearMul": 1, "MatMulIntegerToFloat": 1}),
    "one dimension": (ONE_DIMENSION, {"QLinearConv": 2, "QLinearAveragePool": 1}),
}


@pytest.mark.parametrize("name", CASES)
def test_near_the_float_network_and_computed_with_integers(name: str, tmp_path: Path) -> None:
    model, expected = CASES[name]
    quantized = quantize(model, batches(model))
    onnx.checker.check_model(quantized)
    kinds = optimized(quantized, tmp_path)
    assert error(model, quantized) < 0.04
    assert expected.items() <= kinds.items()
    assert not kinds.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Concat", "MaxPool", "Relu", "Clip"}
    assert kinds["QuantizeLinear"] == 1  # the input, and never again
    assert kinds["DequantizeLinear"] <= 1


MIXED = {
    "two inputs": network(
        "float[n,4,8,8] x, int64[n,5] words",
        "float[n,3] y, float[n,6] z",
        """
        a = Conv(x, w0, b0)  b = Relu(a)  c = GlobalAveragePool(b)  d = Flatten(c)
        e = Gather(table, words)  f = MatMul(e, w1)  g = ReduceMean<axes=[1], keepdims=0>(f)
        h = Concat<axis=1>(d, g)  z = Relu(h)  y = Gemm(z, w2)
        """,
        w0=(2, 4, 3, 3),
        b0=(2,),
        table=(4, 7),
        w1=(7, 4),
        w2=(6, 3),
    ),
    "floats between integers": network(
        "float[n,3,8,8] x",
        "float[n,3,m,k] y",
        """
        a = Conv<pads=[1,1,1,1]>(x, w0)  b = HardSwish(a)
        c = ConvTranspose<strides=[2,2]>(b, w1)  d = Softmax<axis=1>(c)  y = Conv(d, w2)
        """,
        w0=(8, 3, 3, 3),
        w1=(8, 4, 2, 2),
        w2=(3, 4, 1, 1),
    ),
    "outputs in the middle": network(
        "float[n,3,8,8] x",
        "float[n,8,8,8] a, float[n,8,8,8] b, float[n,8,8,8] y",
        "a = Conv<pads=[1,1,1,1]>(x, w0)  b = Relu(a)  c = Conv(b, w1)  y = Add(c, a)",
        w0=(8, 3, 3, 3),
        w1=(8, 8, 1, 1),
    ),
    "ranges too far apart to share": network(
        "float[n,4,8,8] x",
        "float[n,4,m,k] y",
        """
        a = Conv(x, w0)  b = Relu(a)  c = Mul(a, big)  d = Concat<axis=1>(b, c)  e = Conv(d, w1)
        f = Concat<axis=1>(e, c)  g = Relu(f)  h = MaxPool<kernel_shape=[2,2]>(g)  i = Relu(h)  y = Conv(i, w1)
        """,
        w0=(4, 4, 3, 3),
        big=np.float32(30),
        w1=(4, 8, 1, 1),
    ),
    "attention": network(
        "float[n,7,16] x",
        "float[n,7,16] y",
        """
        q = MatMul(x, wq)  k = MatMul(x, wk)  v = MatMul(x, wv)  t = Transpose<perm=[0,2,1]>(k)  s = MatMul(q, t)
        p = Softmax<axis=-1>(s)  o = MatMul(p, v)  r = MatMul(o, wo)  h = Add(r, x)  y = MatMul(h, wy)
        """,
        wq=(16, 16),
        wk=(16, 16),
        wv=(16, 16),
        wo=(16, 16),
        wy=(16, 16),
    ),
    "excited channels": network(
        "float[n,8,8,8] x",
        "float[n,8,m,k] y",
        """
        a = Conv(x, w0)  b = Relu(a)  c = GlobalAveragePool(b)  d = Conv(c, w1)  e = Sigmoid(d)
        s = Shape<start=0, end=2>(c)  t = Concat<axis=0>(s, ones)  f = Reshape(e, t)  g = Mul(b, f)  y = Conv(g, w2)
        """,
        w0=(8, 8, 3, 3),
        w1=(8, 8, 1, 1),
        w2=(8, 8, 1, 1),
        ones=np.array([1, 1], np.int64),
    ),
    "a product with factors": network(
        "float[20,4] x",
        "float[4,3] y",
        "a = Gemm<transA=1>(x, w0)  b = Relu(a)  c = Gemm<alpha=0.5>(b, w1, b1)  y = MatMul(c, w2)",
        w0=(20, 8),
        w1=(8, 3),
        b1=(3,),
        w2=(3, 3),
    ),
}


@pytest.mark.parametrize("name", MIXED)
def test_what_has_no_integer_form_stays_float(name: str) -> None:
    model = MIXED[name]
    quantized = quantize(model, batches(model))
    onnx.checker.check_model(quantized)
    assert any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    assert [value.name for value in quantized.graph.input] == [value.name for value in model.graph.input]
    assert error(model, quantized) < 0.06


def test_an_old_file_whose_weights_are_inputs() -> None:
    model = network(
        "float[n,3,9,9] x",
        "float[n,4,m,k] y",
        "a = BatchNormalization(x, s, t, t, s)  b = Conv(a, w)  y = Relu(b)",
        s=np.ones(3, np.float32),
        t=np.zeros(3, np.float32),
        w=(4, 3, 3, 3),
    )
    model.ir_version = 3
    model.opset_import[0].version = 11
    names = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    quantized = quantize(model, batches(model))
    model.graph.input.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims) for name, dims in names.items()
    )
    again = quantize(model, [{"x": batch["x"]} for batch in batches(network("float[n,3,9,9] x", "float y", ""))])
    assert [value.name for value in again.graph.input] == ["x"]
    assert again.graph.node == quantized.graph.node
    assert run(again, {"x": np.ones((1, 3, 9, 9), np.float32)})[0].shape == (1, 4, 7, 7)


def test_weights_have_seven_bits_and_a_scale_per_channel() -> None:
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantize(FIRE, batches(FIRE)).graph.initializer}
    weights = [value for value in stored.values() if value.dtype == np.int8 and value.ndim > 1]
    assert [value.shape for value in weights] == [(16, 4, 3, 3), (8, 16, 1, 1), (8, 16, 3, 3), (10, 16, 1, 1)]
    for value in weights:
        assert (np.abs(value.astype(int)).reshape(len(value), -1).max(axis=1) == 63).all()
    assert not weights[0][:, 3].any()


def test_the_same_pictures_give_the_same_bytes_and_the_model_is_not_changed() -> None:
    before = FIRE.SerializeToString(deterministic=True)
    first, second = (quantize(FIRE, batches(FIRE)).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert FIRE.SerializeToString(deterministic=True) == before


def test_no_batch_is_kept() -> None:
    alive: list[weakref.ref[np.ndarray]] = []

    def passing():
        for batch in batches(GEMM):
            array = batch["x"].copy()
            alive.append(weakref.ref(array))
            yield {"x": array}
            del array
            assert sum(each() is not None for each in alive) <= 1

    quantize(GEMM, passing())
    assert len(alive) == 32


def test_what_cannot_be_quantized_says_so() -> None:
    with pytest.raises(InputError, match="no batches"):
        quantize(GEMM, [])
    with pytest.raises(ModelError, match="nothing in the network can be quantized"):
        quantize(network("float[n,3] x", "float[n,3] y", "y = Relu(x)"), [])
    with pytest.raises(ModelError, match="not finite"):
        quantize(GEMM, [{"x": np.full((1, 20), np.inf, np.float32)}])
    with pytest.raises(ModelError, match="cannot run the graph") as caught:
        quantize(GEMM, [{"x": np.zeros((1, 21), np.float32)}])
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="cannot load the graph"):
        quantize(network("float[n,3] x", "float[n,3] y", "y = NoSuchOperator(x)"), [])


def test_the_file_needs_neither_smidgen_nor_torch_nor_onnx(tmp_path: Path) -> None:
    onnx.save(quantize(FIRE, batches(FIRE)), tmp_path / "net.onnx")
    code = f"""
import sys
for name in ("smidgen", "torch", "onnx"):
    sys.modules[name] = None
import numpy, onnxruntime
session = onnxruntime.InferenceSession({str(tmp_path / "net.onnx")!r})
print(session.run(None, {{"x": numpy.zeros((2, 3, 17, 17), numpy.float32)}})[0].shape)
"""
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(2, 10)\n"


def test_squeezenet_is_integers_from_the_picture_to_the_scores(tmp_path: Path) -> None:
    from skimage import data

    model = read_model("squeezenet1_1")
    archive = model
    runner = archive.runner(1)
    pictures = [runner.prepare(picture)[None] for picture in (data.astronaut(), data.chelsea(), data.rocket())]
    quantized = quantize(archive.onnx(), ({"image": picture} for picture in pictures))
    expected = {"QLinearConv": 26, "QLinearConcat": 8, "NhwcMaxPool": 3, "QuantizeLinear": 1, "DequantizeLinear": 1}
    kinds = optimized(quantized, tmp_path)
    assert expected.items() <= kinds.items()
    assert kinds.keys() - expected.keys() == {"Pad", "Transpose", "GlobalAveragePool", "Flatten"}
    for picture in pictures:
        assert run(quantized, {"image": picture})[0].argmax() == runner(picture).argmax()


def test_histograms_add_up() -> None:
    rng = RNG(0)
    parts = [rng.normal(0, scale, 1000).astype(np.float32) for scale in (1e-3, 1, 50)]
    whole, merged, last = Histogram(), Histogram(), Histogram()
    for part in parts:
        whole.add(part)
    merged.add(parts[2])
    last.add(parts[0])
    last.add(parts[1])
    merged.merge(last)
    for one, other in ((whole, merged), (last, last)):
        assert (one.low, one.high, one.width) == (other.low, other.high, other.width)
        np.testing.assert_array_equal(one.counts, other.counts)
    edges = np.append(whole.centers() - whole.width / 2, whole.centers()[-1] + whole.width / 2)
    np.testing.assert_array_equal(whole.counts, np.histogram(np.concatenate(parts), edges)[0])


def test_rare_values_are_clipped_and_answers_are_not() -> None:
    histogram = Histogram()
    histogram.add(np.append(RNG(0).uniform(0, 1, 1_000_000), 1.9).astype(np.float32))
    assert float(best_affine(histogram)[0]) * 255 < 1.1
    assert float(wide_affine(histogram)[0]) * 255 > 1.9
    assert best_affine(Histogram()) == (1, 0)
