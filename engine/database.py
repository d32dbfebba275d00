"""One SQLite file that several processes and threads use at once, and whose failure is never theirs."""

from __future__ import annotations

import os
import sqlite3
import warnings
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

T = TypeVar("T")
BUSY_SECONDS = 10  # how long to wait for others who write
VERSION = 1  # of the tables
DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
# No room, no permission, no disk, or somebody else for too long: what a caller can do without.
UNUSABLE = (
    *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL),
    *(sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL),
)


class StoreWarning(UserWarning):
    """Something that was to be kept is not, or no longer; one sentence for a person."""


class Database:
    """The file `path`, made with its folder when it is first used.

    schema: the SQL statements that make its tables. A connection a call: nothing is shared by threads, held while a
    process is killed, or left to a process that is forked.
    """

    def __init__(self, path: Path, schema: str):
        self.path, self._schema = path, schema
        self._told = False

    def read(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What work(connection) returns, all from one moment; `otherwise` where the file cannot be used.

        That is said in a StoreWarning, once. A damaged file is put aside, with a warning too, and the work done in a
        new one. `work` does nothing but SQL, and may be called twice.
        """
        return self._run("BEGIN", work, otherwise)

    def write(self, work: Callable[[sqlite3.Connection], None]) -> None:
        """work(connection), which changes everything or nothing; nothing where the file cannot be used. As `read`."""
        self._run("BEGIN IMMEDIATE", work, None)

    def _run(self, begin: str, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        try:
            identity = self._identity()
            try:
                return self._transaction(begin, work)
            except sqlite3.DatabaseError as error:
                if _code(error) not in DAMAGED:
                    raise
            self._put_aside(identity)
            return self._transaction(begin, work)
        except OSError as error:
            self._tell(error.strerror or str(error))
        except sqlite3.DatabaseError as error:
            if _code(error) not in (*UNUSABLE, *DAMAGED):
                raise
            self._tell(str(error))
        return otherwise

    def _transaction(self, begin: str, work: Callable[[sqlite3.Connection], T]) -> T:
        with closing(self._open()) as connection:  # which undoes what was not committed
            connection.execute(begin)
            result = work(connection)
            connection.execute("COMMIT")
            return result

    def _open(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            if not _ready(connection):
                self._make(connection)
            connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last results, nothing more
        except BaseException:
            connection.close()
            raise
        return connection

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.text_factory = lambda text: text.decode("utf-8", "replace")
        return connection

    def _make(self, connection: sqlite3.Connection) -> None:
        with self._lock():  # two that change the journal's mode at once would not wait for each other
            if _ready(connection):
                return
            connection.execute("PRAGMA auto_vacuum = FULL")  # the file shrinks when results go
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {self._schema}; PRAGMA user_version = {VERSION}; COMMIT;")

    def _put_aside(self, identity: tuple[int, int] | None) -> None:
        """Rename the damaged file, unless another process has done so and this is a new one already."""
        aside = self.path.with_suffix(f".damaged{self.path.suffix}")
        with self._lock():
            if self._identity() != identity:
                return
            for ending in ("-wal", "-shm", ""):  # the journal would else be taken for the new file's
                with suppress(FileNotFoundError):
                    os.replace(f"{self.path}{ending}", f"{aside}{ending}")
        _warn(f"{self.path} was damaged and is called {aside.name} now: what it held is computed anew.")

    def _identity(self) -> tuple[int, int] | None:
        with suppress(FileNotFoundError):
            found = os.stat(self.path)
            return found.st_dev, found.st_ino
        return None

    def _lock(self) -> FileLock:
        return FileLock(f"{self.path}.lock", timeout=BUSY_SECONDS)

    def _tell(self, reason: str) -> None:
        if not self._told:
            self._told = True
            _warn(f"{self.path} cannot be used ({reason}): results are not kept.")


def _ready(connection: sqlite3.Connection) -> bool:
    return connection.execute("PRAGMA user_version").fetchone()[0] == VERSION


def _code(error: sqlite3.DatabaseError) -> int | None:
    """SQLite's code for what went wrong, without its details; None for what Python's module refuses itself."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _warn(sentence: str) -> None:
    warnings.warn(sentence, StoreWarning, stacklevel=2)
