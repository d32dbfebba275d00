"""MNIST and Fashion-MNIST from the IDX files they are published as (https://yann.lecun.com/exdb/mnist/)."""

from __future__ import annotations

import gzip
import os
import zlib
from dataclasses import replace
from functools import partial
from io import BufferedIOBase
from pathlib import Path
from typing import NamedTuple

import torch

from .base import DataError, DataSet, Images, Remote
from .decoded import stamps

SIDE = 28
CLASSES = 10
MAX_COUNT = 1_000_000
CHUNK = 1 << 16
TRAIN = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
TEST = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


class Place(NamedTuple):
    """Where the four files are, plain or packed. stamps: what changes when one of them does."""

    train: tuple[Path, Path]
    test: tuple[Path, Path]
    stamps: tuple[str, ...]


def _look(title: str, folders: tuple[str, ...], data: Path) -> Place:
    """The first of the folders that holds all four files. Raises DataError."""
    partly: tuple[list[str], Path] | None = None
    for place in (data / name for name in folders):
        found = {stem: _find(place, stem) for stem in (*TRAIN, *TEST)}
        missing = [stem for stem, path in found.items() if path is None]
        if not missing:
            train, test = (tuple(found[stem] for stem in split) for split in (TRAIN, TEST))
            return Place(train, test, stamps(place, (path.name for path in found.values())))
        if len(missing) < len(partly[0] if partly else found):
            partly = missing, place
    if partly:
        raise DataError(f"{partly[1]} lacks {' and '.join(partly[0])}; put all four files of {title} there")
    raise DataError(f"{data} holds no {title}; put {TRAIN[0]}.gz and the three files beside it into {folders[0]} there")


def _find(place: Path, stem: str) -> Path | None:
    names = (stem, stem.replace("-idx", ".idx"))
    paths = (place / (name + end) for name in names for end in ("", ".gz"))
    return next((path for path in paths if os.path.isfile(path)), None)


def _read(place: Place, split: str, _steps: int, _side: int) -> Images:
    """uint8 [N, 1, 28, 28] and int64 [N]. Raises DataError."""
    images, labels = place.train if split == "train" else place.test
    pixels = torch.frombuffer(_content(images, "images", 3), dtype=torch.uint8).view(-1, 1, SIDE, SIDE)
    numbers = torch.frombuffer(_content(labels, "labels", 1), dtype=torch.uint8).to(torch.int64)
    if len(pixels) != len(numbers):
        raise DataError(
            f"{images.name} holds {len(pixels)} images and {labels.name} {len(numbers)} labels; download both again"
        )
    if numbers.max() >= CLASSES:
        raise DataError(
            f"{labels.name} holds the label {numbers.max()}, and there are only 0 to {CLASSES - 1}; download it again"
        )
    return Images(pixels, numbers)


