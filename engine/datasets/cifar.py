"""CIFAR-10 and CIFAR-100 as published (https://www.cs.toronto.edu/~kriz/cifar.html): python or binary version."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch

from .base import DataError, DataSet, Images, Remote
from .cifar_pickle import PIXELS, read_batch
from .decoded import stamps

MAX_BYTES = 256 << 20  # of one file; the largest published has 155 MB
MAX_COUNT = 1_000_000
MAX_MEMBERS = 100  # of an archive; the published ones have ten at most
HEADERS = 32 << 10  # bytes between two members of an archive: their headers, padding, and what is read ahead


class Version(NamedTuple):
    """One form in which a data set is published. decode(name, content, classes) → pixels [N, 3072], labels [N]."""

    folder: str
    archive: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    decode: Callable[[str, bytes, int], tuple[np.ndarray, np.ndarray]]


class Place(NamedTuple):
    """Where a version lies: the folder with its files, or its archive. stamps: what changes when one of them does."""

    version: Version
    path: Path
    packed: bool
    stamps: tuple[str, ...]


def _look(title: str, versions: tuple[Version, ...], folders: tuple[str, ...], data: Path) -> Place:
    """Unpacked files if all are there, else an archive. Raises DataError."""
    partly: tuple[list[str], Version, Path] | None = None
    for version in versions:
        names = (*version.train, *version.test)
        for path in (data / folder / version.folder for folder in folders):
            missing = [name for name in names if not os.path.isfile(path / name)]
            if not missing:
                return Place(version, path, packed=False, stamps=stamps(path, names))
            if len(missing) < len(partly[0] if partly else names):
                partly = missing, version, path
    for version in versions:
        for path in (data / folder / version.archive for folder in folders):
            if os.path.isfile(path):
                return Place(version, path, packed=True, stamps=stamps(path))
    if partly:
        missing, version, path = partly
        raise DataError(f"{path} lacks {' and '.join(missing)}; unpack {version.archive} again")
    raise DataError(f"{data} holds no {title}; put {versions[0].archive} there")


def _read(classes: int, place: Place, split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, 3, 32, 32] and int64 [N], file after file. Raises DataError."""
    version = place.version
    names = version.train if split == "train" else version.test
    contents = _packed(place.path, version.folder, names) if place.packed else _unpacked(place.path, names)
    parts = {}
    for name, content in contents:
        shown = f"{name} in {place.path.name}" if place.packed else name
        parts[name] = version.decode(shown, content, classes)
    pixels, labels = zip(*(parts[name] for name in names))
    if sum(map(len, pixels)) > MAX_COUNT:
        raise DataError(f"{place.path.name} holds more than the {MAX_COUNT} images that can be read; use fewer")
    pixels = torch.from_numpy(np.ascontiguousarray(np.concatenate(pixels))).view(-1, 3, 32, 32)
    return Images(pixels, torch.from_numpy(np.concatenate(labels)))


def _unpacked(folder: Path, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    for name in names:
        try:
            with open(folder / name, "rb") as file:
                content = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise DataError(f"{name} cannot be read ({error.strerror}); check its permissions") from error
        if len(content) > MAX_BYTES:
            raise DataError(f"{name} is larger than any file of this data set; unpack it again")
        yield name, content


def _packed(path: Path, folder: str, names: tuple[str, ...]) -> Iterator[tuple[str, bytes]]:
    """The wanted files of a .tar.gz, in the archive's order, without unpacking it to the disk."""
    wanted = {f"{folder}/{name}": name for name in names}
    try:
        with gzip.open(path) as file:
            yield from _members(file, path.name, wanted)
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{path.name} is cut off or damaged; download it again") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}); check its permissions") from error
    if wanted:
        raise DataError(f"{path.name} lacks {' and '.join(wanted.values())}; download it again")


