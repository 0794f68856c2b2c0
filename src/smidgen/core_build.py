"""Compiles the C core and its binding into ``smidgen._core``; run by setuptools when the package is installed."""

from pathlib import Path

from cffi import FFI

CORE = Path("core")


def declarations(header: str) -> str:
    """The lines of the header between BEGIN and END, which are plain C declarations."""
    return header.split("/* BEGIN */")[1].split("/* END */")[0]


builder = FFI()
builder.cdef(declarations((CORE / "smidgen.h").read_text()))
builder.set_source(
    "smidgen._core",
    '#include "smidgen.h"',
    sources=sorted(str(path) for path in (CORE / "src").glob("*.c")),
    include_dirs=[str(CORE)],
    extra_compile_args=["-std=c99", "-O3", "-ffp-contract=off"],
)
