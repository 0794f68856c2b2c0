"""The site without a server: what is in the folder, and what is not overwritten."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from native import program_archive
from serving import picture

from smidgen.cli import cli
from smidgen.errors import InputError, ModelError
from smidgen.web.site import write_site


@pytest.fixture
def file(tmp_path: Path) -> Path:
    program_archive().save(tmp_path / "net.smidgen")
    return tmp_path / "net.smidgen"


def test_the_folder_holds_all_that_it_names(file: Path, tmp_path: Path) -> None:
    samples = {"cat.jpg": bytes(500), "cat.small.jpg": bytes(70), "dog.jpg": bytes(400), "dog.small.jpg": bytes(80)}
    first, whole = write_site(file, samples, tmp_path / "site")
    site = tmp_path / "site"
    files = {str(path.relative_to(site)): path.stat().st_size for path in site.rglob("*") if path.is_file()}
    assert whole == sum(files.values())
    cores = [size for name, size in files.items() if name.endswith(".wasm")]
    assert first == whole - min(cores) - files["facts.json"] - files["samples/dog.jpg"]
    assert (site / "network.smidgen").read_bytes() == file.read_bytes()
    assert json.loads((site / "facts.json").read_text())["file"] == "net.smidgen"  # and not where it lay
    text = (site / "index.html").read_text()
    assert 'http-equiv="Content-Security-Policy"' in text
    told = json.loads(re.search(r'id="site">(.*?)</script>', text)[1])
    assert (told["server"], told["samples"]) == (False, ["cat", "dog"])
    scripts = "".join(path.read_text() for path in site.glob("*.js"))
    named = set(re.findall(r'(?:href|src)="([^"]+)"', text))
    named |= set(re.findall(r'"(?:\./)?([a-z-]+\.(?:js|wasm|json|smidgen))"', scripts)) - {"remote.js"}
    assert len(named) > 9
    assert named <= set(files)
    assert set(re.findall(r"https?://[^\"]*", scripts)) == {"http://www.w3.org/2000/svg"}  # a name, not an address


def test_a_site_may_be_written_again_but_nothing_else_is_overwritten(file: Path, tmp_path: Path) -> None:
    site, mine = tmp_path / "site", tmp_path / "mine"
    site.mkdir()
    write_site(file, {"cat.jpg": b"1"}, site)
    write_site(file, {}, site)
    assert not (site / "samples/cat.jpg").exists()
    mine.mkdir()
    (mine / "letter.txt").write_text("dear")
    (mine / "network.smidgen").write_text("as a site has")
    for folder in (mine, mine / "letter.txt"):
        with pytest.raises(InputError, match=r"letter\.txt: lies where the site would be"):
            write_site(file, {}, folder)
    assert (mine / "letter.txt").read_text() == "dear"
    (site / ".git").mkdir()
    with pytest.raises(InputError, match=r"\.git: lies where"):
        write_site(file, {}, site)
    (site / ".git").rmdir()
    (tmp_path / "link").symlink_to(site)
    write_site(file, {"dog.jpg": b"2"}, tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (site / "samples/dog.jpg").exists()
    with pytest.raises(InputError, match="cannot be written"):
        write_site(file, {}, tmp_path / "none/site")
    assert {path.name for path in tmp_path.iterdir()} == {"net.smidgen", "site", "mine", "link"}


def test_a_browser_has_only_what_runs_by_itself(tmp_path: Path) -> None:
    replace(program_archive(), program=b"").save(tmp_path / "net.smidgen")
    with pytest.raises(ModelError, match="Runs by ONNX Runtime only"):
        write_site(tmp_path / "net.smidgen", {}, tmp_path / "site")
    replace(program_archive(), preprocessing=None).save(tmp_path / "net.smidgen")
    with pytest.raises(ModelError, match="how a picture becomes"):
        write_site(tmp_path / "net.smidgen", {}, tmp_path / "site")


def test_the_command(file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(picture("PNG"))
    arguments = ["export", str(file), "--to", "web", "-o", str(tmp_path / "site")]
    done = CliRunner().invoke(cli, [*arguments, "--samples", str(tmp_path / "photos"), "--json"])
    told = json.loads(done.stdout)
    assert (
        told["bytes_to_first_answer"]
        < told["bytes"]
        == sum(path.stat().st_size for path in (tmp_path / "site").rglob("*") if path.is_file())
    )
    assert "for the first answer" in CliRunner().invoke(cli, arguments).output
    assert CliRunner().invoke(cli, [*arguments, "--preprocessing", "imagenet"]).exit_code == 2
    assert CliRunner().invoke(cli, [*arguments[:3], "onnx", "--samples", "x", "-o", "y"]).exit_code == 2
