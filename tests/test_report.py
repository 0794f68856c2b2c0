"""Reports: everything on the page is true, nothing on it runs or is loaded, and the JSON says the same."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from os import fsdecode
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from native import program_archive
from serving import picture

import smidgen
from smidgen.archive import Archive, Label
from smidgen.cli import cli
from smidgen.file import write
from smidgen.pipeline import squeeze_to_budget
from smidgen.report import comparison, write_report
from smidgen.report.charts import Dot, courses, histogram, trade_off
from smidgen.report.document import Column, Section, Table, Text, document
from smidgen.report.sections import COMPILED, about_curve, about_epochs
from smidgen.run.pictures import find_pictures

EMPTY = ("br", "img", "link", "meta", "wbr")


class Checked(HTMLParser):
    """Elements that are closed in order; what they would run or load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.loaded += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        if tag not in EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data.replace("\N{NO-BREAK SPACE}", " ")


def harmless(text: str) -> Checked:
    checked = Checked(text)
    assert not {"script", "iframe", "object", "link", "form"} & set(checked.seen)
    assert all(address.startswith("data:image/jpeg;base64,") for address in checked.loaded)
    assert "url(" not in text
    assert "@import" not in text
    return checked


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(30):
        (folder / f"photo-{seed:02}.jpg").write_bytes(picture(seed=seed))
    return folder


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "net.smidgen"
    path.write_bytes(write(program_archive()))
    return path


def with_more(archive: Archive, name: str, more: Any) -> Archive:
    return replace(archive, tensors={**archive.tensors, name: np.asarray(archive.tensors[name]) + more})


