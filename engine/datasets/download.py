"""Fetching the files of a data set: each ends up whole and checked under its name, or not there at all."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from .base import DataError, DataSet, Remote, folder
from .transfer import PAUSES, check_room, megabytes, part_file, retrieve, size_of, stop_if

__all__ = ["PAUSES", "download", "intact", "megabytes"]

HASHED = 1 << 20  # bytes of a file read at once for its checksum


def download(
    data: DataSet,
    *,
    into: Path | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> None:
    """Fetch the files of `data.remote` that do not lie under `into` (None = the data folder) with the right checksum.

    progress(bytes there, bytes in all) is called as they come; the first never falls, the second is 0 while a size is
    unknown. When `cancelled` turns true the transfer stops; a checksum that is being taken of a whole file is finished
    first. What a broken or cancelled transfer has brought is kept in a hidden folder beside the file's place, and the
    next call goes on from there. Raises DataError, in one sentence, where a file cannot be had or written.
    """
    place = (folder() if into is None else Path(into)).absolute()  # pooch would take a leading ~ for the home
    if not data.remote:
        try:
            data.look(place)
        except DataError as error:
            raise DataError(f"{data.name} has no address, put its files into {place} by hand: {error}") from None
        return
    tally, lacking = _Tally(data.remote, progress), []
    for remote in data.remote:
        if intact(remote, place, cancelled):
            tally.complete(remote, place)
        else:
            lacking.append(remote)
    with _writing(data.name, place):
        place.mkdir(parents=True, exist_ok=True)
        check_room(data.name, place, sum(max(0, remote.size - size_of(part_file(remote, place))) for remote in lacking))
    for remote in lacking:
        _fetch(remote, place, tally, cancelled)
        tally.complete(remote, place)


def intact(remote: Remote, place: Path, cancelled: Callable[[], bool] = lambda: False) -> bool:
    """Whether the file lies under `place` with the right checksum. Raises DataError where it cannot be read, and when
    `cancelled` turns true."""
    path = place / remote.path
    algorithm, _, expected = remote.checksum.partition(":")
    digest = hashlib.new(algorithm, usedforsecurity=False)
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            while block := file.read(HASHED):
                stop_if(cancelled, path.name)
                digest.update(block)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    return digest.hexdigest() == expected.lower()


class _Tally:
    """Bytes there and in all, over all files."""

    def __init__(self, remotes: tuple[Remote, ...], report: Callable[[int, int], None]):
        self.sizes = {remote.path: remote.size for remote in remotes}
        self.done = dict.fromkeys(self.sizes, 0)
        self.shown, self.report = 0, report

    def set(self, remote: Remote, done: int, size: int = 0) -> None:
        """size: of the whole file, where it is known by now."""
        self.done[remote.path] = done
        self.sizes[remote.path] = size or self.sizes[remote.path]
        self.shown = max(self.shown, sum(self.done.values()))  # a file begun anew lets the bar wait, not jump back
        total = sum(self.sizes.values()) if all(self.sizes.values()) else 0
        self.report(self.shown, total and max(total, self.shown))

    def complete(self, remote: Remote, place: Path) -> None:
        size = size_of(place / remote.path)
        self.set(remote, size, size)


def _fetch(remote: Remote, place: Path, tally: _Tally, cancelled: Callable[[], bool]) -> None:
    """Bring one file to its place, unless another process is at it."""
    import filelock

    target = place / remote.path
    lock = target.with_name(f".{target.name}.lock")
    with _writing(target.name, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with filelock.FileLock(lock, blocking=False):
                if not intact(remote, place, cancelled):  # another process may have brought it by now
                    retrieve(remote, place, partial(tally.set, remote), cancelled)
        except filelock.Timeout:
            raise DataError(f"{target.name} is being fetched by another process: wait until it is done") from None
        # Whoever takes the lock meanwhile finds the file in its place; after a failure it could not be removed safely.
        with suppress(OSError):
            lock.unlink()


@contextmanager
def _writing(name: str, place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(f"{name} cannot be written to {place}: {error.strerror or error}") from None
