"""RapidOCR: detection, direction and recognition of text; judged by the text that its own pipeline reads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from PIL import Image, ImageDraw, ImageFont

from smidgen.read import read_model
from third_party import texts
from third_party.common import Row, in_package, squeezed

BAR = 2_800_000
PARTS = {
    "det": ("ch_PP-OCRv4_det_infer.onnx", 1_040_000),
    "cls": ("ch_ppocr_mobile_v2.0_cls_infer.onnx", 75_000),
    "rec": ("ch_PP-OCRv4_rec_infer.onnx", 1_685_000),
}
"""The three networks, and what each of their files may take."""

JUDGED, TOGETHER = 100, 4
LINES, PAGES, WINDOWS = 240, 60, 1
"""Lines and pages to calibrate on, and parts of each page for the detector."""

WINDOW = 256, 320
"""Multiples of 32, as the package makes them."""

FONTS = ("DejaVuSans", "DejaVuSans-Bold", "DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneral")


def run(folder: Path) -> Row:
    """Compresses all three networks, and compares what the package reads with these and with its own."""
    from rapidocr_onnxruntime import RapidOCR

    source = in_package("rapidocr_onnxruntime", "models")
    data = calibration(RapidOCR(), np.random.default_rng(0))
    for part, (name, size) in PARTS.items():
        small = squeezed(read_model(str(source / name)), data[part], size, folder / f"ocr_{part}.smidgen")
        onnx.save(small.onnx(), folder / f"ocr_{part}.onnx")
    small = RapidOCR(**{f"{part}_model_path": str(folder / f"ocr_{part}.onnx") for part in PARTS})
    rng = np.random.default_rng(1)
    lines = [shortened(sentence) for sentence in texts.written()[-JUDGED:]]
    pictures = [picture(lines[at : at + TOGETHER], rng) for at in range(0, JUDGED, TOGETHER)]
    original = RapidOCR()
    pairs = [[read(ocr, each) for ocr in (original, small)] for each in pictures]
    alike = [line in theirs for ours, theirs in pairs for line in ours]
    same = 100 * float(np.mean(alike))
    return Row(
        "rapidocr-onnxruntime (three)",
        sum((source / name).stat().st_size for name, _ in PARTS.values()),
        sum((folder / f"ocr_{part}.smidgen").stat().st_size for part in PARTS),
        BAR,
        f"same text, {len(alike)} rendered lines",
        f"{same:.1f} %",
        "95 %",
        same >= 95,
    )


def read(ocr: object, pixels: np.ndarray) -> list[str]:
    """The lines of text in a picture."""
    return [text for _, text, _ in ocr(pixels)[0] or []]


def calibration(ocr: object, rng: np.random.Generator) -> dict[str, list[dict[str, np.ndarray]]]:
    """Inputs of the three networks as they come up when pages and lines of other sentences are read."""
    seen = {part: Recorder() for part in PARTS}
    seen["det"].network, ocr.text_det.infer = ocr.text_det.infer, seen["det"]
    seen["cls"].network, ocr.text_cls.infer = ocr.text_cls.infer, seen["cls"]
    seen["rec"].network, ocr.text_rec.session = ocr.text_rec.session, seen["rec"]
    sentences = [shortened(sentence) for sentence in texts.found(LINES)]
    ends = sorted(rng.choice(np.arange(1, LINES), PAGES - 1, replace=False))
    for start, end in pairwise([0, *ends, LINES]):
        ocr(picture(sentences[start:end], rng))
    found = {part: [each for inputs in recorder.inputs for each in singles(inputs)] for part, recorder in seen.items()}
    found["cls"] += [np.ascontiguousarray(each[:, :, ::-1, ::-1]) for each in found["cls"]]
    found["det"] = [window(each, rng) for each in found["det"] for _ in range(WINDOWS)]
    return {part: [{"x": each} for each in inputs] for part, inputs in found.items()}


class Recorder:
    """Stands in for a session of the package, and keeps what that is given."""

    def __init__(self) -> None:
        self.network, self.inputs = None, []

    def __call__(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        self.inputs.append(inputs)
        return self.network(inputs)

    def __getattr__(self, name: str) -> object:
        return getattr(self.network, name)


def singles(inputs: np.ndarray) -> list[np.ndarray]:
    return [inputs[row : row + 1].astype(np.float32) for row in range(len(inputs))]


def window(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of an image (1, 3, height, width), so that measuring stays quick."""
    starts = [int(rng.integers(max(1, size - most + 1))) for size, most in zip(image.shape[2:], WINDOW, strict=True)]
    top, left = starts
    return np.ascontiguousarray(image[:, :, top : top + WINDOW[0], left : left + WINDOW[1]])


def shortened(sentence: str) -> str:
    """As many words as a line holds."""
    words = sentence.split()
    while len(" ".join(words)) > 45:
        words.pop()
    return " ".join(words)


def picture(lines: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Lines of text in some font, size and colours, with noise: uint8 of shape (height, width, 3)."""
    folder = in_package("matplotlib", "mpl-data", "fonts", "ttf")
    font = ImageFont.truetype(str(folder / f"{rng.choice(FONTS)}.ttf"), int(rng.integers(16, 40)))
    step = int(1.6 * font.size)
    size = int(max(font.getlength(line) for line in lines)) + 60, max(160, step * len(lines) + 60)
    dark, light = rng.integers(0, 90, 3), rng.integers(165, 256, 3)
    ink, paper = (dark, light) if rng.random() < 0.7 else (light, dark)
    image = Image.new("RGB", size, tuple(map(int, paper)))
    for number, line in enumerate(lines):
        ImageDraw.Draw(image).text((30, 30 + step * number), line, tuple(map(int, ink)), font)
    pixels = np.asarray(image) + rng.normal(0, rng.uniform(0, 18), (size[1], size[0], 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)