def two_networks(photos: Path) -> tuple[Archive, Archive]:
    """One whose answers differ from picture to picture, and one near to it."""
    runner = program_archive().runner(engine="onnxruntime")
    scores = runner(np.stack([runner.prepare(path) for path in find_pictures(photos)]))
    one = with_more(program_archive(), "last.bias", -scores.mean(axis=0))
    return one, with_more(one, "first", np.random.default_rng(3).normal(0, 0.05, (12, 3, 3, 3)).astype(np.float32))


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_a_file_alone(file: Path, tmp_path: Path) -> None:
    done = run("report", file, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r" / "report.html").read_text()
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    assert facts["bytes"] == file.stat().st_size
    for shown in (f"{file.stat().st_size:,}", *(tensor["name"] for tensor in facts["tensors"]), "recognize"):
        assert shown in harmless(text).text
    assert facts["comparison"] is None
    assert re.findall(r"<(h[1-6])>", text) == ["h1", "h2", "h2", "h2"]


def test_the_pictures_whose_answer_changed_are_those(photos: Path, tmp_path: Path) -> None:
    file, original = tmp_path / "net.smidgen", tmp_path / "original.smidgen"
    for archive, path in zip(two_networks(photos), (file, original), strict=True):
        archive.save(path)
    done = run("report", file, "--against", original, "--data", photos, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "r" / "report.html").read_text()
    told = json.loads((tmp_path / "r" / "report.json").read_text())["comparison"]
    runners = [smidgen.open(path).runner(engine="onnxruntime") for path in (original, file)]
    answers = {path.name: [runner.recognize(path, 1)[0] for runner in runners] for path in find_pictures(photos)}
    changed = {name for name, (one, other) in answers.items() if one.label != other.label}
    assert told["changed"] == len(changed)
    assert 0 < len(changed) < 30
    shown = {one["name"]: one["says"] for one in told["shown"]}
    assert set(shown) == changed if len(changed) <= 24 else set(shown) < changed
    for name, says in shown.items():
        one, other = answers[name]
        assert says == {
            "original.smidgen": f"{one.label.name}, {100 * one.score:.0f} %",
            "net.smidgen": f"{other.label.name}, {100 * other.score:.0f} %",
        }
        assert name in harmless(text).text
    assert len(harmless(text).loaded) == len(shown)
    assert f"{len(changed)} of 30 pictures are given another answer than before" in text
    assert told["bytes_original"] == original.stat().st_size
    assert f"{original.stat().st_size:,}" in text
    assert (told["lost"], told["gained"]) == (None, None)
    assert told["file"]["agreement"] == pytest.approx(100 * (1 - len(changed) / 30))


def test_nothing_changed_is_said(file: Path, photos: Path, tmp_path: Path) -> None:
    done = run("report", file, "--against", file, "--data", photos, "--pictures", 7, "-o", tmp_path / "r", "--json")
    assert json.loads(done.stdout) == {
        "report": str(tmp_path / "r" / "report.html"),
        "facts": str(tmp_path / "r" / "report.json"),
    }
    text = (tmp_path / "r" / "report.html").read_text()
    assert "None of the 7 pictures is given another answer" in text
    assert "of 30 pictures of" in text
    assert len(harmless(text).loaded) == 6


def test_classes_give_top_1(file: Path, photos: Path, tmp_path: Path) -> None:
    labels = program_archive().labels
    for number, path in enumerate(find_pictures(photos)):
        folder = photos / labels[number % 2].id
        folder.mkdir(exist_ok=True)
        path.rename(folder / path.name)
    one, other = two_networks(photos)
    one.save(file)
    other.save(tmp_path / "other.smidgen")
    run("report", tmp_path / "other.smidgen", "--against", file, "--data", photos, "-o", tmp_path / "r")
    told = json.loads((tmp_path / "r" / "report.json").read_text())["comparison"]
    assert told["shown"][0]["truth"] in (labels[0].name, labels[1].name)
    # what was lost and gained is the difference of both
    right = [told[which]["top1"] * 30 / 100 for which in ("original", "file")]
    assert right[1] - right[0] == pytest.approx(told["gained"] - told["lost"])
    assert 0 < told["lost"] + told["gained"] <= told["changed"]
    text = harmless((tmp_path / "r" / "report.html").read_text()).text
    assert f"{told['lost']} were right, {told['gained']} are right now" in text
    assert "Top-1" in text


def test_the_same_file_gives_the_same_page_but_for_times(
    file: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison, "latency", lambda runners, *_: [1.0] * len(runners))
    monkeypatch.setattr("smidgen.run.evaluate.latency", lambda runners, *_: [2.0] * len(runners))
    for more in ((), ("--against", file, "--data", photos)):
        for folder in ("one", "two"):
            assert run("report", file, *more, "-o", tmp_path / folder).exit_code == 0
        for name in ("report.html", "report.json"):
            assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def ending(last: str, shape: list[object]) -> Archive:
    """The network of ``program_archive`` up to where its classes are summed up, and then another end."""
    archive = program_archive()
    model = onnx.load_from_string(archive.graph)
    del model.graph.node[-2:]
    model.graph.node.append(onnx.helper.make_node(last, ["k"], ["scores"]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("scores", onnx.TensorProto.FLOAT, shape))
    return replace(archive, graph=model.SerializeToString(), program=b"")


@pytest.mark.parametrize(
    ("last", "shape", "labelled", "reason"),
    [
        ("Identity", ["n", 10, 7, 7], True, "more than one answer for each picture"),
        ("Sigmoid", ["n", 10, 7, 7], False, "gives chances, no scores of classes"),
        ("Tanh", ["n", 10, 7, 7], False, "gives values, no scores of classes"),
    ],
)
def test_networks_that_name_no_pictures_are_compared_without_them(
    last: str, shape: list[object], labelled: bool, reason: str, photos: Path, tmp_path: Path
) -> None:
    archive = ending(last, shape)
    original = replace(archive, labels=archive.labels if labelled else ())
    original.save(tmp_path / "original.smidgen")
    with_more(original, "last.bias", 0.25).save(tmp_path / "net.smidgen")
    arguments = ("--against", tmp_path / "original.smidgen", "--data", photos, "--pictures", 5)
    done = run("report", tmp_path / "net.smidgen", *arguments, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "r" / "report.json").read_text())["comparison"]
    checked = harmless((tmp_path / "r" / "report.html").read_text())
    assert reason in told["no_pictures"]
    assert told["no_pictures"] in checked.text
    assert (told["outputs"][0]["output"], told["outputs"][0]["examples"]) == ("scores", 5)
    assert told["outputs"][0]["largest_error"] > 0
    assert "img" not in checked.seen
    assert "recognize" not in checked.text


def test_inputs_that_are_no_pictures_are_compared(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", image=np.random.default_rng(0).normal(0, 1, (9, 3, 32, 32)).astype(np.float32))
    run("report", file, "--against", file, "--data", tmp_path / "in.npz", "-o", tmp_path / "r")
    told = json.loads((tmp_path / "r" / "report.json").read_text())["comparison"]
    assert told["which"].startswith("inputs of ")
    assert [(one["kind"], one["examples"], one["agreement"]) for one in told["outputs"]] == [("scores", 9, 100.0)]
    assert "given arrays, no pictures" in harmless((tmp_path / "r" / "report.html").read_text()).text


def test_names_are_text(tmp_path: Path, photos: Path) -> None:
    evil = '"><script>alert(1)</script>&amp;'
    archive = program_archive()
    labels = tuple(Label(f"id{n}", f"{n}<img src=x onerror=alert(1)>") for n in range(len(archive.labels) or 10))
    path = tmp_path / "a'<b>&.smidgen"
    (photos / "photo-00.jpg").rename(photos / fsdecode(b"caf\xe9<i>.jpg"))  # no valid UTF-8
    path.write_bytes(write(replace(archive, labels=labels)))
    done = run("report", path, "--against", path, "--data", photos, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    checked = harmless((tmp_path / "r" / "report.html").read_text())
    assert checked.seen.count("img") == 6
    assert "caf?<i>.jpg" in checked.text
    harmless(document(evil, [Section(evil, [Text(evil), Table(evil, [Column(evil)] * 2, [[evil, evil]])])]))


@given(
    st.text(), st.lists(st.tuples(st.integers(1, 2**40), st.floats(1e-9, 1e3), st.text(), st.booleans()), min_size=2)
)
def test_charts_are_well_formed_whatever_they_show(name: str, dots: list[tuple[int, float, str, bool]]) -> None:
    text = trade_off([Dot(*dot) for dot in dots], name)
    harmless(text)
    assert "nan" not in re.sub(r'(?s)(aria-label="[^"]*"|>[^<]*<)', "", text)
    harmless(courses([loss for _, loss, _, _ in dots], [(name, 1), ("rest", len(dots) - 1)], name))
    harmless(histogram({"first": -1, "last": 9, "step": 1, "counts": [size for size, *_ in dots]}, name))


def test_what_cannot_be_reported_is_said_before(file: Path, tmp_path: Path) -> None:
    for arguments, status, reason in (
        (("report", file, "-o", file), 2, "is a file"),
        (("report", file, "-o", file / "r"), 1, "no report can be written there"),
        (("report", tmp_path / "none.smidgen", "-o", tmp_path / "r"), 1, "cannot be read"),
        (("report", file, "--against", file, "-o", tmp_path / "r"), 2, "--against and --data go together"),
        (("report", file, "--against", file, "--data", tmp_path / "none", "-o", tmp_path / "r"), 1, "no such folder"),
        (("compress", file, "--plan", "int8", "-o", tmp_path / "x.smidgen", "--report", file / "r"), 1, "no report"),
    ):
        done = run(*arguments)
        assert done.exit_code == status or isinstance(done.exception, smidgen.errors.SmidgenError)
        assert reason in done.output + str(done.exception)
    assert not (tmp_path / "x.smidgen").exists()


def test_compress_reports_on_what_it_held_out(photos: Path, tmp_path: Path) -> None:
    original, out = tmp_path / "original.smidgen", tmp_path / "small.smidgen"
    program_archive().save(original)
    done = run("compress", original, "--data", photos, "--size", 4000, "-o", out, "--report", tmp_path / "r", "--json")
    assert json.loads(done.stdout)["file"] == str(out), done.output
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    assert facts["asked"] == "at most 4000"
    assert facts["verdict"] == json.loads(done.stdout)["verdict"]
    assert facts["comparison"]["file"]["pictures"] == 6
    assert facts["comparison"]["which"] == "pictures that were held out; it was calibrated on 24 others"
    assert sum(point["best"] for point in facts["curve"]) == 1
    assert "What was asked and what was reached" in (tmp_path / "r" / "report.html").read_text()


def test_what_was_not_reached_is_reported(photos: Path, tmp_path: Path) -> None:
    original, out = tmp_path / "original.smidgen", tmp_path / "small.smidgen"
    program_archive().save(original)
    done = run("compress", original, "--data", photos, "--size", 200, "-o", out, "--report", tmp_path / "r")
    assert done.exit_code == 1
    assert "Not reached: 200 bytes" in harmless((tmp_path / "r" / "report.html").read_text()).text


def test_an_interrupted_search_is_reported(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, out = tmp_path / "original.smidgen", tmp_path / "small.smidgen"
    program_archive().save(original)

    def stopped(*arguments: Any, **more: Any) -> None:
        squeeze_to_budget(*arguments, **more)
        raise KeyboardInterrupt

    monkeypatch.setattr("smidgen.pipeline.squeeze_to_budget", stopped)
    run("compress", original, "--data", photos, "--size", 4000, "-o", out, "--report", tmp_path / "r")
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    assert facts["verdict"].startswith("interrupted: ")
    assert facts["bytes"] == out.stat().st_size
    assert facts["comparison"]["file"]["pictures"] == 6


def test_compress_by_a_plan_reports_too(tmp_path: Path) -> None:
    original, out = tmp_path / "original.smidgen", tmp_path / "small.smidgen"
    program_archive().save(original)
    done = run("compress", original, "--plan", "lossless", "-o", out, "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    assert (facts["asked"], facts["comparison"]) == ("the plan lossless", None)


def test_weights_alone_are_reported(tmp_path: Path) -> None:
    out = tmp_path / "small.smidgen"
    (tmp_path / "w.safetensors").write_bytes(program_archive().safetensors())
    done = run("compress", tmp_path / "w.safetensors", "--plan", "lossless", "-o", out, "--report", tmp_path / "r")
    assert done.exit_code == 0, done.output
    text = harmless((tmp_path / "r" / "report.html").read_text()).text
    assert f"smidgen export {out} --to safetensors" in text
    assert "recognize" not in text


def test_commands_can_be_typed(tmp_path: Path) -> None:
    path = tmp_path / "my net's.smidgen"
    program_archive().save(path)
    run("report", path, "-o", tmp_path / "r")
    commands = re.search(r"<code>(.*)", (tmp_path / "r" / "report.html").read_text())
    assert commands
    assert shlex.split(unescape(commands[1])) == ["smidgen", "recognize", str(path), "cat.jpg"]


def test_the_command_for_c_is_that_of_the_example() -> None:
    example = (Path(__file__).parents[1] / "examples/c/README.md").read_text()
    assert " ".join(COMPILED.replace("\\\n", "").split()) in example


def test_with_a_plan_folders_need_not_be_classes(photos: Path, tmp_path: Path) -> None:
    original = tmp_path / "original.smidgen"
    program_archive().save(original)
    (photos / "holiday").mkdir()
    (photos / "photo-00.jpg").rename(photos / "holiday/photo-00.jpg")
    arguments = ("compress", original, "--plan", "lossless", "--data", photos, "-o", tmp_path / "small.smidgen")
    assert run(*arguments).exit_code == 0
    assert "holiday" in str(run(*arguments, "--report", tmp_path / "r").exception)


def test_a_sweep_is_reported(photos: Path, tmp_path: Path) -> None:
    original = tmp_path / "original.smidgen"
    program_archive().save(original)
    arguments = (
        "--data",
        photos,
        "--size",
        4000,
        "--size",
        200,
        "--plan",
        "lossless",
        "--jobs",
        1,
        "-o",
        tmp_path / "s",
    )
    done = run("sweep", original, *arguments, "--report", tmp_path / "r")
    assert (tmp_path / "r" / "report.html").exists(), done.output
    text = (tmp_path / "r" / "report.html").read_text()
    facts = json.loads((tmp_path / "r" / "report.json").read_text())
    checked = harmless(text)
    assert len(facts["points"]) == 3
    assert all(point["name"] in checked.text for point in facts["points"])
    made = [point for point in facts["points"] if not point["failed"]]
    assert all(f"{point['bytes']:,}" in checked.text for point in made)
    assert "to 3 targets: 2 files" in checked.text
    assert "; 1 failed." in checked.text
    assert f"Judged on {made[0]['judged']} examples of {photos}" in checked.text
    assert (tmp_path / "s" / next(point["file"] for point in made)).exists()


def test_numbers_that_are_none_spoil_no_report(tmp_path: Path) -> None:
    told = {"epochs": [{"stage": "a", "loss": loss, "accuracy": 10.0} for loss in (1.0, float("nan"), 0.5)]}
    told |= {"stages": [{"stage": "a"}]}
    points = [{"bytes": n, "kl": kl, "best": False} for n, kl in enumerate((0.1, float("inf"), -1e-17, 0.2, 0.0), 1)]
    page = write_report(tmp_path, "title", [*about_epochs(told), *about_curve(points)], told)
    assert "nan" not in page.read_text()
    assert json.loads((tmp_path / "report.json").read_text())["epochs"][1]["loss"] is None


def test_a_network_of_a_fixed_batch_is_reported_without_pictures(photos: Path, tmp_path: Path) -> None:
    archive = program_archive()
    model = onnx.load_from_string(archive.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    path = tmp_path / "four.smidgen"
    path.write_bytes(write(replace(archive, graph=model.SerializeToString(), program=b"")))
    done = run("report", path, "--against", path, "--data", photos, "-o", tmp_path / "r")
    assert done.exit_code == 0, done.output
    assert "takes 4 pictures at once" in (tmp_path / "r/report.html").read_text()


def test_no_examples_are_said(file: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "none.npz", image=np.zeros((0, 3, 32, 32), np.float32))
    done = run("report", file, "--against", file, "--data", tmp_path / "none.npz", "-o", tmp_path / "r")
    assert isinstance(done.exception, smidgen.errors.InputError)


def test_a_report_that_fails_hides_no_verdict(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original, out = tmp_path / "original.smidgen", tmp_path / "small.smidgen"
    program_archive().save(original)

    def failing(*arguments: object) -> None:
        raise smidgen.errors.InputError("the disk is full")

    monkeypatch.setattr("smidgen.report.about_a_file.write_report", failing)
    done = run("compress", original, "--data", photos, "--size", 4000, "-o", out, "--report", tmp_path / "r")
    assert "reached: 4,000 bytes" in done.stdout
    assert "the disk is full" in str(done.exception)
