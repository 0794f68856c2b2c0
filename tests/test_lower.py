"""Programs in integers come near the float networks that they are lowered from, and keep to their memory."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from native import check_memory, program_file
from numpy.typing import NDArray
from test_int8 import network, run
from tiny_network import pictures

import smidgen
from smidgen.archive import Archive, Preprocessing
from smidgen.arrange import arranged
from smidgen.code import Affine, Code, Table, Trellis
from smidgen.errors import FormatError, InputError, ModelError
from smidgen.lower import lower, structure
from smidgen.methods import Binarize
from smidgen.onnx_file import archive_of
from smidgen.run.program import Convolution, Program
from tests.reference import program as reference

__all__ = ["program_file"]
RNG = np.random.default_rng

# name: nodes from x, float[n,8,9,7], to y of any shape; and constants
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "convolution": ("y = Conv<pads=[1,1,1,1]>(x, w, b)", {"w": (12, 8, 3, 3), "b": (12,)}),
    "without a bias": ("y = Conv(x, w)", {"w": (12, 8, 1, 1)}),
    "uneven pads and strides": (
        "a = Conv<pads=[0,1,2,0], strides=[2,3]>(x, w, b) y = Relu(a)",
        {"w": (12, 8, 3, 2), "b": (12,)},
    ),
    "dilation": ("y = Conv<dilations=[2,3], pads=[2,3,2,3]>(x, w)", {"w": (12, 8, 3, 3)}),
    "groups": ("y = Conv<group=2, pads=[1,1,1,1]>(x, w, b)", {"w": (12, 4, 3, 3), "b": (12,)}),
    "depthwise": (
        "a = Conv<group=8, pads=[2,2,2,2]>(x, w) b = Clip(a, low, high) y = Conv(b, v)",
        {"w": (8, 1, 5, 5), "v": (9, 8, 1, 1), "low": np.float32(0), "high": np.float32(1)},
    ),
    "same upper": ('y = Conv<auto_pad="SAME_UPPER", strides=[2,2]>(x, w)', {"w": (9, 8, 3, 4)}),
    "same lower": ('y = Conv<auto_pad="SAME_LOWER", strides=[2,2]>(x, w)', {"w": (9, 8, 3, 4)}),
    "valid": ('y = Conv<auto_pad="VALID", strides=[2,1]>(x, w)', {"w": (9, 8, 3, 4)}),
    "clip above zero": (
        "a = Conv(x, w) b = Clip(a, low, high) y = Conv(b, v)",
        {"w": (9, 8, 1, 1), "v": (9, 9, 1, 1), "low": np.float32(0.2), "high": np.float32(0.7)},
    ),
    "whole picture": ("a = Flatten(x) y = Gemm<transB=1>(a, w, b)", {"w": (10, 504), "b": (10,)}),
    "inputs first": (
        "a = Flatten(x) b = Gemm(a, w, b0) c = Relu(b) y = MatMul(c, v)",
        {"w": (504, 20), "b0": (20,), "v": (20, 11)},
    ),
    "product and sum": (
        "a = Flatten(x) b = MatMul(a, w) c = Add(b, b0) d = Relu(c) y = Gemm<transB=1>(d, v)",
        {"w": (504, 20), "b0": (20,), "v": (11, 20)},
    ),
    "product of pixels": (
        "a = Transpose<perm=[0,2,3,1]>(x) b = MatMul(a, w) c = Add(b0, b) d = Relu(c) y = ReduceMean<axes=[1,2]>(d)",
        {"w": (8, 20), "b0": (20,)},
    ),
    "channels last": (
        "a = Transpose<perm=[0,2,3,1]>(x) b = Flatten(a) y = Gemm<transB=1>(b, w)",
        {"w": (10, 504)},
    ),
    "greatest": (
        "a = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
    ),
    "greatest with pads": (
        "a = MaxPool<kernel_shape=[3,2], strides=[2,2], pads=[1,1,0,0]>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
    ),
    "average": (
        "a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
    ),
    "average of pads": (
        "a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
    ),
    "average in ceil mode": (
        "a = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
    ),
    "global pools": (
        "a = GlobalAveragePool(x) b = GlobalMaxPool(x) c = Concat<axis=1>(a, b) y = Conv(c, w)",
        {"w": (9, 16, 1, 1)},
    ),
    "mean at the end": ("a = Conv(x, w) b = Relu(a) c = GlobalAveragePool(b) y = Flatten(c)", {"w": (9, 8, 1, 1)}),
    "mean without its axes": (
        "a = ReduceMean<axes=[2,3], keepdims=0>(x) y = Gemm<transB=1>(a, w)",
        {"w": (9, 8)},
    ),
    "concatenation": (
        """a = Conv(x, w) b = Relu(a) c = Conv<pads=[1,1,1,1]>(b, v) d = Concat<axis=1>(b, c) e = Relu(d)
        y = Conv<pads=[1,1,1,1]>(d, u)""",
        {"w": (9, 8, 1, 1), "v": (6, 9, 3, 3), "u": (9, 15, 3, 3)},
    ),
    "concatenation of concatenations": (
        """a = Conv(x, w) b = Conv(x, v) c = Concat<axis=1>(a, b) d = Conv(c, u) e = Concat<axis=1>(d, c, a, x, a)
        f = Concat<axis=1>(e, b) y = Conv<pads=[1,1,1,1]>(f, t)""",
        {"w": (9, 8, 1, 1), "v": (9, 8, 1, 1), "u": (9, 18, 1, 1), "t": (9, 62, 3, 3)},
    ),
    "concatenation of columns": (
        "a = Flatten(x) b = Gemm<transB=1>(a, w) c = Relu(b) d = Tanh(b) e = Concat<axis=1>(c, d) y = MatMul(e, v)",
        {"w": (10, 504), "v": (20, 9)},
    ),
    "a weight with outliers": (
        "y = Conv(x, w)",
        {"w": np.where(np.arange(576) == 77, 99, np.tile([1, -1], 288)).reshape(8, 8, 3, 3).astype(np.float32)},
    ),
    "residual": (
        "a = Conv<pads=[1,1,1,1]>(x, w) b = Add(a, x) c = Relu(b) d = Conv(c, v) y = Add(c, d)",
        {"w": (8, 8, 3, 3), "v": (8, 8, 1, 1)},
    ),
    "squeeze and excitation": (
        """a = Conv(x, w) b = HardSwish(a) c = GlobalAveragePool(b) d = Conv(c, v) e = Relu(d) f = Conv(e, u)
        g = HardSigmoid(f) h = Mul(g, b) y = Conv(h, t)""",
        {"w": (16, 8, 1, 1), "v": (8, 16, 1, 1), "u": (16, 8, 1, 1), "t": (9, 16, 1, 1)},
    ),
    "sum with one pixel": ("a = GlobalAveragePool(x) b = Add(a, x) y = Conv(b, w)", {"w": (9, 8, 1, 1)}),
    "constants": (
        "a = Sub(x, s) b = Div(a, t) c = Mul(t, b) d = Add(c, s) e = Sub(s, d) y = Conv(e, w)",
        {"w": (9, 8, 1, 1), "s": np.float32(0.3), "t": np.full((1, 1, 1, 1), 2, np.float32)},
    ),
    "swish": (
        "a = Conv(x, w) b = Sigmoid(a) c = Mul(a, b) y = Conv(c, v)",
        {"w": (9, 8, 1, 1), "v": (9, 9, 1, 1)},
    ),
    "gelu": (
        """a = Conv(x, w) b = Div(a, root) c = Erf(b) d = Add(c, one) e = Mul(a, d) f = Mul(e, half)
        y = Conv(f, v)""",
        {
            "w": (9, 8, 1, 1),
            "v": (9, 9, 1, 1),
            "root": np.float32(2**0.5),
            "one": np.float32(1),
            "half": np.float32(0.5),
        },
    ),
    "hard swish in parts": (
        """a = Conv(x, w) b = Add(a, three) c = Clip(b, zero, six) d = Mul(a, c) e = Div(d, six) y = Conv(e, v)""",
        {
            "w": (9, 8, 1, 1),
            "v": (9, 9, 1, 1),
            "zero": np.float32(0),
            "three": np.float32(3),
            "six": np.float32(6),
        },
    ),
    "functions": (
        """a = LeakyRelu<alpha=0.1>(x) b = Elu(a) c = Tanh(b) d = Softplus(c) e = Abs(d) f = Sqrt(e) g = Neg(f)
        h = Exp(g) i = PRelu(h, s) y = Conv(i, w)""",
        {"w": (9, 8, 1, 1), "s": np.array([0.2], np.float32)},
    ),
    "relu after a pool": ("a = MaxPool<kernel_shape=[2,2]>(x) b = Relu(a) y = Conv(b, w)", {"w": (9, 8, 1, 1)}),
    "shuffled channels": (
        """a = Conv(x, w) b = Reshape(a, s) c = Transpose<perm=[0,2,1,3,4]>(b) d = Reshape(c, t)
        y = Conv<group=3, pads=[1,1,1,1]>(d, v)""",
        {"w": (12, 8, 1, 1), "s": np.array([0, 3, 4, 9, 7]), "t": np.array([1, -1, 9, 7]), "v": (9, 4, 3, 3)},
    ),
    "shape of the input": (
        """a = Conv(x, w) s = Shape(a) i = Gather(s, zero) j = Unsqueeze(i, axes) k = Concat<axis=0>(j, rest)
        b = Reshape(a, k) y = MatMul(b, v)""",
        {
            "w": (9, 8, 1, 1),
            "zero": np.int64(0),
            "axes": np.array([0]),
            "rest": np.array([-1]),
            "v": (567, 10),
        },
    ),
    "sizes of one": (
        """a = GlobalAveragePool(x) b = Squeeze(a, last) c = Unsqueeze(b, last) d = Identity(c) e = Dropout(d)
        y = Conv(e, w)""",
        {"w": (9, 8, 1, 1), "last": np.array([2, 3])},
    ),
    "nearest": (
        """a = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , s)
        y = Conv<pads=[1,1,1,1]>(a, w)""",
        {"w": (9, 8, 3, 3), "s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "smaller, nearest": (
        'a = Resize<mode="nearest">(x, , , s) y = Conv(a, w)',
        {"w": (9, 8, 1, 1), "s": np.array([1, 8, 5, 4])},
    ),
    "linear": (
        'a = Resize<mode="linear">(x, , , s) y = Conv(a, w)',
        {"w": (9, 8, 1, 1), "s": np.array([1, 8, 20, 11])},
    ),
    "linear with corners": (
        'a = Resize<mode="linear", coordinate_transformation_mode="align_corners">(x, , , s) y = Conv(a, w)',
        {"w": (9, 8, 1, 1), "s": np.array([1, 8, 20, 11])},
    ),
    "linear as in PyTorch": (
        'a = Resize<mode="linear", coordinate_transformation_mode="pytorch_half_pixel">(x, , s) y = Conv(a, w)',
        {"w": (9, 8, 1, 1), "s": np.array([1, 1, 1.5, 0.6], np.float32)},
    ),
    "pads of their own": (
        "a = Pad(x, p) y = Conv<strides=[2,2], pads=[1,0,0,0]>(a, w)",
        {"w": (9, 8, 3, 3), "p": np.array([0, 0, 0, 1, 0, 0, 2, 1])},
    ),
    "softmax": ("a = Flatten(x) b = Gemm<transB=1>(a, w) y = Softmax(b)", {"w": (10, 504)}),
    "relu at the end": ("a = Flatten(x) b = Gemm<transB=1>(a, w) y = Relu(b)", {"w": (10, 504)}),
}


def lowerable(nodes: str, constants: dict[str, Any]) -> Archive:
    return arranged(archive_of(network("float[n,8,9,7] x", "float[n,k] y", nodes, **constants)))


def inputs(count: int, seed: int) -> list[dict[str, NDArray[np.float32]]]:
    return [{"x": RNG(1000 + seed + i).normal(0.2, 1, (1, 8, 9, 7)).astype(np.float32)} for i in range(count)]


def answers(archive: Archive, program: Program, batch: dict[str, NDArray[np.float32]]) -> tuple[NDArray[Any], ...]:
    """Of ONNX Runtime, and of the program."""
    exact = run(archive.onnx(), batch)[0].reshape(-1)
    return exact, reference.run(program, list(archive.tensors.values()), next(iter(batch.values()))[0])


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    archive = lowerable(*CASES[name])
    data = lower(archive, inputs(30, 0))
    program = Program.from_bytes(data)
    assert program.to_bytes() == data
    check_memory(program)
    for batch in inputs(3, 100):
        exact, found = answers(archive, program, batch)
        assert exact.shape == found.shape
        assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def kinds(program: Program) -> list[str]:
    return [type(operation).__name__ for operation in program.operations]


def lowered(name: str) -> Program:
    return Program.from_bytes(lower(lowerable(*CASES[name]), inputs(2, 0)))


def test_a_relu_costs_nothing() -> None:
    program = lowered("concatenation")
    assert kinds(program)[:-1] == ["Convolution", "Convolution", "Join", "Convolution"]
    first = program.operations[0]
    assert isinstance(first, Convolution)
    # its range is that of the whole concatenation, below zero too, so that it has to clamp
    assert first.low == program.tensors[first.output].zero > 0
    assert kinds(lowered("residual")) == ["Convolution", "Sum", "Convolution", "Sum", "Move"]
    plain = lowered("uneven pads and strides")
    assert (plain.operations[0].low, plain.tensors[1].zero) == (0, 0)  # type: ignore[union-attr]


def test_functions_are_one_lookup() -> None:
    for name in ("swish", "gelu", "hard swish in parts"):
        assert kinds(lowered(name)) == ["Convolution", "Lookup", "Convolution", "Move"]
    assert kinds(lowered("functions"))[:-1] == ["Lookup", "Convolution"]
    assert kinds(lowered("constants"))[:-1] == ["Lookup", "Convolution"]


def test_what_lies_well_is_not_moved() -> None:
    for name in ("whole picture", "product of pixels", "sizes of one", "shape of the input"):
        assert "Move" not in kinds(lowered(name))
    assert kinds(lowered("channels last")) == ["Move", "Convolution"]
    assert kinds(lowered("shuffled channels")) == ["Convolution", "Move", "Convolution", "Move"]
    # the input, a part of another whole, twice what is in this one already; at last the picture that is the answer
    nested = lowered("concatenation of concatenations")
    assert kinds(nested).count("Move") == 5
    assert kinds(nested).count("Join") == 3


def test_scores_are_numbers() -> None:
    for name, last in (("whole picture", "Convolution"), ("mean at the end", "Mean"), ("softmax", "Convolution")):
        program = lowered(name)
        assert program.tensors[program.output].numbers
        assert (kinds(program)[-1], program.softmax) == (last, name == "softmax")
    assert not any(tensor.numbers for tensor in lowered("relu at the end").tensors)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an operator that programs lack": (
        "a = LRN<size=3>(x) y = Conv(a, w)",
        {"w": (9, 8, 1, 1)},
        "LRN .* cannot be computed in integers: programs have no such operation",
    ),
    "a constant for each channel": (
        "a = MaxPool<kernel_shape=[2,2]>(x) y = Mul(a, s)",
        {"s": (8, 1, 1)},
        "Mul 'y' .*: its constant 's' is not one number",
    ),
    "a small bias": ("y = Conv(x, w, b)", {"w": (3, 8, 1, 1), "b": (3,)}, "Conv 'y' .*: its bias 'b' is not a tensor"),
    "a division": ("a = Conv(x, w) y = Div(x, a)", {"w": (8, 8, 1, 1)}, "Div 'y' .*: two tensors can only be added"),
    "other shapes": ("a = MaxPool<kernel_shape=[2,2]>(x) y = Add(x, a)", {}, "Add 'y' .*: its inputs have the shapes"),
    "a pad in a pool": (
        "a = Pad(x, p) y = MaxPool<kernel_shape=[2,2]>(a)",
        {"p": np.array([0, 0, 1, 1, 0, 0, 1, 1])},
        "MaxPool 'y' .*: it reads what a Pad made",
    ),
    "a softmax within": (
        "a = Flatten(x) b = Softmax(a) y = MatMul(b, w)",
        {"w": (504, 8)},
        "Softmax .*: a softmax can only be the last",
    ),
    "a softmax of pixels": ("y = Softmax<axis=1>(x)", {}, "Softmax 'y' .*: a softmax can only be"),
    "rows joined": ("y = Concat<axis=2>(x, x)", {}, "Concat 'y' .*: only channels of pictures of the same size"),
    "a transposed convolution": (
        "y = ConvTranspose(x, w)",
        {"w": (8, 9, 2, 2)},
        "ConvTranspose 'y' .*: programs have no such operation",
    ),
    "a product of activations": (
        "a = Flatten(x) b = Transpose(a) y = MatMul(a, b)",
        {},
        "MatMul 'y' .*: its weight .* is no tensor of the file",
    ),
    "a slice": (
        "a = Slice(x, s, e, axes) y = Conv(a, w)",
        {"s": np.array([4]), "e": np.array([8]), "axes": np.array([1]), "w": (9, 4, 1, 1)},
        "Slice .*: programs have no such operation",
    ),
    "cubic resizing": (
        'y = Resize<mode="cubic">(x, , , s)',
        {"s": np.array([1, 8, 5, 4])},
        "Resize 'y' .*: mode 'cubic'",
    ),
    "a dilated pool": (
        "y = MaxPool<kernel_shape=[2,2], dilations=[2,2]>(x)",
        {},
        "MaxPool 'y' .*: kernels and strides go from 1 to 255, and dilations are 1",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_is_refused_without_data(name: str) -> None:
    nodes, constants, message = REFUSED[name]
    archive = lowerable(nodes, constants)
    with pytest.raises(ModelError, match=message) as raised:
        structure(archive)
    assert "\n" not in str(raised.value)


def test_weights_of_every_rule() -> None:
    """Rules whose integers are used as they are, and those that are rounded to 8 bits."""
    rng = RNG(4)
    symbols = rng.integers(-7, 8, (12, 8, 3, 3)).astype(np.int16)
    rows, zero = rng.uniform(0.01, 0.02, (12, 1)).astype(np.float32), rng.integers(-2, 3, (12, 1)).astype(np.int16)
    grouped = rng.uniform(0.01, 0.02, (12, 2)).astype(np.float32)
    table = np.linspace(-0.1, 0.1, 15, dtype=np.float32)[None]
    codes = {
        "trellis": Code(symbols, Trellis(0.0078125)),
        "affine": Code(symbols, Affine.per_tensor(0.01)),
        "rows": Code(symbols, Affine(rows, zero, 0)),
        "groups": Code(symbols, Affine(grouped, np.zeros((12, 2), np.int16), 0)),
        "table": Code((symbols + 7).astype(np.int16), Table(table)),
    }
    plain = lowerable(*CASES["convolution"])
    for code in codes.values():
        archive = replace(plain, tensors={**plain.tensors, "w": code})
        program = Program.from_bytes(lower(archive, inputs(20, 0)))
        for batch in inputs(2, 100):
            exact, found = answers(archive, program, batch)
            assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)


def test_sums_that_32_bits_cannot_hold() -> None:
    weight = np.ones((9, 36000), np.float32)
    model = network("float[n,3,100,120] x", "float[n,9] y", "a = Flatten(x) y = Gemm<transB=1>(a, w)", w=weight)
    archive = arranged(archive_of(model))
    structure(archive)
    with pytest.raises(ModelError, match="sums could exceed 32 bits"):
        lower(archive, [{"x": np.ones((1, 3, 100, 120), np.float32)}])


def test_inputs_that_programs_have_not() -> None:
    for given, message in (
        ("float[n,20] x", "is not float32 of shape"),
        ("float[2,3,4,4] x", "takes 2 examples at once"),
        ("float[n,3,h,w] x", "has no fixed size"),
        ("float[n,3,4,4] x, float[n,3,4,4] z", "has 2 inputs and 1 outputs"),
    ):
        nodes = "y = Add(x, z)" if "z" in given else "y = Relu(x)"
        with pytest.raises(ModelError, match=message):
            structure(archive_of(network(given, "float[n,k,l,m] y", nodes)))
    with pytest.raises(InputError, match="no batches"):
        lower(lowerable(*CASES["convolution"]), [])


def test_free_sizes_are_those_of_the_pictures() -> None:
    model = network(
        "float[n,3,h,w] x", "float[n,k] y", "a = Conv(x, w) b = GlobalAveragePool(a) y = Flatten(b)", w=(9, 3, 3, 3)
    )
    archive = replace(archive_of(model), preprocessing=Preprocessing(6, 8))
    program = Program.from_bytes(lower(archive, [{"x": np.ones((1, 3, 6, 8), np.float32)}]))
    assert (program.tensors[0].height, program.tensors[0].width) == (6, 8)
    assert program.picture is not None


def test_a_file_with_its_program(program_file: Path) -> None:
    archive = smidgen.open(program_file)
    program = Program.from_bytes(archive.program)
    check_memory(program)
    runner, records = archive.runner(1), list(archive.tensors.values())
    agreed = 0
    for picture in pictures(20):
        x = runner.prepare(picture)
        agreed += int(np.argmax(reference.run(program, records, x)) == np.argmax(runner(x[None])))
    assert agreed >= 18


def test_programs_that_cannot_be_parsed() -> None:
    data = lower(lowerable(*CASES["concatenation of concatenations"]), inputs(1, 0))
    for length in range(len(data)):
        with pytest.raises(FormatError, match="program"):
            Program.from_bytes(data[:length])
    with pytest.raises(FormatError, match="bytes follow"):
        Program.from_bytes(data + b"\0")
    rng = RNG(0)
    for _ in range(500):
        damaged = bytearray(data)
        damaged[rng.integers(len(data))] = rng.integers(256)
        with suppress(FormatError):
            Program.from_bytes(bytes(damaged))


SIGNS = {
    "signs": "g = GreaterOrEqual(x, o) a = Where(g, p, m) b = Conv<pads=[1,1,1,1]>(a, w) c = Relu(b) y = Conv(c, v)",
    "signs of a comparison": """g = Less(x, o) n = Not(g) f = Cast<to=1>(n) d = Add(f, f) a = Add(d, m)
    b = Conv<pads=[1,1,1,1]>(a, w) c = Relu(b) y = Conv(c, v)""",
    "no signs": "a = Sign(x) b = Conv<pads=[1,1,1,1]>(a, w) c = Relu(b) y = Conv(c, v)",  # of zero it is zero
}


@pytest.mark.parametrize("name", SIGNS)
def test_signs_of_activations_meet_signs_of_weights(name: str) -> None:
    constants = {"o": np.float32(0), "p": np.float32(1), "m": np.float32(-1), "w": (20, 8, 3, 3), "v": (9, 20, 1, 1)}
    archive = lowerable(SIGNS[name], {key: value for key, value in constants.items() if key in SIGNS[name]})
    codes = {key: Binarize()(t) for key, t in archive.tensors.items() if t.shape == (20, 8, 3, 3)}  # type: ignore[arg-type]
    archive = replace(archive, tensors={**archive.tensors, **codes})
    program = Program.from_bytes(lower(archive, inputs(30, 0)))
    check_memory(program)
    expected = ["Lookup", "Convolution"] if name == "no signs" else ["Signs", "SignsConvolution"]
    assert kinds(program)[:2] == expected
    for batch in inputs(3, 100):
        # what lies within half a step of zero may get the other sign in integers
        step = program.tensors[0].scale
        batch["x"][np.abs(batch["x"]) < step] = step
        exact, found = answers(archive, program, batch)
        assert np.linalg.norm(found - exact) < 0.05 * np.linalg.norm(exact)
