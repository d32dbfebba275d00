"""Data sets by name: `get("digits").load("test")`."""

import os
from pathlib import Path

from .base import DataError, DataSet, Images, Remote, fit, folder, to_unit
from .cifar import CIFAR10, CIFAR100
from .cifar10_dvs import CIFAR10_DVS, CIFAR10_DVS_DURATION
from .digits import DIGITS
from .idx import FASHION_MNIST, MNIST, PIXEL_MNIST, SEQUENTIAL_MNIST
from .image_folder import discover, from_path
from .tiny_imagenet import entry as tiny_imagenet

_FIXED = (
    DIGITS,
    MNIST,
    FASHION_MNIST,
    SEQUENTIAL_MNIST,
    PIXEL_MNIST,
    CIFAR10,
    CIFAR100,
    CIFAR10_DVS,
    CIFAR10_DVS_DURATION,
)


def entries() -> dict[str, DataSet]:
    """Everything that is known by name, whether it is here or not, and every folder of images in the data folder."""
    known = {data.name: data for data in (*_FIXED, tiny_imagenet(folder()))}
    claimed = {remote.path for data in known.values() for remote in data.remote}
    found = {data.name: data for data in discover(folder(), skip=claimed)}
    return {**known, **{name: data for name, data in found.items() if name not in known}}


def get(name: str, *, paths: bool = False) -> DataSet:
    """The data set of a name, or what lies in the data folder under that.

    paths: take a path of a folder or archive of images too; never for a name that comes from a file. Raises ValueError
    with one sentence when there is none, and DataError when there is nothing usable at a path.
    """
    known = entries()
    if name in known:
        return known[name]
    inside = folder() / name
    if name and Path(name).name == name and os.path.exists(inside):
        return from_path(inside)  # under the folder's own name; or it is said why it is none
    if paths and name not in ("", ".", "..") and os.path.exists(name):
        return from_path(Path(name))
    raise ValueError(f"data set {name!r} is not known here; there is: {', '.join(known)}")


__all__ = ["DataError", "DataSet", "Images", "Remote", "entries", "fit", "folder", "get", "to_unit"]
