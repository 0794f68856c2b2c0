"""The main job, shortened: three of the files, two crops a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import smidgen
from smidgen import demo
from smidgen.demo.report import Row


def test_the_demo_writes_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = ("lossless", "binary", "squeezenet1_1")
    monkeypatch.setattr(demo, "FILES", tuple(file for file in demo.FILES if file[0] in wanted))
    monkeypatch.setattr(demo, "CROPS_EACH", 2)
    demo.run_demo(tmp_path / "report")
    out = capsys.readouterr().out
    table = json.loads((tmp_path / "report" / "table.json").read_text())
    assert table["crops"] == 2 * len(demo.JUDGED_BY)
    rows = {row["name"]: row for row in table["rows"]}
    assert rows.keys() == {*wanted, "squeezed"}
    for name, row in rows.items():
        assert row["bytes"] == (tmp_path / "report" / f"{name}.smidgen").stat().st_size
        assert f"{row['bytes']:,}" in out
    assert (rows["lossless"]["agreement"], rows["lossless"]["kl"]) == (100, 0)
    assert rows["squeezenet1_1"]["agreement"] > 80
    assert rows["squeezed"]["bytes"] <= 500_000
    # honest about what binary weights do to a network that was not trained for them
    assert rows["binary"]["verdict"] == "ruined without retraining"
    assert "ruined without retraining" in out
    assert "espresso" in out
    page = (tmp_path / "report" / "report.html").read_text()
    assert out.splitlines()[-1].endswith(str(tmp_path / "report" / "report.html"))
    for shown in ("espresso", "ruined without retraining", f"{rows['squeezed']['bytes']:,}", "this file"):
        assert shown in page
    assert smidgen.open(tmp_path / "report" / "lossless.smidgen").labels[0].id == "n01440764"


@pytest.mark.parametrize(
    ("agreement", "verdict"),
    [(100, "as good as the original"), (90, ""), (70, "damaged"), (49, "ruined without retraining")],
)
def test_verdicts(agreement: float, verdict: str) -> None:
    assert Row("a", "b", 1, 1.0, 1.0, agreement, 0.0, 1.0).verdict == verdict
