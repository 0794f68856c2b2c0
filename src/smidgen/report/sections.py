"""The sections of reports, from plain facts: about a file, a search, a sweep, a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from math import inf, isfinite
from typing import Any

from smidgen.report.charts import Dot, courses, histogram, trade_off
from smidgen.report.document import Chart, Column, Commands, Figures, Part, Pictures, Section, Shot, Table, Text
from smidgen.reporter import small

__all__ = [
    "DIVERGENCE",
    "about_comparison",
    "about_curve",
    "about_epochs",
    "about_file",
    "about_layers",
    "about_pictures",
    "about_points",
    "about_running",
    "about_stages",
]

Facts = Mapping[str, Any]

DIVERGENCE = "divergence from the original"
"""What the charts of sizes show against bytes."""

COMPILED = (
    "gcc -O3 -s -std=c99 -ffp-contract=off -ffunction-sections -fno-jump-tables -fno-asynchronous-unwind-tables \\\n"
    "    -Wl,--gc-sections -Icore -o recognize examples/c/recognize.c core/src/*.c"
)
"""As in ``examples/c/README.md``."""


def about_file(facts: Facts) -> Section:
    """What was asked for, what was reached, and the figures that count."""
    weights, size, asked, verdict = facts["weights"], facts["bytes"], facts.get("asked"), facts.get("verdict")
    figures = [
        ("bytes", f"{size:,}"),
        ("times smaller than float32", f"{facts['original_bytes'] / max(1, size):.1f}"),
        ("bits for each weight", f"{8 * size / max(1, weights):.2f}"),
        ("weights", f"{weights:,}"),
        *_fidelity(facts),
    ]
    said = [Text(f"Asked for: {asked}.")] if asked else []
    said += [Text(f"{verdict[:1].upper()}{verdict[1:]}.")] if verdict else []
    return Section(
        "What was asked and what was reached" if said else "The file",
        [*said, Figures(figures), Text(facts["running"])],
    )


def _fidelity(facts: Facts) -> list[tuple[str, str]]:
    """How near the file is to the original: as it was measured for this report, else when it was made."""
    found, best = facts.get("comparison"), [point for point in facts.get("curve") or [] if point["best"]]
    if found and "outputs" in found:
        outputs = found["outputs"]
        worst = min(outputs, key=lambda output: output["agreement"])
        what, figure = _alike(worst)
        which = f" of {worst['output']}, which loses most" if len(outputs) > 1 else ""
        return [(DIVERGENCE, small(sum(output["divergence"] for output in outputs))), (what + which, figure)]
    if found:
        file, original = found["file"], found["original"]
        figures = [(DIVERGENCE, small(file["kl"])), ("same answer as the original", f"{file['agreement']:.1f} %")]
        if file["top1"] is not None:
            figures.append((f"top-1; the original's is {original['top1']:.1f} %", f"{file['top1']:.1f} %"))
        return figures
    if best:
        told = (f"{DIVERGENCE}, when it was made", small(best[0]["kl"]))
        if best[0]["measure"] == "R squared":
            return [told, ("R squared then", f"{best[0]['agreement'] / 100:.4f}")]
        return [told, ("agreement with the original then", f"{best[0]['agreement']:.1f} %")]
    return []


def _alike(output: Facts) -> tuple[str, str]:
    if output["cosine"] is not None:
        return "R squared", f"{output['agreement'] / 100:.4f}"
    return "same answer as the original", f"{output['agreement']:.1f} %"


def about_curve(points: Sequence[Facts] | None) -> list[Section]:
    """Bytes against what was lost, of every file that was tried."""
    dots = [
        Dot(p["bytes"], p["kl"], "this file" if p["best"] else "", p["best"]) for p in points or [] if 0 < p["kl"] < inf
    ]
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
    others = [size for name, size in facts["sections"].items() if name != "payload"]
    most = max(1, *(t["stored"] for t in tensors), *others)
    explained = any(t["harm"] is not None for t in tensors)
    columns = [
        *(Column("Layer"), Column("Bytes", "number"), Column("", "bar"), Column("Share", "number")),
        *(Column("Bits/weight", "number"), *([Column("Harm alone", "number")] * explained)),
        *(Column("Symbols", "svg"), Column("Kind"), Column("Shape")),
    ]
    rows: list[list[str | float]] = []
    for t in tensors:
        harm = "" if t["harm"] is None else small(t["harm"])
        rows.append(
            [
                *(t["name"], f"{t['stored']:,}", t["stored"] / most, f"{100 * t['share']:.1f} %"),
                *(f"{t['bits_per_weight']:.2f}", *([harm] * explained)),
                histogram(t["histogram"], t["name"]) if t.get("histogram") else "",
                f"{t['kind']} {t['levels']}" if t["levels"] else t["kind"],
                "x".join(map(str, t["shape"])) or "one number",
            ]
        )
    for name, size in facts["sections"].items():
        if name != "payload":
            share = f"{100 * size / facts['bytes']:.1f} %"
            rows.append([f"({name})", f"{size:,}", size / most, share, *([""] * (len(columns) - 4))])
    parts: list[Part] = [Table("Bytes of every layer; what is in brackets is no layer", columns, rows)]
    if explained:
        told = facts["advice"]
        parts.append(Text(f"Harm alone: the divergence when only this layer is compressed. {told}"))
    return Section("Where the bytes are", parts)


def about_comparison(facts: Facts) -> Section:
    """The original beside the file, on the same examples."""
    found = facts["comparison"]
    if "outputs" in found:
        return _about_outputs(facts, found)
    original, file = found["original"], found["file"]
    labelled = original["top1"] is not None
    columns = [Column("Network"), Column("Bytes", "number")]
    columns += [Column(title, "number") for title in ("Top-1", "Top-5")] * labelled
    columns += [Column(title, "number") for title in ("Same answer", "Divergence", "Milliseconds")]
    itself = found["milliseconds"] is not None
    rows = []
    for name, size, result, time in (
        (found["against"], _size_of_original(facts), original, found["milliseconds_original"]),
        (facts["file"], facts["bytes"], file, found["milliseconds"] if itself else file["milliseconds"]),
    ):
        right = [f"{result['top1']:.2f} %", f"{result['top5']:.2f} %"] if labelled else []
        rows.append([name, f"{size:,}", *right, f"{result['agreement']:.2f} %", small(result["kl"]), f"{time:.3g}"])
    engine = (
        "of the original in ONNX Runtime in float32 and of the file in integers by its own program"
        if itself
        else "of both in ONNX Runtime in float32"
    )
    told = (
        f"Judged on {file['pictures']:,} {found['which']}. What is judged are the weights, in float32; divergence is "
        f"that of Kullback and Leibler in nats, from the original's answers. Times are {engine}, for one picture on "
        f"one thread. {_whose_bytes(found)}"
    )
    return Section("Beside the original", [Table("Both networks on the same pictures", columns, rows), Text(told)])


def _about_outputs(facts: Facts, found: Facts) -> Section:
    columns = [Column("Output"), Column("What it is")]
    columns += [Column(t, "number") for t in ("Divergence", "Alike", "Relative error", "Largest error")]
    rows = [
        [
            *(output["output"], output["kind"], small(output["divergence"]), _alike(output)[1]),
            *(small(output["relative_error"]), small(output["largest_error"])),
        ]
        for output in found["outputs"]
    ]
    kinds = (
        "Divergence is KL in nats, of values half the squared error in parts of their variance; alike is the part of "
        "equal answers (of many for each input without what both take for the commonest, of detections of what one of "
        "both finds), of values R squared."
    )
    told = (
        f"Judged on {found['outputs'][0]['examples']:,} {found['which']}. {found['against']} has "
        f"{_size_of_original(facts):,} bytes and takes {found['milliseconds_original']:.3g} milliseconds for one "
        f"example, {facts['file']} {facts['bytes']:,} and {found['milliseconds']:.3g}, both in ONNX Runtime in "
        f"float32. {_whose_bytes(found)}"
    )
    parts: list[Part] = [
        Table("How far the file's answers are from the original's", columns, rows),
        Text(kinds),
        Text(told),
    ]
    return Section("Beside the original", [*parts, Text(f"No pictures are shown: {found['no_pictures']}")])


def _size_of_original(facts: Facts) -> int:
    size = facts["comparison"]["bytes_original"]
    return int(facts["original_bytes"] if size is None else size)


def _whose_bytes(found: Facts) -> str:
    return "Bytes of the original are those of its weights in float32." if found["bytes_original"] is None else ""


def about_pictures(found: Facts, shots: Sequence[Shot]) -> Section:
    """The pictures that are given another answer, or if there are none, some that are not."""
    count, changed = found["file"]["pictures"], found["changed"]
    if not changed:
        told = f"None of the {count:,} pictures is given another answer than before; these are some of them."
        return Section("Pictures whose answer changed", [Text(told), Pictures(shots)])
    told = f"{changed:,} of {count:,} pictures are given another answer than before"
    if found["lost"] is not None:
        wrong = changed - found["lost"] - found["gained"]
        told += f": {found['lost']:,} were right, {found['gained']:,} are right now, {wrong:,} are wrong either way"
    if len(shots) < changed:
        told += f". These are {len(shots)} of them: each change once, then again, where the original was surest first"
    return Section("Pictures whose answer changed", [Text(f"{told}."), Pictures(shots)])


def about_running(file: str, use: str, runs_itself: bool = False) -> Section:
    """How to use a file.

    Args:
        file: its path.
        use: "pictures" if its network names what is in them, "network" if it does not, "weights" if there is none.
        runs_itself: whether there is a program.
    """
    named, opened = shlex.quote(file), f"smidgen.open({file!r})"
    if use == "weights":
        return _usage(
            f"smidgen export {named} --to safetensors -o weights.safetensors", f"weights = {opened}.weights()"
        )
    onnx = f"smidgen export {named} --to onnx -o network.onnx"
    if use == "network":
        return _usage(onnx, f"model = {opened}.onnx()  # for onnxruntime.InferenceSession(model.SerializeToString())")
    recognize = f"smidgen recognize {named} cat.jpg\nsmidgen serve {named}  # a page in the browser\n{onnx}"
    more: list[Part] = []
    if runs_itself:
        more = [
            Text("From any host of static files, in the visitor's browser:"),
            Commands(f"smidgen export {named} --to web -o site/", "Browser"),
            Text("Without Python, in the folder of smidgen's sources; a program of less than 200 KB:"),
            Commands(f"{COMPILED}\n./recognize {named} cat.ppm", "C"),
        ]
    return _usage(recognize, f"runner = {opened}.runner()\nprint(runner.recognize('cat.jpg'))", more)


def _usage(commands: str, python: str, more: Sequence[Part] = ()) -> Section:
    parts: list[Part] = [Commands(commands, "Commands"), Text("In Python, without PyTorch:")]
    return Section("How to run it", [*parts, Commands(f"import smidgen\n\n{python}", "Python"), *more])


def about_points(rows: Sequence[Facts]) -> Section:
    """All files of a sweep; those that no other one beats stand out."""
    dots = [Dot(r["bytes"], r["kl"], "", r["front"]) for r in rows if not r["failed"] and 0 < r["kl"] < inf]
    parts: list[Part] = []
    if len({dot.bytes for dot in dots}) >= 2:
        caption = (
            "Every file, by its bytes and its divergence from the original; large are those that no other one beats."
        )
        parts.append(Chart(trade_off(dots, DIVERGENCE), caption))
    lost = "Top-1 lost" if any(r["labelled"] for r in rows) else "Points lost"
    columns = [Column("File"), *(Column(t, "number") for t in ("Bytes", "Divergence", "Alike", lost))]
    cells: list[list[str | float]] = []
    for r in rows:
        if r["failed"]:
            cells.append([r["name"], "failed", "", "", ""])
        else:
            cells.append([r["name"], f"{r['bytes']:,}", small(r["kl"]), f"{r['agreement']:.2f} %", f"{r['lost']:.2f}"])
    marked = frozenset(number for number, r in enumerate(rows) if r["front"])
    parts.append(Table("All files; those that no other one beats stand out", columns, cells, marked))
    parts += [Text(f"{r['name']} failed: {r['failed']}.") for r in rows if r["failed"]]
    return Section("Size and fidelity", parts)


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
    epochs = [epoch for epoch in told["epochs"] if isfinite(epoch["loss"])]  # the others are not worth a picture
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
