"""CIFAR10-DVS: 10,000 recordings, about 205,000 events in 1.3 s each, of CIFAR-10 images that move before a DVS128.

Li, Liu, Ji, Li and Shi, "CIFAR10-DVS: An Event-Stream Dataset for Object Classification", Frontiers in Neuroscience 11
(2017) 309; https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671. It has no official split: here the first
90 % of each class's recordings, by their numbers, are for training and the last 10 % for testing.

Events are kept in <data folder>/.decoded once they are parsed, 6 bytes each (12.3 GB in all) as long as there is room;
the frames made from them (1.8 GB of 20×2×48×48) are kept there, too, or in the system's temporary folder. Both are
mapped from files, and no more than one recording is in memory at a time.
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import lzma
import math
import os
import re
import shutil
import tempfile
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import pairwise, product, zip_longest
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar

import numpy as np
import torch

from ..files import replacing
from .aedat import Events, check_size, frames, read_events
from .base import DataError, DataSet, Images, Remote

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = ("CIFAR10-DVS", "CIFAR10DVS", "cifar10-dvs", "cifar10dvs", "dvs-cifar10")
LEVELS = ("", "extract", "download", "events")
FORMAT = "1"  # of what is kept; another one is made anew
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
UNREADABLE = "{} cannot be read ({}); if it is damaged, fetch it again"
ABANDONED = 86_400  # s without a change until an unfinished file counts as left over

_one = threading.Lock()  # two pages may ask at once: the second then finds what the first has made
_T = TypeVar("_T")


class Place(NamedTuple):
    """data: the data folder. sources: of each class its folder of recordings or its zip, and when that was changed."""

    data: Path
    sources: tuple[tuple[Path, int], ...]


class Recording(NamedTuple):
    """One recording: its class, its file or the zip it lies in, its name there ("" = a file of its own), its size in
    bytes, and what tells a changed one (time of change or checksum)."""

    label: int
    file: Path
    member: str
    size: int
    stamp: int

    @property
    def name(self) -> str:
        return f"{self.file.name}/{self.member}" if self.member else f"{self.file.parent.name}/{self.file.name}"


def _look(data: Path) -> Place:
    try:
        found = {data / name: _sources(data / name) for name in FOLDERS}
        root = max(found, key=lambda folder: len(found[folder]))
        sources = tuple((source, source.stat().st_mtime_ns) for source in found[root].values())
    except OSError as error:
        raise DataError(f"{error.filename} cannot be looked into ({_reason(error)})") from error
    if not sources:
        raise DataError(
            f"{data} holds no recordings of CIFAR10-DVS: none of its folders {', '.join(FOLDERS)} has airplane.zip or "
            "airplane/*.aedat and so on"
        )
    if missing := [c for c in CLASSES if c not in found[root]]:
        raise DataError(f"{root} has neither a zip nor a folder of .aedat files for {', '.join(missing)}")
    return Place(data, sources)


def _sources(root: Path) -> dict[str, Path]:
    """The folder or zip of each class that has one."""
    found = {}
    for name, level in product(CLASSES, [root / level for level in LEVELS if (root / level).is_dir()]):
        if name not in found and any((level / name).glob("*.aedat")):
            found[name] = level / name
        elif name not in found and (level / f"{name}.zip").is_file():
            found[name] = level / f"{name}.zip"
    return found


def _natural(recording: Recording) -> tuple[list, str]:
    """Sorts names with numbers in them by these numbers."""
    parts = re.split("0*([0-9]+)", recording.name)  # every second one is a number
    return [(len(part), part) if place % 2 else part for place, part in enumerate(parts)], recording.name


def _listing(place: Place) -> list[list[Recording]]:
    """The recordings of each class, in the order of their numbers."""
    classes = []
    for label, (source, _) in enumerate(place.sources):
        try:
            if source.is_dir():
                stats = ((path, path.stat()) for path in source.glob("*.aedat"))
                found = [Recording(label, path, "", s.st_size, s.st_mtime_ns) for path, s in stats]
            else:
                with zipfile.ZipFile(source) as archive:
                    found = [Recording(label, source, i.filename, i.file_size, i.CRC) for i in archive.infolist()]
        except DAMAGED as error:
            raise DataError(UNREADABLE.format(source, _reason(error))) from error
        # macOS puts files of its own, named "._…", into the zips it packs
        found = [r for r in found if r.name.endswith(".aedat") and not Path(r.name).name.startswith(".")]
        if not found:
            raise DataError(f"{source} holds no .aedat files")
        classes.append(sorted(found, key=_natural))
    return classes


def _chosen(classes: list[list[Recording]], split: str) -> list[Recording]:
    """A split's recordings, one of each class in turn."""
    parts = []
    for recordings in classes:
        first = max(1, len(recordings) * 9 // 10)
        parts.append(recordings[:first] if split == "train" else recordings[first:])
    chosen = [r for turn in zip_longest(*parts) for r in turn if r]
    if not chosen:
        raise DataError(f"{classes[0][0].name} is the only one of its class, as everywhere; a test split takes two")
    return chosen


def _parsed(recordings: list[Recording]) -> Iterator[Events]:
    """The events of each recording; raises DataError for a damaged one."""
    with ExitStack() as stack:
        archives: dict[Path, zipfile.ZipFile] = {}
        for recording in recordings:
            check_size(recording.size, recording.name)
            try:
                if not recording.member:
                    data = recording.file.read_bytes()
                else:
                    if recording.file not in archives:
                        archives[recording.file] = stack.enter_context(zipfile.ZipFile(recording.file))
                    data = archives[recording.file].read(recording.member)
            except DAMAGED as error:
                raise DataError(UNREADABLE.format(recording.name, _reason(error))) from error
            events = read_events(data, recording.name)
            if events.t[-1] >= 2**32:
                raise DataError(f"{recording.name} has times more than 71 minutes apart, so it is damaged")
            yield events


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


@dataclasses.dataclass(frozen=True)
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


def _open_store(path: Path) -> _Store:
    t, address, starts = (np.load(f"{path}-{part}.npy", mmap_mode="r") for part in ("t", "address", "starts"))
    if not len(t) == len(address) == starts[-1]:
        raise ValueError(f"{path} is not whole")
    return _Store(t, address, starts)


def _header(file: BinaryIO, dtype: str, *shape: int) -> None:
    np.lib.format.write_array_header_1_0(file, {"descr": dtype, "fortran_order": False, "shape": shape})


def _write_store(recordings: list[Recording], path: Path) -> None:
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
        for events in _parsed(recordings):
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


class _NoRoom(DataError):
    """What was decoded can be kept nowhere."""


def _kept(homes: list[Path], name: str, size: int, read: Callable[[Path], _T], write: Callable[[Path], None]) -> _T:
    """What `read` finds under `name` (folder/file) in one of the homes; where it is not there, or not whole, `write`
    makes it first, in the first home that can be written and has room for `size` bytes. Raises _NoRoom."""
    for home in homes:
        try:
            return read(home / name)
        except (OSError, ValueError, EOFError):
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
            reason = _reason(error)
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
    for other in folder.parent.glob("cifar10-dvs-*"):
        if other != folder:
            shutil.rmtree(other, ignore_errors=True)


def _read(place: Place, split: str, steps: int, side: int, by: str) -> Images:
    classes = _listing(place)
    recordings = _chosen(classes, split)
    listing = [(r.name, r.size, r.stamp) for c in classes for r in c]
    folder = "cifar10-dvs-" + hashlib.sha256(repr((FORMAT, listing)).encode()).hexdigest()[:16]
    homes = [place.data / ".decoded", Path(tempfile.gettempdir()) / "bntt-decoded"]
    shape = (len(recordings), steps, 2, side, side)

    def write(path: Path) -> None:
        size = sum(r.size for r in recordings) * 6 // 8
        store = partial(_write_store, recordings)
        try:
            # The temporary folder may be memory, so so much is not kept there.
            events = _kept(homes[:1], f"{folder}/{split}", size, _open_store, store)
        except _NoRoom:
            events = _parsed(recordings)
        _write_frames(events, shape, by, path)

    # Mapped copy-on-write: torch warns of arrays that cannot be written.
    read = partial(np.load, mmap_mode="c")
    with _one:
        pixels = _kept(homes, f"{folder}/{split}-{by}-{steps}x{side}.npy", math.prod(shape), read, write)
    return Images(torch.from_numpy(pixels), torch.tensor([r.label for r in recordings]))


FILES = {  # number at figshare, MD5, bytes
    "airplane": (7712788, "0afd5c4bf9ae06af762a77b180354fdd", 747054427),
    "automobile": (7712791, "8438dfeba3bc970c94962d995b1b9bdd", 970159102),
    "bird": (7712794, "a9c207c91c55b9dc2002dc21c684d785", 760766288),
    "cat": (7712812, "52c63c677c2b15fa5146a8daf4d56687", 843271197),
    "deer": (7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3", 778283422),
    "dog": (7712818, "f379ebdf6703d16e0a690782e62639c3", 844609875),
    "frog": (7712842, "cad6ed91214b1c7388a5f6ee56d08803", 818824848),
    "horse": (7712851, "e7cbbf77bec584ffbf913f00e682782a", 929265395),
    "ship": (7712836, "41c7bd7d6b251be82557c6cce9a7d5c9", 742404857),
    "truck": (7712839, "89f3922fd147d9aeff89e76a2b0b70a7", 950111954),
}
ABOUT = (
    "10,000 event recordings of CIFAR-10 images in motion, cut into frames of {}; of each class the first 900 for "
    "training, the last 100 for testing (there is no official split); the first use takes some minutes and up to 14 GB "
    "of disk"
)
CIFAR10_DVS = DataSet(
    name="cifar10-dvs",
    title="CIFAR10-DVS",
    classes=CLASSES,
    shape=(2, 48, 48),
    mean=(0.0, 0.0),
    std=(1.0, 1.0),
    steps=20,
    leak=0.95,
    pad=4,
    flip=True,
    look=_look,
    read=partial(_read, by="count"),
    arch="cnn7",
    encoding="events",
    remote=tuple(
        Remote(f"cifar10-dvs/{name}.zip", f"https://ndownloader.figshare.com/files/{number}", f"md5:{md5}", size)
        for name, (number, md5, size) in FILES.items()
    ),
    about=ABOUT.format("equally many events"),
)
CIFAR10_DVS_DURATION = dataclasses.replace(
    CIFAR10_DVS,
    name="cifar10-dvs-duration",
    title="CIFAR10-DVS (frames of equal duration)",
    read=partial(_read, by="duration"),
    about=ABOUT.format("equal duration"),
)
