"""SqueezeNet 1.1 in int8 for ONNX Runtime: smidgen's placement beside onnxruntime's own quantize_static.

    python benchmarks/int8.py PHOTOS PICTURES [--calibrate 100]

Calibrates both on the same photographs in PHOTOS, and measures on the pictures in PICTURES, which are not among them.
Times are the fastest of 200 interleaved runs on one thread; compare them within one run.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from smidgen.read import read_model
from smidgen.run.evaluate import evaluate, latency
from smidgen.run.int8 import quantize
from smidgen.run.pictures import find_labelled, find_pictures


class Reader(CalibrationDataReader):
    def __init__(self, batches) -> None:
        self._batches = iter(batches)

    def get_next(self):
        return next(self._batches, None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--calibrate", type=int, default=100)
    arguments = parser.parse_args()
    original = read_model("squeezenet1_1")
    found = find_pictures(arguments.photos)
    photos = [found[index] for index in np.random.default_rng(0).permutation(len(found))[: arguments.calibrate]]
    networks = {"float32": original.onnx()}
    networks["smidgen"] = quantize(networks["float32"], batches(original, photos))
    for bits, reduced in ((8, False), (7, True)):
        name = f"quantize_static, weights of {bits} bits"
        networks[name] = static(networks["float32"], batches(original, photos), reduced)
    contents = {name: network.SerializeToString() for name, network in networks.items()}
    runners = [replace(original, graph=content, tensors={}).runner(threads=1) for content in contents.values()]
    labelled = find_labelled(arguments.pictures, original.labels)
    times = np.min([latency(runners, photos[:1], rounds=1) for _ in range(200)], axis=0)
    results = evaluate(runners, [path for path, _ in labelled], [index for _, index in labelled])
    print(f"{'':34} {'bytes':>9} {'ms':>6} {'part':>5} {'top-1':>6} {'agreement':>9} {'KL':>7}")
    for (name, content), time, result in zip(contents.items(), times, results, strict=True):
        measured = f"{time:6.2f} {time / times[0]:5.2f} {result.top1:6.2f} {result.agreement:9.2f} {result.kl:7.4f}"
        print(f"{name:34} {len(content):9,} {measured}")


def batches(archive, photos):
    """One picture at a time, under the name of the network's input."""
    runner = archive.runner(threads=1)
    name = archive.onnx().graph.input[0].name
    return ({name: runner.prepare(photo)[None]} for photo in photos)


def static(network, batches, reduced):
    """What onnxruntime makes of it: QDQ, a scale per channel."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float32.onnx"), Path(folder, "int8.onnx")
        onnx.save(network, source)
        quantize_static(
            source,
            target,
            Reader(batches),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=reduced,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(target)


if __name__ == "__main__":
    main()
