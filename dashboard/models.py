"""Which models a visitor can choose: bundled, trained here, uploaded."""

from __future__ import annotations

import os
from pathlib import Path

import streamlit as st

from engine import bundled
from engine.checkpoint import Checkpoint, CheckpointError, load_checkpoint

from .visitor import uploads, visitor

DEFAULT = "bundled/digits"


def runs_folder() -> Path:
    """Where trained runs are looked for."""
    return Path(os.environ.get("BNTT_RUNS", "runs"))


def names() -> list[str]:
    """Every model this visitor can choose, as bundled/…, runs/… or uploads/…"""
    ready = [f"bundled/{name}" for name in bundled.names()]
    folder = runs_folder()
    # runs, and sets of runs
    found = sorted([*folder.glob("*/model.safetensors"), *folder.glob("*/*/model.safetensors")])
    places = [path.parent.relative_to(folder) for path in found]
    # what begins with a dot is being deleted, or nobody's run
    runs = [f"runs/{place.as_posix()}" for place in places if not any(part.startswith(".") for part in place.parts)]
    return ready + runs + [f"uploads/{name}" for name in uploads().names(visitor())]


def open_model(name: str) -> Checkpoint:
    """The checkpoint behind a name. Raises CheckpointError with one sentence."""
    group, _, rest = name.partition("/")
    if group == "uploads":
        checkpoint = uploads().get(visitor(), rest)
        if checkpoint is None:
            raise CheckpointError(f"{rest} is no longer here: upload it again")
        return checkpoint
    path = bundled.path(rest) if group == "bundled" else runs_folder() / rest / "model.safetensors"
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        raise CheckpointError(f"{name} is no longer here: choose another model") from None
    return _read(path, changed)


def accept(file) -> str:
    """Take an uploaded file in and return its model name. Raises CheckpointError with one sentence."""
    checkpoint = load_checkpoint(file, name=file.name)
    uploads().put(visitor(), file.name, checkpoint, file.size)
    return f"uploads/{file.name}"


@st.cache_resource(max_entries=16, show_spinner=False)
def _read(path: Path, changed: int) -> Checkpoint:
    return load_checkpoint(path)
