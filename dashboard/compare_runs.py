"""Several runs side by side: their settings, how they learned, where their γ differ."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import streamlit as st

from engine import run_metrics
from engine.analysis import gamma
from engine.checkpoint import Checkpoint, CheckpointError
from engine.run_library import Run

from . import models, run_table, runs_now, show
from .charts import comparison, run_looks, training

LOOK_SECONDS = 3.0  # between looks at runs that train


def colours(runs: list[Run]) -> dict[str, int]:
    """Which colour each chosen run has; it keeps it while others come and go."""
    before = st.session_state.get("run_colours", {})
    st.session_state["run_colours"] = found = run_looks.places([run.name for run in runs], before)
    return found


def differences(runs: list[Run]) -> None:
    """In which settings they differ, and what that means for a comparison."""
    table = run_table.differences(runs)
    st.subheader("What differs", anchor=False)
    if table.empty:
        st.markdown("They have the same settings, seed included.")
    else:
        st.dataframe(table, hide_index=True, height="content", column_config={"Setting": {"pinned": True}})
    for sentence in cautions(runs):
        st.info(sentence)


def cautions(runs: list[Run]) -> list[str]:
    """What cannot be compared between these runs, in sentences."""
    found = other_data({run.name: run.recipe.dataset for run in runs}, "runs")
    classes = _groups({run.name: run.config.classes for run in runs})
    if len(classes) > 1:
        said = ", ".join(f"{100 / count:.3g} % for {', '.join(names)}" for count, names in classes.items())
        found.append(f"They tell different numbers of classes apart: guessing gives {said}.")
    return found


def other_data(data: Mapping[str, str], what: str) -> list[str]:
    """A sentence where these learned different data. data: by name. what: "runs" or "networks"."""
    groups = _groups(data)
    if len(groups) < 2:
        return []
    said = "; ".join(f"{', '.join(names)}: {name}" for name, names in groups.items())
    return [
        f"These {what} learned different data ({said}). Each is measured on its own test samples, so what can be compared is "
        "how their curves run, not how high."
    ]


def _groups(values: Mapping[str, object]) -> dict[object, list[str]]:
    """Value → the names that have it."""
    found: dict[object, list[str]] = {}
    for name, value in values.items():
        found.setdefault(value, []).append(name)
    return found


# ---------------------------------------------------------------------------------------------------- the training


def curves(runs: list[Run], kept: Mapping[str, int]) -> None:
    """Loss and accuracy over the epochs; they grow while one of the runs trains."""
    st.subheader("Training", anchor=False)
    classes = {run.config.classes for run in runs}
    chance = 1 / classes.pop() if len(classes) == 1 else None
    epochs = max(run.recipe.epochs if run.state == "running" else run.epochs_done for run in runs)

    @st.fragment(run_every=LOOK_SECONDS if any(run.state in runs_now.LIVE for run in runs) else None)
    def body() -> None:
        table = pd.concat([run_metrics.metrics(run.folder).assign(run=run.name) for run in runs], ignore_index=True)
        left, right = st.columns(2)
        with left:
            st.markdown("**Loss** on the training samples")
            show.chart(training.loss_curves(table, epochs, kept), table, "run_loss", "Training loss after each epoch.")
        with right:
            st.markdown("**Accuracy at T** on the training and validation samples")
            figure = training.accuracy_curves(table, epochs, kept, chance)
            show.chart(figure, table, "run_accuracy", "Accuracy at T after each epoch.")

    body()


# --------------------------------------------------------------------------------------------------------------- γ


def networks(runs: list[Run]) -> tuple[dict[str, Checkpoint], list[str]]:
    """The networks that can be opened, by run, and a sentence for each that cannot."""
    found, told = {}, []
    for run in runs:
        try:
            found[run.name] = models.open_model(f"runs/{run.name}")
        except CheckpointError as error:
            begun = (run.folder / "model.safetensors").exists()
            told.append(f"{error}." if begun else f"{run.name} has no network yet: its first epoch has not ended.")
    return found, told


def gamma_difference(found: Mapping[str, Checkpoint]) -> None:
    """Mean γ of one run less that of another."""
    with_gamma = [name for name, checkpoint in found.items() if checkpoint.stacks]
    st.subheader("γ, one less the other", anchor=False)
    if len(with_gamma) < 2:
        st.markdown("It takes two runs with BNTT: other networks have no γ over time.")
        return
    left, right = st.columns(2)
    first = _pick(left, "γ of", with_gamma, 0, "gamma_a")
    second = _pick(right, "less γ of", with_gamma, 1, "gamma_b")
    a, b = (gamma.layer_means(found[name]) for name in (first, second))
    both = a.merge(b, on=["layer", "step"], suffixes=("_a", "_b"))
    both["difference"] = both["value_a"] - both["value_b"]
    show.chart(
        comparison.gamma_difference(a, b, (first, second)),
        both,
        "gamma_difference",
        f"Mean γ of {first} less that of {second}, by layer and timestep.",
    )
    for sentence in _unlike(first, found[first], second, found[second]):
        st.caption(sentence)


def _pick(place, label: str, names: list[str], usual: int, key: str) -> str:
    if st.session_state.get(key) not in (None, *names):
        del st.session_state[key]
    return place.selectbox(label, names, index=usual, key=key, bind="query-params")


def _unlike(first: str, a: Checkpoint, second: str, b: Checkpoint) -> list[str]:
    """Where two networks have no value to compare, in sentences."""
    said = []
    for run, own, other in ((first, a, b), (second, b, a)):
        if alone := [layer for layer in own.stacks if layer not in other.stacks]:
            said.append(f"Only {run} has {', '.join(alone)}.")
    wider = [
        name for name in a.stacks if name in b.stacks and a.stacks[name].gamma.shape[1] != b.stacks[name].gamma.shape[1]
    ]
    if wider:
        said.append(f"The means are over different numbers of channels in {', '.join(wider)}.")
    return said
