"""Runs as they are on this server: those too whose training has begun here and does not hold its folder yet."""

from __future__ import annotations

from dataclasses import replace

from engine import run_library
from engine.job import OVER
from engine.run_library import Run

from . import models, work

LIVE = ("running", "starting", "waiting")  # states that change by themselves; nothing else may be done with such a run


def listed() -> list[Run]:
    """Every run in the runs folder, newest first."""
    return [_now(run) for run in run_library.list_runs(models.runs_folder())]


def read(name: str) -> Run:
    """The run of this name as it is now. Raises TrainingError."""
    return _now(run_library.read_run(models.runs_folder() / name, name))


def _now(run: Run) -> Run:
    """With the state "starting", or "waiting" for the training before it, where its folder does not tell that yet."""
    if run.state not in ("interrupted", "failed"):
        return run
    job = work.training_job(run.name, start=False)
    if job is None or job.state in OVER:
        return run
    return replace(run, state="waiting" if job.state == "waiting" else "starting", error="")
