"""Encoded image files, decoded once: their pixels are kept in a file and mapped from it, so that they fill no memory.

<data folder>/.decoded/<data set>-<key>-<split>/ holds pixels.npy, uint8 [N, C, S, S], and labels.npy, int64 [N]; where
the data folder cannot be written, the user's cache folder takes its place. A folder of that name is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from ..files import replacing, write_text
from .base import DataError, Images, folder
from .image_archive import LARGEST_FILE, Encoded, Plan, decode, stamp, told

FORMAT = "1"  # part of every key: to be raised when the same files would give other pixels
BATCH, BATCH_BYTES = 64, 4 << 20  # images decoded at a time, and how many bytes of them are held
THREADS = min(4, os.cpu_count() or 1)
REST = 20  # a list of files that took a second is believed for so many
SOURCE = 8  # characters of a key that tell where the files lie; the others tell what they are


def key(path: Path, facts: Iterable[str]) -> str:
    """24 hexadecimal digits: the first SOURCE for where the files lie, the others for `facts` that change with them."""
    path, data = (Path(os.path.abspath(place)) for place in (path, folder()))
    # Relative, so that a data folder that is moved keeps what was decoded.
    source = path.relative_to(data) if path.is_relative_to(data) else path
    return _digest([str(source)])[:SOURCE] + _digest([FORMAT, *facts])


def stamps(path: Path, names: Iterable[str] = ("",)) -> tuple[str, ...]:
    """What changes when one of the files or folders below `path` does; "" for what is not there. Raises DataError."""
    with told(path):
        return tuple(_stamp(path / name) for name in names)


def _stamp(path: Path) -> str:
    try:
        return stamp(path.stat())
    except (FileNotFoundError, NotADirectoryError):
        return ""


class _Listed(NamedTuple):
    signature: Hashable
    until: float
    key: str
    error: str


_listed: dict[Hashable, _Listed] = {}


def settled(what: Hashable, signature: Hashable, find: Callable[[], str]) -> str:
    """The key that find() makes of a list of files, or what it gave lately for the same `what`.

    A hundred thousand files take half a second to look at, and are asked for with every click. So find() is called
    when `signature` changes, which files that come or go do, and else every REST times as long as it took. The
    DataError it raises is raised in between as well.
    """
    known = _listed.get(what)
    if not known or known.signature != signature or time.monotonic() >= known.until:
        start = time.monotonic()
        try:
            key, error = find(), ""
        except DataError as problem:
            key, error = "", str(problem)
        end = time.monotonic()
        known = _listed[what] = _Listed(signature, end + REST * (end - start), key, error)
    if known.error:
        raise DataError(known.error)
    return known.key


def load(name: str, key: str, split: str, shape: tuple[int, int, int], plan: Callable[[], Plan]) -> Images:
    """Pixels and labels of a split, mapped from what was decoded under this key, or decoded now.

    shape: (C, S, S), C = 1 or 3. plan() is called when something is to be decoded, and may give further splits along
    with `split`. What the same data set left under earlier keys is deleted then. Two processes that ask at once decode
    once. Raises DataError for damaged files, or when there is no place to keep the pixels.
    """
    for root in roots(folder()):
        if found := _mapped(root / f"{name}-{key}-{split}", shape):
            return found
    root = _writable_root()
    building = root / f".building-{name}-{key[:SOURCE]}"
    try:
        with FileLock(f"{building}.lock"):
            # Whoever held the lock may have made it meanwhile.
            if found := _mapped(root / f"{name}-{key}-{split}", shape):
                return found
            _remove_abandoned(root, building)
            _build(building, name, key, shape, plan())
            _remove_earlier(root, name, key)
    except OSError as error:  # files that cannot be read have become DataError before
        raise DataError(f"{root} cannot be written ({error.strerror or error}); make room, or set BNTT_DATA") from error
    found = _mapped(root / f"{name}-{key}-{split}", shape)
    if not found:
        raise DataError(f"{root} does not keep what is written to it; set BNTT_DATA to another folder")
    return found


def recalled(name: str, key: str) -> dict | None:
    """What `remember` has kept under this key, if anything."""
    for root in roots(folder()):
        with suppress(OSError, ValueError):
            return json.loads((root / f"{name}-{key}.json").read_text("utf-8"))
    return None


def remember(name: str, key: str, facts: dict) -> None:
    """Keep a few facts beside the pixels, where there is a place for them."""
    with suppress(OSError, DataError):
        write_text(_writable_root() / f"{name}-{key}.json", json.dumps(facts))


def roots(data: Path, name: str = "decoded") -> tuple[Path, ...]:
    """Where what was decoded (or computed: `name`) is looked for and kept: with the data in the folder `data` if that
    can be, else in the user's cache."""
    beside = data / f".{name}"
    try:
        from platformdirs import user_cache_dir
    except ImportError:  # only the engine's core is installed
        return (beside,)
    return beside, Path(user_cache_dir("bntt")) / name


def writable(folders: Iterable[Path]) -> Path | None:
    """The first of these folders that can be written, made if it is not there."""
    for place in folders:
        with suppress(OSError):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                return place
    return None