def _members(file: BinaryIO, archive: str, wanted: dict[str, str]) -> Iterator[tuple[str, bytes]]:
    """Take what is wanted out of `wanted` and give its content; whatever is no plain file of that name is passed by."""
    stream = _Bounded(file)
    with tarfile.open(fileobj=stream, mode="r|") as members:
        for member in islice(members, MAX_MEMBERS):
            if not 0 <= member.size <= MAX_BYTES:
                raise DataError(f"{archive} holds a file larger than any of this data set; download it again")
            stream.left = member.size + HEADERS
            name = member.name.removeprefix("./")
            if name in wanted and member.type in (tarfile.REGTYPE, tarfile.AREGTYPE):
                yield wanted.pop(name), members.extractfile(member).read()
    while stream.read(HEADERS):  # to the end, where gzip compares its checksum
        pass


class _Bounded:
    """A file that gives `left` bytes more: a header within a .tar may claim to be as long as it likes."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.left = HEADERS

    def read(self, size: int) -> bytes:
        """Up to `size` bytes. Raises ValueError when they are too many."""
        content = self.file.read(size)
        self.left -= len(content)
        if self.left < 0:
            raise ValueError("more than its members need")
        return content


def _records(lead: int, name: str, content: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """The binary version: `lead` label bytes, the last of which counts, and the pixels. Raises DataError."""
    if not content:
        raise DataError(f"{name} is empty; download it again")
    if len(content) % (lead + PIXELS):
        raise DataError(
            f"{name} is cut off or damaged: its {len(content)} bytes are no whole number of records "
            f"of {lead + PIXELS} bytes; download it again"
        )
    records = np.frombuffer(content, dtype=np.uint8).reshape(-1, lead + PIXELS)
    labels = records[:, lead - 1].astype(np.int64)
    if labels.max() >= classes:
        raise DataError(
            f"{name} holds the label {labels.max()}, and there are only 0 to {classes - 1}; download it again"
        )
    return records[:, lead:], labels


_BATCHES = tuple(f"data_batch_{number}" for number in range(1, 6))
_CIFAR10_VERSIONS = (
    Version("cifar-10-batches-py", "cifar-10-python.tar.gz", _BATCHES, ("test_batch",), read_batch),
    Version(
        "cifar-10-batches-bin",
        "cifar-10-binary.tar.gz",
        tuple(f"{name}.bin" for name in _BATCHES),
        ("test_batch.bin",),
        partial(_records, 1),
    ),
)
_CIFAR100_VERSIONS = (
    Version("cifar-100-python", "cifar-100-python.tar.gz", ("train",), ("test",), read_batch),
    Version("cifar-100-binary", "cifar-100-binary.tar.gz", ("train.bin",), ("test.bin",), partial(_records, 2)),
)
_CIFAR100_CLASSES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""

CIFAR10 = DataSet(
    name="cifar10",
    title="CIFAR-10",
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    shape=(3, 32, 32),
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
    steps=25,
    leak=0.95,
    pad=4,
    flip=True,
    look=partial(_look, "CIFAR-10", _CIFAR10_VERSIONS, ("", "cifar10", "cifar-10")),
    read=partial(_read, 10),
    arch="vgg9",
    about="60,000 photographs of 10 kinds of things, 32×32 in colour; 50,000 for training, 10,000 for testing",
    remote=(
        Remote(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
            170498071,
        ),
    ),
)
# The moments stay CIFAR-10's: the published script normalises both with them.
CIFAR100 = replace(
    CIFAR10,
    name="cifar100",
    title="CIFAR-100",
    classes=tuple(_CIFAR100_CLASSES.split()),
    steps=50,
    leak=0.99,
    look=partial(_look, "CIFAR-100", _CIFAR100_VERSIONS, ("", "cifar100", "cifar-100")),
    read=partial(_read, 100),
    arch="vgg11",
    about="60,000 photographs of 100 kinds of things, 32×32 in colour; 50,000 for training, 10,000 for testing",
    remote=(
        Remote(
            "cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
            169001437,
        ),
    ),
)
