from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_network as tiny
from onnx import TensorProto, helper
from PIL import Image

from smidgen.archive import Label
from smidgen.code import Affine, Code
from smidgen.errors import InputError, ModelError
from smidgen.run.answer import Answer


def batch(count: int = 5) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 3, 8, 6)).astype(np.float32)


def softmax_tail(*, then_reshape: bool = False) -> dict[str, bytes]:
    nodes = [helper.make_node("Softmax", ["scores"], ["p"])]
    if then_reshape:
        nodes += [helper.make_node("Flatten", ["p"], ["q"])]
    return {"graph": tiny.graph(tail=nodes, outputs=["q" if then_reshape else "p"])}


def test_scores_and_probabilities() -> None:
    runner = tiny.archive().runner(threads=1)
    scores = runner(batch())
    expected = tiny.slow_scores(tiny.weights(), batch())
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    logs = runner.log_probabilities(batch())
    assert logs.dtype == np.float64
    np.testing.assert_allclose(logs, tiny.slow_log_softmax(expected), rtol=1e-5, atol=1e-6)
    probabilities = runner.probabilities(batch())
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, np.exp(tiny.slow_log_softmax(expected)), rtol=1e-5)


def test_large_scores_neither_overflow_nor_vanish() -> None:
    tensors = {"weight": np.zeros((3, 3, 3, 3), np.float32), "bias": np.float32([5000, 3000, 0])}
    runner = tiny.archive(tensors=tensors).runner()
    np.testing.assert_allclose(runner.log_probabilities(batch(1)), [[0, -2000, -5000]])
    answers = runner.recognize(tiny.pictures(1)[0])
    assert [answer.label.id for answer in answers] == ["n01", "n02", "n03"]  # although two of them round to 0
    assert [answer.score for answer in answers] == [1.0, 0.0, 0.0]


def test_codes_run_as_their_values() -> None:
    symbols = np.random.default_rng(2).integers(-7, 8, (3, 3, 3, 3)).astype(np.int16)
    code = Code(symbols, Affine.per_tensor(0.125))
    tensors = {"weight": code, "bias": np.zeros(3, np.float32)}
    expected = tiny.slow_scores({"weight": code.values(), "bias": tensors["bias"]}, batch())
    np.testing.assert_allclose(tiny.archive(tensors=tensors).runner()(batch()), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("fixed", [1, 3])
def test_a_fixed_batch_size_runs_in_parts(fixed: int) -> None:
    runner = tiny.archive(graph=tiny.graph(batch=fixed)).runner()
    np.testing.assert_allclose(runner(batch(6)), tiny.archive().runner()(batch(6)), rtol=1e-6)


def test_a_batch_that_is_no_multiple_of_the_fixed_size() -> None:
    with pytest.raises(InputError, match="a multiple of 3"):
        tiny.archive(graph=tiny.graph(batch=3)).runner()(batch(4))


@pytest.mark.parametrize("then_reshape", [False, True])
def test_a_graph_that_ends_in_a_softmax_gets_no_second_one(then_reshape: bool) -> None:
    ends = tiny.archive(**softmax_tail(then_reshape=then_reshape)).runner()
    plain = tiny.archive().runner()
    np.testing.assert_allclose(ends.log_probabilities(batch()), plain.log_probabilities(batch()), atol=1e-6)


def test_axes_of_one_after_the_classes_are_dropped() -> None:
    runner = tiny.archive(graph=tiny.graph(outputs=["pool"])).runner()
    assert runner(batch()).shape == (5, 3)
    with pytest.raises(ModelError, match=r"scores of shape \(5, 3, 8, 6\)"):
        tiny.archive(graph=tiny.graph(outputs=["relu"])).runner()(batch())


@pytest.mark.parametrize(
    "wrong",
    [
        batch()[0],
        batch().astype(np.float64),
        batch()[:, :2],
        batch()[:, :, :7],
        batch()[:0],
        np.zeros((2, 6, 8, 3), np.float32),
    ],
)
def test_wrong_input(wrong: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"takes float32 of shape \(n, 3, 8, 6\), not"):
        tiny.archive().runner()(wrong)


def test_free_sizes() -> None:
    runner = tiny.archive(graph=tiny.graph(size=("h", "w"))).runner()
    assert runner(np.zeros((2, 3, 20, 30), np.float32)).shape == (2, 3)
    with pytest.raises(InputError, match=r"\(n, 3, any, any\)"):
        runner(np.zeros((2, 4, 20, 30), np.float32))


def one_line(error: BaseException) -> bool:
    return "\n" not in str(error) and len(str(error)) < 400


def test_graphs_that_cannot_be_loaded() -> None:
    unknown = tiny.graph(tail=[helper.make_node("NoSuchOperator", ["scores"], ["x"])], outputs=["x"])
    for fields in ({"graph": unknown}, {"graph": b"not a graph"}):
        with pytest.raises(ModelError) as caught:
            tiny.archive(**fields).runner()
        assert one_line(caught.value)


def test_weights_that_do_not_fit() -> None:
    for tensors in ({}, {**tiny.weights(), "more": np.zeros(1, np.float32)}, tiny.weights(4)):
        with pytest.raises(ModelError) as caught:
            tiny.archive(tensors=tensors).runner()
        assert one_line(caught.value)


def test_a_graph_that_fails_while_running(capfd: pytest.CaptureFixture[str]) -> None:
    tail = [
        helper.make_node("Constant", [], ["shape"], value=helper.make_tensor("", TensorProto.INT64, [2], [7, 11])),
        helper.make_node("Reshape", ["scores", "shape"], ["x"]),
    ]
    runner = tiny.archive(graph=tiny.graph(tail=tail, outputs=["x"])).runner()
    with pytest.raises(ModelError, match="cannot run the graph") as caught:
        runner(batch())
    assert one_line(caught.value)
    assert capfd.readouterr().err == ""


def test_graphs_of_another_kind() -> None:
    with pytest.raises(ModelError, match="not 1 and 2"):
        tiny.archive(graph=tiny.graph(outputs=["scores", "pool"])).runner()
    flat = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "flat",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "integers",
        [helper.make_tensor_value_info("x", TensorProto.INT32, ["n", 3, 8, 6])],
        [helper.make_tensor_value_info("y", TensorProto.INT32, None)],
    )
    for graph, message in ((flat, "not 2 axes"), (other, "32-bit floats")):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        with pytest.raises(ModelError, match=message):
            tiny.archive(graph=model.SerializeToString(), tensors={}).runner()


