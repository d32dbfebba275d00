"""A run on disk: a folder that survives being stopped at any moment. engine.run_library reads what is written here.

config.json             network and recipe, how and when the run was begun, and on how many threads
metrics.jsonl           a line per epoch
gamma/0001.safetensors  γ and running statistics after each epoch, with BNTT alone
model.safetensors       the network: of the best epoch on the validation samples, or of the last without them
last.safetensors        the network of the last epoch, where validation samples choose the best
state.pt                what `resume` needs besides
progress.json           how far it is (engine.progress); gone when the run has come to its end
result.json             what was measured on the test samples at the end
stopped.json            why the run failed; gone when it is resumed
tensorboard/            the metrics again, for TensorBoard
.lock                   held by the process that trains; the system lets go of it when the process dies
"""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from filelock import FileLock, Timeout

from . import progress
from .checkpoint import save_checkpoint
from .checkpoint.errors import shown
from .datasets import DataSet
from .files import read_table, replacing, write_text
from .recipe import Recipe
from .snn import ModelConfig, SpikingNetwork

LOCK_SECONDS = 5  # whoever looks whether a run is trained holds its lock for a moment
_TEMPORARY = r"\.(?:\w+\.(?:json|jsonl|safetensors|pt))\.[a-z0-9_]{8}"  # as engine.files makes them


class TrainingError(Exception):
    """A run cannot start or go on; one sentence."""


class Setup(NamedTuple):
    """What config.json says. command: "" when unknown. created: seconds since the epoch. threads: None when unknown."""

    config: ModelConfig
    recipe: Recipe
    command: str
    created: float
    threads: int | None


@dataclass(frozen=True)
class OpenRun:
    """A run whose folder this process holds. done: epochs finished. state: what state.pt holds, None before the first."""

    folder: Path
    command: str
    done: int
    state: dict | None


def create_run(folder: Path, config: ModelConfig, recipe: Recipe, *, command: str, threads: int) -> None:
    """Make the folder of a run that `train(…, resume=True)` will begin. Raises TrainingError when it holds one."""
    setup = {
        "model": config.to_dict(),
        "recipe": asdict(recipe),
        "command": command,
        "created": datetime.now(timezone.utc).isoformat(),
        "threads": threads,
    }
    _require_empty(folder)
    with held(folder):
        _require_empty(folder)  # looked at again: nobody else can make one now
        try:
            write_text(folder / "config.json", json.dumps(setup, indent=1))
        except OSError as error:
            raise TrainingError(f"{folder} cannot be written: {error.strerror}") from error


