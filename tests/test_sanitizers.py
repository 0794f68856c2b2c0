"""The fuzz targets, with AddressSanitizer and UndefinedBehaviorSanitizer, over mutations of real small files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FILES = 40  # of the seeds, the smallest


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A C compiler whose programs run with sanitizers."""
    folder = tmp_path_factory.mktemp("sanitizers")
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    for name in ("gcc", "cc", "clang"):
        build = [name, *FLAGS, "-o", str(folder / "probe"), str(folder / "probe.c")]
        if shutil.which(name) and all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in (build, [str(folder / "probe")])
        ):
            return name
    pytest.skip("no C compiler here builds programs with AddressSanitizer and UndefinedBehaviorSanitizer")


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fuzz/seeds.py writes."""
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, str(ROOT / "fuzz" / "seeds.py"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize(("target", "mutations"), [("decode_any_bytes", 500), ("round_trip", 50)])
def test_mutations_find_no_fault(target: str, mutations: int, compiler: str, seeds: Path, tmp_path: Path) -> None:
    program = tmp_path / target
    sources = [ROOT / "fuzz" / f"{target}.c", ROOT / "fuzz" / "replay.c", *sorted((ROOT / "core" / "src").glob("*.c"))]
    includes = f"-I{ROOT / 'core'}"
    subprocess.run([compiler, *FLAGS, includes, "-o", str(program), *map(str, sources)], check=True)
    # codecs text and lines set up three megabytes for every plane: their own seeds are for the long runs
    files = [path for path in sorted((seeds / target).iterdir()) if not path.name.startswith(("text", "lines"))]
    files = sorted(files, key=lambda path: path.stat().st_size)[:FILES]
    command = [str(program), "--mutate", str(mutations), "0", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{len(files)} files and {mutations * len(files)} mutations: no fault" in result.stdout
