"""What folders of images by class are as a data set, whether they lie on the disk or in an archive.

Layouts: <folder>/train/<class>/<image> with <folder>/test/<class>/<image> (or val, valid, validation), or
<folder>/<class>/<image> alone; then every fifth image of a class, in natural order of names, is a test image. In an
archive all of it may lie below one more folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from . import image_archive as files
from .base import DataError, DataSet

TESTS = ("test", "val", "valid", "validation")  # the first that is there is the test split
HELD_OUT = 5
PROBES = 100  # images at least, if there are as many, whose headers tell the side and the channels
SMALLEST, LARGEST, USUAL = 8, 224, 64  # the sides that are kept, and what images of other sides are resized to
GREY = ("1", "L", "LA", "I", "I;16")  # as Pillow calls them
MEANS = {1: (0.45,), 3: (0.485, 0.456, 0.406)}
DEVIATIONS = {1: (0.23,), 3: (0.229, 0.224, 0.225)}
PEEK = 300  # members of an archive, or entries of a folder, that tell whether it may be a data set

Shape = tuple[int, int, int]
Groups = dict[str, list[str]]  # the paths of the images of each class


class Layout(NamedTuple):
    """The classes in order, and of each split (path, label) of every sample."""

    classes: tuple[str, ...]
    splits: dict[str, list[tuple[str, int]]]


def arrange(title: str, train: Groups, test: Groups | None) -> Layout:
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
    return Layout(
        tuple(map(files.shown, classes)), {"train": files.interleaved(groups), "test": files.interleaved(held)}
    )


def shape_of(headers: Iterable[tuple[str, tuple[int, int]] | None]) -> Shape:
    """(C, S, S) that suits images of these modes and sizes; None for an unreadable one."""
    known = [header for header in headers if header]
    sides = {side for _mode, size in known for side in size}
    side = sides.pop() if len(sides) == 1 else USUAL
    side = side if SMALLEST <= side <= LARGEST else USUAL
    return (1 if known and all(mode in GREY for mode, _size in known) else 3, side, side)


def title_of(path: Path) -> str:
    """What people call it: its name, without the ending of an archive."""
    return files.shown((not path.is_dir() and files.stem(path)) or path.name)


def name_of(path: Path) -> str:
    """What the registry and the cache call it."""
    return re.sub(r"[^\w.-]", "-", title_of(path).lower())


def may_be_class(name: str) -> bool:
    """Whether a folder of this name may hold a class: where labels stand in a list, "images" often holds all."""
    return name.lower() != "images"


def make_entry(
    path: Path, classes: tuple[str, ...], shape: Shape, held_out: bool, look: Callable, read: Callable
) -> DataSet:
    """held_out: whether the test images were taken from those of the classes. look, read: see DataSet."""
    channels, side, _side = shape
    return DataSet(
        name=name_of(path),
        title=title_of(path),
        classes=classes,
        shape=shape,
        mean=MEANS[channels],
        std=DEVIATIONS[channels],
        steps=25,
        leak=0.95,
        pad=max(1, side // 8),
        flip=True,
        look=look,
        read=read,
        arch="vgg9" if side >= 32 else "vgg-small",
        about=f"{len(classes)} classes of images from {files.shown(path.name)}, {side}×{side} "
        f"{'in colour' if channels == 3 else 'in grey'}, normalised by the moments of ImageNet"
        + (f"; every {HELD_OUT}th image of a class, by name, is for testing" if held_out else ""),
    )
