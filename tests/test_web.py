"""The server: what it answers, what it refuses, and that nothing a stranger sends breaks it."""

from __future__ import annotations

import json
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from native import program_archive
from PIL import Image
from serving import asked, picture, serving, serving_app

from smidgen.archive import Label
from smidgen.errors import InputError, ModelError
from smidgen.file import write
from smidgen.run.pictures import open_image
from smidgen.run.recognizer import open_recognizer
from smidgen.web import protocol
from smidgen.web.networks import InCore, InFloat, Network, Recognition
from smidgen.web.page import Shown, index
from smidgen.web.samples import samples_in, samples_of_packages
from smidgen.web.server import HEADERS, Limits, application

DATA = write(program_archive())


def in_core(copies: int = 2) -> InCore:
    return InCore(DATA, program_archive().labels, "net.smidgen", copies)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    networks: list[Network] = [in_core(), InFloat(program_archive(), "original.onnx", 12_345)]
    with serving(networks, {"cat.jpg": b"jpeg", "cat.small.jpg": b"small"}, Limits(bytes=200_000, pixels=10**6)) as p:
        yield p


class Sleeper:
    """A network that takes its time."""

    shown = Shown("sleeper", "none", 0)

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __call__(self, image: Image.Image, top: int) -> Recognition:
        time.sleep(self._seconds)
        return in_core(1)(image, top)


def test_answers_are_those_of_recognize(port: int, tmp_path: Path) -> None:
    (tmp_path / "net.smidgen").write_bytes(DATA)
    (tmp_path / "photo.jpg").write_bytes(picture())
    wanted = open_recognizer(tmp_path / "net.smidgen").recognize(tmp_path / "photo.jpg")
    found = asked(port, "/recognize", picture()).json()
    first, other = found["networks"]
    assert [(a["id"], a["name"]) for a in first["answers"]] == [(a.label.id, a.label.name) for a in wanted]
    assert [a["score"] for a in first["answers"]] == pytest.approx([a.score for a in wanted], abs=1e-6)
    assert found["agree"] == (first["answers"][0]["id"] == other["answers"][0]["id"])
    for network in found["networks"]:
        height, width = network["map"]["shape"]
        assert len(network["map"]["values"]) == height * width > 1
    # both maps are of the same network, one of them in integers
    if found["agree"]:
        maps = [np.array(network["map"]["values"]) for network in found["networks"]]
        assert np.abs(maps[0] - maps[1]).max() < 0.25 * np.ptp(maps[1])


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"])
def test_common_forms_are_read(port: int, form: str) -> None:
    assert asked(port, "/recognize", picture(form)).status == 200


def test_pictures_are_seen_as_people_see_them(port: int) -> None:
    def answers(content: bytes) -> Any:
        return [network["answers"] for network in asked(port, "/recognize", content).json()["networks"]]

    upright = Image.open(BytesIO(picture("PNG")))
    told = answers(picture("PNG"))
    turns = ("FLIP_LEFT_RIGHT", "ROTATE_180", "FLIP_TOP_BOTTOM", "TRANSPOSE", "ROTATE_90", "TRANSVERSE", "ROTATE_270")
    for orientation, back in enumerate(turns, 2):
        turned = Image.Exif()
        turned[0x0112] = orientation
        assert answers(as_bytes(upright.transpose(Image.Transpose[back]), "PNG", exif=turned)) == told
    clear = upright.convert("RGBA")
    clear.putalpha(0)
    assert answers(as_bytes(clear, "PNG")) == answers(as_bytes(Image.new("RGB", upright.size, "white"), "PNG"))
    assert len(answers(as_bytes(upright.convert("CMYK"), "JPEG"))) == 2
    assert len(answers(as_bytes(upright.convert("P"), "GIF", save_all=True, append_images=[upright]))) == 2


