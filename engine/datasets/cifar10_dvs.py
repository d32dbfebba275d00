"""CIFAR10-DVS: 10,000 recordings, about 205,000 events in 1.3 s each, of CIFAR-10 images that move before a DVS128.

Li, Liu, Ji, Li and Shi, "CIFAR10-DVS: An Event-Stream Dataset for Object Classification", Frontiers in Neuroscience 11
(2017) 309; https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671. It has no official split: here the first
90 % of each class's recordings, by their numbers, are for training and the last 10 % for testing.

Here its recordings are found, split and parsed; event_store keeps what is made from them.
"""

from __future__ import annotations

import dataclasses
import lzma
import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product, zip_longest
from pathlib import Path
from typing import NamedTuple

import torch

from . import event_store
from .aedat import Events, check_size, read_events
from .base import DataError, DataSet, Images, Remote
from .event_store import in_words

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDERS = ("CIFAR10-DVS", "CIFAR10DVS", "cifar10-dvs", "cifar10dvs", "dvs-cifar10")
LEVELS = ("", "extract", "download", "events")
DAMAGED = (OSError, EOFError, RuntimeError, ValueError, zipfile.BadZipFile, zlib.error, lzma.LZMAError)
UNREADABLE = "{} cannot be read ({}); if it is damaged, fetch it again"


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
        raise DataError(f"{error.filename} cannot be looked into ({in_words(error)})") from error
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
            raise DataError(UNREADABLE.format(source, in_words(error))) from error
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
                raise DataError(UNREADABLE.format(recording.name, in_words(error))) from error
            events = read_events(data, recording.name)
            if events.t[-1] >= 2**32:
                raise DataError(f"{recording.name} has times more than 71 minutes apart, so it is damaged")
            yield events


def _read(place: Place, split: str, steps: int, side: int, by: str) -> Images:
    classes = _listing(place)
    recordings = _chosen(classes, split)
    facts = [(r.name, r.size, r.stamp) for c in classes for r in c]
    size = sum(r.size for r in recordings)
    kept = event_store.Split(split, facts, len(recordings), size, partial(_parsed, recordings))
    pixels = event_store.load(place.data, kept, steps, side, by)
    return Images(pixels, torch.tensor([r.label for r in recordings]))


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
