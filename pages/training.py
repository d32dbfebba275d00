"""Train a network, and watch its accuracy and γ take shape."""

import pandas as pd
import streamlit as st

from dashboard import models, new_training, recipe_form, show, training_form, training_view
from engine import run_library
from engine.run_library import Run
from engine.snn import LAYOUTS

NEW = "New training"


def watch(runs: list[Run]) -> None:
    """One run: how it is doing, what can be done with it, its curves, and the command that repeats it."""
    choice, *buttons = st.columns([4, 2, 2, 3], vertical_alignment="bottom")
    run = training_view.choose(runs, choice)
    show.saved_as(run.name)
    state = training_view.controls(run, buttons)
    said = run.command or new_training.command(run.config, run.recipe, run.name)
    more = [lambda: settings(run), lambda: command(said)]
    training_view.curves(run, [one for one in runs if one.name != run.name], state.live, more)


def settings(run: Run) -> None:
    """What the run was begun with."""
    config, recipe = run.config, run.recipe
    gamma_decay = recipe.weight_decay if recipe.gamma_decay is None else recipe.gamma_decay
    said = {
        "Data set": recipe.dataset,
        "Network": f"{config.arch}: {config.layout or LAYOUTS[config.arch]}",
        "Normalisation": training_form.NORM_TITLES.get(config.norm, config.norm),
        "Input coding": config.encoding,
        "T, λ, θ": f"{config.steps}, {config.leak:g}, {config.threshold:g}",
        "Epochs, batch": f"{recipe.epochs}, {recipe.batch}",
        "Optimiser": f"{recipe_form.OPTIMIZER_TITLES[recipe.optimizer]}, momentum {recipe.momentum:g}",
        "Learning rate": f"{recipe.lr:g}, {recipe_form.SCHEDULE_TITLES[recipe.schedule]}",
        "Weight decay": f"{recipe.weight_decay:g}, of γ {gamma_decay:g}",
        "Validation": f"{100 * recipe.validation:g} % of the training samples",
        "Seed, precision": f"{recipe.seed}, {recipe.precision}",
    }
    st.markdown("**Settings**")
    st.table(pd.Series(said, name=""), border="horizontal", hide_header=True)


def command(said: str) -> None:
    """What trains the same from a terminal."""
    st.markdown("**The same training from a terminal**")
    st.code(said, "bash", wrap_lines=True)
    st.caption("To be typed in the project's folder; with another `--out`, since this run is already there.")


st.title("Training", anchor=False)
st.markdown("Train a network, watch its accuracy and γ take shape, and come back when it is finished.")
training_view.follow_link()
training_view.begin_asked()
found = run_library.list_runs(models.runs_folder())
if not found and "tab" not in {*st.session_state, *st.query_params}:
    st.session_state["tab"] = NEW
watching, starting = st.tabs([training_view.TAB, NEW], key="tab", bind="query-params")
if watching.open:
    with watching:
        if found:
            watch(found)
        else:
            st.markdown("Nothing has been trained here yet: choose a preset under “New training”.")
if starting.open:
    with starting:
        new_training.draw()
