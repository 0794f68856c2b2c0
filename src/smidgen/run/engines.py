"""What can run a network, each engine as one function; as a script: one of them, from nothing to its first answer.

Nothing is imported before it is needed, so that a process which starts with one engine pays for no other.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ENGINES", "RUNTIMES", "Engine", "Run", "missing"]

Run = Callable[[NDArray[Any]], NDArray[Any]]
"""From one input to the first output."""


class Engine(NamedTuple):
    """One of ``RUNTIMES``, and the model that it runs.

    Args:
        runtime: its name.
        model: "file", by its program; "float32" and "int8", ONNX made of it; "ncnn", made of "float32" by pnnx;
            "against", an ONNX file to compare with.
    """

    runtime: str
    model: str


ENGINES = {
    "native": Engine("native", "file"),
    "onnxruntime": Engine("onnxruntime", "float32"),
    "onnxruntime-int8": Engine("onnxruntime", "int8"),
    "onnxruntime-against": Engine("onnxruntime", "against"),
    "openvino": Engine("openvino", "float32"),
    "openvino-int8": Engine("openvino", "int8"),
    "openvino-against": Engine("openvino", "against"),
    "ncnn": Engine("ncnn", "ncnn"),
}


def _native(path: str, threads: int, shape: tuple[int, ...]) -> Run:
    from smidgen.run.native import Native

    with open(path, "rb") as file:
        network = Native(file.read(), threads)
    if network.shape[1:] != shape[1:]:
        raise ValueError(f"its program takes inputs of {network.shape[1:]}, not {shape[1:]}")
    return network


def _onnxruntime(path: str, threads: int, shape: tuple[int, ...]) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    options.add_session_config_entry("session.force_spinning_stop", "1")  # see smidgen.run.session
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda batch: session.run(None, {name: batch})[0]


def _openvino(path: str, threads: int, shape: tuple[int, ...]) -> Run:
    import openvino

    core: Any = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(shape))
    # without the precision it computes in 16 bits where the processor can; integers stay integers
    options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", options).create_infer_request()
    return lambda batch: request.infer([batch], share_inputs=True)[0]


def _ncnn(path: str, threads: int, shape: tuple[int, ...]) -> Run:
    import ncnn

    if shape[0] != 1:
        raise ValueError(f"it takes one input at a time, not {shape[0]}")
    network: Any = ncnn.Net()
    network.opt.num_threads = threads
    if network.load_param(path) or network.load_model(path.removesuffix("param") + "bin"):
        raise ValueError("it cannot load what pnnx has made of the graph")

    def run(batch: NDArray[Any]) -> NDArray[Any]:
        extractor: Any = network.create_extractor()
        extractor.input("in0", ncnn.Mat(batch[0]))
        failed, found = extractor.extract("out0")
        if failed:
            raise ValueError("it cannot run what pnnx has made of the graph")
        return np.array(found)[None]

    return run


RUNTIMES: dict[str, Callable[[str, int, tuple[int, ...]], Run]] = {
    "native": _native,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
}
"""Each takes a model's file, a number of threads and the shape of the inputs. What they raise has no common base."""

_NEEDS = {"native": (), "onnxruntime": ("onnxruntime",), "openvino": ("openvino",), "ncnn": ("ncnn", "pnnx")}


def missing(runtime: str) -> str | None:
    """What is not installed that a runtime needs, and how to install it.

    Example:
        >>> missing("native")
    """
    for package in _NEEDS[runtime]:
        if find_spec(package) is None:
            return f"{package} is not installed (pip install {package})"
    return None


def _main(runtime: str, path: str, threads: str, given: str) -> None:
    """Prints when the first answer was there, on the clock that all processes share, and the peak of memory so far."""
    batch = np.load(given)
    RUNTIMES[runtime](path, int(threads), batch.shape)(batch)
    answered = time.monotonic_ns()
    with open("/proc/self/status") as status:
        peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))
    print(json.dumps({"answered": answered, "peak": 1024 * peak}))


if __name__ == "__main__":
    _main(*sys.argv[1:])
