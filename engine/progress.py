"""How far a run is: progress.json, written while it trains and read by whoever watches."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .files import read_table, write_text

PROGRESS_FILE = "progress.json"
STAGES = ("training", "validating", "testing")
WRITE_SECONDS = 1.0  # between two writes
EPOCHS_AVERAGED = 3


@dataclass(frozen=True)
class Progress:
    """Where a run is. epoch: from 1. batch: of `batches`, done in this stage of the epoch. loss: of the last batch, None
    before the first. seconds_left: until the last epoch has ended, None while that cannot be told.
    """

    stage: str
    epoch: int
    epochs: int
    batch: int
    batches: int
    loss: float | None
    seconds_left: float | None

    @property
    def share(self) -> float:
        """How much of all epochs is done, 0 … 1; an epoch is its training batches, what follows them is not counted."""
        within = min(1.0, self.batch / max(1, self.batches)) if self.stage == "training" else 1.0
        return min(1.0, (max(1, self.epoch) - 1 + within) / max(1, self.epochs))


class ProgressFile:
    """Keeps `folder`/progress.json up to date, at most once a second.

    The time left is that of this stage at its own pace and of the remaining epochs at the mean of the last three; in
    the first epoch the pace is all there is. clock: seconds, ever growing.
    """

    def __init__(self, folder: Path, epochs: int, clock: Callable[[], float] = time.monotonic):
        self.file, self.epochs, self.clock = folder / PROGRESS_FILE, epochs, clock
        self.written = -math.inf
        self.lengths: deque[float] = deque(maxlen=EPOCHS_AVERAGED)
        self.epoch, self.epoch_began = 0, 0.0
        self.stage, self.marks = "", []

    def report(self, stage: str, epoch: int, batch: int, batches: int, loss: float | None = None) -> None:
        """`batch` of `batches` are done; 0 begins a stage. A loss that is no number is written as none."""
        now = self.clock()
        if epoch != self.epoch:
            if self.epoch:
                self.lengths.append(now - self.epoch_began)
            self.epoch, self.epoch_began = epoch, now
        if batch == 0 or stage != self.stage:
            self.stage, self.marks = stage, []
        if len(self.marks) < 2:  # where the stage began, and its first batch, which may take longer than the others
            self.marks.append((batch, now))
        if now - self.written >= WRITE_SECONDS:
            left = self._seconds_left(now, batch, batches)
            loss = loss if loss is not None and math.isfinite(loss) else None
            progress = Progress(stage, epoch, self.epochs, batch, batches, loss, left)
            write_text(self.file, json.dumps(asdict(progress)))
            self.written = now

    def _seconds_left(self, now: float, batch: int, batches: int) -> float | None:
        before = self.marks[-1] if batch > self.marks[-1][0] else self.marks[0]
        epochs = 0 if self.stage == "testing" else self.epochs - self.epoch
        if batch == before[0]:
            epochs += self.stage == "training"
            return round(self._mean() * epochs, 1) if self.lengths else None
        pace = (now - before[1]) / (batch - before[0])
        whole = self._mean() if self.lengths else pace * batches
        return round(pace * (batches - batch) + whole * epochs, 1)

    def _mean(self) -> float:
        return sum(self.lengths) / len(self.lengths)


def read_progress(folder: Path) -> Progress | None:
    """What progress.json says; None when it is not there or damaged."""
    try:
        found = read_table(folder / PROGRESS_FILE)
    except (OSError, ValueError):
        return None
    counts = [found.get(name) for name in ("epoch", "epochs", "batch", "batches")]
    if found.get("stage") not in STAGES or not all(type(count) is int and 0 <= count < 2**53 for count in counts):
        return None
    return Progress(found["stage"], *counts, _finite(found.get("loss")), _finite(found.get("seconds_left")))


def _finite(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < 1e300 else None
