"""A training as long work: a process of its own beside the worker, so that it can be stopped at any moment."""

from __future__ import annotations

import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PREFIX = "python -m engine train: "
POLL_SECONDS = 0.2
STOP_SECONDS = 2


def train_run(folder: str, data: str) -> None:
    """Start or resume the run in `folder`, whose config.json says what to train; the body of a Dask task.

    data: folder of the data sets. Both must be there for the worker too, which on several machines means a file system
    they share. The worker's slot is given back at once: other tasks run on it meanwhile, and the process that trains
    has a lower priority than they. Raises RuntimeError with one sentence.
    """
    from distributed import get_worker, secede

    if not (Path(folder) / "config.json").exists():
        raise RuntimeError(_missing(Path(folder)))
    worker = get_worker()
    task = worker.get_current_task()
    secede()
    with tempfile.TemporaryFile() as said:
        command = [sys.executable, "-m", "engine.tethered", "train", "--resume", "--out", folder, "--data", data]
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said, start_new_session=True
        )
        try:
            while process.poll() is None and not cancelled(worker, task):
                time.sleep(POLL_SECONDS)
        finally:
            ended = _stop(process)
        if ended:
            said.seek(0)
            raise RuntimeError(_why(ended, said.read().decode(errors="replace"), folder))


def _missing(folder: Path) -> str:
    """Why the run cannot be found, in one sentence."""
    if folder.parent.is_dir():  # it was deleted or renamed while its training waited
        return f"The run in {folder} is no longer there."
    return (
        f"The worker on {platform.node()} does not see the folder {folder.parent}: start the dashboard with --runs in a "
        "folder that the workers share."
    )


def cancelled(worker, task: str) -> bool:
    """Whether nobody waits for this Dask task any more: cancelled, or the dashboard that asked for it is gone."""
    known = worker.state.tasks.get(task)
    return known is None or known.state == "cancelled" or worker.status.name != "running"


def stop_if_cancelled(worker, task: str) -> None:
    """Raises RuntimeError, which nobody will see, where nobody waits for the task."""
    if cancelled(worker, task):
        raise RuntimeError("Cancelled.")


def _stop(process: subprocess.Popen) -> int:
    """End it if it still runs; the exit status."""
    process.stdin.close()
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def _why(status: int, said: str, folder: str) -> str:
    """One sentence for a process that ended with an error."""
    told = [line for line in said.splitlines() if line.startswith(PREFIX)]
    if told:
        return told[-1].removeprefix(PREFIX)
    if status == -signal.SIGKILL:
        return (
            "The process that trained was killed, probably for want of memory; the last finished epoch is kept: resume "
            "it when there is more memory, or train with a smaller batch."
        )
    last = (said.strip().splitlines() or ["it said nothing"])[-1]
    return f"The training in {folder} ended unexpectedly with status {status} ({last}); resume it to go on."
