"""Silero VAD: the chance of speech in each chunk of sound, with a state; judged on sentences spoken by espeak-ng."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from smidgen.read import read_model
from smidgen.run.session import Engine
from third_party import texts
from third_party.common import Row, engine, in_package, squeezed

SIZE, BAR = 200_000, 600_000
RATES = {16000: (512, 64), 8000: (256, 32)}
"""Samples in a chunk, and of the chunk before that go with it."""

CALIBRATED = 1250
SPOKEN, CLIPS = 3, 30
VOICES = ("en-us", "en-gb", "de", "fr-fr", "es", "it"), ("en-gb-scotland", "en-029", "nl", "pt", "sv", "pl")
"""Of espeak-ng, to calibrate with and to judge by."""


def run(folder: Path) -> Row:
    """Compresses Silero's network and compares the chances that it gives, each copy with its own state."""
    source = in_package("silero_vad", "data", "silero_vad.onnx")
    archive = read_model(str(source))
    original = engine(archive)
    rng = np.random.default_rng(1)
    known = clips(texts.found(SPOKEN * CLIPS), VOICES[0], rng)
    chunks = [inputs for clip in known for rate in RATES for _, inputs in heard(original, clip[rate], rate)]
    data = [chunks[place] for place in rng.permutation(len(chunks))[:CALIBRATED]]
    small = engine(squeezed(archive, data, SIZE, folder / "silero.smidgen", outputs="chances"))
    unknown = clips(texts.written()[: SPOKEN * CLIPS], VOICES[1], rng)
    both = [
        [np.array([chance for chance, _ in heard(network, clip[rate], rate)]) for network in (original, small)]
        for clip in unknown
        for rate in RATES
    ]
    ours, theirs = (np.concatenate(column) for column in zip(*both, strict=True))
    difference = float(np.abs(ours - theirs).mean())
    return Row(
        "silero-vad",
        source.stat().st_size,
        (folder / "silero.smidgen").stat().st_size,
        BAR,
        f"mean difference of chances, {len(ours):,} chunks at two rates, {100 * (ours > 0.5).mean():.0f} % speech",
        f"{difference:.4f}",
        "0.02",
        difference <= 0.02,
    )


def heard(network: Engine, sound: np.ndarray, rate: int) -> Iterator[tuple[float, dict[str, np.ndarray]]]:
    """The chance of speech in each chunk, and what the network was given for it."""
    length, context = RATES[rate]
    state, before = np.zeros((2, 1, 128), np.float32), np.zeros(context, np.float32)
    for start in range(0, len(sound) - length + 1, length):
        chunk = np.concatenate([before, sound[start : start + length]])
        inputs = {"input": chunk[None], "state": state, "sr": np.array(rate)}
        chance, state = network(inputs)
        before = chunk[-context:]
        yield float(chance[0, 0]), inputs


def clips(sentences: Sequence[str], voices: Sequence[str], rng: np.random.Generator) -> list[dict[int, np.ndarray]]:
    """Sound at every rate: some sentences each, with pauses, at some loudness, in some noise."""
    found = []
    for start in range(0, len(sentences), SPOKEN):
        parts = []
        for sentence in sentences[start : start + SPOKEN]:
            speech, rate = spoken(
                sentence, str(rng.choice(voices)), int(rng.integers(120, 220)), int(rng.integers(100))
            )
            parts += [np.zeros(int(rng.uniform(0.3, 2) * rate)), speech / np.abs(speech).max()]
        sound = np.concatenate(parts) * 10 ** rng.uniform(-1.2, 0)
        sound = sound + noise(len(sound), rng) * 10 ** rng.uniform(-3, -0.8)
        sound = np.clip(sound, -1, 1)
        found.append({wanted: resampled(sound, rate, wanted) for wanted in RATES})
    return found


def spoken(sentence: str, voice: str, speed: int, pitch: int) -> tuple[np.ndarray, int]:
    """A sentence as sound of -1 to 1, and the samples in a second."""
    program = shutil.which("espeak-ng") or sys.exit("espeak-ng is needed: apt install espeak-ng")
    command = [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", sentence]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(data)) as file:
        rate = file.getframerate()
    samples = np.frombuffer(data[44 : len(data) - len(data) % 2], np.int16)
    return samples / 32768, rate


def noise(length: int, rng: np.random.Generator) -> np.ndarray:
    """Noise that falls off with frequency, in half of all cases with a tone or with clicks; mean square 1."""
    spectrum = np.fft.rfft(rng.normal(size=length))
    spectrum /= np.maximum(np.arange(len(spectrum)) / len(spectrum), 1e-3) ** rng.uniform(0, 1.2)
    sound = np.fft.irfft(spectrum, length)
    sound /= sound.std()
    kind = rng.integers(4)
    if kind == 0:
        sound += np.sin(np.arange(length) * rng.uniform(0.02, 0.5)) * rng.uniform(0.5, 2)
    if kind == 1:
        sound[rng.integers(0, length, max(1, length // 20000))] += rng.uniform(10, 40)
    return sound / sound.std()


def resampled(sound: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """The same sound at another rate, by its spectrum."""
    length = len(sound) * wanted // rate
    spectrum = np.fft.rfft(sound)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * length / len(sound)).astype(np.float32)
