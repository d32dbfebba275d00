"""Any folder, or archive, of folders of images by class as a data set.

Layouts: <folder>/train/<class>/<image> with <folder>/test/<class>/<image> (or val, valid, validation), or
<folder>/<class>/<image> alone; then every fifth image of a class, in natural order of names, is a test image. In an
archive all of it may lie below one more folder.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple, NoReturn

from . import decoded
from . import image_archive as files
from .base import DataError, DataSet, Images, folder

TESTS = ("test", "val", "valid", "validation")  # the first that is there is the test split
HELD_OUT = 5
PROBES = 100  # images at least, if there are as many, whose headers tell the side and the channels
SMALLEST, LARGEST, USUAL = 8, 224, 64  # the sides that are kept, and what images of other sides are resized to
GREY = ("1", "L", "LA", "I", "I;16")  # as Pillow calls them
MEANS = {1: (0.45,), 3: (0.485, 0.456, 0.406)}
DEVIATIONS = {1: (0.23,), 3: (0.229, 0.224, 0.225)}
PEEK = 300  # members of an archive, or entries of a folder, that tell whether it may be a data set
LISTED = 256 << 20  # bytes; to list a larger packed .tar takes too long to be done unasked

_Shape = tuple[int, int, int]
_Groups = dict[str, list[str]]  # the paths of the images of each class


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
    for path in sorted(paths, key=lambda path: (not path.is_dir(), files.natural(path.name))):
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
        entry = _archive_entry(path, files.stamp(path.stat()))
    else:
        raise DataError(f"{path} is neither a folder nor an archive ({', '.join(files.ENDINGS)}); choose another path")
    entry.look(folder())
    return entry


class _Layout(NamedTuple):
    """The classes in order, and of each split (path, label) of every sample."""

    classes: tuple[str, ...]
    splits: dict[str, list[tuple[str, int]]]


def _arrange(title: str, train: _Groups, test: _Groups | None) -> _Layout:
    """Classes sorted by name, images in natural order; test = None: taken from `train`. Raises DataError."""
    if len(train) < 2:
        raise DataError(
            f"{title} holds no images in folders by class, of two classes or more; "
            "sort them into train/<class> and test/<class>, or into <class> alone"
        )
    classes = sorted(train)
    for name in classes:
        if not train[name]:
            raise DataError(f"{title} holds no image of the class {files.shown(name)}; add some or delete its folder")
    for name in sorted(set(test or ()) - set(train)):
        raise DataError(f"{title} has the class {files.shown(name)} for testing alone; add images of it for training")
    groups = [sorted(train[name], key=files.natural) for name in classes]
    if test is None:
        held = [paths[HELD_OUT - 1 :: HELD_OUT] for paths in groups]
        groups = [[path for number, path in enumerate(paths, 1) if number % HELD_OUT] for paths in groups]
    else:
        held = [sorted(test.get(name, ()), key=files.natural) for name in classes]
    if not any(held):
        raise DataError(f"{title} holds no image for testing; add some, or have {HELD_OUT} of a class without them")
    return _Layout(
        tuple(map(files.shown, classes)), {"train": files.interleaved(groups), "test": files.interleaved(held)}
    )


def _shape(headers: Iterable[tuple[str, tuple[int, int]] | None]) -> _Shape:
    """(C, S, S) that suits images of these modes and sizes; None for an unreadable one."""
    known = [header for header in headers if header]
    sides = {side for _mode, size in known for side in size}
    side = sides.pop() if len(sides) == 1 else USUAL
    side = side if SMALLEST <= side <= LARGEST else USUAL
    return (1 if known and all(mode in GREY for mode, _size in known) else 3, side, side)


def _title(path: Path) -> str:
    return files.shown((not path.is_dir() and files.stem(path)) or path.name)


def _name(path: Path) -> str:
    return re.sub(r"[^\w.-]", "-", _title(path).lower())


def _entry(path: Path, classes: tuple[str, ...], shape: _Shape, held_out: bool, look: Callable) -> DataSet:
    channels, side, _side = shape
    return DataSet(
        name=_name(path),
        title=_title(path),
        classes=classes,
        shape=shape,
        mean=MEANS[channels],
        std=DEVIATIONS[channels],
        steps=25,
        leak=0.95,
        pad=max(1, side // 8),
        flip=True,
        look=look,
        read=partial(_read, _name(path), shape),
        arch="vgg9" if side >= 32 else "vgg-small",
        about=f"{len(classes)} classes of images from {files.shown(path.name)}, {side}×{side} "
        f"{'in colour' if channels == 3 else 'in grey'}, normalised by the moments of ImageNet"
        + (f"; every {HELD_OUT}th image of a class, by name, is for testing" if held_out else ""),
    )


def _read(name: str, shape: _Shape, place: tuple[Path, str], split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, C, S, S] and int64 [N], mapped from a file. Raises DataError."""
    path, key = place
    plan = partial(_folder_plan, path, key, shape, split) if path.is_dir() else partial(_archive_plan, path)
    return decoded.load(name, key, split, shape, plan)


def _glance(path: Path) -> DataSet | None:
    """The entry if it looks like a data set, with no file listed that need not be."""
    try:
        if path.is_dir():
            tree = _tree(path)
            some = [place for name, place in tree.train.items() if _may_be_class(name)][:3]
            likely = len(tree.train) > 1 and any(map(_has_image, some))
            return _folder_entry(path, tree.signature()) if likely else None
        return _glance_archive(path) if files.stem(path) else None
    except (DataError, OSError):
        return None


