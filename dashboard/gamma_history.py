"""γ of every epoch of a run, for the pages: which epochs there are, one of them at once, and what all of them span."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st

from engine import run_metrics
from engine.analysis import gamma
from engine.checkpoint import Checkpoint, Stack
from engine.runs import TrainingError

from . import models
from .session import View

SAMPLED = 40  # epochs that tell what all of them span
HEADER_BYTES = 2**20  # of a file of γ, at most


class OtherNetwork(TrainingError):
    """The run kept γ of a network with other layers than that of its own file; one sentence."""


@dataclass(frozen=True)
class History:
    """epochs: those whose γ the run in `folder` kept, two or more. own: the one after which the network itself was saved,
    None where its file does not tell."""

    folder: Path
    epochs: list[int]
    own: int | None


def of(view: View) -> History | None:
    """The history of the model shown; None where it is no run, or one that kept none."""
    group, _, name = view.name.partition("/")
    folder = models.runs_folder() / name
    epochs = run_metrics.gamma_epochs(folder) if group == "runs" else []
    if len(epochs) < 2:
        return None
    own = view.checkpoint.metadata.get("epoch")
    return History(folder, epochs, own if own in epochs else None)


def at(history: History, checkpoint: Checkpoint, epoch: int) -> Checkpoint:
    """The checkpoint with γ, μ and σ² as they were after an epoch. Raises TrainingError, and OtherNetwork where they
    are of other layers than the checkpoint's."""
    return _at(history.folder, checkpoint, epoch)


def foreign(history: History, checkpoint: Checkpoint) -> str:
    """Why the history is not this network's, in a sentence, as the epoch shows that the network was saved after; ""
    where it is, or where that epoch cannot be read."""
    try:
        at(history, checkpoint, history.own or history.epochs[-1])
    except OtherNetwork as error:
        return f"{error}."
    except TrainingError:
        return ""  # told where that epoch is shown
    return ""


def span(history: History, checkpoint: Checkpoint, quantity: str, layer: str | None) -> np.ndarray:
    """Least and largest value of a quantity over the epochs: of one layer's channels, or (None) of the layers' means.

    Long histories are sampled, evenly; damaged files tell nothing.
    """
    places = np.linspace(0, len(history.epochs) - 1, min(len(history.epochs), SAMPLED)).round().astype(int)
    found = []
    for epoch in (history.epochs[place] for place in places):
        try:
            known = _extremes(history.folder, epoch, _stamp(history.folder, epoch), checkpoint)
        except TrainingError:
            continue
        if (layer, quantity) in known:
            found.append(known[layer, quantity])
    return np.array(found).ravel()


def _stamp(folder: Path, epoch: int) -> tuple[int, int]:
    """Size of a file of γ in bytes, and when it was changed; 0 where it cannot be told."""
    try:
        found = (folder / "gamma" / f"{epoch:04}.safetensors").stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _at(folder: Path, checkpoint: Checkpoint, epoch: int) -> Checkpoint:
    """As `at`. Read anew each time: it takes milliseconds, and kept ones would fill the memory."""
    own = checkpoint.stacks
    limit = HEADER_BYTES + sum(part.nbytes for stack in own.values() for part in stack)
    size, _ = _stamp(folder, epoch)
    found = run_metrics.gamma_at(folder, epoch, limit) if size <= limit else {}
    if _shapes(found) != _shapes(own):
        raise OtherNetwork(f"The γ that {folder.name} kept of epoch {epoch} is not of this network: its layers differ")
    return dataclasses.replace(checkpoint, stacks=found)


def _shapes(stacks: dict[str, Stack]) -> dict[str, tuple[int, ...]]:
    return {layer: stack.gamma.shape for layer, stack in stacks.items()}


@st.cache_data(max_entries=4096, show_spinner=False)
def _extremes(folder: Path, epoch: int, changed: tuple[int, int], _checkpoint: Checkpoint) -> dict:
    """(layer, or None for the means of all, quantity) → (least, largest) after one epoch."""
    checkpoint = _at(folder, _checkpoint, epoch)
    found = {}
    for quantity in gamma.QUANTITIES:
        tables = {layer: gamma.values(checkpoint, layer, quantity) for layer in checkpoint.stacks}
        means = np.concatenate([table.mean(1) for table in tables.values()])
        for layer, values in [*tables.items(), (None, means)]:
            found[layer, quantity] = float(values.min()), float(values.max())
    return found
