"""The running half: pictures in, names and scores out, without PyTorch; ONNX Runtime loads with the first network."""

from smidgen.run.evaluate import Evaluation, evaluate, latency
from smidgen.run.pictures import find_labelled, find_pictures, open_picture, prepare
from smidgen.run.runner import Answer, Runner

__all__ = [
    "Answer",
    "Evaluation",
    "Runner",
    "evaluate",
    "find_labelled",
    "find_pictures",
    "latency",
    "open_picture",
    "prepare",
]
