"""Any folder, or archive, of folders of images by class as a data set: finding them all, and reading the folders.

image_layout says which layouts are known, archived_folder does the same inside archives.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from . import archived_folder as archives
from . import decoded
from . import image_archive as files
from .base import DataError, DataSet, Images, folder
from .image_layout import (
    PEEK,
    PROBES,
    TESTS,
    Layout,
    Shape,
    arrange,
    make_entry,
    may_be_class,
    name_of,
    shape_of,
    title_of,
)


def discover(root: Path, skip: Collection[str] = ()) -> list[DataSet]:
    """An entry for each folder and archive in `root` that looks like one of the layouts, in natural order of names.

    skip: names, of archives with or without the ending, to pass by. Of several that would have the same name the first
    is taken, folders before archives. While nothing changes the same entries come again. Raises nothing: what is wrong
    with one is said when it is looked at.
    """
    try:
        paths = [
            path for path in Path(os.path.abspath(root)).iterdir() if not {path.name, files.stem(path)} & set(skip)
        ]
    except OSError:
        return []
    found = {}
    for path in sorted(paths, key=lambda path: (not os.path.isdir(path), files.natural(path.name))):
        entry = None if files.hidden(path.name) else _glance(path)
        if entry:
            found.setdefault(entry.name, entry)
    return list(found.values())


def from_path(path: Path) -> DataSet:
    """The entry of a folder or archive anywhere. Raises DataError when it has none of the layouts, or is damaged."""
    path = Path(os.path.abspath(path))
    if path.is_dir():
        entry = _folder_entry(path, _tree(path).signature())
    elif path.is_file() and files.stem(path):
        entry = archives.entry(path, files.stamp(path.stat()))
    else:
        raise DataError(f"{path} is neither a folder nor an archive ({', '.join(files.ENDINGS)}); choose another path")
    entry.look(folder())
    return entry


def _glance(path: Path) -> DataSet | None:
    """The entry if it looks like a data set, with no file listed that need not be."""
    try:
        if path.is_dir():
            tree = _tree(path)
            some = [place for name, place in tree.train.items() if may_be_class(name)][:3]
            likely = len(tree.train) > 1 and any(map(_has_image, some))
            return _folder_entry(path, tree.signature()) if likely else None
        return archives.glance(path) if files.stem(path) and path.is_file() else None  # opening a pipe would wait
    except (DataError, OSError):
        return None


class _Tree(NamedTuple):
    """The folders of a layout by class; test is None where there are none."""

    path: Path
    train: dict[str, Path]
    test: dict[str, Path] | None

    def signature(self) -> tuple:
        """What changes when files or folders are added, removed or renamed. Raises DataError."""
        below = (*self.train.values(), *(self.test or {}).values())
        with files.told(self.path):
            return tuple((str(place), place.stat().st_mtime_ns) for place in (self.path, *below))


def _tree(path: Path) -> _Tree:
    below = _folders(path)
    splits = {name.lower(): place for name, place in below.items() if name.lower() in ("train", *TESTS)}
    train = _folders(splits["train"]) if "train" in splits else {}
    if not train:  # "train" may also be a class
        return _Tree(path, below, None)
    return _Tree(path, train, next((_folders(splits[name]) for name in TESTS if name in splits), None))


def _folders(path: Path) -> dict[str, Path]:
    with files.told(path), os.scandir(path) as entries:
        names = sorted(entry.name for entry in entries if not files.hidden(entry.name) and entry.is_dir())
        return {name: path / name for name in names}


def _has_image(place: Path) -> bool:
    with files.told(place), os.scandir(place) as entries:
        return any(files.is_image(entry.name) for entry in islice(entries, PEEK))


@lru_cache(maxsize=256)
def _folder_entry(path: Path, signature: tuple) -> DataSet:
    """One for each state of the folder."""
    tree = _tree(path)
    few = _spread(list(tree.train.values()), PROBES)
    shape = shape_of(_probe(place / name) for place in few for name in _spread(_names(place), -(-PROBES // len(few))))
    classes = tuple(map(files.shown, tree.train))
    look, read = partial(_look_folder, path, classes, shape), partial(_read_folder, name_of(path), shape)
    return make_entry(path, classes, shape, tree.test is None, look, read)


def _names(place: Path) -> list[str]:
    with files.told(place):
        return sorted(filter(files.is_image, os.listdir(place)), key=files.natural)


def _spread(items: list, count: int) -> list:
    count = min(count, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def _probe(path: Path) -> tuple[str, tuple[int, int]] | None:
    try:
        return files.header(files.content(path))
    except OSError:  # decoding will tell
        return None


def _look_folder(path: Path, classes: tuple[str, ...], shape: Shape, data: Path) -> tuple[Path, str]:
    tree = _tree(path)
    key = decoded.settled((path, shape, data), tree.signature(), lambda: _listing(tree, shape)[0])
    if tuple(map(files.shown, tree.train)) != classes:
        raise DataError(f"{title_of(path)} has other classes than when it was found; choose it again")
    return path, key


def _listing(tree: _Tree, shape: Shape) -> tuple[str, Layout]:
    """The key and the layout of all images. Raises DataError."""
    groups, facts = [], [str(shape)]
    for side in (tree.train, tree.test or {}):
        groups.append({})
        for name, place in side.items():
            below, images = place.relative_to(tree.path).as_posix(), files.image_files(place)
            groups[-1][name] = [f"{below}/{image}" for image in images]
            facts += (f"{below}/{image} {stamp}" for image, stamp in images.items())
    train, test = groups
    return decoded.key(tree.path, facts), arrange(title_of(tree.path), train, None if tree.test is None else test)


def _read_folder(name: str, shape: Shape, place: tuple[Path, str], split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, C, S, S] and int64 [N], mapped from a file. Raises DataError."""
    path, key = place
    return decoded.load(name, key, split, shape, partial(_folder_plan, path, key, shape, split))


def _folder_plan(path: Path, key: str, shape: Shape, split: str) -> files.Plan:
    found, layout = _listing(_tree(path), shape)
    if found != key:
        raise DataError(f"{title_of(path)} changed while it was read; try again")
    return files.folder_plan(path, split, layout.splits[split])
