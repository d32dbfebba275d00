"""What a training tells while it runs, kept apart from what it computes."""

from __future__ import annotations

from collections.abc import Callable

from .progress import ProgressFile
from .recipe import Recipe
from .runs import OpenRun
from .tensorboard_files import TensorBoardFiles


class Reports:
    """progress.json and TensorBoard files of a run that is being trained; a context manager.

    on_batch(epoch, batches done in it, loss): told too.
    """

    def __init__(self, run: OpenRun, recipe: Recipe, on_batch: Callable[[int, int, float], None]):
        self.on_batch = on_batch
        self.progress = ProgressFile(run.folder, recipe.epochs)
        self.tensorboard = TensorBoardFiles(run.folder, run.done + 1)
        self.at, self.batches, self.loss = max(1, run.done), 0, None

    def __enter__(self) -> Reports:
        return self

    def __exit__(self, *_raised) -> None:
        self.tensorboard.close()

    def begin(self, epoch: int, batches: int) -> None:
        """An epoch of so many batches begins."""
        self.at, self.batches = epoch, batches
        self.progress.report("training", epoch, 0, batches)

    def batch(self, epoch: int, done: int, loss: float) -> None:
        """`done` batches of an epoch are done."""
        self.loss = loss
        self.progress.report("training", epoch, done, self.batches, loss)
        self.on_batch(epoch, done, loss)

    def validated(self, done: int, samples: int) -> None:
        """So many of the validation samples are answered."""
        self.progress.report("validating", self.at, done, samples, self.loss)

    def tested(self, done: int, samples: int) -> None:
        """So many of the test samples are answered."""
        self.progress.report("testing", self.at, done, samples, self.loss)

    def epoch(self, row: dict) -> None:
        """An epoch has ended; its row of metrics.jsonl."""
        self.tensorboard.write(row)


class NoReports:
    """The same for a process that is not the main one, which tells nothing."""

    def _ignore(self, *_told) -> None:
        pass

    begin = batch = validated = _ignore
