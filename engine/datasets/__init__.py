"""Data sets by name: `get("digits").load("test")`."""

from .base import DataError, DataSet, Images, fit, folder, to_unit
from .digits import DIGITS

REGISTRY: dict[str, DataSet] = {entry.name: entry for entry in (DIGITS,)}


def get(name: str) -> DataSet:
    """The registry entry. Raises ValueError with one sentence when there is none of that name."""
    if name not in REGISTRY:
        raise ValueError(f"data set {name!r} is not known here; there is: {', '.join(REGISTRY)}")
    return REGISTRY[name]


__all__ = ["REGISTRY", "DataError", "DataSet", "Images", "fit", "folder", "get", "to_unit"]