def mapped(path: Path, shape: tuple[int, ...]) -> Tensor:
    """The uint8 array of this shape that a .npy file holds, mapped. Raises OSError or ValueError if it holds none."""
    try:  # copy on write: a write by mistake neither reaches the file nor ends the process
        pixels = np.lib.format.open_memmap(path, "c")
    except OSError:  # Linux grants no such map that is larger than the memory
        pixels = np.lib.format.open_memmap(path, "r")
    if (pixels.dtype, pixels.shape) != (np.uint8, shape):
        raise ValueError(f"{path} holds {pixels.dtype} of {pixels.shape}, not uint8 of {shape}")
    with warnings.catch_warnings():  # of the map that cannot be written
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(pixels)


def _writable_root() -> Path:
    if root := writable(roots(folder())):
        return root
    raise DataError(f"{folder()} cannot be written to keep decoded images; set BNTT_DATA to a folder that can")


def _mapped(place: Path, shape: tuple[int, int, int]) -> Images | None:
    """What lies there; None when nothing does, or something else."""
    try:
        labels = np.load(place / "labels.npy")
        pixels = mapped(place / "pixels.npy", (len(labels), *shape))
    except (OSError, ValueError, EOFError):
        return None
    return Images(pixels, torch.from_numpy(labels)) if labels.dtype == np.int64 else None


def _build(building: Path, name: str, key: str, shape: tuple[int, int, int], plan: Plan) -> None:
    """Decode into a folder of its own; each split takes its name when all are complete."""
    needed = sum(map(len, plan.labels.values())) * int(np.prod(shape))
    if shutil.disk_usage(building.parent).free < needed:
        raise DataError(f"{building.parent} has no room for {needed / 1e9:.1f} GB of decoded images; make some")
    try:
        building.mkdir()
        with ExitStack() as stack:
            files = {
                split: stack.enter_context(_PixelFile(building / split, labels, shape))
                for split, labels in plan.labels.items()
            }
            for batch, pixels in _decoded(plan.files, shape):
                for (split, row), image in zip(batch, pixels, strict=True):
                    files[split].write(row, image)
            if not all(file.written.all() for file in files.values()):
                raise DataError(f"{name} lost image files while they were read; try again")
        for split in files:
            place = building.with_name(f"{name}-{key}-{split}")
            shutil.rmtree(place, ignore_errors=True)  # damaged, or it would have been taken
            os.rename(building / split, place)
    finally:
        shutil.rmtree(building, ignore_errors=True)


class _PixelFile:
    """The folder of one split while it is written, row by row.

    Written as a file, not through a map: a full disk then raises an error instead of ending the process, and pages
    that were written do not count as memory of this process.
    """

    def __init__(self, place: Path, labels: Sequence[int], shape: tuple[int, int, int]):
        place.mkdir()
        with replacing(place / "labels.npy") as file:
            np.save(file, np.asarray(labels, dtype=np.int64))
        pixels = place / "pixels.npy"
        self.start = np.lib.format.open_memmap(pixels, "w+", np.uint8, shape=(len(labels), *shape)).offset
        self.file = open(pixels, "r+b")
        self.written = np.zeros(len(labels), dtype=bool)

    def __enter__(self) -> _PixelFile:
        return self

    def write(self, row: int, image: np.ndarray) -> None:
        self.file.seek(self.start + row * image.nbytes)
        self.file.write(image)
        self.written[row] = True

    def __exit__(self, failed: type | None, *_details) -> None:
        with self.file:
            if not failed:
                self.file.flush()
                os.fsync(self.file.fileno())  # or a power cut could leave a complete folder of empty pages


def _decoded(files: Iterable[Encoded], shape: tuple[int, int, int]) -> Iterator[tuple[list, np.ndarray]]:
    """(split, row) of each image of a batch, and the batch's pixels; a few batches at most are under way at once."""
    pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")
    waiting = deque()
    try:
        for batch in _batches(files):
            waiting.append(pool.submit(_decode_batch, batch, shape))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _batches(files: Iterable[Encoded]) -> Iterator[list[Encoded]]:
    batch, held = [], 0
    for file in files:
        batch.append(file)
        held += file.held
        if len(batch) == BATCH or held >= BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _decode_batch(batch: list[Encoded], shape: tuple[int, int, int]) -> tuple[list, np.ndarray]:
    pixels = np.empty((len(batch), *shape), dtype=np.uint8)
    for image, file in zip(pixels, batch, strict=True):
        try:
            data = file.read()
        except OSError as error:
            raise DataError(f"{file.name} cannot be read ({error.strerror}); check its permissions") from error
        if len(data) > LARGEST_FILE:
            raise DataError(f"{file.name} is larger than {LARGEST_FILE >> 20} MiB; replace or delete it")
        image[:] = decode(data, shape, file.name)
    return [(file.split, file.row) for file in batch], pixels


def _remove_abandoned(root: Path, own: Path) -> None:
    """Delete what killed builds of any data set have left: nobody holds their locks, and this process that of `own`."""
    shutil.rmtree(own, ignore_errors=True)
    for building in root.glob(".building-*"):
        if building.is_dir():
            with suppress(Timeout), FileLock(f"{building}.lock", timeout=0):
                shutil.rmtree(building, ignore_errors=True)


def _remove_earlier(root: Path, name: str, key: str) -> None:
    for place in root.glob(f"{name}-{key[:SOURCE]}*"):
        if place.name.startswith(f"{name}-{key}"):
            continue
        if place.is_dir():
            shutil.rmtree(place, ignore_errors=True)
        else:
            with suppress(OSError):
                place.unlink()


def _digest(parts: Iterable[str]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()
