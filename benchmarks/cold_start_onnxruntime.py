"""The least that ONNX Runtime needs to say what is in a photograph: what `smidgen recognize` is measured against.

python benchmarks/cold_start_onnxruntime.py SQUEEZENET.onnx PHOTO
"""

import sys

import numpy as np
import onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
image = Image.open(sys.argv[2]).convert("RGB").resize((227, 227), Image.Resampling.BILINEAR)
pixels = np.asarray(image, np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32)
batch = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])
scores = session.run(None, {session.get_inputs()[0].name: batch})[0].ravel()
print(scores.argsort()[::-1][:5])
