"""Image files: how they are named, decoded, listed in a folder, and read from an archive that is never unpacked."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from .base import DataError

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")  # no rarer parser meets bytes from anywhere
LARGEST_SIDE = 4096
LARGEST_FILE = 64 << 20  # bytes
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
PACKED = ((b"\x1f\x8b", gzip.open), (b"\xfd7zXZ\0", lzma.open), (b"BZh", bz2.open))  # how a file begins
MOST_MEMBERS = 20_000_000
PADDING = 1 << 20  # bytes; more than writers leave after the last member


def hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's."""
    return name.startswith(".") or name == "__MACOSX"


def is_image(path: str) -> bool:
    """Whether a relative path is an image by its ending, and nothing of it is hidden."""
    return path.lower().endswith(IMAGES) and not any(map(hidden, path.split("/")))


def natural(name: str) -> tuple:
    """A key to sort by: img2 before img10."""
    texts, numbers = re.split("[0-9]+", name), [digits.lstrip("0") for digits in re.findall("[0-9]+", name)]
    # Numbers are compared as text, the shorter ones first: int() refuses very long ones.
    return (*((text, len(number), number) for text, number in zip(texts, (*numbers, ""), strict=True)), (name,))


def interleaved(groups: Iterable[Iterable[str]]) -> list[tuple[str, int]]:
    """(path, label), one of each class in turn as long as it has more: every beginning of the list is balanced."""
    ranked = ((rank, label, path) for label, paths in enumerate(groups) for rank, path in enumerate(paths))
    return [(path, label) for _rank, label, path in sorted(ranked)]


def shown(name: str) -> str:
    """A name from a file system as text that can be written anywhere."""
    return name.encode("utf-8", "replace").decode()


def stem(path: Path) -> str | None:
    """The file name without the ending of an archive; None when it has none."""
    found = max((end for end in ENDINGS if path.name.lower().endswith(end)), key=len, default=None)
    return path.name[: -len(found)] if found else None


def stamp(status: os.stat_result) -> str:
    """What changes when a file is written."""
    return f"{status.st_size} {status.st_mtime_ns}"


def content(path: Path) -> bytes:
    """The bytes of a file; of one that is too large only enough to see that it is."""
    with open(path, "rb") as file:
        return file.read(LARGEST_FILE + 1)


def header(data: bytes) -> tuple[str, tuple[int, int]] | None:
    """Pillow's mode and the size (width, height) an image file claims, nothing decoded; None when it is unreadable."""
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            return image.mode, image.size
    except Exception:  # see decode
        return None


def decode(data: bytes, shape: tuple[int, int, int], name: str) -> np.ndarray:
    """An encoded image as uint8 [C, S, S]: cropped to the square in its centre, then resized with antialiasing.

    Transparency lies over black, 16 bits lose the lower 8, of a moving image the first frame counts, and a rotation
    noted in the file is not applied. Raises DataError, `name` first, for whatever is no readable image.
    """
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            if max(image.size) > LARGEST_SIDE:
                raise Image.DecompressionBombError
            image.draft(None, (2 * shape[1], 2 * shape[1]))  # JPEG alone: large photographs decode at a half or less
            return _fitted(_plain(image, "L" if shape[0] == 1 else "RGB"), shape[1])
    except Exception as error:  # damaged bytes make the parsers raise nearly anything
        raise DataError(f"{name} is no readable image ({_reason(data, error)}); replace or delete it") from error


def _plain(image: Image.Image, mode: str) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them at 255
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8)).convert(mode)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
    return image.convert(mode)


