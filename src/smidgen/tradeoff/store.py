"""The database of a sweep: one row for each finished point, written after its file."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import astuple, fields, replace
from pathlib import Path

from smidgen.disk import remove_torn, replace_file
from smidgen.errors import InputError
from smidgen.tradeoff.points import Result, Row, Work

__all__ = ["DATABASE", "is_there", "keep", "keep_all", "open_rows", "opened_store", "rows_of"]

DATABASE = "sweep.sqlite"
SCHEMA = """
CREATE TABLE sweep (key TEXT NOT NULL);
CREATE TABLE points (
  name TEXT PRIMARY KEY, size INTEGER, max_drop REAL, plan TEXT, seed INTEGER NOT NULL, failed TEXT, file TEXT,
  bytes INTEGER, kl REAL, agreement REAL, lost REAL, labelled INTEGER, judged INTEGER, seconds REAL NOT NULL
);
"""
COLUMNS = ", ".join(field.name for field in fields(Row))


@contextmanager
def opened_store(folder: Path, work: Work | None) -> Iterator[sqlite3.Connection]:
    """The database in a folder, made if there is none and it is known what for.

    Raises:
        InputError: it is no sweep's, one of other work, or cannot be read or written.
    """
    path = folder / DATABASE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from None
    try:
        store = sqlite3.connect(path)
        try:
            _check_key(store, path, work)
            yield store
        finally:
            store.close()
    except sqlite3.Error as error:
        raise InputError(f"{path}: cannot be used: {error}; give another -o, or move it away") from None


def _check_key(store: sqlite3.Connection, path: Path, work: Work | None) -> None:
    tables = {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not tables and work:
        key = json.dumps(work.key)
        with store:
            store.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA.split(";")[:-1]:
                store.execute(statement)
            store.execute("INSERT INTO sweep VALUES (?)", (key,))
    elif not {"sweep", "points"} <= tables:
        raise InputError(f"{path}: is no database of a sweep; give another -o, or move it away")
    elif work:
        (text,) = store.execute("SELECT key FROM sweep").fetchone()
        there = json.loads(text)
        for name, value in work.key.items():
            if there.get(name) != value:
                what = {"weights": "weights of the model", "contents": "pictures", "pictures": "--pictures"}
                raise InputError(
                    f"{path}: holds a sweep with other {what.get(name, name)} ({there.get(name)}, not {value}); give "
                    "another -o"
                )


def open_rows(folder: Path) -> list[Row]:
    """All finished points of the sweep in a folder.

    Raises:
        InputError: there is none.
    """
    if not (folder / DATABASE).is_file():
        raise InputError(f"{folder}: holds no sweep")
    with opened_store(folder, None) as store:
        return rows_of(store)


def rows_of(store: sqlite3.Connection) -> list[Row]:
    """All rows, in an order that does not depend on when they were written."""
    order = "plan, max_drop, size, seed"  # what is missing comes first, so sizes go before drops, and plans are last
    rows = [Row(*values) for values in store.execute(f"SELECT {COLUMNS} FROM points ORDER BY {order}")]
    return [row if row.labelled is None else replace(row, labelled=bool(row.labelled)) for row in rows]


def is_there(folder: Path, row: Row) -> bool:
    """Whether the file of a row is in the folder, whole."""
    path = folder / str(row.file)
    return path.is_file() and path.stat().st_size == row.bytes


def keep_all(
    store: sqlite3.Connection,
    folder: Path,
    results: Iterable[Result],
    progress: AbstractContextManager[Callable[[int], None]],
) -> None:
    """Keeps results as they come."""
    with progress as advance:
        for count, result in enumerate(results, 1):
            keep(store, folder, result)
            advance(count)


def keep(store: sqlite3.Connection, folder: Path, result: Result) -> None:
    """Writes the file of a point, then its row: whoever finds a row finds its file."""
    target, fidelity = result.target, result.fidelity
    row = Row(target.name, target.size, target.max_drop, target.plan, target.seed, result.failed)
    if fidelity:
        path = folder / f"{target.name}.smidgen"
        remove_torn(path)
        replace_file(path, lambda temporary: temporary.write_bytes(result.file))
        row = replace(
            row,
            file=path.name,
            bytes=path.stat().st_size,
            kl=fidelity.kl,
            agreement=fidelity.agreement,
            lost=fidelity.drop,
            labelled=fidelity.measure == "top-1",
            judged=fidelity.pictures,
        )
    with store:
        marks = ", ".join("?" for _ in fields(Row))
        store.execute(
            f"INSERT OR REPLACE INTO points ({COLUMNS}, seconds) VALUES ({marks}, ?)", (*astuple(row), result.seconds)
        )
