"""A run on disk: a folder that survives being stopped at any moment.

config.json             network and recipe
metrics.jsonl           a line per epoch
model.safetensors       the network: of the best epoch on the validation samples, or of the last without them
state.pt                what `resume` needs besides
"""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path

import torch

from .checkpoint import save_checkpoint
from .datasets import DataSet
from .files import replacing, write_text
from .recipe import Recipe
from .snn import ModelConfig, SpikingNetwork


class TrainingError(Exception):
    """A run cannot start or go on; one sentence."""


def open_run(out: Path, config: ModelConfig, recipe: Recipe, resume: bool) -> tuple[int, dict | None]:
    """(epochs already done, saved state). A new run gets its config.json; an old one must be the same run.

    Raises TrainingError.
    """
    setup = {"model": config.to_dict(), "recipe": asdict(recipe)}
    if out.exists() and not out.is_dir():
        raise TrainingError(f"{out} is a file: name a folder for the run")
    config_file, state_file = out / "config.json", out / "state.pt"
    if not config_file.exists():
        if resume:
            raise TrainingError(f"there is no run to resume in {out}")
        try:
            write_text(config_file, json.dumps(setup, indent=1))
        except OSError as error:
            raise TrainingError(f"{out} cannot be written: {error.strerror}") from error
        return 0, None
    if not resume:
        raise TrainingError(f"{out} already holds a run: choose another folder, or go on with --resume")
    try:
        found = json.loads(config_file.read_text())
        if (ModelConfig.from_dict(found["model"]), Recipe(**found["recipe"])) != (config, recipe):
            raise TrainingError(f"{out} holds a run with other settings than these; see its config.json")
        if not state_file.exists():
            return 0, None
        state = torch.load(state_file, map_location="cpu", weights_only=True)
        metrics = out / "metrics.jsonl"
        write_text(metrics, "".join(metrics.read_text().splitlines(keepends=True)[: state["epoch"]]))
        return state["epoch"], state
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"the run in {out} is damaged and cannot go on ({type(error).__name__}): train anew"
        ) from error


def save_epoch(
    out: Path, model: SpikingNetwork, optimizer, data: DataSet, recipe: Recipe, row: dict, state: dict
) -> None:
    """Metrics first and state last: whatever a crash leaves, `resume` repeats the epoch and nothing is lost.

    row: this epoch's metrics. state: kept for `resume` beside weights and optimiser; its "best_epoch" says whether the
    network of this epoch is the one to keep, its "command" how the run was started.
    """
    metrics = out / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)[: row["epoch"] - 1] if metrics.exists() else []
    write_text(metrics, "".join(lines) + json.dumps(row) + "\n")
    if state["best_epoch"] == row["epoch"]:
        mean, std = data.moments(model.config.in_shape[0])
        described = {"dataset": data.name, "mean": mean, "std": std, "epoch": row["epoch"], "recipe": asdict(recipe)}
        save_checkpoint(out / "model.safetensors", model, **described, command=state["command"])
    with replacing(out / "state.pt") as file:
        saved = {"epoch": row["epoch"], "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**saved, **state}, file)
