"""The runs in a folder: listed, opened, renamed, deleted, packed. Their epochs are read by engine.run_metrics."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from .checkpoint.errors import shown
from .files import read_table, replacing
from .progress import PROGRESS_FILE, Progress, read_progress
from .recipe import Recipe
from .run_metrics import last_epoch, metrics
from .runs import Setup, TrainingError, read_setup
from .snn import ModelConfig

LOOK_SECONDS = 0.2  # where readers hold the lock of a run one after another
IDLE_SECONDS = 1  # to wait for whoever looks at a run that is to be changed
DELETED = ".deleted-"
LEFT_SECONDS = 60
NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,59}"


@dataclass(frozen=True)
class Run:
    """A run as it is now. name: where it lies below the runs folder, "mine" or "baselines/bntt". created: in seconds
    since the epoch. state: "running" (a process trains in it), "finished", "failed" or "interrupted", which it also is
    before it begins. error: of a failed one. progress: of a running one, once it is known. result: what was measured on
    the test samples; {} before.
    """

    name: str
    folder: Path
    config: ModelConfig
    recipe: Recipe
    command: str
    created: float
    epochs_done: int
    state: str
    error: str
    progress: Progress | None
    result: dict


def list_runs(folder: Path) -> list[Run]:
    """Every run in the folder and in its folders, newest first; what cannot be read is left out."""
    found = []
    for path in _folders(folder):
        try:
            found.append(read_run(path, path.relative_to(folder).as_posix()))
        except TrainingError:
            continue
    return sorted(found, key=lambda run: (-run.created, run.name))


def _folders(folder: Path, deeper: bool = True) -> Iterator[Path]:
    try:
        inside = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in inside:
        if not entry.name.startswith(".") and entry.is_dir():
            if os.path.isfile(os.path.join(entry.path, "config.json")):
                yield Path(entry.path)
            if deeper:
                yield from _folders(Path(entry.path), deeper=False)


def read_run(folder: Path, name: str = "") -> Run:
    """The run in a folder; name: "" = the folder's. Raises TrainingError."""
    setup = read_setup(folder)
    done, result, error = last_epoch(folder), _read(folder / "result.json"), ""
    if _is_held(folder):
        state = "running"
    elif (folder / "stopped.json").exists():
        error = _read(folder / "stopped.json").get("error")
        state, error = "failed", shown(error if isinstance(error, str) else "it does not say why it stopped", 500)
    elif result or (_is_over(folder, setup, done) and not (folder / PROGRESS_FILE).exists()):
        state = "finished"
    else:
        state = "interrupted"
    return Run(
        name=name or folder.name,
        folder=folder,
        config=setup.config,
        recipe=setup.recipe,
        command=setup.command,
        created=setup.created,
        epochs_done=done,
        state=state,
        error=error,
        progress=read_progress(folder) if state == "running" else None,
        result=result,
    )


def progress_share(folder: Path) -> tuple[float, float | None] | None:
    """(share of the epochs done, seconds left where that is known) of a run that is trained; None before it is told."""
    known = read_progress(folder)
    return None if known is None else (known.share, known.seconds_left)


def _read(file: Path) -> dict:
    try:
        return read_table(file)
    except (OSError, ValueError):
        return {}


def _is_held(folder: Path) -> bool:
    """Whether a process trains in the folder. Others may look at the same time."""
    file = folder / ".lock"
    if file.is_symlink() or not file.is_file():
        return False
    try:
        return _is_locked(file) if fcntl else _is_locked_for_long(file)
    except OSError:  # another user's run, which this one cannot see into
        return False


def _is_locked(file: Path) -> bool:
    """Asks for a share of the flock that FileLock takes whole, which any number of readers may have. Raises OSError."""
    handle = os.open(file, os.O_RDONLY | os.O_NONBLOCK)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(handle, fcntl.LOCK_UN)  # now, also for a child process that got a copy of the handle
        return False
    except (BlockingIOError, PermissionError):
        return True
    finally:
        os.close(handle)


def _is_locked_for_long(file: Path) -> bool:
    """Where locks cannot be shared: looks more than once, since another reader holds it for a moment. Raises OSError."""
    try:
        with FileLock(file, timeout=LOOK_SECONDS):
            return False
    except Timeout:
        return True


