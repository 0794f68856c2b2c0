"""The running half never imports PyTorch, and the package's front door is sorted and complete."""

from __future__ import annotations

import subprocess
import sys

import smidgen


def imported_by(code: str) -> set[str]:
    """Names of the modules that a fresh interpreter has loaded after running ``code``."""
    report = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_running_half_imports_no_torch() -> None:
    rooms = (
        "archive",
        "code",
        "codecs",
        "errors",
        "facts",
        "file",
        "run",
        "run.bench",
        "run.evaluate",
        "run.int8",
        "run.native",
        "run.onnx_graph",
        "run.program",
        "run.runner",
        "run.looking",
        "photos",
        "report.about_a_file",
        "report.comparison",
        "web.samples",
        "web.server",
        "web.site",
        "cli",
        "cli.serve",
    )
    loaded = imported_by("import smidgen\n" + "\n".join(f"import smidgen.{room}" for room in rooms))
    assert not loaded & {"torch", "ndf", "skimage", "sklearn", "matplotlib"}


def test_lowering_needs_no_torch() -> None:
    assert not imported_by("import smidgen.lower") & {"torch"}


def test_opening_a_file_needs_only_numpy_and_the_core() -> None:
    assert not imported_by("import smidgen; smidgen.open, smidgen.Archive") & {"torch", "onnx", "onnxruntime", "PIL"}


def test_public_names_are_sorted_complete_and_there() -> None:
    assert smidgen.__all__ == sorted(smidgen.__all__)
    for name in smidgen.__all__:
        assert getattr(smidgen, name) is not None
