"""Which networks stand beside each other on the page Baselines."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import streamlit as st

from engine.checkpoint import Checkpoint, CheckpointError
from engine.comparison import BASELINES

from . import compare_measured, compare_runs, family, models
from .session import View


def choose(view: View) -> tuple[dict[str, View], list[str]]:
    """The networks chosen, by the name they have on the page, on test samples alike; a sentence for each that cannot be
    shown."""
    available = models.names()
    related = family.of(view.name, available)
    titles = {model: BASELINES[key] for key, model in related.items()}
    # one choice for all that belong together, whichever of them the sidebar shows
    key = _key(next(iter(related.values()), view.name))
    chosen = st.multiselect(
        "Networks",
        available,
        default=list(titles) or [name for name in (view.name,) if name in available],
        key=key,
        bind="query-params",
        format_func=lambda name: titles.get(name, name),
        help="At first those that were trained together with the network in the sidebar. Any other can be put beside them.",
    )
    checkpoints, told = _opened(view, chosen)
    named = {titles.get(name, name): name for name in chosen if name in checkpoints}
    found, missing = compare_measured.views(
        {title: checkpoints[name] for title, name in named.items()}, named, alike=True
    )
    return found, [*told, *missing]


def _key(model: str) -> str:
    return "networks" if model == models.DEFAULT else f"networks_{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def _opened(view: View, chosen: Sequence[str]) -> tuple[dict[str, Checkpoint], list[str]]:
    """Each as its file says; the one in the sidebar as it was set there."""
    found, told = {}, []
    for name in chosen:
        try:
            checkpoint = view.checkpoint if name == view.name else models.open_model(name)
        except CheckpointError as error:
            told.append(f"{error}.")
            continue
        if checkpoint.model is None:
            told.append(f"{name} holds γ alone: there is no network to run.")
        else:
            found[name] = checkpoint
    return found, told


def cautions(found: Mapping[str, View]) -> list[str]:
    """What cannot be compared between these networks, in sentences."""
    return compare_runs.other_data({name: view.data.title for name, view in found.items()}, "networks")
