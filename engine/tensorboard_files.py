"""The metrics of a run as TensorBoard reads them."""

from __future__ import annotations

import importlib.util
from pathlib import Path


class TensorBoardFiles:
    """Event files in `folder`/tensorboard; nothing is written where the package tensorboard is not installed.

    first: the first epoch that will be written; what earlier files say of it and of later ones no longer counts.
    """

    def __init__(self, folder: Path, first: int):
        self.folder, self.first = folder / "tensorboard", first
        self.installed = importlib.util.find_spec("tensorboard") is not None
        self.writer = None

    def write(self, row: dict) -> None:
        """One epoch: a row of metrics.jsonl. It is on the disk when this returns."""
        if not self.installed:
            return
        if self.writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self.writer = SummaryWriter(self.folder, purge_step=self.first)
        for name, value in scalars(row).items():
            self.writer.add_scalar(name, value, row["epoch"])
        self.writer.flush()

    def close(self) -> None:
        """No more epochs follow."""
        if self.writer is not None:
            self.writer.close()


def scalars(row: dict) -> dict[str, float]:
    """What TensorBoard shows of a row of metrics.jsonl, by tag; those of a timestep end in its number, from 1."""
    found = {name: row[name] for name in ("loss", "lr")}
    found["accuracy/train"] = row["train_accuracy"]
    curves = {"train_accuracy_by_exit": row["train_accuracy_steps"]}
    if "validation_accuracy" in row:
        found["accuracy/validation"] = row["validation_accuracy"][-1]
        curves["validation_accuracy_by_exit"] = row["validation_accuracy"]
    found |= {f"firing_rate/{layer}": rate for layer, rate in row["firing_rate"].items()}
    curves |= {f"gamma_{layer}": means for layer, means in row["gamma"].items()}
    return found | {f"{name}/t{t:02}": value for name, values in curves.items() for t, value in enumerate(values, 1)}
