"""The sections of reports, from plain facts: about a file, a search, a sweep, a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from smidgen.report.charts import Dot, courses, histogram, trade_off
from smidgen.report.comparison import Comparison
from smidgen.report.document import Chart, Column, Commands, Figures, Part, Pictures, Section, Table, Text

__all__ = [
    "about_comparison",
    "about_curve",
    "about_epochs",
    "about_file",
    "about_layers",
    "about_points",
    "about_running",
    "about_stages",
]

Facts = Mapping[str, Any]


def about_file(facts: Facts, verdict: str | None = None, asked: str | None = None) -> Section:
    """What was asked for, what was reached, and the figures that count."""
    weights, size = facts["weights"], facts["bytes"]
    figures = Figures(
        [
            ("bytes", f"{size:,}"),
            ("times smaller than float32", f"{facts['original_bytes'] / max(1, size):.1f}"),
            ("bits for each weight", f"{8 * size / max(1, weights):.2f}"),
            ("weights", f"{weights:,}"),
        ]
    )
    said = [Text(f"Asked for: {asked}.")] if asked else []
    said += [Text(f"{verdict[:1].upper()}{verdict[1:]}.")] if verdict else []
    return Section(
        "What was asked and what was reached" if said else "The file", [*said, figures, Text(facts["running"])]
    )


DIVERGENCE = "divergence, nats"


def about_curve(points: Sequence[Facts] | None) -> list[Section]:
    """Bytes against what was lost, of every file that was tried."""
    dots = [Dot(p["bytes"], p["kl"], "this file" if p["best"] else "", p["best"]) for p in points or [] if p["kl"] > 0]
    if len({dot.bytes for dot in dots}) < 2:
        return []
    caption = (
        "Every file that was tried, by its bytes and its divergence from the original on examples that were held out. "
        "The line joins those that none of fewer bytes beats."
    )
    return [Section("Size and fidelity", [Chart(trade_off(dots, DIVERGENCE), caption)])]


def about_layers(facts: Facts) -> Section:
    """A table of all layers, and of what else the file holds."""
    tensors = facts["tensors"]
    most = max([t["stored"] for t in tensors] or [1]) or 1
    explained = any(t["harm"] is not None for t in tensors)
    columns = [
        *(Column("Layer"), Column("Bytes", "number"), Column("", "bar"), Column("Share", "number")),
        *(Column("Bits/weight", "number"), *([Column("Harm alone", "number")] * explained)),
        *(Column("Symbols", "svg"), Column("Kind"), Column("Shape")),
    ]
    rows: list[list[str | float]] = []
    for t in tensors:
        harm = "" if t["harm"] is None else f"{t['harm']:.5f}"
        rows.append(
            [
                *(t["name"], f"{t['stored']:,}", t["stored"] / most, f"{100 * t['share']:.1f} %"),
                *(f"{t['bits_per_weight']:.2f}", *([harm] * explained)),
                histogram(t["histogram"], t["name"]) if t.get("histogram") else "",
                f"{t['kind']} {t['levels']}" if t["levels"] else t["kind"],
                " x ".join(map(str, t["shape"])) or "one number",
            ]
        )
    for name, size in facts["sections"].items():
        if name != "payload":
            share = f"{100 * size / facts['bytes']:.1f} %"
            rows.append([f"({name})", f"{size:,}", size / most, share, *([""] * (len(columns) - 4))])
    parts: list[Part] = [Table("Bytes of every layer; what is in brackets is no layer", columns, rows)]
    if explained:
        told = facts["advice"]
        parts.append(Text(f"Harm alone: nats of divergence when only this layer is compressed. {told}"))
    return Section("Where the bytes are", parts)


def about_comparison(found: Comparison, name: str, which: str) -> list[Section]:
    """The original beside the file, and the pictures whose answer changed."""
    original, file = found.original, found.file
    labelled = original.top1 is not None
    columns = [Column("Network"), *([Column("Top-1", "number"), Column("Top-5", "number")] * labelled)]
    columns += [Column(title, "number") for title in ("Same answer", "Divergence", "Milliseconds")]
    rows = []
    times = (found.milliseconds_original, found.milliseconds if found.milliseconds is not None else file.milliseconds)
    for title, result, time in zip((found.against, name), (original, file), times, strict=True):
        right = [f"{result.top1:.2f} %", f"{result.top5:.2f} %"] if labelled else []
        rows.append([title, *right, f"{result.agreement:.2f} %", f"{result.kl:.4f}", f"{time:.1f}"])
    engine = (
        "of the original in ONNX Runtime in float32 and of the file in integers by its own program"
        if found.milliseconds is not None
        else "of both in ONNX Runtime in float32"
    )
    told = (
        f"{original.pictures:,} {which}. What is judged are the weights, in float32; times are {engine}, for one "
        "picture on one thread."
    )
    if found.changed:
        part = f"{found.changed:,} of {original.pictures:,} pictures are given another answer than before"
        shown = (
            ""
            if len(found.shots) == found.changed
            else f"; these are the {len(found.shots)} of which the original was surest"
        )
        text = Text(f"{part}{shown}.")
    else:
        text = Text(
            f"None of the {original.pictures:,} pictures is given another answer than before; these are some of them."
        )
    return [
        Section("Beside the original", [Table("Both networks on the same pictures", columns, rows), Text(told)]),
        Section("Pictures whose answer changed", [text, Pictures(found.shots)]),
    ]


def about_running(file: str, runs_itself: bool) -> Section:
    """How to use the file."""
    lines = [
        f"smidgen recognize {file} cat.jpg",
        f"smidgen serve {file}" if runs_itself else "",
        f"smidgen export {file} --to web -o site/" if runs_itself else "",
        f"smidgen export {file} --to onnx -o network.onnx",
    ]
    python = f"import smidgen\n\nrunner = smidgen.open({file!r}).runner()\nprint(runner.recognize('cat.jpg'))"
    parts: list[Part] = [
        Commands("\n".join(line for line in lines if line), "Commands"),
        Text("In Python, without PyTorch:"),
        Commands(python, "Python"),
    ]
    if runs_itself:
        parts.append(
            Text("Without Python: examples/c/recognize.c of smidgen's sources, a program of less than 200 KB.")
        )
    return Section("How to run it", parts)


def about_points(rows: Sequence[Facts]) -> list[Section]:
    """All files of a sweep; those that no other one beats stand out."""
    dots = [Dot(r["bytes"], r["kl"], "", r["front"]) for r in rows if not r["failed"] and r["kl"]]
    parts: list[Part] = []
    if len({dot.bytes for dot in dots}) >= 2:
        caption = (
            "Every file, by its bytes and its divergence from the original; large are those that no other one beats."
        )
        parts.append(Chart(trade_off(dots, DIVERGENCE), caption))
    columns = [Column("File"), *(Column(t, "number") for t in ("Bytes", "Divergence", "Same answer", "Points lost"))]
    cells: list[list[str | float]] = []
    for r in rows:
        if r["failed"]:
            cells.append([r["name"], "failed", "", "", ""])
        else:
            cells.append(
                [r["name"], f"{r['bytes']:,}", f"{r['kl']:.4f}", f"{r['agreement']:.2f} %", f"{r['lost']:.2f}"]
            )
    marked = frozenset(number for number, r in enumerate(rows) if r["front"])
    parts.append(Table("All files; those that no other one beats stand out", columns, cells, marked))
    parts += [Text(f"{r['name']} failed: {r['failed']}.") for r in rows if r["failed"]]
    return [Section("Size and fidelity", parts)]


def about_stages(told: Facts) -> Section:
    """The stages of a recipe in bytes and accuracy."""
    columns = [Column("Stage"), Column("Method")]
    columns += [Column(t, "number") for t in ("Bytes", "Size", "Bits/weight", "Accuracy", "In integers", "Trained")]
    rows: list[list[str | float]] = [
        ["before", "", f"{told['float32_bytes']:,}", "1", "32.00", _percent(told["start"]), "", ""]
    ]
    for r in told["stages"]:
        rows.append(
            [
                *(r["stage"], r["method"], f"{r['bytes']:,}", f"1/{r['times_smaller']:.1f}"),
                *(f"{r['bits_per_weight']:.2f}", _percent(r["accuracy"]), _percent(r["native"])),
                f"{r['seconds'] / 60:.1f} min",
            ]
        )
    text = Text(f"Accuracy on {told['pictures']:,} pictures ({told['where']}), each file measured as it lies there.")
    remarks: list[Part] = [Text(f"{r['stage']}: {r['remark']}") for r in told["stages"] if r["remark"]]
    return Section("Stages", [Table("Each stage and its file", columns, rows), text, *remarks])


def about_epochs(told: Facts) -> list[Section]:
    """Accuracy and loss over all epochs."""
    epochs = told["epochs"]
    if not epochs:
        return []
    counts = [(r["stage"], sum(e["stage"] == r["stage"] for e in epochs)) for r in told["stages"]]
    parts = [
        Chart(courses([e["accuracy"] for e in epochs], counts, "accuracy, %"), "Accuracy after each epoch."),
        Chart(courses([e["loss"] for e in epochs], counts, "loss"), "Loss of each epoch."),
    ]
    return [Section("Epochs", parts)]


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} %"
