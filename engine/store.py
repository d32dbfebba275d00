"""What was computed once, kept on disk by its content: the same question is answered at once the next time, whoever asks.

The app and `python -m engine` share one file, results.sqlite in the folder $BNTT_STORE or else in .results in the data
folder:

    asked = question(checkpoint, get("digits"), evaluate_rows, seed=0, precision="float32")
    results = answered(asked, evaluation_parts(checkpoint.config, 399), compute)
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

import pandas as pd

from . import result_codec
from .analysis.evaluation import Evaluation
from .database import Database, StoreWarning
from .datasets import folder
from .datasets.decoded import roots, writable
from .job import Job
from .job_record import Record, owner, owner_alive
from .question import Question, engine_version, fingerprint, place, question

LIMIT = 2 * 2**30  # bytes of results; the least recently used go first
RECORDS = 200  # of jobs
Result = Evaluation | pd.DataFrame
_TABLES = """
CREATE TABLE IF NOT EXISTS results (
    key TEXT PRIMARY KEY, question TEXT, created REAL, used REAL, bytes INTEGER, checksum TEXT, result BLOB
);
CREATE INDEX IF NOT EXISTS results_by_use ON results (used, bytes);
CREATE TABLE IF NOT EXISTS jobs (
    key TEXT PRIMARY KEY, title TEXT, state TEXT, done INTEGER, total INTEGER, page TEXT, query TEXT, owner TEXT,
    created REAL, updated REAL
)"""


class Store:
    """Results, and how far jobs are, in a file of `folder`. May be used from any thread, and by several processes.

    limit: bytes of results that are kept. Where the file cannot be used nothing is kept, and a StoreWarning says so
    once; where pyarrow is not installed no results are.
    """

    def __init__(self, folder: Path, limit: int = LIMIT):
        self._file, self._limit = Database(folder / "results.sqlite", _TABLES), limit

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self._file.path

    def get(self, keys: Iterable[str]) -> dict[str, Result]:
        """Key → result of those that are there; they are the most recently used now. One that cannot be read counts as
        not there, and is deleted."""
        found, damaged = {}, []
        for key, checksum, content in self._rows("key, checksum, result", keys) if result_codec.available() else ():
            try:
                found[key] = _checked(checksum, content)
            except result_codec.Undecodable:
                damaged.append(key)
        if found or damaged:
            self._file.write(lambda sql: (_touch(sql, found), _delete(sql, damaged)))
        return found

    def present(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys under which there is a result."""
        return {key for (key,) in self._rows("key", keys)}

    def put(self, key: str, question: Question, part: tuple, result: Result) -> None:
        """Keep a result under `key`, which is question.key(part). Raises TypeError for one of another type."""
        if not result_codec.available():
            return
        content, said, now = result_codec.encode(result), question.text(part), time.time()
        row = (key, said, now, now, len(said) + len(content), _checksum(content), content)

        def keep(sql: sqlite3.Connection) -> None:
            sql.execute("INSERT OR REPLACE INTO results VALUES (?, ?, ?, ?, ?, ?, ?)", row)
            _evict(sql, self._limit)

        self._file.write(keep)

    def size(self) -> int:
        """Bytes of all results."""
        return self._file.read(_size, 0)

    def clear(self) -> None:
        """Delete all results."""
        self._file.write(lambda sql: sql.execute("DELETE FROM results"))

    def record(self, job: Job) -> None:
        """Note how far a job of this process is: by its parts, or where it is one long part in percent."""
        page, query = job.where
        done, total = (job.done, job.total) if job.total > 1 else (round(100 * job.share()), 100)
        progress = (job.key, job.title, job.state, done, total)
        row = (*progress, page, json.dumps(dict(query)), owner(), job.submitted, time.time())

        def note(sql: sqlite3.Connection) -> None:
            sql.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
            newest = "SELECT key FROM jobs ORDER BY updated DESC LIMIT ?"
            sql.execute(f"DELETE FROM jobs WHERE key NOT IN ({newest})", [RECORDS])

        self._file.write(note)

    def jobs(self) -> list[Record]:
        """The jobs that were recorded last, at most 200, newest first."""
        rows = self._file.read(lambda sql: sql.execute("SELECT * FROM jobs ORDER BY created DESC").fetchall(), [])
        return [Record(*row[:6], _query(row[6]), *row[7:]) for row in rows]

    def forget(self, key: str) -> None:
        """Drop the record of a job; its results stay."""
        self._file.write(lambda sql: sql.execute("DELETE FROM jobs WHERE key = ?", [key]))

    def _rows(self, columns: str, keys: Iterable[str]) -> list[tuple]:
        wanted = json.dumps(list(keys))  # in one value, for SQLite takes only so many
        select = f"SELECT {columns} FROM results WHERE key IN (SELECT value FROM json_each(?))"
        return self._file.read(lambda sql: sql.execute(select, [wanted]).fetchall(), [])


def _checked(checksum: str, content: bytes) -> Result:
    if not isinstance(content, bytes) or _checksum(content) != checksum:
        raise result_codec.Undecodable("the bytes have changed")
    return result_codec.decode(content)


def _checksum(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _touch(sql: sqlite3.Connection, keys: Iterable[str]) -> None:
    now = time.time()
    sql.executemany("UPDATE results SET used = ? WHERE key = ?", [(now, key) for key in keys])


def _delete(sql: sqlite3.Connection, keys: Iterable[str]) -> None:
    sql.executemany("DELETE FROM results WHERE key = ?", [(key,) for key in keys])


def _size(sql: sqlite3.Connection) -> int:
    return sql.execute("SELECT coalesce(sum(bytes), 0) FROM results").fetchone()[0]


def _evict(sql: sqlite3.Connection, limit: int) -> None:
    """Delete the least recently used results that are more than the limit."""
    over, gone = _size(sql) - limit, []
    if over > 0:
        for key, size in sql.execute("SELECT key, bytes FROM results ORDER BY used"):
            gone.append(key)
            over -= size
            if over <= 0:
                break
        _delete(sql, gone)


def _query(text: str) -> Mapping[str, list[str]]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def store() -> Store:
    """The store that the environment names."""
    return _store(os.environ.get("BNTT_STORE", ""), os.path.abspath(folder()))


@cache
def _store(named: str, data: str) -> Store:
    if named:
        return Store(Path(os.path.abspath(named)))
    places = roots(Path(data), "results")
    return Store(writable(places) or places[0])


def answered(
    question: Question,
    parts: Sequence[tuple],
    compute: Callable[..., Result],
    *,
    keep: bool = True,
    progress: Callable[[list], Iterable] = iter,
) -> list[Result]:
    """compute(*part) of each part, in order: from the store where it is known, else computed and kept at once.

    keep: False computes everything anew and keeps nothing. progress: gets the list of parts that are left to be
    computed, and goes through it.
    """
    keys = [question.key(part) for part in parts]
    found = store().get(keys) if keep else {}
    left = {key: part for key, part in zip(keys, parts) if key not in found}
    for part in progress(list(left.values())) if left else ():
        key = question.key(part)
        found[key] = compute(*part)
        if keep:
            store().put(key, question, part, found[key])
    return [found[key] for key in keys]


__all__ = [
    "Question",
    "Record",
    "Store",
    "StoreWarning",
    "answered",
    "engine_version",
    "fingerprint",
    "owner_alive",
    "place",
    "question",
    "store",
]
