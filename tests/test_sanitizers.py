"""The fuzz targets, with the sanitizers of compilers, over real small files and mutations of them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["-std=c99", "-O1", "-g", "-fno-sanitize-recover=all", "-pthread"]
COMPILERS = ("gcc", "cc", "clang")
FILES = 40  # of the seeds, the smallest


def compiled(target: str, sanitizers: str, folder: Path) -> Path:
    """A fuzz target with ``replay.c``, by a C compiler whose programs run with these sanitizers."""
    flags = [*FLAGS, f"-fsanitize={sanitizers}"]
    (folder / "probe.c").write_text("int main(void) { return 0; }\n")
    for name in filter(shutil.which, COMPILERS):
        build = [name, *flags, "-o", str(folder / "probe"), str(folder / "probe.c")]
        if all(
            subprocess.run(command, capture_output=True, check=False).returncode == 0
            for command in (build, [str(folder / "probe")])
        ):
            sources = [ROOT / "fuzz" / f"{target}.c", ROOT / "fuzz" / "replay.c", *(ROOT / "core" / "src").glob("*.c")]
            command = [name, *flags, f"-I{ROOT / 'core'}", "-o", str(folder / target), *sorted(map(str, sources))]
            subprocess.run(command, check=True)
            return folder / target
    pytest.skip(f"no C compiler here builds programs with -fsanitize={sanitizers}")


def replay(program: Path, files: list[Path], mutations: int) -> None:
    """Gives the program the files and mutations of each; it must find no fault."""
    command = [str(program), "--mutate", str(mutations), "0", *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert f"{len(files)} files and {mutations * len(files)} mutations: no fault" in result.stdout


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What fuzz/seeds.py writes."""
    folder = tmp_path_factory.mktemp("seeds")
    subprocess.run([sys.executable, str(ROOT / "fuzz" / "seeds.py"), str(folder)], check=True)
    return folder


@pytest.mark.parametrize(
    ("target", "mutations"), [("decode_any_bytes", 500), ("round_trip", 50), ("run_any_program", 200)]
)
def test_mutations_find_no_fault(target: str, mutations: int, seeds: Path, tmp_path: Path) -> None:
    program = compiled(target, "address,undefined", tmp_path)
    # codecs text and lines set up three megabytes for every plane: their own seeds are for the long runs
    files = [path for path in sorted((seeds / target).iterdir()) if not path.name.startswith(("text", "lines"))]
    replay(program, sorted(files, key=lambda path: path.stat().st_size)[:FILES], mutations)


def test_mutations_find_no_fault_where_vectors_decode(seeds: Path, tmp_path: Path) -> None:
    program = compiled("decode_any_bytes", "address,undefined", tmp_path)
    large = "31x15x9"  # of planes with fewer symbols nobody asks what the processor can
    replay(program, sorted((seeds / "decode_any_bytes").glob(f"mixed*-{large}-*")), 20)
    replay(program, sorted((seeds / "decode_any_bytes").glob(f"lines-{large}-*")), 10)


def test_loading_reads_only_what_was_written(seeds: Path, tmp_path: Path) -> None:
    replay(compiled("run_any_program", "memory", tmp_path), sorted((seeds / "run_any_program").iterdir()), 50)


def test_teams_do_not_race(seeds: Path, tmp_path: Path) -> None:
    # kernels read up to 15 bytes behind a pixel and use none of them: where tensors share pixels, others write those
    files = [path for path in sorted((seeds / "run_any_program").iterdir()) if path.stem != "joined"]
    replay(compiled("run_any_program", "thread", tmp_path), files, 0)
