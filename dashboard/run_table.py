"""Runs as tables: what each is and how far it came, and in which settings several differ."""

from __future__ import annotations

import os
import stat
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import streamlit as st

from engine import run_metrics
from engine.run_library import Run

from .runs_now import LIVE
from .training_form import NORM_TITLES

STATES = {
    "running": "▶ running",
    "starting": "▷ starting",
    "waiting": "▷ waiting",
    "finished": "✓ finished",
    "failed": "✕ failed",
    "interrupted": "‖ interrupted",
}
SETTINGS = {
    "dataset": "Data set",
    "arch": "Architecture",
    "layout": "Layers",
    "kind": "Kind",
    "norm": "Normalisation",
    "steps": "Timesteps T",
    "leak": "Leak λ",
    "threshold": "Threshold θ",
    "encoding": "Input coding",
    "in_shape": "Image",
    "lr": "Learning rate",
    "gamma_decay": "Weight decay of γ",
    "optimizer": "Optimiser",
    "augment": "Augmentation",
    "validation": "Validation share",
    "clip": "Largest gradient",
}
COLUMNS = {
    "Run": st.column_config.TextColumn(width=150),
    "Test": st.column_config.NumberColumn(
        format="%.1f %%", help="Accuracy at T on the test samples, at the end of the training."
    ),
    "Validation": st.column_config.NumberColumn(
        format="%.1f %%", help="Best accuracy at T on the samples held out of training."
    ),
    "Started": st.column_config.DatetimeColumn(format="D MMM YY, HH:mm"),
    "Size": st.column_config.NumberColumn(format="bytes", help="Of the whole folder on disk."),
}


def overview(runs: list[Run]) -> pd.DataFrame:
    """A row a run, for st.dataframe with COLUMNS."""
    rows = [
        {
            "Run": run.name,
            "State": state(run),
            "Data set": run.recipe.dataset,
            "Network": network(run),
            "T": run.config.steps,
            "Norm": NORM_TITLES.get(run.config.norm, run.config.norm),
            "Epochs": f"{run.epochs_done}/{run.recipe.epochs}",
            "Test": 100 * test_accuracy(run),
            "Validation": 100 * _best_validation(run.folder, _changed(run.folder / "metrics.jsonl")),
            "Started": pd.Timestamp(run.created, unit="s", tz="UTC").tz_convert(st.context.timezone or "UTC"),
            "Size": size(run),
        }
        for run in runs
    ]
    return pd.DataFrame(rows)


def state(run: Run) -> str:
    """In a word or two; of a running one also how far it is."""
    now = run.progress
    if now is None:
        return STATES[run.state]
    if now.stage == "testing":
        return f"{STATES['running']}, testing"
    return f"{STATES['running']} {100 * now.share:.0f} %"


def network(run: Run) -> str:
    """Its layers in short."""
    return (run.config.layout or run.config.arch) + (" (ANN)" if run.config.kind == "ann" else "")


def test_accuracy(run: Run) -> float:
    """What was measured at the end, 0 … 1; NaN before."""
    value = run.result.get("test_accuracy")
    return float(value) if type(value) in (int, float) and 0 <= value <= 1 else float("nan")


def size(run: Run) -> int:
    """Bytes of all files of a run. Of one that nobody trains it is kept: files come and go by a change of its folders."""
    if run.state in LIVE:
        return _size(run.folder)
    inside = (run.folder, run.folder / "gamma", run.folder / "tensorboard")
    return _kept_size(run.folder, [_changed(folder) for folder in inside])


@st.cache_data(max_entries=2000, show_spinner=False)
def _kept_size(folder: Path, changed: list[int]) -> int:
    return _size(folder)


def _size(folder: Path) -> int:
    total = 0
    for inside, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.lstat(os.path.join(inside, name))
            except FileNotFoundError:  # files come and go while a run is trained
                continue
            total += found.st_size if stat.S_ISREG(found.st_mode) else 0
    return total


def matching(runs: list[Run], text: str) -> list[Run]:
    """The runs in whose row every word of `text` occurs."""
    words = text.casefold().split()

    def row(run: Run) -> str:
        said = (run.name, run.state, run.recipe.dataset, network(run), NORM_TITLES.get(run.config.norm, ""))
        return " ".join(said).casefold()

    return [run for run in runs if all(word in row(run) for word in words)]


def settings(run: Run) -> dict[str, str]:
    """Every setting of network and recipe, by its name in words."""
    values = {"dataset": run.recipe.dataset, **run.config.to_dict(), **asdict(run.recipe)}
    return {SETTINGS.get(name, name.replace("_", " ").capitalize()): _written(name, v) for name, v in values.items()}


def differences(runs: list[Run]) -> pd.DataFrame:
    """The settings in which the runs are not all alike: a row a setting, a column a run; no rows where there are none."""
    all_settings = {run.name: settings(run) for run in runs}
    names = list(next(iter(all_settings.values())))
    differing = [name for name in names if len({found[name] for found in all_settings.values()}) > 1]
    return pd.DataFrame(
        {"Setting": differing, **{run: [found[name] for name in differing] for run, found in all_settings.items()}}
    )


def _written(name: str, value) -> str:
    if name == "norm":
        return NORM_TITLES.get(value, value)
    if value is None:
        return {"gamma_decay": "as the rest", "layout": "as usual"}.get(name, "none")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ("×" if name == "in_shape" else ", ").join(f"{part:g}" for part in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return 0


@st.cache_data(max_entries=2000, show_spinner=False)
def _best_validation(folder: Path, changed: int) -> float:
    """0 … 1, NaN without validation samples; `changed` tells when metrics.jsonl was written."""
    return float(run_metrics.metrics(folder)["validation_accuracy"].max())
