"""The core for browsers: built from these sources; it answers as the native engine does, and no bytes make it fail."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from native import program_archive
from smidgen._core import ffi, lib

from smidgen.archive import Label
from smidgen.file import write
from smidgen.run.native import Native
from smidgen.run.program import Picture
from tests.hostile import mutate_bytes, mutate_parts, take_apart
from tests.programs import plain_file, small_programs

ROOT = Path(__file__).resolve().parents[1]
WEB = ROOT / "src" / "smidgen" / "web"
CORES = ("smidgen.wasm", "smidgen-relaxed.wasm")
RUNNER = ROOT / "tests" / "run_web.mjs"
CHROMIUM = Path("/usr/bin/chromium")
PICTURE = Picture("BGR", "bicubic", (123.7, 116.3, 103.5), (58.4, 57.1, 57.4))
MUTATIONS = 300


def of_clang_14() -> bool:
    if not (shutil.which("clang") and shutil.which("wasm-ld") and shutil.which("make")):
        return False
    told = [subprocess.run([tool, "--version"], capture_output=True, text=True, check=True).stdout for tool in
            ("clang", "wasm-ld")]  # fmt: skip
    return "clang version 14." in told[0] and "LLD 14." in told[1]


def files() -> dict[str, bytes]:
    """Small files for pictures, whose programs have operations of all kinds."""
    found = {
        name: plain_file(replace(program, picture=PICTURE), records)
        for name, (program, records) in small_programs().items()
    }
    archive = program_archive()
    labels = tuple(Label(f"n{i}", f"thing {i}, größer") for i in range(10))
    return {**found, "a network": write(replace(archive, labels=labels))}


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """Some picture in RGBA, opaque."""
    drawn = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    drawn[..., 3] = 255
    return drawn


def run(
    folder: Path, core: str, jobs: Sequence[tuple[bytes, Sequence[tuple[np.ndarray, int]]]]
) -> list[dict[str, Any]]:
    """What tests/run_web.mjs says of files, and of pictures for each; these with how many times they are recognised."""
    told = []
    for number, (data, pictures) in enumerate(jobs):
        path = folder / f"{number}.smidgen"
        path.write_bytes(data)
        shown = []
        for i, (picture, times) in enumerate(pictures):
            place = folder / f"{number}-{i}.rgba"
            place.write_bytes(picture.tobytes())
            shown.append({"pixels": str(place), "width": picture.shape[1], "height": picture.shape[0], "times": times})
        told.append({"file": str(path), "pictures": shown})
    (folder / "jobs.json").write_text(json.dumps(told))
    jobs_file = str(folder / "jobs.json")
    return in_node(str(WEB / core), jobs_file) if core == CORES[0] else in_chromium(str(WEB / core), jobs_file)


def in_node(core: str, jobs: str) -> list[dict[str, Any]]:
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    command = ["node", str(RUNNER), core, jobs]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def in_chromium(core: str, jobs: str) -> list[dict[str, Any]]:
    """Relaxed SIMD is an experiment in Node 20, and wrong there."""
    browsers = pytest.importorskip("playwright.sync_api")
    if not CHROMIUM.is_file():
        pytest.skip("chromium is not installed")
    kinds = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

    def give(route: Any) -> None:
        path = Path(urlsplit(route.request.url).path)
        route.fulfill(
            body=path.read_bytes() if path.is_file() else b"", content_type=kinds.get(path.suffix, "text/html")
        )

    with browsers.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        try:
            page = browser.new_page()
            page.route("**/*", give)
            page.goto("http://localhost/")
            return page.evaluate(
                """async ([runner, core, jobs]) => (await import(runner)).runJobs(core, jobs,
                     async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer()))""",
                [str(RUNNER), core, jobs],
            )
        finally:
            browser.close()


def native(data: bytes, picture: np.ndarray) -> tuple[list[int], list[int]]:
    """Scores, after the softmax, and the map, as bits; the picture is resized as the core does it."""
    network = Native(data, 1)
    height, width = network.shape[2:]
    rgb = np.ascontiguousarray(picture[..., :3])
    sizes = rgb.shape[1], rgb.shape[0], width, height
    bicubic = network.resample == "bicubic"
    out = ffi.new("uint8_t[]", 3 * height * width)
    scratch = ffi.new("uint64_t[]", lib.smidgen_resize_scratch(*sizes, bicubic) // 8 + 1)
    lib.smidgen_resize(ffi.from_buffer("uint8_t[]", rgb), *sizes[:2], out, *sizes[2:], bicubic, scratch)
    numbers, seen = network.explained(bytes(out))
    scores = ffi.new("float[]", numbers)
    if not network.probabilities:
        lib.smidgen_softmax(scores, len(scores))
    return np.float32(list(scores)).view(np.uint32).tolist(), np.float32(seen).view(np.uint32).tolist()


@pytest.mark.parametrize("core", CORES)
def test_the_binary_is_what_the_sources_give(core: str, tmp_path: Path) -> None:
    if not of_clang_14():
        pytest.skip("clang and lld 14, which it is built by, are not installed")
    places = [f"WASM_BUILD={tmp_path / 'build'}", f"WASM_OUT={tmp_path}"]
    subprocess.run(["make", "-C", str(ROOT), "wasm", *places], check=True, capture_output=True)
    assert (tmp_path / core).read_bytes() == (WEB / core).read_bytes(), "make wasm, and commit what it makes"
    assert len((WEB / core).read_bytes()) < 80_000


@pytest.mark.parametrize("core", CORES)
def test_answers_are_those_of_the_native_engine(core: str, tmp_path: Path) -> None:
    given = files()
    pictures = [pixels(1, 40, 50), pixels(2, 7, 3)]
    results = run(tmp_path, core, [(data, [(picture, 1) for picture in pictures]) for data in given.values()])
    for (name, data), result in zip(given.items(), results, strict=True):
        for picture, found in zip(pictures, result["found"], strict=True):
            scores, seen = native(data, picture)
            assert found["scores"] == scores, name
            assert (found["map"] or []) == seen, name
    last = results[-1]
    assert last["size"] == [32, 32]
    assert last["labels"][3] == {"id": "n3", "name": "thing 3, größer"}
    best = last["found"][0]["best"]
    assert best["score"] == max(np.uint32(last["found"][0]["scores"]).view(np.float32))
    assert (best["id"], best["name"]) == (f"n{best['index']}", f"thing {best['index']}, größer")
    assert last["found"][0]["map"]
    assert results[0]["labels"][0] == {"id": "class 0", "name": "class 0"}


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    data = files()["a network"]
    sheer = pixels(3, 20, 20)
    sheer[..., 3] = np.random.default_rng(4).choice([0, 255], (20, 20))
    flat = np.where(sheer[..., 3:] == 0, 255, sheer).astype(np.uint8)
    (result,) = run(tmp_path, CORES[0], [(data, [(sheer, 1), (flat, 1)])])
    assert result["found"][0]["scores"] == result["found"][1]["scores"]


@pytest.mark.parametrize("core", CORES)
def test_memory_stays(core: str, tmp_path: Path) -> None:
    data = files()["a network"]
    (result,) = run(tmp_path, core, [(data, [(pixels(5, 300, 400), 200), (pixels(6, 30, 40), 1)])])
    first, second = result["found"]
    assert first["memory"][0] == first["memory"][1] == second["memory"][1]


@pytest.mark.parametrize("core", CORES)
def test_files_that_are_not_valid_are_errors(core: str, tmp_path: Path) -> None:
    rng = random.Random(10)
    seeds = list(files().values())
    jobs = []
    for number in range(MUTATIONS):
        mutate = mutate_bytes if number % 4 == 0 else mutate_parts
        jobs.append((mutate(seeds[number % len(seeds)], rng), [(pixels(number, 9, 8), 1)]))
    results = run(tmp_path, core, jobs)
    refused = [result["error"] for result in results if "error" in result]
    assert MUTATIONS / 4 < len(refused) < MUTATIONS
    assert all("\n" not in reason and len(reason) < 100 for reason in refused)
    assert len(set(refused)) > 3


@pytest.mark.parametrize("core", CORES)
def test_what_is_wrong_is_said(core: str, tmp_path: Path) -> None:
    whole = files()["a network"]
    program, records = small_programs()["pools"]
    parts = take_apart(whole)
    sections = {**parts.sections, "labels": b"\xff\tx\n"}
    jobs = {
        "does not begin as one": b"P" + whole[1:],
        "truncated": whole[:-1],
        "checksum": whole[:-1] + bytes([whole[-1] ^ 1]),
        "has no program": write(replace(program_archive(), program=b"")),
        "no program that takes pictures": plain_file(program, records),
        "not enough memory": replace(parts, memory=2**32 - 1).build(),
        "contradicts itself": replace(parts, sections=sections, codecs={**parts.codecs, "labels": 0}, sizes={
            **parts.sizes, "labels": 4}).build(),
        "2 labels": write(replace(program_archive(), labels=(Label("a", "b"), Label("c", "d")))),
    }  # fmt: skip
    for reason, result in zip(jobs, run(tmp_path, core, [(data, []) for data in jobs.values()]), strict=True):
        assert reason in result.get("error", ""), (reason, result)


def test_an_older_browser_gets_the_core_that_it_can_run() -> None:
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    program = f"import('{WEB / 'page' / 'smidgen.js'}').then((m) => console.log(m.coreName()))"
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() in CORES
