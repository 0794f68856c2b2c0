"""Binary convolutions of the core beside float32 in ONNX Runtime, one thread: python benchmarks/binary.py

A layer is 3x3 from 256 to 256 channels at 14x14. Two and twelve of them one after another are timed, and a tenth of the
difference is a layer, so that what comes before and after does not count for anybody. Weights are one bit; activations
have 8 bits, or one too (XNOR). Times are minima of interleaved runs.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from smidgen.run.native import Native, ways
from smidgen.run.program import NO_RECORD, Convolution, Signs, SignsConvolution
from smidgen.run.session import session
from smidgen.run.timing import interleaved
from tests.test_native import file_of, program_of, weights

CHANNELS, SIDE, FEW, MANY, ROUNDS = 256, 14, 2, 12, 60
SHAPE = {"height": SIDE, "width": SIDE, "channels": CHANNELS, "zero": 128, "scale": 0.02}
BARS = {"one-bit weights, 8-bit activations": 2.5, "one bit both (XNOR)": 8.0}


def main() -> None:
    rng = np.random.default_rng(0)
    records = [weights(rng, (CHANNELS, CHANNELS, 3, 3), "signs") for _ in range(MANY)]
    x = rng.normal(size=(1, CHANNELS, SIDE, SIDE)).astype(np.float32)
    rivals = [session(float32(rng, layers), 1) for layers in (FEW, MANY)]
    products = CHANNELS**2 * 9 * SIDE**2
    for way in ways()[-2:]:
        native = [
            Native(file_of(made(layers), records[:layers]), 1, way)
            for made in (eight_bits, one_bit)
            for layers in (FEW, MANY)
        ]
        runs = [*(lambda turn, s=s: s.run(None, {"x": x}) for s in rivals), *(lambda turn, n=n: n(x) for n in native)]
        times = interleaved(runs, ROUNDS).min(axis=0)
        theirs, *ours = (times[1::2] - times[::2]) / (MANY - FEW)
        print(f"ONNX Runtime float32: {theirs:.3f} ms a layer, {products / theirs / 1e6:.0f} G products/s")
        for (name, bar), mine in zip(BARS.items(), ours, strict=True):
            print(
                f"{way}, {name}: {mine:.3f} ms a layer, {products / mine / 1e6:.0f} G products/s, "
                f"{theirs / mine:.1f} times as fast (bar {bar})"
            )
    print("ONNX Runtime uses all that the processor has; benchmarks/avx2.c hides what is beyond AVX2 from all")


def eight_bits(count):
    shapes = [{**SHAPE, "border": 1} for _ in range(count + 1)]
    layers = [Convolution(i, i + 1, i, NO_RECORD, (3, 3), top=1, left=1) for i in range(count)]
    return program_of(shapes, layers)


def one_bit(count):
    shapes, layers = [SHAPE], []
    for i in range(count):
        shapes += [{**SHAPE, "channels": CHANNELS // 4, "zero": 0, "scale": 1.0}, SHAPE]
        layers += [
            Signs(2 * i, 2 * i + 1),
            SignsConvolution(2 * i + 1, 2 * i + 2, i, NO_RECORD, CHANNELS, (3, 3), top=1, left=1),
        ]
    return program_of(shapes, layers)


def float32(rng, count):
    nodes, held = [], []
    for i in range(count):
        nodes.append(helper.make_node("Conv", [f"x{i}" if i else "x", f"w{i}"], [f"x{i + 1}"], pads=[1, 1, 1, 1]))
        weight = rng.choice([-0.02, 0.02], (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        held.append(numpy_helper.from_array(weight, f"w{i}"))
    shape = [1, CHANNELS, SIDE, SIDE]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", f"x{count}")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], held)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


if __name__ == "__main__":
    main()