def _require_empty(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise TrainingError(f"{folder} is a file: name a folder for the run")
    if (folder / "config.json").exists():
        raise TrainingError(f"{folder} already holds a run: choose another folder, or go on with --resume")


def read_setup(folder: Path) -> Setup:
    """The settings of a run, of any age. Raises TrainingError."""
    file = folder / "config.json"
    if not file.exists():
        raise TrainingError(f"there is no run to resume in {folder}")
    try:
        found = read_table(file)
        config, recipe = _network(found.get("model")), Recipe.from_dict(found.get("recipe"))
        changed = file.stat().st_mtime
    except (OSError, ValueError, OverflowError) as error:
        said = shown(getattr(error, "strerror", None) or error, 300)
        raise TrainingError(f"the config.json of the run in {folder} is damaged ({said}): train anew") from error
    threads, command = found.get("threads"), found.get("command")
    return Setup(
        config,
        recipe,
        shown(command, 10_000) if isinstance(command, str) else "",
        _moment(found.get("created"), changed),
        threads if type(threads) is int and 1 <= threads <= 1024 else None,
    )


def _network(values: object) -> ModelConfig:
    """Raises ValueError."""
    layout = values.get("layout") if isinstance(values, dict) else None
    if layout is not None and not (isinstance(layout, str) and len(layout) <= 1000):  # a layer is made of each token
        raise ValueError("its layout is no text of at most 1000 letters")
    return ModelConfig.from_dict(values)


def _moment(text: object, otherwise: float) -> float:
    """An ISO time in seconds since the epoch."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return otherwise


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder of a run, made if need be, so that nobody else trains in it.

    When it ends well, progress.json goes: nothing is under way any more. Raises TrainingError.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        raise TrainingError(f"another process is training in {folder}: wait until it ends, or stop it") from None
    except OSError as error:
        raise TrainingError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        yield
        (folder / progress.PROGRESS_FILE).unlink(missing_ok=True)
    finally:
        lock.release()


@contextmanager
def failures_kept(folder: Path) -> Iterator[None]:
    """Whatever is raised inside is also kept, in a sentence, in stopped.json. A run that a person stops has not failed.

    Want of memory becomes a TrainingError.
    """
    try:
        yield
    except Exception as error:
        memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)
        said = "there is not enough memory for this: try a smaller batch" if memory else _sentence(error)
        with suppress(OSError):  # a full disk may be what the error is about
            write_text(folder / "stopped.json", json.dumps({"error": said}))
        if memory:
            raise TrainingError(said) from error
        raise


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror}"
    told = isinstance(error, ValueError) or type(error).__module__.startswith("engine.")  # these are written for people
    return shown(error if told else f"{type(error).__name__}: {error}", 500)


@contextmanager
def open_run(
    folder: Path, config: ModelConfig, recipe: Recipe, *, resume: bool, command: str = "", threads: int | None = None
) -> Iterator[OpenRun]:
    """Hold a run while it is trained, a new one or with `resume` an existing one, which must have the same settings.

    threads: how many torch computes on meanwhile; None = as many as it does now, or as the run began with, since
    rounding depends on it. Raises TrainingError; failures inside are kept in stopped.json.
    """
    if resume:
        found = read_setup(folder)
        if (found.config, found.recipe) != (config, recipe) or threads not in (None, found.threads or threads):
            raise TrainingError(f"{folder} holds a run with other settings than these; see its config.json")
        command, threads = found.command, found.threads or threads  # how it began, not how it goes on
    threads = threads or torch.get_num_threads()
    if not resume:
        create_run(folder, config, recipe, command=command, threads=threads)
    with held(folder), computing_on(threads):
        state = _prepared(folder)
        with failures_kept(folder):
            write_text(folder / progress.PROGRESS_FILE, "{}")  # under way, and how far is not known yet
            yield OpenRun(folder, command or (state or {}).get("command", ""), state["epoch"] if state else 0, state)


@contextmanager
def computing_on(count: int) -> Iterator[None]:
    """Let torch compute on so many threads inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepared(folder: Path) -> dict | None:
    """The saved state of a run that is held, None before its first epoch; what a killed process left is cleared away."""
    for inside in ("gamma", "tensorboard"):
        if (folder / inside).is_symlink():
            raise TrainingError(f"{folder / inside} is a link to somewhere else: put a folder in its place to go on")
    try:
        state = None
        if (folder / "state.pt").exists():
            state = torch.load(folder / "state.pt", map_location="cpu", weights_only=True)
        done = state["epoch"] if state else 0
        metrics = folder / "metrics.jsonl"
        if state or metrics.exists():
            write_text(metrics, "".join(metrics.read_text().splitlines(keepends=True)[:done]))
        for file in (folder / "gamma").glob("*.safetensors"):
            if file.stem.isdecimal() and int(file.stem) > done:
                file.unlink()
        for file in (*folder.glob(".*"), *(folder / "gamma").glob(".*")):
            if re.fullmatch(_TEMPORARY, file.name):
                file.unlink()
        (folder / "stopped.json").unlink(missing_ok=True)
        return state
    except (ValueError, KeyError, TypeError, RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"the run in {folder} is damaged and cannot go on ({type(error).__name__}): train anew"
        ) from error


def save_epoch(run: OpenRun, model: SpikingNetwork, optimizer, data: DataSet, recipe: Recipe, row: dict, best: dict):
    """Metrics first and state last: whatever a crash leaves, `resume` repeats the epoch and nothing is lost.

    row: this epoch's metrics. best: kept for `resume` beside weights and optimiser; its "best_epoch" says whether the
    network of this epoch is the one to keep.
    """
    folder, epoch = run.folder, row["epoch"]
    metrics = folder / "metrics.jsonl"
    lines = metrics.read_text().splitlines(keepends=True)[: epoch - 1] if metrics.exists() else []
    write_text(metrics, "".join(lines) + json.dumps(row) + "\n")
    if model.config.norm == "bntt":
        with replacing(folder / "gamma" / f"{epoch:04}.safetensors") as file:
            file.write(safetensors.torch.save(_statistics(model)))
    mean, std = data.moments(model.config.in_shape[0])
    described = {"dataset": data.name, "mean": mean, "std": std, "epoch": epoch, "recipe": asdict(recipe)}
    if best["best_epoch"] == epoch:
        save_checkpoint(folder / "model.safetensors", model, **described, command=run.command)
    if recipe.validation:
        save_checkpoint(folder / "last.safetensors", model, **described, command=run.command)
    with replacing(folder / "state.pt") as file:
        saved = {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save({**saved, **best, "command": run.command}, file)


def save_result(run: OpenRun, result: dict) -> None:
    """What was measured at the end, as result.json."""
    write_text(run.folder / "result.json", json.dumps(result, indent=1))


def _statistics(model: SpikingNetwork) -> dict[str, torch.Tensor]:
    """γ, μ and σ² of each BNTT layer, [T, C]."""
    found = {}
    for spec in model.config.hidden_layers():
        norm = model.get_submodule(spec.norm_name)
        for name in ("gamma", "running_mean", "running_var"):
            found[f"{spec.name}.{name}"] = getattr(norm, name)().detach().cpu().contiguous()
    return found