def _content(path: Path, what: str, dimensions: int) -> bytearray:
    """The bytes after the header. A packed file is known by how it begins: browsers unpack and keep the name."""
    try:
        with open(path, "rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _body(raw, path.name, what, dimensions)
            with gzip.GzipFile(fileobj=raw) as file:
                return _body(file, path.name, what, dimensions)
    except (zlib.error, gzip.BadGzipFile, EOFError) as error:
        raise DataError(f"{path.name} is damaged: it cannot be unpacked to its end; download it again") from error
    except OSError as error:
        raise DataError(f"{path.name} cannot be read ({error.strerror}); check its permissions") from error


def _body(file: BufferedIOBase, name: str, what: str, dimensions: int) -> bytearray:
    """What follows a header that says how much: memory is taken as bytes come, never for a claim alone."""
    header = _read_up_to(file, 4 + 4 * dimensions)
    if header[:4] != bytes((0, 0, 8, dimensions))[: len(header)]:  # 8: unsigned bytes
        raise DataError(f"{name} is no IDX file of {what}; download it again")
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{name} is empty or cut off within its header; download it again")
    count, *sides = (int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
    if sides and sides != [SIDE, SIDE]:
        raise DataError(f"{name} holds images of {sides[0]}×{sides[1]} pixels, not {SIDE}×{SIDE}; choose another file")
    if not 1 <= count <= MAX_COUNT:
        raise DataError(f"{name} promises {count} {what}, and 1 to {MAX_COUNT} can be read; download it again")
    each = SIDE * SIDE if sides else 1
    body = _read_up_to(file, count * each)
    if len(body) < count * each:
        there = len(body) // each
        raise DataError(
            f"{name} is cut off: its header promises {count} {what} and {there} are there; download it again"
        )
    if file.read(1):  # at the end gzip compares its checksum
        raise DataError(f"{name} holds more than the {count} {what} that its header promises; download it again")
    return body


def _read_up_to(file: BufferedIOBase, size: int) -> bytearray:
    """So many bytes, or fewer where the file ends or its packed content is cut off."""
    content = bytearray()
    try:
        while piece := file.read1(min(CHUNK, size - len(content))):  # read would lose what is before the cut
            content += piece
    except EOFError:
        pass
    return content


def _remote(folder: str, address: str, files: tuple[tuple[str, int], ...]) -> tuple[Remote, ...]:
    return tuple(
        Remote(f"{folder}/{stem}.gz", f"{address}/{stem}.gz", f"md5:{md5}", size)
        for stem, (md5, size) in zip((*TRAIN, *TEST), files, strict=True)
    )


MNIST = DataSet(
    name="mnist",
    title="MNIST",
    classes=tuple("0123456789"),
    shape=(1, SIDE, SIDE),
    mean=(0.1307,),
    std=(0.3081,),
    steps=25,
    leak=0.95,
    pad=2,
    flip=False,
    look=partial(_look, "MNIST", ("MNIST/raw", "MNIST", "mnist", "mnist/raw")),
    read=_read,
    arch="vgg-small",
    about="70,000 handwritten digits of 28×28 grey pixels; 60,000 for training, 10,000 for testing",
    remote=_remote(
        "MNIST/raw",
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        (
            ("f68b3c2dcbeaaa9fbdd348bbdeb94873", 9912422),
            ("d53e105ee54ea40749a09fcbcd1e9432", 28881),
            ("9fb629c4189551a2d022fa330f9573f3", 1648877),
            ("ec29112dd5afa0611ce80d1b7f02629c", 4542),
        ),
    ),
)
FASHION_MNIST = replace(
    MNIST,
    name="fashion-mnist",
    title="Fashion-MNIST",
    classes=(
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    mean=(0.2860,),
    std=(0.3530,),
    flip=True,
    look=partial(
        _look,
        "Fashion-MNIST",
        ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion-mnist/raw", "fashion_mnist"),
    ),
    about="70,000 pieces of clothing of 28×28 grey pixels; 60,000 for training, 10,000 for testing",
    remote=_remote(
        "FashionMNIST/raw",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        (
            ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", 26421880),
            ("25c81989df183df01b3e8a0aad5dffbe", 29515),
            ("bef4ecab320f06d8554ea6380940ec79", 4422102),
            ("bb300cfdad3c16e7a12a480ee83cd310", 5148),
        ),
    ),
)
SEQUENTIAL_MNIST = replace(
    MNIST,
    name="sequential-mnist",
    title="Sequential MNIST (rows)",
    # The background is 0: another constant would be the only input at the margin's timesteps, where BNTT divides by
    # next to nothing.
    mean=(0.0,),
    steps=SIDE,
    leak=0.95,
    pad=0,
    arch="mlp",
    encoding="rows",
    about="the digits of MNIST, one row of the image at each of 28 timesteps",
)
PIXEL_MNIST = replace(
    SEQUENTIAL_MNIST,
    name="sequential-mnist-pixels",
    title="Sequential MNIST (pixels)",
    steps=SIDE * SIDE,
    encoding="pixels",
    about="the digits of MNIST, one pixel of the image at each of 784 timesteps",
)
