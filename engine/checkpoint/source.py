"""A path or a binary file → its bytes and its name, after its size has been looked at."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

from .errors import Refusal, shown

MAX_BYTES = 4 * 2**30


def display_name(source: str | Path | BinaryIO, name: str | None) -> str:
    """The file name without folders, whatever system wrote it."""
    name = name or (source if isinstance(source, (str, os.PathLike)) else getattr(source, "name", None))
    base = str(name).replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(name, (str, os.PathLike)) else ""
    return shown(base or "the uploaded file", 200)


def read_source(source: str | Path | BinaryIO) -> bytes:
    """The whole content. A file object is read from its beginning. Raises Refusal."""
    if isinstance(source, (str, os.PathLike)):
        return _read_path(source)
    return _read_file(source)


def _read_path(path: str | os.PathLike) -> bytes:
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise Refusal("it is a folder; choose the checkpoint file inside it")
        if not stat.S_ISREG(mode):  # a pipe or a device may never end
            raise Refusal("it is a pipe or a device, not a file; copy the checkpoint into a file first")
        with open(path, "rb") as file:
            return _read_file(file)
    except FileNotFoundError:
        raise Refusal("there is no such file; check the path") from None
    except PermissionError:
        raise Refusal("it may not be read; check its permissions") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no system accepts
        raise Refusal(f"it cannot be opened ({shown(error)}); check the path") from error


def _read_file(file: BinaryIO) -> bytes:
    if isinstance(file, io.TextIOBase):
        raise Refusal("it was opened as text; open it in binary mode")
    try:
        size = file.seek(0, os.SEEK_END)
        if size > MAX_BYTES:
            raise Refusal(f"it is larger than {MAX_BYTES >> 30} GiB, as no such checkpoint is; choose another file")
        file.seek(0)
        return bytes(file.read(size))
    except (OSError, ValueError, TypeError, AttributeError) as error:  # closed, not seekable, or no file at all
        raise Refusal("it cannot be read from its beginning; save it as a file first") from error
