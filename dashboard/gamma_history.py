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
    """The checkpoint with γ, μ and σ² as they were after an epoch. Raises TrainingError."""
    return dataclasses.replace(checkpoint, stacks=_stacks(history.folder, epoch, _changed(history.folder, epoch)))


def span(history: History, checkpoint: Checkpoint, quantity: str, layer: str | None) -> np.ndarray:
    """Least and largest value of a quantity over the epochs: of one layer's channels, or (None) of the layers' means.

    Long histories are sampled, evenly; damaged files tell nothing.
    """
    places = np.linspace(0, len(history.epochs) - 1, min(len(history.epochs), SAMPLED)).round().astype(int)
    found = []
    for epoch in (history.epochs[place] for place in places):
        try:
            known = _extremes(history.folder, epoch, _changed(history.folder, epoch), checkpoint)
        except TrainingError:
            continue
        if (layer, quantity) in known:
            found.append(known[layer, quantity])
    return np.array(found).ravel()


def _changed(folder: Path, epoch: int) -> int:
    try:
        return (folder / "gamma" / f"{epoch:04}.safetensors").stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_resource(max_entries=32, show_spinner=False)
def _stacks(folder: Path, epoch: int, changed: int) -> dict[str, Stack]:
    return run_metrics.gamma_at(folder, epoch)


@st.cache_data(max_entries=4096, show_spinner=False)
def _extremes(folder: Path, epoch: int, changed: int, _checkpoint: Checkpoint) -> dict:
    """(layer, or None for the means of all, quantity) → (least, largest) after one epoch."""
    checkpoint = dataclasses.replace(_checkpoint, stacks=run_metrics.gamma_at(folder, epoch))
    found = {}
    for quantity in gamma.QUANTITIES:
        tables = {layer: gamma.values(checkpoint, layer, quantity) for layer in checkpoint.stacks}
        means = np.concatenate([table.mean(1) for table in tables.values()])
        for layer, values in [*tables.items(), (None, means)]:
            found[layer, quantity] = float(values.min()), float(values.max())
    return found
