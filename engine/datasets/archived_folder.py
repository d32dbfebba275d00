"""Archives of folders of images by class as data sets; image_layout says which layouts are known.

An archive is never unpacked. Where its members are packed as a whole a list of them takes a pass over all of it, so
what the entry must know is kept beside the decoded pixels.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

from . import decoded
from . import image_archive as files
from .base import DataError, DataSet, Images
from .image_layout import (
    PEEK,
    PROBES,
    TESTS,
    USUAL,
    Groups,
    Shape,
    arrange,
    make_entry,
    may_be_class,
    name_of,
    shape_of,
)

LISTED = 256 << 20  # bytes; to list a larger packed .tar takes too long to be done unasked


def glance(path: Path) -> DataSet | None:
    """The entry if the archive looks like a data set, with no more of it read than need be. Raises OSError."""
    status = path.stat()
    stamp = files.stamp(status)
    if not _likely(path, stamp):
        return None
    listed = path.name.lower().endswith((".zip", ".tar")) or status.st_size <= LISTED
    if not listed and decoded.recalled(name_of(path), decoded.key(path, [stamp])) is None:
        return _unusable(path, f"{path.name} takes minutes to be looked through; unpack it there, or pack it as .zip")
    return entry(path, stamp)


@lru_cache(maxsize=256)
def entry(path: Path, stamp: str) -> DataSet:
    """One for each state of the archive, which `stamp` tells; of a damaged one, too."""
    name, key = name_of(path), decoded.key(path, [stamp])
    facts = decoded.recalled(name, key)
    if facts is None:
        try:
            facts = _scan(path)
        except DataError as error:
            return _unusable(path, str(error))
        decoded.remember(name, key, facts)
    classes, shape = tuple(facts["classes"]), tuple(facts["shape"])
    look, read = partial(_look, path, stamp), partial(_read, name, shape)
    return make_entry(path, classes, shape, facts["held_out"], look, read)


@lru_cache(maxsize=256)
def _likely(path: Path, stamp: str) -> bool:
    """Whether an archive begins like one of the layouts, or is too damaged for that to be known."""
    names = []
    try:
        names.extend(member.name for member in islice(files.members(path), PEEK))
    except DataError:
        if not names:  # a .zip has its list at the end: without that, nothing of it can be told
            return True
        # What comes before the damage may tell.
    images = [name.split("/") for name in names if files.is_image(name)]
    # There may be more folders or classes than these: <class>/<image> to <top>/train/<class>/<image>.
    fitting = [parts for parts in images if 2 <= len(parts) <= 4 and may_be_class(parts[-2])]
    return 2 * len(fitting) > len(names)


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
    layout = arrange(path.name, train, test)
    return {"classes": layout.classes, "shape": shape_of(headers), "held_out": test is None}


def _grouped(names: Iterable[str]) -> tuple[Groups, Groups | None]:
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
def _unusable(path: Path, sentence: str) -> DataSet:
    refuse = partial(_refuse, sentence)
    made = make_entry(path, (), (3, USUAL, USUAL), False, refuse, refuse)
    return replace(made, about="an archive of images that cannot be used as it is")


def _refuse(sentence: str, *_asked) -> NoReturn:
    raise DataError(sentence)


def _look(path: Path, stamp: str, _data: Path) -> tuple[Path, str]:
    with files.told(path):
        if files.stamp(path.stat()) != stamp:
            raise DataError(f"{path.name} has changed since it was found; choose it again")
    return path, decoded.key(path, [stamp])


def _read(name: str, shape: Shape, place: tuple[Path, str], split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, C, S, S] and int64 [N], mapped from a file. Raises DataError."""
    path, key = place
    return decoded.load(name, key, split, shape, partial(_plan, path))


def _plan(path: Path) -> files.Plan:
    names = dict.fromkeys(member.name for member in files.members(path) if files.is_image(member.name))
    return files.archive_plan(path, arrange(path.name, *_grouped(names)).splits)