def _is_over(folder: Path, setup: Setup, done: int) -> bool:
    """Whether no epoch would follow: all are done, or `patience` of them brought no better validation accuracy."""
    if done >= setup.recipe.epochs:
        return True
    judged = metrics(folder).dropna(subset="validation_accuracy") if setup.recipe.patience else ()
    if not len(judged):
        return False
    best = judged.loc[judged["validation_accuracy"].idxmax(), "epoch"]
    return done - best >= setup.recipe.patience


def rename_run(folder: Path, name: str, new: str) -> str:
    """Give a run of the runs folder another name beside where it lies; its whole new name. Raises TrainingError."""
    path = _own(folder, name)
    if not re.fullmatch(NAME, new):
        raise TrainingError(f"{shown(new)!r} is no name for a run: use up to 60 letters, digits, '.', '_' and '-'")
    target = path.with_name(new)
    if os.path.lexists(target):
        raise TrainingError(f"{new} is taken: choose another name")
    with _idle(path, name):
        _move(path, target, name)
    return target.relative_to(folder).as_posix()


def delete_run(folder: Path, name: str) -> None:
    """Delete a run of the runs folder for good, and what an earlier delete beside it left. Raises TrainingError."""
    path = _own(folder, name)
    hidden = path.with_name(DELETED + secrets.token_hex(4))  # half a run is never seen
    with _idle(path, name):
        _move(path, hidden, name)
    for left in (*folder.glob(f"{DELETED}*"), *path.parent.glob(f"{DELETED}*")):
        if left != hidden and _is_left_over(left):
            shutil.rmtree(left, ignore_errors=True)  # nobody asked for it now
    try:
        shutil.rmtree(hidden)
    except OSError as error:
        raise TrainingError(f"{name} is no longer listed, but not all of {hidden} could be deleted: {error}") from error


def _is_left_over(hidden: Path) -> bool:
    """Whether nobody is deleting this any more: each file that goes changes its folder."""
    try:
        found = os.lstat(hidden)
    except OSError:
        return False
    return time.time() - max(found.st_mtime, found.st_ctime) >= LEFT_SECONDS


def _own(folder: Path, name: str) -> Path:
    """The folder of a run that lies below the runs folder itself, and not behind a link. Raises TrainingError."""
    parts = name.split("/")
    path = folder.joinpath(*parts)
    if len(parts) > 2 or any(not part or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
        raise TrainingError(f"{shown(name)!r} is no run of this folder")
    if path.is_symlink() or path.parent.is_symlink() and len(parts) == 2:
        raise TrainingError(f"{name} is a link to somewhere else: it can only be changed there")
    if not os.path.isfile(path / "config.json"):
        raise TrainingError(f"{name} is no longer here")
    return path


@contextmanager
def _idle(path: Path, name: str) -> Iterator[None]:
    """Nothing trains in a run, and nothing begins to. Raises TrainingError."""
    try:
        with FileLock(path / ".lock", timeout=IDLE_SECONDS):
            yield
    except Timeout:
        raise TrainingError(f"{name} is being trained: stop it first") from None
    except OSError as error:
        raise TrainingError(f"{name} cannot be changed: {error.strerror}") from error


def _move(path: Path, target: Path, name: str) -> None:
    try:
        os.rename(path, target)
    except OSError as error:
        raise TrainingError(f"{name} cannot be changed: {error.strerror}") from error


def archive_run(folder: Path, target: Path) -> None:
    """Pack a run into a ZIP file, without what begins with a dot: the lock, and files half written. Raises TrainingError."""
    if not os.path.isfile(folder / "config.json"):
        raise TrainingError(f"{folder.name} is no longer here")
    try:
        with replacing(target) as file, zipfile.ZipFile(file, "w", strict_timestamps=False) as archive:
            for path in sorted(folder.rglob("*")):
                inside = path.relative_to(folder)
                if not any(part.startswith(".") for part in inside.parts) and path.is_file() and not path.is_symlink():
                    _pack(archive, path, Path(folder.name) / inside)
    except OSError as error:
        raise TrainingError(f"{folder.name} cannot be packed: {error.strerror}") from error


def _pack(archive: zipfile.ZipFile, path: Path, name: Path) -> None:
    weights = path.suffix in (".safetensors", ".pt")  # which do not shrink
    with suppress(FileNotFoundError):  # progress.json comes and goes while a run is trained
        archive.write(path, name, zipfile.ZIP_STORED if weights else zipfile.ZIP_DEFLATED)
