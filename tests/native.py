"""A small file with a program, and a check of the memory that a program uses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from smidgen.archive import Archive, Label, Preprocessing
from smidgen.code import Affine, Code, Table, Trellis
from smidgen.lower import lower
from smidgen.run.program import Join, Program, Tensor, reads

CLASSES = 10


def program_archive() -> Archive:
    """A network of one fire module, with weights of several rules, that takes pictures of 32 x 32; and its program."""
    rng = np.random.default_rng(11)

    def symbols(*shape: int) -> NDArray[np.int16]:
        return np.clip(np.rint(rng.normal(0, 3, shape)), -9, 9).astype(np.int16)

    scales = rng.uniform(0.02, 0.04, (8, 1)).astype(np.float32)
    tensors = {
        "first": rng.normal(0, 0.2, (12, 3, 3, 3)).astype(np.float32),
        "first.bias": rng.normal(0, 0.5, 12).astype(np.float32),
        "squeeze": Code(symbols(8, 12, 1, 1), Affine(scales, np.ones((8, 1), np.int16), 0)),
        "one": Code(symbols(10, 8, 1, 1), Trellis(0.015625)),
        "three": Code(symbols(6, 8, 3, 3), Trellis(0.0078125)),
        "three.bias": rng.normal(0, 0.5, 6).astype(np.float32),
        "last": Code(
            (symbols(CLASSES, 16, 1, 1) + 9).astype(np.int16), Table(np.linspace(-0.4, 0.4, 19, dtype=np.float32)[None])
        ),
        "last.bias": rng.normal(0, 0.5, CLASSES).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["image", "first", "first.bias"], ["a"], strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
        helper.make_node("Conv", ["c", "squeeze"], ["d"]),
        helper.make_node("Relu", ["d"], ["e"]),
        helper.make_node("Conv", ["e", "one"], ["f"]),
        helper.make_node("Relu", ["f"], ["g"]),
        helper.make_node("Conv", ["e", "three", "three.bias"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["i"]),
        helper.make_node("Concat", ["g", "i"], ["j"], axis=1),
        helper.make_node("Conv", ["j", "last", "last.bias"], ["k"]),
        helper.make_node("GlobalAveragePool", ["k"], ["l"]),
        helper.make_node("Flatten", ["l"], ["scores"]),
    ]
    weights = [TensorProto(name=name, dims=t.shape, data_type=TensorProto.FLOAT) for name, t in tensors.items()]
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 32, 32]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", CLASSES]),
    ]
    graph = helper.make_graph(nodes, "fire", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    archive = Archive(
        model.SerializeToString(),
        tensors,
        Preprocessing(32, 32, "BGR", (104.0, 117.0, 124.0), (60.0, 58.0, 57.0)),
        tuple(Label(f"n{number:08}", f"thing {number}") for number in range(CLASSES)),
        {"made by": "a test"},
    )
    shown = [{"image": rng.normal(0, 1, (4, 3, 32, 32)).astype(np.float32)} for _ in range(6)]
    return replace(archive, program=lower(archive, shown))


@pytest.fixture(scope="session")
def program_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``program_archive`` as a file."""
    path = tmp_path_factory.mktemp("program") / "fire.smidgen"
    program_archive().save(path)
    return path


def touched(tensor: Tensor) -> NDArray[np.int64]:
    """The arena's bytes that a tensor has, its border included."""
    width = tensor.channels * (4 if tensor.numbers else 1)
    rows, columns = (size + 2 * tensor.border for size in (tensor.height, tensor.width))
    pixels = np.arange(rows)[:, None] * tensor.row + np.arange(columns) * tensor.pitch
    return tensor.start + pixels[..., None] + np.arange(width)


def check_memory(program: Program) -> None:
    """What an operation reads is what was written there, and not overwritten since; nothing else is touched."""
    written = np.full(program.arena, -2)  # by which operation each byte was
    known: dict[int, NDArray[np.int64]] = {}

    def write(number: int, time: int) -> None:
        assert number not in known
        where = touched(program.tensors[number])
        assert where.min() >= 64
        assert where.max() < program.arena - 64
        written[where] = time
        known[number] = written[where]

    def read(number: int) -> None:
        np.testing.assert_array_equal(written[touched(program.tensors[number])], known[number])

    write(0, -1)
    for time, operation in enumerate(program.operations):
        sources = reads(operation)
        for number in sources:
            read(number)
        if isinstance(operation, Join):
            known[operation.output] = written[touched(program.tensors[operation.output])]
            assert set(np.unique(known[operation.output])) <= {v for n in sources for v in np.unique(known[n])}
            continue
        target = touched(program.tensors[operation.output])
        for number in sources:
            assert not np.intersect1d(target, touched(program.tensors[number])).size
        write(operation.output, time)
    read(program.output)
    assert set(known) == set(range(len(program.tensors)))
