"""Tiny-ImageNet as published (http://cs231n.stanford.edu/tiny-imagenet-200.zip), unpacked or not, whole or cut down to
the classes in its wnids.txt.

Its own test images have no labels, so the validation images are the test split, as is usual.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path

from . import decoded
from . import image_archive as files
from .base import DataError, DataSet, Images, Remote

NAME = "tiny-imagenet"
FOLDER = "tiny-imagenet-200"
SHAPE = (3, 64, 64)
WNIDS, WORDS, ANNOTATIONS = LISTS = ("wnids.txt", "words.txt", "val/val_annotations.txt")
AGAIN = f"unpack {FOLDER}.zip again"

_Splits = dict[str, list[tuple[str, int]]]  # of each split (path, label) of every sample, in order


def entry(root: Path) -> DataSet:
    """TINY_IMAGENET with the classes of what lies in the data folder `root`; as it is when nothing usable does.

    The same object again while the files do not change. Raises nothing.
    """
    try:
        path = _find(root)
        if os.path.isdir(path):
            return _entry(_classes(path, *decoded.stamps(path, (WNIDS, WORDS))))
        return _entry(_archive_classes(path, *decoded.stamps(path)))
    except DataError:
        return TINY_IMAGENET


def _look(data: Path) -> tuple[Path, str]:
    """The folder or the archive, and the key of what is in it. Raises DataError."""
    path = _find(data)
    if os.path.isdir(path):
        places = [f"train/{wnid}/images" for wnid in _wnids(path, _texts(path))]
        signature = decoded.stamps(path, (*LISTS, "val/images", *places))
        return path, decoded.settled((path, data), signature, lambda: _listing(path)[0])
    _archive_classes(path, *decoded.stamps(path))
    return path, decoded.key(path, decoded.stamps(path))


def _read(place: tuple[Path, str], split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, 3, 64, 64] and int64 [N], mapped from a file. Raises DataError."""
    path, key = place
    plan = partial(_folder_plan, path, key, split) if os.path.isdir(path) else partial(_archive_plan, path)
    return decoded.load(NAME, key, split, SHAPE, plan)


def _find(data: Path) -> Path:
    """The folder that holds wnids.txt, else an archive. Raises DataError."""
    for path in (data / FOLDER, data / NAME / FOLDER, data / NAME):
        if os.path.isfile(path / WNIDS):
            return path
    try:
        for place in (data, data / NAME):
            archives = (path for path in place.glob(f"{NAME}*") if files.stem(path) and path.is_file())
            for path in sorted(archives, key=lambda path: (path.name != f"{FOLDER}.zip", path.name)):
                return path
    except OSError as error:
        raise DataError(f"{data} cannot be looked into ({error.strerror}); choose another data folder") from error
    if os.path.isdir(data / FOLDER):
        raise DataError(f"{data / FOLDER} lacks {WNIDS}; {AGAIN}")
    raise DataError(f"{data} holds no Tiny-ImageNet; put {FOLDER}.zip there")


@lru_cache(maxsize=8)
def _entry(classes: tuple[str, ...]) -> DataSet:
    about = f"photographs of {len(classes)} kinds of things, 64×64 in colour; the validation images are for testing"
    return replace(TINY_IMAGENET, classes=classes, about=about)


@lru_cache(maxsize=8)
def _classes(path: Path, *_stamps: str) -> tuple[str, ...]:
    return _named(path, _texts(path))


def _archive_classes(path: Path, stamp: str) -> tuple[str, ...]:
    facts = _archive_facts(path, stamp)
    if "error" in facts:
        raise DataError(facts["error"])
    return tuple(facts["classes"])


@lru_cache(maxsize=8)
def _archive_facts(path: Path, stamp: str) -> dict:
    """The classes of an archive, for which all of a .tar is read once, or what is wrong with it."""
    key = decoded.key(path, [stamp])
    facts = decoded.recalled(NAME, key)
    if facts is None:
        try:
            texts, _splits_of_it = _unpacked(path)
            facts = {"classes": _named(path, texts)}
        except DataError as error:
            return {"error": str(error)}
        decoded.remember(NAME, key, facts)
    return facts


def _folder_plan(path: Path, key: str, split: str) -> files.Plan:
    found, splits = _listing(path)
    if found != key:
        raise DataError(f"{path.name} changed while it was read; try again")
    return files.folder_plan(path, split, splits[split])


def _archive_plan(path: Path) -> files.Plan:
    return files.archive_plan(path, _unpacked(path)[1])


def _listing(path: Path) -> tuple[str, _Splits]:
    """The key and the samples of a folder. Raises DataError."""
    texts, stamps = _texts(path), {}
    for place in ("val/images", *(f"train/{wnid}/images" for wnid in _wnids(path, texts))):
        if os.path.isdir(path / place):
            stamps.update((f"{place}/{name}", stamp) for name, stamp in files.image_files(path / place).items())
    facts = [*texts.values(), *(f"{name} {stamp}" for name, stamp in stamps.items())]
    return decoded.key(path, facts), _splits(path, texts, stamps)


