"""What a run wrote down of its epochs, as tables. Any file may be damaged, cut off or made up: good rows are given."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

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
MOST_STEPS, MOST_LAYERS = 10_000, 100  # longer lists and larger tables are left out
MOST_CELLS = 3_000_000  # numbers kept of all epochs; of a real training FILE_BYTES has fewer
_OVERHEAD = 10  # cells that an epoch, or a layer in it, takes besides its numbers
_NUMBERS = ("loss", "train_accuracy", "validation_accuracy", "lr", "seconds")
_PARTS = Stack._fields


class Row(NamedTuple):
    """What one line tells. numbers: in the order of _NUMBERS. accuracy: by split, at each step. gamma: by layer, mean
    over the channels at each step. rates: by layer. What is no finite number is NaN."""

    epoch: int
    numbers: tuple[float, ...]
    accuracy: dict[str, np.ndarray]
    gamma: dict[str, np.ndarray]
    rates: dict[str, float]

    @property
    def cells(self) -> int:
        lists = (*self.accuracy.values(), *self.gamma.values())
        return sum(map(len, lists)) + _OVERHEAD * (1 + len(lists) + len(self.rates))


def metrics(folder: Path) -> pd.DataFrame:
    """epoch, loss, train_accuracy, validation_accuracy (at T; NaN without), lr, seconds: a row an epoch."""
    rows = _rows(folder)
    table = {"epoch": np.array([row.epoch for row in rows], dtype=np.int64)}
    for place, name in enumerate(_NUMBERS):
        table[name] = np.array([row.numbers[place] for row in rows], dtype=np.float64)
    return pd.DataFrame(table)


def exit_accuracy(folder: Path) -> pd.DataFrame:
    """epoch, step (from 1), split ("train" or "validation"), accuracy; nothing of what an older run did not write."""
    found = [(row.epoch, split, values) for row in _rows(folder) for split, values in row.accuracy.items()]
    return _by_step(found, "split", "accuracy")[["epoch", "step", "split", "accuracy"]]


def firing_rates(folder: Path) -> pd.DataFrame:
    """epoch, layer, rate: spikes per neuron and timestep."""
    found = [(row.epoch, layer, rate) for row in _rows(folder) for layer, rate in row.rates.items()]
    kinds = {"epoch": "int64", "layer": "str", "rate": "float64"}
    return pd.DataFrame(found, columns=list(kinds)).astype(kinds)


def mean_gamma(folder: Path) -> pd.DataFrame:
    """epoch, layer, step (from 1), value: mean γ over the channels."""
    found = [(row.epoch, layer, values) for row in _rows(folder) for layer, values in row.gamma.items()]
    return _by_step(found, "layer", "value")


def _by_step(found: list[tuple[int, str, np.ndarray]], label: str, value: str) -> pd.DataFrame:
    """epoch, label, step (from 1), value: a row for each number of (epoch, label, numbers)."""
    lengths = [len(values) for *_, values in found]
    table = {
        "epoch": np.repeat(np.array([epoch for epoch, *_ in found], dtype=np.int64), lengths),
        label: pd.Series([name for _, name, _ in found], dtype="str").repeat(lengths).array,
        "step": np.concatenate([np.arange(1, length + 1) for length in lengths] or [np.empty(0, np.int64)]),
        value: np.concatenate([values for *_, values in found] or [np.empty(0)]),
    }
    return pd.DataFrame(table)


def last_epoch(folder: Path) -> int:
    """The number of the last epoch that metrics.jsonl tells of, from its end alone; 0 before the first."""
    try:
        with open_ordinary(folder / "metrics.jsonl") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LINE_BYTES))
            lines = file.read(LINE_BYTES).split(b"\n")
    except (OSError, ValueError):
        return 0
    return next((_epoch(found) for found in map(_parsed, reversed(lines)) if _epoch(found)), 0)


def gamma_epochs(folder: Path) -> list[int]:
    """The epochs whose γ the run kept, in order."""
    try:
        names = os.listdir(folder / "gamma")
    except OSError:
        return []
    return sorted(int(match[1]) for name in names if (match := re.fullmatch(r"([0-9]{4,7})\.safetensors", name)))


def gamma_at(folder: Path, epoch: int, limit: int = GAMMA_BYTES) -> dict[str, Stack]:
    """γ, μ and σ² of every layer, in the network's order, after an epoch; of a file of at most `limit` bytes. Raises
    TrainingError."""
    file = folder / "gamma" / f"{epoch:04}.safetensors"
    try:
        content = read_bounded(file, limit)
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


def _rows(folder: Path) -> tuple[Row, ...]:
    """The good rows by epoch, the last where there are two of one; read again only when the file has changed."""
    file = folder / "metrics.jsonl"
    try:
        found = os.stat(file)
    except OSError:
        return ()
    return _read_rows(file, (found.st_ino, found.st_mtime_ns, found.st_size))


@lru_cache(maxsize=4)
def _read_rows(file: Path, _stamp: tuple[int, ...]) -> tuple[Row, ...]:
    rows, left = {}, MOST_CELLS
    try:
        with open_ordinary(file) as lines:
            for line in _lines(lines):
                row = _row(line)
                if row and row.cells <= left:
                    left -= row.cells
                    rows[row.epoch] = row
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


def _row(line: bytes) -> Row | None:
    found = _parsed(line)
    if not (epoch := _epoch(found)):
        return None
    numbers = tuple(_number(v[-1] if isinstance(v, list) and v else v) for v in map(found.get, _NUMBERS))
    splits = {"train": found.get("train_accuracy_steps"), "validation": found.get("validation_accuracy")}
    gamma, rates = _layers(found.get("gamma")), _layers(found.get("firing_rate"))
    return Row(epoch, numbers, _lists(splits), _lists(gamma), {layer: _number(rate) for layer, rate in rates.items()})


def _parsed(line: bytes) -> Any:
    if len(line) > LINE_BYTES:
        return None
    try:
        return json.loads(line, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None


def _epoch(found: Any) -> int:
    """The number of the epoch that a line tells of; 0 where it is no such line."""
    epoch = found.get("epoch") if isinstance(found, dict) else None
    return epoch if type(epoch) is int and 1 <= epoch <= MOST_EPOCHS else 0


def _number(value: Any) -> float:
    """NaN for whatever is no finite number."""
    try:
        number = float(value) if type(value) in (int, float) else math.nan
    except OverflowError:
        return math.nan
    return number if math.isfinite(number) else math.nan


def _lists(values: dict[str, Any]) -> dict[str, np.ndarray]:
    """Those that are lists, of a length that a network can have."""
    lists = {name: found for name, found in values.items() if isinstance(found, list) and len(found) <= MOST_STEPS}
    return {name: np.array([_number(value) for value in found], dtype=np.float64) for name, found in lists.items()}


def _layers(values: Any) -> dict[str, Any]:
    """A table by layer, with names fit to be shown."""
    if not isinstance(values, dict) or len(values) > MOST_LAYERS:
        return {}
    return {shown(layer): value for layer, value in values.items()}