def test_scores_that_are_not_finite() -> None:
    tensors = tiny.weights()
    tensors["bias"] = np.float32([0, np.inf, 0])
    with pytest.raises(ModelError, match="not finite"):
        tiny.archive(tensors=tensors).runner()(batch())


def test_negative_threads() -> None:
    with pytest.raises(InputError, match="threads"):
        tiny.archive().runner(threads=-1)


def test_recognize(tmp_path: Path) -> None:
    runner = tiny.archive().runner()
    picture = tiny.pictures(1)[0]
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    answers = runner.recognize(picture)
    probabilities = runner.probabilities(runner.prepare(picture)[None])[0]
    order = sorted(range(3), key=lambda index: -probabilities[index])
    assert [answer.label for answer in answers] == [tiny.LABELS[index] for index in order]
    np.testing.assert_allclose([answer.score for answer in answers], probabilities[order], rtol=1e-6)
    assert isinstance(answers[0], Answer)
    assert runner.recognize(path) == runner.recognize(str(path)) == answers
    assert runner.recognize(path, top=1) == answers[:1]
    with pytest.raises(InputError, match="top"):
        runner.recognize(path, top=0)
    with pytest.raises(InputError, match="no such file"):
        runner.recognize(tmp_path / "b.png")


def test_recognize_without_labels_and_with_too_few() -> None:
    picture = tiny.pictures(1)[0]
    answers = tiny.archive(20, labels=()).runner().recognize(picture, top=20)
    assert {answer.label for answer in answers} == {Label(f"class {n}", f"class {n}") for n in range(20)}
    with pytest.raises(ModelError, match="2 labels, but its network gives 3"):
        tiny.archive(labels=tiny.LABELS[:2]).runner().recognize(picture)


def test_recognize_without_preprocessing() -> None:
    runner = tiny.archive(preprocessing=None).runner()
    assert runner(batch()).shape == (5, 3)  # batches need none
    with pytest.raises(ModelError, match="does not say how pictures are prepared"):
        runner.recognize(tiny.pictures(1)[0])


def test_the_running_half_starts_light() -> None:
    heavy = "{'torch', 'onnx', 'onnxruntime', 'PIL'}"
    code = f"import sys, smidgen.run; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