def _fitted(image: Image.Image, side: int) -> np.ndarray:
    if image.size != (side, side):
        edge = min(image.size)
        left, top = ((extent - edge) // 2 for extent in image.size)
        # Cropped first: resize() with a box looks beyond its edges.
        image = image.crop((left, top, left + edge, top + edge)).resize((side, side), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _reason(data: bytes, error: Exception) -> str:
    if not data:
        return "empty"
    if isinstance(error, Image.DecompressionBombError):
        return f"more than {LARGEST_SIDE}×{LARGEST_SIDE} pixels"
    if isinstance(error, UnidentifiedImageError):
        return f"not {', '.join(FORMATS[:-1])} or {FORMATS[-1]}"
    return "truncated" if "truncated" in str(error) else "damaged"


@contextmanager
def told(path: Path) -> Iterator[None]:
    """Whatever goes wrong within becomes a DataError: damaged bytes make the readers raise nearly anything."""
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise DataError(f"{path.name} cannot be read ({error.strerror}); check where it lies") from error
        raise DataError(f"{path.name} is cut off or damaged ({error}); pack or download it again") from error


def image_files(place: Path) -> dict[str, str]:
    """Names and stamps of the images in a folder, by name. Raises DataError."""
    with told(place), os.scandir(place) as entries:
        found = ((entry.name, entry) for entry in entries if is_image(entry.name) and entry.is_file())
        return {name: stamp(entry.stat()) for name, entry in sorted(found)}


class Member(NamedTuple):
    """One entry: its path within the archive, its size in bytes, and how to get its content, which a .tar can give only
    until the next member is asked for; None for what is no plain file. read() raises DataError."""

    name: str
    size: int
    read: Callable[[], bytes] | None


def members(path: Path) -> Iterator[Member]:
    """The plain files of an archive in its order; links and names that lead out of it are left out.

    Raises DataError, in one sentence, for an archive that is damaged, cut off, or has too many members.
    """
    with told(path):
        for number, member in enumerate(_zip(path) if path.name.lower().endswith(".zip") else _tar(path)):
            if number >= MOST_MEMBERS:
                raise DataError(f"{path.name} has more than {MOST_MEMBERS:,} members; use a smaller archive")
            parts = member.name.split("/")
            if member.read and parts[0] and ".." not in parts:
                name = "/".join(part for part in parts if part not in ("", "."))
                yield Member(name, member.size, partial(_content, path, name, member))


class Encoded(NamedTuple):
    """One image file: the split and row it belongs to, its name in errors, how to get its bytes, and how many of them
    are in memory already."""

    split: str
    row: int
    name: str
    read: Callable[[], bytes]
    held: int = 0


class Plan(NamedTuple):
    """What to decode: the labels of each split, and its files, each row once, in whatever order they come best."""

    labels: dict[str, Sequence[int]]
    files: Iterable[Encoded]


def folder_plan(path: Path, split: str, samples: list[tuple[str, int]]) -> Plan:
    """One split; samples: path below `path` and label of each."""
    return Plan({split: [label for _name, label in samples]}, _lying(path, split, [name for name, _label in samples]))


def archive_plan(path: Path, splits: dict[str, list[tuple[str, int]]]) -> Plan:
    """All splits, which one pass over the archive serves; of each, path in the archive and label of every sample."""
    rows = {name: (split, row) for split, samples in splits.items() for row, (name, _label) in enumerate(samples)}
    return Plan({split: [label for _name, label in samples] for split, samples in splits.items()}, _packed(path, rows))


def _lying(path: Path, split: str, names: list[str]) -> Iterator[Encoded]:
    for row, name in enumerate(names):
        yield Encoded(split, row, f"{path.name}/{name}", partial(content, path / name))


def _packed(path: Path, rows: Mapping[str, tuple[str, int]]) -> Iterator[Encoded]:
    for member in members(path):
        if member.name in rows:
            data = member.read()  # the next member would be too late
            yield Encoded(*rows[member.name], f"{path.name}/{member.name}", lambda data=data: data, len(data))


def _content(path: Path, name: str, member: Member) -> bytes:
    if member.size > LARGEST_FILE:
        raise DataError(f"{path.name}/{name} is larger than {LARGEST_FILE >> 20} MiB; pack it again without that file")
    with told(path):
        return member.read()


def _zip(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            plain = not info.is_dir() and not stat.S_ISLNK(info.external_attr >> 16)
            yield Member(info.filename, info.file_size, partial(archive.read, info) if plain else None)


def _tar(path: Path) -> Iterator[Member]:
    with open(path, "rb") as raw:
        begin = raw.read(8)
    unpacked = next((opener for magic, opener in PACKED if begin.startswith(magic)), open)
    with unpacked(path, "rb") as file:
        watched = _Watched(file)
        with tarfile.open(fileobj=watched, mode="r:") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # it would list all of them
                if info.size < 0:
                    raise tarfile.ReadError("a size below zero")
                plain = info.type in (tarfile.REGTYPE, tarfile.AREGTYPE)
                yield Member(info.name, info.size, partial(_extract, archive, info) if plain else None)
        if watched.last != bytes(tarfile.BLOCKSIZE):  # tarfile takes a damaged header, or none, for the end
            raise tarfile.ReadError("no end")
        file.read(PADDING)  # at the end the checksums are compared


def _extract(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    return archive.extractfile(info).read()


class _Watched:
    """A file that is read by tarfile: knows what was read last, and refuses what a header cannot honestly need."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.last = b""
        self.seek, self.tell, self.close = file.seek, file.tell, file.close

    def read(self, size: int) -> bytes:
        if not 0 <= size <= LARGEST_FILE:
            raise tarfile.ReadError("a header of a length that cannot be")
        self.last = self.file.read(size)
        return self.last