def as_bytes(image: Image.Image, form: str, **options: Any) -> bytes:
    stream = BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it has so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "status", "reason"),
    [
        (b"", 400, "no picture"),
        (b"hello", 400, "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", 400, "not a picture"),
        (picture()[:700], 400, "truncated or damaged"),
        (bomb(60_000, 60_000), 400, "pixels"),
        (bomb(1001, 1000), 400, "1001 x 1000 pixels; needed are 1 to 1,000,000"),
        (bytes(200_001), 413, "more than 200,000 bytes"),
    ],
)
def test_what_cannot_be_recognised_is_refused(port: int, content: bytes, status: int, reason: str) -> None:
    answer = asked(port, "/recognize", content)
    assert answer.status == status
    assert reason in answer.json()["error"]
    assert "\n" not in answer.json()["error"]


def test_an_upload_that_does_not_say_how_long_it_is_ends_at_the_limit(port: int) -> None:
    read = []

    def endless() -> Iterator[bytes]:
        for number in range(10_000):
            read.append(number)
            yield bytes(10_000)

    try:
        answer = asked(port, "/recognize", endless())
        assert answer.status == 413
    except (BrokenPipeError, ConnectionResetError):  # it hung up while more was being sent
        pass
    assert len(read) < 5_000


def test_every_answer_has_the_security_headers(port: int) -> None:
    answers = [
        asked(port),
        asked(port, "/app.js"),
        asked(port, "/nothing"),
        asked(port, "/recognize", b"hello"),
        asked(port, "/recognize"),
        asked(port, Host="evil.example"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 404, 400, 405, 400]
    for answer in answers:
        for name, value in HEADERS.items():
            assert answer.headers[name.lower()] == value


def test_forms_are_no_pictures(port: int) -> None:
    form = b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n" + picture() + b"\r\n--x--\r\n"
    answer = asked(port, "/recognize", form, Content_Type="multipart/form-data; boundary=x")
    assert answer.status == 415
    assert "--data-binary" in answer.json()["error"]
    assert "POST" in asked(port, "/recognize").json()["error"]


def test_paths_lead_nowhere_else(port: int) -> None:
    for path in (
        "/../server.py",
        "/..%2fserver.py",
        "/%2e%2e/server.py",
        "/index.html",
        "/__init__.py",
        "/samples/..%2fapp.js",
    ):
        assert asked(port, path).status == 404


def test_the_page_finds_what_it_loads(port: int) -> None:
    text = asked(port).body.decode()
    for name in re.findall(r'(?:href|src)="([^"]+)"', text):
        assert asked(port, f"/{name}").status == 200
    told = json.loads(re.search(r'id="site">(.*?)</script>', text)[1])
    assert told["samples"] == ["cat"]
    assert told["networks"][1] == {"title": "original.onnx", "engine": "ONNX Runtime, float32", "bytes": 12_345}
    assert asked(port, "/samples/cat.small.jpg").body == b"small"
    assert asked(port, "/facts.json").json() == {"facts": 1}


def test_names_cannot_end_the_script_that_they_are_in() -> None:
    text = index([Shown("</script><script>alert(1)</script>", "<b>", 1)], [], server=True).decode()
    assert "<script>alert" not in text
    assert "http-equiv" not in text
    assert 'http-equiv="Content-Security-Policy"' in index([Shown("n", "e", 1)], [], server=False).decode()


def test_slow_uploads_and_slow_networks_are_given_up() -> None:
    with serving([in_core()], limits=Limits(seconds=0.3)) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as slow:
            slow.sendall(b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n123")
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")
        assert asked(port, "/recognize", picture()).status == 200
    with serving([Sleeper(1)], limits=Limits(seconds=0.3)) as port:
        assert asked(port, "/recognize", picture()).status == 408


def connected(port: int, sent: bytes = b"") -> socket.socket:
    caller = socket.create_connection(("127.0.0.1", port), timeout=10)
    caller.sendall(sent)
    return caller


def test_who_sends_no_request_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "SECONDS", 0.3)
    with serving([in_core()]) as port:
        for sent in (b"", b"GET / HTTP/1.1\r\nHost: local", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\nGET /app.js"):
            with connected(port, sent) as caller:
                received = b"".join(iter(lambda: caller.recv(100_000), b""))
            assert received.startswith(b"HTTP/1.1 200" if b"\r\n\r\n" in sent else b"")
            assert received.count(b"HTTP/1.1") == sent.count(b"\r\n\r\n")


def test_a_head_without_end_is_cut_off(port: int) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (number, bytes([65]) * 1000) for number in range(20_000))
    with connected(port, b"GET / HTTP/1.1\r\n") as caller, pytest.raises((BrokenPipeError, ConnectionResetError)):
        caller.sendall(lines)
    assert asked(port).status == 200


def test_uploads_that_do_not_come_leave_room_for_others() -> None:
    with serving([in_core()], limits=Limits(waiting=1, uploads=4, seconds=5)) as port:
        head = b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        idle = [connected(port, head) for _ in range(3)]
        time.sleep(0.2)
        assert asked(port, "/recognize", picture()).status == 200
        idle.append(connected(port, head))
        time.sleep(0.2)
        assert asked(port, "/recognize", picture()).status == 503
        for caller in idle:  # who goes away makes room
            caller.close()
        time.sleep(0.2)
        assert asked(port, "/recognize", picture()).status == 200


def test_facts_are_found_once(port: int) -> None:
    calls = []

    def facts() -> bytes:
        calls.append(1)
        time.sleep(0.2)
        return b"{}"

    app = application([in_core()], facts, {})
    with serving_app(app) as port:
        callers = [threading.Thread(target=asked, args=(port, "/facts.json")) for _ in range(5)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
    assert len(calls) == 1


def test_pictures_that_take_more_than_their_pixels_are_refused(port: int) -> None:
    tiled = BytesIO()
    Image.new("L", (9, 9)).save(tiled, "TIFF")
    content = tiled.getvalue()
    entries = struct.unpack_from("<H", content, struct.unpack_from("<I", content, 4)[0])[0]
    at = struct.unpack_from("<I", content, 4)[0] + 2
    kept = [content[at + 12 * n : at + 12 * n + 12] for n in range(entries)]
    kept += [struct.pack("<HHII", tag, 4, 1, 24_000) for tag in (322, 323)]
    directory = (
        struct.pack("<H", len(kept)) + b"".join(sorted(kept, key=lambda e: struct.unpack("<H", e[:2]))) + bytes(4)
    )
    tiles = content[:4] + struct.pack("<I", len(content)) + content[8:] + directory
    assert "tiles of: 24000 x 24000 pixels" in asked(port, "/recognize", tiles).json()["error"]
    scans = picture(progressive=True)
    start = scans.rindex(b"\xff\xda")
    slow = scans[:start] + 300 * scans[start:-2] + scans[-2:]
    assert "more than 200 scans" in asked(port, "/recognize", slow).json()["error"]
    assert asked(port, "/recognize", scans).status == 200


def test_more_than_may_wait_are_sent_away() -> None:
    statuses = []
    with serving([Sleeper(0.5)], limits=Limits(waiting=2)) as port:
        callers = [
            threading.Thread(target=lambda: statuses.append(asked(port, "/recognize", picture()).status))
            for _ in range(6)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert asked(port, "/recognize", picture()).status == 200
    assert set(statuses) == {200, 503}


def test_damaged_pictures_get_clean_answers(port: int) -> None:
    rng = np.random.default_rng(5)
    forms = [picture(form, seed=seed) for seed, form in enumerate(("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF"))]
    for turn in range(240):
        content = bytearray(forms[turn % len(forms)])
        for _ in range(rng.integers(1, 8)):
            content[rng.integers(0, len(content))] = rng.integers(0, 256)
        answer = asked(port, "/recognize", bytes(content[: rng.integers(1, len(content) + 1)]))
        assert answer.status in (200, 400), answer
        assert ("error" in answer.json()) == (answer.status == 400)


def test_a_file_without_a_program_is_not_for_the_core() -> None:
    archive = program_archive()
    with pytest.raises(ModelError, match="no program"):
        InCore(write(type(archive)(archive.graph, archive.tensors, archive.preprocessing)), (), "net", 1)


def test_labels_that_do_not_fit_are_said() -> None:
    with pytest.raises(ModelError, match="2 labels"):
        InCore(DATA, (Label("a", "a"), Label("b", "b")), "net", 1)(Image.new("RGB", (9, 9)), 5)


def test_a_network_of_two_inputs_is_refused() -> None:
    values = [onnx.helper.make_tensor_value_info(name, 1, [1, 3, 4, 4]) for name in "abc"]
    node = onnx.helper.make_node("Add", ["a", "b"], ["c"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:2], values[2:]))
    archive = type(program_archive())(model.SerializeToString(), {})
    with pytest.raises(ModelError, match="one input and one output"):
        InFloat(archive, "two", 0)


def test_samples_are_small_and_have_plain_names(tmp_path: Path) -> None:
    (tmp_path / "a <b> c.png").write_bytes(picture("PNG", (900, 300)))
    found = samples_in(tmp_path)
    assert list(found) == ["a--b--c.jpg", "a--b--c.small.jpg"]
    assert [Image.open(BytesIO(content)).size for content in found.values()] == [(360, 120), (176, 59)]
    assert {"cat.jpg", "cat.small.jpg"} < set(samples_of_packages())
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner/a-[b] c.png").write_bytes(picture("PNG"))
    assert list(samples_in(tmp_path))[2:] == ["a--b--c-2.jpg", "a--b--c-2.small.jpg"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no pictures"):
        samples_in(tmp_path / "empty")


def test_pictures_are_read_from_bytes_as_from_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    assert open_image(picture("PNG")).tobytes() == open_image(tmp_path / "a.png").tobytes()
    with pytest.raises(InputError, match="the picture: 60 x 45 pixels; needed are 1 to 2,699 in all"):
        open_image(picture("PNG"), 60 * 45 - 1)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.smidgen"
    path.write_bytes(DATA)
    return path


def test_the_command_serves_until_it_is_interrupted(file: Path) -> None:
    command = [sys.executable, "-m", "smidgen", "serve", str(file), "--against", str(file), "--port", "0"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = server.stderr.readline()
        port = int(re.match(r"http://127\.0\.0\.1:(\d+)/  shows .*net\.smidgen; Ctrl-C ends it", line)[1])
        assert asked(port, "/recognize", picture()).json()["networks"][1]["answers"]
        facts = asked(port, "/facts.json").json()
        assert (facts["file"], facts["bytes"]) == ("net.smidgen", len(DATA))  # where it lies is nobody's business
    finally:
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=20)[1]
    assert server.returncode == 0
    assert "Traceback" not in rest


def test_the_command_ends_quietly_whoever_is_still_sending(file: Path) -> None:
    server = subprocess.Popen(
        [sys.executable, "-m", "smidgen", "serve", str(file), "--port", "0"], stderr=subprocess.PIPE, text=True
    )
    try:
        port = int(re.search(r":(\d+)/", server.stderr.readline())[1])
        head = b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n123"
        connected(port, head).close()  # one goes away, another stays
        staying = connected(port, head)
        time.sleep(0.3)
    finally:
        server.send_signal(signal.SIGINT)
        rest = server.communicate(timeout=30)[1]
    staying.close()
    assert server.returncode == 0
    assert "Traceback" not in rest


def test_this_machine_has_three_names(port: int) -> None:
    for name in ("localhost", "127.0.0.1", "[::1]"):
        assert asked(port, Host=f"{name}:{port}").status == 200


def test_what_cannot_be_served_is_said_before(file: Path, tmp_path: Path) -> None:
    def said(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "smidgen", "serve", *arguments], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 1
        assert done.stderr.count("\n") == 1
        return done.stderr

    assert "cannot be read" in said(str(tmp_path / "none.smidgen"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}: cannot be listened on" in said(str(file), "--port", port)
    assert "no such folder" in said(str(file), "--samples", str(tmp_path / "none"))
    classes = "has 1000 classes and"
    assert classes in said(str(file), "--against", "squeezenet1_1")
