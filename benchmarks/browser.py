"""A network in the browser, beside the native engine and onnxruntime-web: python benchmarks/browser.py FILE.smidgen

One picture of the network's size, one thread each, in turns: the native engine by its two fastest ways here, both cores
for browsers, and onnxruntime-web with the same network in float32. Needs chromium, node with npm, and the package
playwright; npm installs onnxruntime-web into a folder that is removed afterwards. Bars: at most 4 times the native
engine's time, and less than onnxruntime-web's.
"""

from __future__ import annotations

import argparse
import mimetypes
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from playwright.sync_api import sync_playwright

from smidgen.file import read
from smidgen.run.native import Native, ways

WEB = Path(__file__).resolve().parents[1] / "src" / "smidgen" / "web"
RUNS = 5  # of each engine, one after the other
CHROMIUM = "/usr/bin/chromium"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
PAGE = """
import { openNetwork, coreName } from "/smidgen.js";
import * as ort from "/ort/ort.wasm.min.mjs";
const content = async (name) => new Uint8Array(await (await fetch(name)).arrayBuffer());
const engines = {}, opened = {}, first = {};

async function timed(run) {
  const start = performance.now();
  await run();
  return performance.now() - start;
}

window.openAll = async () => {
  const file = await content("/network.smidgen"), model = await content("/network.onnx");
  for (const core of ["smidgen-relaxed.wasm", "smidgen.wasm"]) {
    const wasm = await content(core);
    let network;
    opened[core] = await timed(async () => { network = await openNetwork(wasm, file); });
    const { width, height } = network, pixels = new Uint8ClampedArray(4 * width * height);
    for (let i = 0; i < pixels.length; i++) pixels[i] = i % 4 === 3 ? 255 : (Math.imul(i, 2654435761) >>> 13) & 255;
    engines[core] = async () => network.recognize(pixels, width, height).milliseconds;
    engines[core].size = [height, width];
  }
  const [height, width] = engines["smidgen.wasm"].size;
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = "/ort/";
  let session;
  opened["onnxruntime-web"] = await timed(async () => {
    session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  });
  const numbers = Float32Array.from({ length: 3 * height * width }, () => 4 * Math.random() - 2);
  const input = { [session.inputNames[0]]: new ort.Tensor("float32", numbers, [1, 3, height, width]) };
  engines["onnxruntime-web"] = () => timed(() => session.run(input));
  for (const name in engines) first[name] = await engines[name]();
  return { opened, first, chosen: coreName() };
};

window.runs = async (name, count) => {
  const found = [];
  for (let i = 0; i < count; i++) found.push(await engines[name]());
  return found;
};
window.ready = true;
"""


def native_runs(network: Native, pixels: bytes) -> list[float]:
    found = []
    for _ in range(RUNS):
        start = time.perf_counter()
        network.picture(pixels)
        found.append(1000 * (time.perf_counter() - start))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, metavar="FILE.smidgen")
    parser.add_argument("--turns", type=int, default=30, help=f"of {RUNS} runs of each engine; default 30")
    parser.add_argument("--js-flags", default="", help="for V8: --no-enable-avx-vnni makes it an older processor")
    arguments = parser.parse_args()
    data = arguments.file.read_bytes()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        print("npm installs onnxruntime-web", file=sys.stderr)
        command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--silent", "onnxruntime-web"]
        subprocess.run(command, cwd=folder, check=True)
        (folder / "network.onnx").write_bytes(read(data).onnx().SerializeToString())
        measure(data, folder, arguments.turns, [*FLAGS, f"--js-flags={arguments.js_flags}"])


def measure(data: bytes, folder: Path, turns: int, flags: list[str]) -> None:
    ort = folder / "node_modules" / "onnxruntime-web" / "dist"
    network = (folder / "network.onnx").read_bytes()

    def give(route: Any) -> None:
        path = urlsplit(route.request.url).path
        known = {"/": b"<!doctype html><script type=module src=page.js></script>", "/page.js": PAGE.encode()}
        known |= {"/network.smidgen": data, "/network.onnx": network}
        file = ort / path[5:] if path.startswith("/ort/") else WEB / ("page" if path.endswith(".js") else "") / path[1:]
        kind = "text/javascript" if path.endswith(("js", "mjs")) else mimetypes.guess_type(path)[0] or "text/html"
        body = known[path] if path in known else file.read_bytes() if file.is_file() else b""
        route.fulfill(body=body, content_type=kind)

    engines, opening = {}, {}
    for way in reversed(ways()[-2:]):
        start = time.perf_counter()
        engines[f"native, {way}"] = Native(data, 1, way)
        opening[f"native, {way}"] = 1000 * (time.perf_counter() - start)
    height, width = next(iter(engines.values())).shape[2:]
    pixels = np.random.default_rng(0).integers(0, 256, 3 * height * width, np.uint8).tobytes()
    times: dict[str, list[float]] = {}
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page()
        page.set_default_timeout(120_000)
        page.route("**/*", give)
        page.goto("http://localhost/")
        page.wait_for_function("window.ready")
        opened = page.evaluate("openAll()")
        for turn in range(turns):
            for name, native in engines.items():
                times.setdefault(name, []).extend(native_runs(native, pixels))
            for name in opened["opened"]:
                found = page.evaluate("([name, count]) => runs(name, count)", [name, RUNS])
                times.setdefault(name, []).extend(found if turn else [])  # compiled while it runs at first
        opened["opened"].update(opening)
        version = browser.version
        browser.close()
    show(times, opened, f"Chromium {version}, {height} x {width}, one thread; it would take {opened['chosen']}")


def show(times: dict[str, list[float]], opened: dict[str, dict[str, float]], what: str) -> None:
    least = [min(found) for found in times.values()]
    print(f"{what}\n")
    print("| engine | ms, median | least | least of native | opened in ms | first run |\n|---|---|---|---|---|---|")
    for name, found in times.items():
        parts = ", ".join(f"{min(found) / base:.2f}" for base in least[: len(times) - 3])
        rest = [f"{opened[key][name]:.0f}" if name in opened[key] else "" for key in ("opened", "first")]
        print(f"| {name} | {statistics.median(found):.2f} | {min(found):.2f} | {parts} | {' | '.join(rest)} |")


if __name__ == "__main__":
    main()