def _may_be_class(name: str) -> bool:
    return name.lower() != "images"  # where labels stand in a list, images often lie in a folder of that name


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
    shape = _shape(_probe(place / name) for place in few for name in _spread(_names(place), -(-PROBES // len(few))))
    classes = tuple(map(files.shown, tree.train))
    return _entry(path, classes, shape, tree.test is None, partial(_look_folder, path, classes, shape))


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


def _look_folder(path: Path, classes: tuple[str, ...], shape: _Shape, data: Path) -> tuple[Path, str]:
    tree = _tree(path)
    key = decoded.settled((path, shape, data), tree.signature(), lambda: _listing(tree, shape)[0])
    if tuple(map(files.shown, tree.train)) != classes:
        raise DataError(f"{_title(path)} has other classes than when it was found; choose it again")
    return path, key


def _listing(tree: _Tree, shape: _Shape) -> tuple[str, _Layout]:
    """The key and the layout of all images. Raises DataError."""
    groups, facts = [], [str(shape)]
    for side in (tree.train, tree.test or {}):
        groups.append({})
        for name, place in side.items():
            below, images = place.relative_to(tree.path).as_posix(), files.image_files(place)
            groups[-1][name] = [f"{below}/{image}" for image in images]
            facts += (f"{below}/{image} {stamp}" for image, stamp in images.items())
    train, test = groups
    return decoded.key(tree.path, facts), _arrange(_title(tree.path), train, None if tree.test is None else test)


def _folder_plan(path: Path, key: str, shape: _Shape, split: str) -> files.Plan:
    found, layout = _listing(_tree(path), shape)
    if found != key:
        raise DataError(f"{_title(path)} changed while it was read; try again")
    return files.folder_plan(path, split, layout.splits[split])


def _glance_archive(path: Path) -> DataSet | None:
    status = path.stat()
    stamp = files.stamp(status)
    if not _likely(path, stamp):
        return None
    listed = path.name.lower().endswith((".zip", ".tar")) or status.st_size <= LISTED
    if not listed and decoded.recalled(_name(path), decoded.key(path, [stamp])) is None:
        return _unusable(path, f"{path.name} takes minutes to be looked through; unpack it there, or pack it as .zip")
    return _archive_entry(path, stamp)


@lru_cache(maxsize=256)
def _likely(path: Path, stamp: str) -> bool:
    """Whether an archive begins like one of the layouts."""
    names = []
    with suppress(DataError):  # what comes before the damage may tell
        names.extend(member.name for member in islice(files.members(path), PEEK))
    images = [name.split("/") for name in names if files.is_image(name)]
    # There may be more folders or classes than these: <class>/<image> to <top>/train/<class>/<image>.
    fitting = [parts for parts in images if 2 <= len(parts) <= 4 and _may_be_class(parts[-2])]
    return 2 * len(fitting) > len(names)


def _grouped(names: Iterable[str]) -> tuple[_Groups, _Groups | None]:
    """The images of an archive by class, for training and for testing; no test images = None."""
    paths = [name.split("/") for name in names]
    tops = {parts[0].lower() for parts in paths if len(parts) > 1}
    top = 0 if len(tops) > 1 or tops & {"train", *TESTS} else 1  # how many folders lie above
    splits, flat = {}, {}
    for parts in paths:
        if len(parts) == top + 3:
            splits.setdefault(parts[top].lower(), {}).setdefault(parts[top + 1], []).append("/".join(parts))
        elif len(parts) == top + 2:
            flat.setdefault(parts[top], []).append("/".join(parts))
    if "train" not in splits:
        return flat, None
    return splits["train"], next((splits[name] for name in TESTS if name in splits), None)


@lru_cache(maxsize=256)
def _archive_entry(path: Path, stamp: str) -> DataSet:
    """One for each state of the archive; of a damaged one, too."""
    name, key = _name(path), decoded.key(path, [stamp])
    facts = decoded.recalled(name, key)
    if facts is None:
        try:
            facts = _scan(path)
        except DataError as error:
            return _unusable(path, str(error))
        decoded.remember(name, key, facts)
    look = partial(_look_archive, path, stamp)
    return _entry(path, tuple(facts["classes"]), tuple(facts["shape"]), facts["held_out"], look)


@lru_cache(maxsize=256)
def _unusable(path: Path, sentence: str) -> DataSet:
    entry = _entry(path, (), (3, USUAL, USUAL), False, partial(_refuse, sentence))
    return replace(entry, about="an archive of images that cannot be used as it is")


def _refuse(sentence: str, _data: Path) -> NoReturn:
    raise DataError(sentence)


def _scan(path: Path) -> dict:
    """What the entry must know of an archive, which takes one pass over it. Raises DataError."""
    names, headers, stride = [], [], 1
    for member in files.members(path):
        if files.is_image(member.name):
            if len(names) % stride == 0:
                headers.append(files.header(member.read()))
                if len(headers) == 2 * PROBES:  # evenly spread over what has come so far
                    headers, stride = headers[::2], 2 * stride
            names.append(member.name)
    train, test = _grouped(names)
    layout = _arrange(path.name, train, test)
    return {"classes": layout.classes, "shape": _shape(headers), "held_out": test is None}


def _look_archive(path: Path, stamp: str, _data: Path) -> tuple[Path, str]:
    with files.told(path):
        if files.stamp(path.stat()) != stamp:
            raise DataError(f"{path.name} has changed since it was found; choose it again")
    return path, decoded.key(path, [stamp])


def _archive_plan(path: Path) -> files.Plan:
    names = dict.fromkeys(member.name for member in files.members(path) if files.is_image(member.name))
    return files.archive_plan(path, _arrange(path.name, *_grouped(names)).splits)
