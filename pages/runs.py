"""Every training in the runs folder: its state, what can be done with it, and several side by side."""

import shlex

import streamlit as st

from dashboard import compare_measured, compare_runs, models, navigation, one_run, run_choice, runs_now
from engine.run_library import Run


def nothing_yet() -> None:
    """What to do where there is no run."""
    st.markdown("Nothing has been trained here yet. Start a training in the browser:")
    navigation.link("training", "Go to Training")
    st.markdown("or in a terminal; it shows up here as soon as it begins:")
    st.code(f"python -m engine train --out {shlex.quote(str(folder / 'first'))}", language="bash", wrap_lines=True)


def side_by_side(chosen: list[Run], colours: dict[str, int]) -> None:
    """Two runs or more."""
    compare_runs.differences(chosen)
    compare_runs.curves(chosen, colours)
    networks, told = compare_runs.networks(chosen)
    views, missing = compare_measured.views(networks, {name: f"runs/{name}" for name in networks})
    for sentence in [*told, *missing]:
        st.warning(sentence)
    if views:
        with st.container(key="exits"):
            compare_measured.exits(views, colours)
    compare_runs.gamma_difference(networks)
    if views:
        with st.container(key="robust"):
            compare_measured.robust(views, colours)


st.title("Runs", anchor=False)
folder = models.runs_folder().resolve()
st.markdown(
    f"Every training in `{folder}`. Choose one to open, rename, download or delete it, several to compare them."
)
if done := st.session_state.pop("run_done", None):
    st.toast(done)
runs = runs_now.listed()
if runs:
    chosen = run_choice.choose(runs)
    colours = compare_runs.colours(chosen)
    if len(chosen) == 1:
        one_run.draw(chosen[0])
        compare_runs.curves(chosen, colours)
    elif chosen:
        side_by_side(chosen, colours)
else:
    nothing_yet()