def _texts(path: Path) -> dict[str, str]:
    """The lists in a folder by their names."""
    with files.told(path):
        return {name: _text(files.content(path / name)) for name in LISTS if os.path.isfile(path / name)}


def _unpacked(path: Path) -> tuple[dict[str, str], _Splits]:
    """The lists and the samples of an archive, in which all may lie below a folder. Raises DataError."""
    texts, images = {}, []
    for member in files.members(path):
        if member.name.endswith(LISTS):
            texts[member.name] = _text(member.read())
        elif files.is_image(member.name):
            images.append(member.name)
    place = min((name for name in texts if name.split("/")[-1] == WNIDS), key=len, default=WNIDS)
    above = place.removesuffix(WNIDS)
    texts = {name: texts[above + name] for name in LISTS if above + name in texts}
    splits = _splits(path, texts, (name.removeprefix(above) for name in images if name.startswith(above)))
    return texts, {split: [(above + name, label) for name, label in samples] for split, samples in splits.items()}


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace")


def _wnids(path: Path, texts: dict[str, str]) -> list[str]:
    """The numbers WordNet has for the classes, in order. Raises DataError."""
    if WNIDS not in texts:
        raise DataError(f"{path.name} lacks {WNIDS}; {AGAIN}")
    wnids = texts[WNIDS].split()
    if len(wnids) < 2 or len(set(wnids)) < len(wnids):
        raise DataError(f"{path.name}/{WNIDS} does not name two classes or more, each once; {AGAIN}")
    return wnids


def _named(path: Path, texts: dict[str, str]) -> tuple[str, ...]:
    """A name for each class, no two alike. Raises DataError."""
    wnids = _wnids(path, texts)
    lines = (line.partition("\t") for line in texts.get(WORDS, "").splitlines())
    words = {wnid: names.split(",")[0].strip() for wnid, _tab, names in lines}
    names = [words.get(wnid) or wnid for wnid in wnids]
    count = Counter(names)  # ImageNet knows two kinds of cranes
    return tuple(name if count[name] == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True))


def _splits(path: Path, texts: dict[str, str], images: Iterable[str]) -> _Splits:
    """The samples among these images, paths below the folder. Raises DataError."""
    groups, val = {wnid: [] for wnid in _wnids(path, texts)}, set()
    for name in images:
        match name.split("/"):
            case "train", wnid, "images", _file if wnid in groups:
                groups[wnid].append(name)
            case "val", "images", _file:
                val.add(name)
    for wnid, names in groups.items():
        if not names:
            raise DataError(f"{path.name}/train/{wnid}/images holds no image; {AGAIN}")
    train = files.interleaved(sorted(names, key=files.natural) for names in groups.values())
    return {"train": train, "test": _annotated(path, texts, {wnid: label for label, wnid in enumerate(groups)}, val)}


def _annotated(path: Path, texts: dict[str, str], labels: dict[str, int], val: set[str]) -> list[tuple[str, int]]:
    """The validation images in the order of their list. Raises DataError."""
    if ANNOTATIONS not in texts:
        raise DataError(f"{path.name} lacks {ANNOTATIONS}; {AGAIN}")
    found = {}
    for number, line in enumerate(texts[ANNOTATIONS].splitlines(), 1):
        image, _tab, rest = line.partition("\t")
        name, wnid = f"val/images/{image}", rest.split("\t")[0].strip()
        where = f"{path.name}/{ANNOTATIONS} names in line {number}"
        if wnid not in labels:
            raise DataError(f"{where} the class {wnid!r}, which {WNIDS} lacks; {AGAIN}")
        if name not in val or name in found:
            raise DataError(f"{where} the image {image!r}, which is {'there twice' if name in found else 'not there'}")
        found[name] = labels[wnid]
    if not found:
        raise DataError(f"{path.name}/{ANNOTATIONS} names no image; {AGAIN}")
    return list(found.items())


TINY_IMAGENET = DataSet(
    name=NAME,
    title="Tiny-ImageNet",
    classes=tuple(f"class {number}" for number in range(200)),
    shape=SHAPE,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    steps=30,
    leak=0.99,
    pad=8,
    flip=True,
    look=_look,
    read=_read,
    arch="vgg11",
    about="110,000 photographs of 200 kinds of things, 64×64 in colour; 100,000 for training, 10,000 for testing",
    remote=(
        Remote(
            f"{FOLDER}.zip",
            f"http://cs231n.stanford.edu/{FOLDER}.zip",
            "md5:90528d7ca1a48142e341f4ef8d21d0de",
            248100043,
        ),
    ),
)
