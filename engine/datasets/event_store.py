"""What is kept on disk of CIFAR10-DVS: the events of its recordings, once parsed, and the frames made from them.

Events lie in <data folder>/.decoded, 6 bytes each (12.3 GB in all) as long as there is room; frames (1.8 GB of
20×2×48×48) lie there, too, or in the user's cache folder. Both are mapped from files, and no more than one recording
is in memory at a time.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
from torch import Tensor

from ..files import replacing
from . import decoded
from .aedat import Events, frames
from .base import DataError

FORMAT = "1"  # of what is kept; another one is made anew
PREFIX, DIGITS = "cifar10-dvs-", 16  # a folder's name: the prefix and so many hexadecimal digits
ABANDONED = 86_400  # s without a change until an unfinished file counts as left over

_one = threading.Lock()  # two pages may ask at once: the second then finds what the first has made
_T = TypeVar("_T")


class Split(NamedTuple):
    """The recordings of a split. facts: what changes with any recording of the data set. count, size: how many are in
    the split, and how many bytes they have. parse() → the events of each in turn; may be called again."""

    name: str
    facts: list[tuple]
    count: int
    size: int
    parse: Callable[[], Iterator[Events]]


def load(data: Path, split: Split, steps: int, side: int, by: str) -> Tensor:
    """uint8 [recordings, steps, 2, side, side], mapped from a file; made first where it is not there. by: see `frames`.

    data: the data folder. Raises DataError where there is no room, and what split.parse raises.
    """
    folder = PREFIX + hashlib.sha256(repr((FORMAT, split.facts)).encode()).hexdigest()[:DIGITS]
    homes = decoded.roots(data)
    shape = (split.count, steps, 2, side, side)

    def write(path: Path) -> None:
        size = split.size * 6 // 8  # an event takes 8 bytes in a recording
        store = partial(_write_store, split)
        try:
            # So much is not kept in the user's cache: home folders are often small.
            events = _kept(homes[:1], f"{folder}/{split.name}", size, partial(_open_store, split.count), store)
        except _NoRoom:
            events = split.parse()
        _write_frames(events, shape, by, path)

    read = partial(decoded.mapped, shape=shape)
    with _one:
        return _kept(homes, f"{folder}/{split.name}-{by}-{steps}x{side}.npy", math.prod(shape), read, write)


@dataclass(frozen=True)
class _Store:
    """The events of a split, mapped from files; iterates over its recordings. t: uint32 [n], µs since the recording's
    first. address: uint16 [n], polarity + 2·x + 256·y. starts: int64 [recordings + 1], where each recording begins."""

    t: np.ndarray
    address: np.ndarray
    starts: np.ndarray

    def __iter__(self) -> Iterator[Events]:
        for start, end in pairwise(self.starts):
            address = self.address[start:end]
            x, y, polarity = (part.astype(np.uint8) for part in (address >> 1 & 0x7F, address >> 8, address & 1))
            yield Events(self.t[start:end].astype(np.int64), x, y, polarity)


def _open_store(count: int, path: Path) -> _Store:
    """The store of so many recordings. Raises OSError or ValueError where none lies, or not the whole of it."""
    parts = [np.lib.format.open_memmap(f"{path}-{part}.npy", "r") for part in ("t", "address", "starts")]
    t, address, starts = parts
    if [part.dtype for part in parts] != [np.uint32, np.uint16, np.int64] or starts.shape != (count + 1,):
        raise ValueError(f"{path} holds something else")
    whole = t.shape == address.shape == (starts[-1],)
    if not whole or starts[0] or (np.diff(starts) < 0).any():
        raise ValueError(f"{path} is not whole")
    return _Store(t, address, starts)


def _write_store(split: Split, path: Path) -> None:
    # The outermost file is put in place last: with the starts there, everything is.
    starts = [0]
    with (
        replacing(f"{path}-starts.npy") as ends,
        replacing(f"{path}-t.npy") as times,
        replacing(f"{path}-address.npy") as addresses,
    ):
        parts = ((times, "<u4"), (addresses, "<u2"))
        for file, dtype in parts:
            _header(file, dtype, 0)
        for events in split.parse():
            x, y = events.x.astype("<u2"), events.y.astype("<u2")
            times.write(events.t.astype("<u4"))
            addresses.write(y << 8 | x << 1 | events.polarity)
            starts.append(starts[-1] + len(events.t))
        for file, dtype in parts:
            file.seek(0)
            _header(file, dtype, starts[-1])  # numpy leaves room for any length
        np.save(ends, np.array(starts, dtype="<i8"))


def _write_frames(recordings: Iterable[Events], shape: tuple[int, ...], by: str, path: Path) -> None:
    """shape: [recordings, steps, 2, side, side]."""
    with replacing(path) as file:
        _header(file, "|u1", *shape)
        for events in recordings:
            file.write(frames(events, shape[1], shape[-1], by))


def _header(file: BinaryIO, dtype: str, *shape: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


class _NoRoom(DataError):
    """What was decoded can be kept nowhere."""


def _kept(homes: Sequence[Path], name: str, size: int, read: Callable[[Path], _T], write: Callable[[Path], None]) -> _T:
    """What `read` finds under `name` (folder/file) in one of the homes; where it is not there, or not whole, `write`
    makes it first, in the first home that can be written and has room for `size` bytes. Raises _NoRoom."""
    for home in homes:
        try:
            return read(home / name)
        except (OSError, ValueError):
            pass
    for home in homes:
        try:
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            _tidy(path.parent)
            if shutil.disk_usage(home).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write(path)
            return read(path)
        except OSError as error:
            reason = in_words(error)
    places = " or ".join(map(str, homes))
    raise _NoRoom(f"{places} must take {size / 1e9:.1f} GB of decoded recordings, but cannot be written ({reason})")


def _tidy(folder: Path) -> None:
    """Removes unfinished files left over in the folder, and what was made from recordings as they were before."""
    for path in folder.glob(".*"):
        try:
            if path.stat().st_mtime < time.time() - ABANDONED:
                path.unlink()
        except OSError:  # finished or removed meanwhile, or another's
            pass
    for other in folder.parent.glob(f"{PREFIX}*"):
        # Decoded images of a data set may have a name that begins like these.
        if other != folder and re.fullmatch(f"{PREFIX}[0-9a-f]{{{DIGITS}}}", other.name):
            shutil.rmtree(other, ignore_errors=True)


def in_words(error: Exception) -> str:
    """What went wrong, to stand inside a sentence."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
