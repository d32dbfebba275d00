"""What a run wrote down of its epochs, as tables. Any file may be damaged, cut off or made up: good rows are given."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.numpy

from .checkpoint import Stack
from .checkpoint.errors import shown
from .files import open_ordinary, read_bounded
from .runs import TrainingError

LINE_BYTES = 2 * 2**20  # an epoch of a network of 10,000 timesteps takes less
FILE_BYTES = 32 * 2**20
GAMMA_BYTES = 512 * 2**20
MOST_EPOCHS = 1_000_000
_PARTS = Stack._fields


def metrics(folder: Path) -> pd.DataFrame:
    """epoch, loss, train_accuracy, validation_accuracy (at T; NaN without), lr, seconds: a row an epoch."""
    rows = _rows(folder)
    table = {"epoch": np.array([row["epoch"] for row in rows], dtype=np.int64)}
    for name in ("loss", "train_accuracy", "validation_accuracy", "lr", "seconds"):
        found = [row.get(name) for row in rows]
        table[name] = np.array([_number(v[-1] if isinstance(v, list) and v else v) for v in found], dtype=np.float64)
    return pd.DataFrame(table)


def exit_accuracy(folder: Path) -> pd.DataFrame:
    """epoch, step (from 1), split ("train" or "validation"), accuracy; nothing of what an older run did not write."""
    found = []
    for row in _rows(folder):
        for split, name in (("train", "train_accuracy_steps"), ("validation", "validation_accuracy")):
            found += [(row["epoch"], step, split, value) for step, value in _steps(row.get(name))]
    return _table(found, epoch="int64", step="int64", split="str", accuracy="float64")


def firing_rates(folder: Path) -> pd.DataFrame:
    """epoch, layer, rate: spikes per neuron and timestep."""
    found = []
    for row in _rows(folder):
        found += [(row["epoch"], layer, _number(value)) for layer, value in _layers(row.get("firing_rate"))]
    return _table(found, epoch="int64", layer="str", rate="float64")


def mean_gamma(folder: Path) -> pd.DataFrame:
    """epoch, layer, step (from 1), value: mean γ over the channels."""
    found = []
    for row in _rows(folder):
        for layer, values in _layers(row.get("gamma")):
            found += [(row["epoch"], layer, step, value) for step, value in _steps(values)]
    return _table(found, epoch="int64", layer="str", step="int64", value="float64")


def last_epoch(folder: Path) -> int:
    """The number of the last epoch that metrics.jsonl tells of, from its end alone; 0 before the first."""
    try:
        with open_ordinary(folder / "metrics.jsonl") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LINE_BYTES))
            lines = file.read(LINE_BYTES).split(b"\n")
    except (OSError, ValueError):
        return 0
    return next((row["epoch"] for row in map(_row, reversed(lines)) if row), 0)


def gamma_epochs(folder: Path) -> list[int]:
    """The epochs whose γ the run kept, in order."""
    try:
        names = os.listdir(folder / "gamma")
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"([0-9]{4,7})\.safetensors", name)))


def gamma_at(folder: Path, epoch: int) -> dict[str, Stack]:
    """γ, μ and σ² of every layer, in the network's order, after an epoch. Raises TrainingError."""
    file = folder / "gamma" / f"{epoch:04}.safetensors"
    try:
        content = read_bounded(file, GAMMA_BYTES)
    except (OSError, ValueError) as error:
        said = shown(getattr(error, "strerror", None) or error, 200)
        raise TrainingError(f"γ of epoch {epoch} cannot be read from {folder.name} ({said})") from error
    try:
        return _stacks(safetensors.numpy.load(content))
    except Exception as error:  # the library raises its own kind, and NumPy's and Python's for odd shapes and types
        raise TrainingError(f"γ of epoch {epoch} in {folder.name} is damaged ({shown(error, 200)})") from error


def _stacks(tensors: dict[str, np.ndarray]) -> dict[str, Stack]:
    """Raises ValueError."""
    layers = sorted({name.rpartition(".")[0] for name in tensors}, key=_by_number)
    if set(tensors) != {f"{layer}.{part}" for layer in layers for part in _PARTS} or not layers:
        raise ValueError("a part of a layer is missing")
    found = {layer: Stack(*(tensors[f"{layer}.{part}"] for part in _PARTS)) for layer in layers}
    for layer, stack in found.items():
        if not re.fullmatch(r"\w{1,40}", layer):
            raise ValueError(f"{layer!r} is no layer")
        if any(v.dtype != np.float32 or v.ndim != 2 or v.shape != stack.gamma.shape or not v.size for v in stack):
            raise ValueError(f"{layer} is no table of timesteps and channels")
        if not all(np.isfinite(value).all() for value in stack):
            raise ValueError(f"{layer} holds values that are no numbers")
    return found


def _by_number(layer: str) -> tuple[str, int]:
    """conv2 before conv10, and all of them before fc1."""
    name = layer.rstrip("0123456789")
    return name, int(layer[len(name) :][:9] or 0)


def _rows(folder: Path) -> tuple[dict, ...]:
    """The good rows by epoch, the last where there are two of one; read again only when the file has changed."""
    file = folder / "metrics.jsonl"
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return _read_rows(file, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=4)
def _read_rows(file: Path, _stamp: tuple[int, ...]) -> tuple[dict, ...]:
    rows = {}
    try:
        with open_ordinary(file) as lines:
            for line in _lines(lines):
                if row := _row(line):
                    rows[row["epoch"]] = row
    except (OSError, ValueError):
        return ()
    return tuple(rows[epoch] for epoch in sorted(rows))


def _lines(file) -> Iterator[bytes]:
    """The lines of a file's first FILE_BYTES, but for the part of one in which it ends there."""
    left = FILE_BYTES
    while left > 0 and (line := file.readline(left)):
        left -= len(line)
        if left > 0:
            yield line


def _row(line: bytes) -> dict | None:
    if len(line) > LINE_BYTES:
        return None
    try:
        row = json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    epoch = row.get("epoch") if isinstance(row, dict) else None
    return row if type(epoch) is int and 1 <= epoch <= MOST_EPOCHS else None


def _number(value: Any) -> float:
    """NaN for whatever is no finite number."""
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _steps(values: Any) -> list[tuple[int, float]]:
    """(step from 1, number) of a list."""
    return [(step, _number(value)) for step, value in enumerate(values, 1)] if isinstance(values, list) else []


def _layers(values: Any) -> list[tuple[str, Any]]:
    """(layer, value) of a table by layer."""
    return [(shown(layer), value) for layer, value in values.items()] if isinstance(values, dict) else []


def _table(rows: list[tuple], **kinds: str) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
