"""Writing files so that a reader, or a crash, never meets half of one; reading files that may be anything."""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A binary file to write; it takes its name only when the block ends without an exception."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # mkstemp makes files only the owner can read
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a whole text file (UTF-8) atomically."""
    with replacing(path) as file:
        file.write(text.encode())


def open_ordinary(path: str | Path) -> BinaryIO:
    """Open a file to read that is no folder, pipe or device. Raises OSError, and ValueError for one of those."""
    file = open(path, "rb", opener=_open_at_once)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise ValueError(f"{Path(path).name} is no ordinary file")
    return file


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would block for ever


def read_bounded(path: str | Path, limit: int) -> bytes:
    """The content of an ordinary file of at most `limit` bytes. Raises OSError, and ValueError for any other file."""
    with open_ordinary(path) as file:
        content = file.read(min(os.fstat(file.fileno()).st_size, limit) + 1)
    if len(content) > limit:
        raise ValueError(f"{Path(path).name} is larger than {limit} bytes")
    return content


def read_table(path: str | Path, limit: int = 2**20) -> dict:
    """The JSON object in a file, NaN and infinity as None. Raises OSError, and ValueError for anything else."""
    try:
        found = json.loads(read_bounded(path, limit), parse_constant=lambda _: None)
    except RecursionError:
        raise ValueError(f"{Path(path).name} is too deeply nested") from None
    if not isinstance(found, dict):
        raise ValueError(f"{Path(path).name} is no table of names and values")
    return found
