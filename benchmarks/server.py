"""``smidgen serve`` under load: 32 callers at once for a minute, then hostile uploads.

    python benchmarks/server.py FILE.smidgen [--seconds 60] [--hostile 10000]

Callers send the photographs that packages carry, as JPEG files of 480 pixels. What is told: answers a second beside
what the same work (reading the picture, making it small, the network) gives without a server, on as many threads,
before and after; memory of the server after a sixth of the time and at the end; how many answers were no success. Then
damaged and false pictures, of which each must be answered with a reason (400) or, where damage did not hurt, with what
is seen (200).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from itertools import cycle
from pathlib import Path

import numpy as np
from PIL import Image

from smidgen.file import outline
from smidgen.photos import photographs
from smidgen.run.native import cores
from smidgen.web.networks import InCore
from smidgen.web.server import Limits, recognised

CALLERS, SIDE = 32, 480


def pictures() -> list[bytes]:
    found = []
    for pixels in photographs().values():
        image, stream = Image.fromarray(pixels), BytesIO()
        image.thumbnail((SIDE, SIDE))
        image.save(stream, "JPEG", quality=85)
        found.append(stream.getvalue())
    return found


def without_server(file: Path, sent: list[bytes], seconds: float) -> float:
    """Answers a second."""
    data = file.read_bytes()
    network = InCore(data, outline(data).labels, file.name, cores())
    end = time.perf_counter() + seconds

    def work(number: int) -> int:
        count = 0
        while time.perf_counter() < end:
            recognised([network], sent[(number + count) % len(sent)], Limits().pixels)
            count += 1
        return count

    with ThreadPoolExecutor(cores()) as pool:
        return sum(pool.map(work, range(cores()))) / seconds


def request(content: bytes) -> bytes:
    return b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(content) + content


async def call(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> tuple[int, bytes]:
    writer.write(request(content))
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    return int(head[9:12]), await reader.readexactly(length)


async def load(port: int, sent: list[bytes], seconds: float, marks: list[float], process: int) -> Counter[int]:
    """So many callers, each with a connection of its own, until the time is over."""
    statuses: Counter[int] = Counter()
    end = time.perf_counter() + seconds

    async def caller(number: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for content in cycle(sent[number % len(sent) :] + sent[: number % len(sent)]):
            if time.perf_counter() >= end:
                break
            statuses[(await call(reader, writer, content))[0]] += 1
        writer.close()

    async def watch() -> None:
        for wait in (seconds / 6, 0.8 * seconds):
            await asyncio.sleep(wait)
            marks.append(memory(process))

    await asyncio.gather(watch(), *(caller(number) for number in range(CALLERS)))
    return statuses


def memory(process: int) -> float:
    """Megabytes that a process holds."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1000


def damaged(count: int) -> list[bytes]:
    """Pictures of all forms with bytes changed, cut or put together, and what is none."""
    rng, sound = np.random.default_rng(0), []
    noise = rng.integers(0, 256, (9, 8, 3), np.uint8)
    for form in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"):
        for mode in ("RGB", "L", "P", "CMYK", "RGBA", "1"):
            stream = BytesIO()
            try:
                Image.fromarray(noise).resize((90, 70)).convert(mode).save(stream, form)
            except (OSError, ValueError):  # a form that does not know the mode
                continue
            sound.append(stream.getvalue())
    found = []
    for number in range(count):
        content = bytearray(sound[number % len(sound)])
        kind = rng.integers(0, 8)
        for _ in range(rng.integers(1, 20) if kind < 6 else 0):
            content[int(len(content) * rng.random() ** 2)] = rng.integers(0, 256)
        if kind == 5:
            content = content[: rng.integers(0, len(content))]
        elif kind == 6:
            content = content[:40] + bytearray(sound[rng.integers(0, len(sound))][20:])
        elif kind == 7:
            content = bytearray(rng.integers(0, 256, rng.integers(0, 3000), np.uint8).tobytes())
        found.append(bytes(content))
    return found


async def attack(port: int, sent: list[bytes]) -> Counter[int]:
    statuses: Counter[int] = Counter()

    async def caller(part: list[bytes]) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for content in part:
            status, body = await call(reader, writer, content)
            assert ("error" in json.loads(body)) == (status != 200)
            statuses[status] += 1
        writer.close()

    await asyncio.gather(*(caller(sent[number::CALLERS]) for number in range(CALLERS)))
    return statuses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--hostile", type=int, default=10_000)
    options = parser.parse_args()
    sent = pictures()
    alone = [without_server(options.file, sent, options.seconds / 6)]
    command = [sys.executable, "-m", "smidgen", "serve", str(options.file), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        port = int(re.search(r":(\d+)/", server.stderr.readline())[1])
        marks: list[float] = []
        statuses = asyncio.run(load(port, sent, options.seconds, marks, server.pid))
        served = statuses[200] / options.seconds
        hostile = asyncio.run(attack(port, damaged(options.hostile)))
        marks.append(memory(server.pid))
    finally:
        server.terminate()
    alone.append(without_server(options.file, sent, options.seconds / 6))
    print(f"without a server: {alone[0]:.1f} and {alone[1]:.1f} pictures a second, {cores()} threads")
    ratio = served / (sum(alone) / 2)
    print(f"served: {served:.1f} a second to {CALLERS} callers at once, {ratio:.2f} of it; answers {dict(statuses)}")
    print(
        "memory after a sixth of the time, at its end, and after hostile uploads: "
        + ", ".join(f"{m:.0f} MB" for m in marks)
    )
    print(f"{sum(hostile.values()):,} hostile uploads: answers {dict(hostile)}")


if __name__ == "__main__":
    main()
