"""A new training: its name, its settings, what it will cost, and the button that starts it."""

from __future__ import annotations

import re

import streamlit as st
import torch

from engine import datasets, run_library
from engine.command_line import train_command
from engine.presets import PRESETS
from engine.recipe import Recipe
from engine.runs import TrainingError, create_run
from engine.snn import ModelConfig

from . import bootstrap, data, models, training_cost, training_form, training_view
from .training_form import Start

_ERROR = "start_error"
_SUGGESTED = "suggested_name"


def draw() -> None:
    """The form. What is said under Start may come and go; Start itself keeps its place while a person thinks."""
    presets, sets, names = st.columns(3)
    start = training_form.begin(presets, sets)
    name = _name(start, names)
    about = st.container(horizontal=True, vertical_alignment="center")
    network, recipe, knobs = training_form.settings(start)
    config, wrong = None, _wrong_name(name)
    try:
        config, recipe = training_form.build(network, recipe)
    except ValueError as error:
        wrong = str(error)
    if knobs.wrong:
        config, wrong = None, knobs.wrong[0]
    with about:
        st.caption(_about(start, config, recipe), width="stretch")
        st.button("Back to the preset", type="tertiary", disabled=not knobs.changed, on_click=knobs.refill)
    possible = not (wrong or start.missing)
    # not by on_click, which would get the settings of the run before: a number typed last would not count
    if st.button("Start", type="primary", icon=":material/play_arrow:", disabled=not possible) and possible:
        _begin(name, config, recipe)
    if config:
        training_cost.estimate(config, recipe)
    if wrong := st.session_state.pop(_ERROR, wrong):
        st.error(f"{wrong[0].upper()}{wrong[1:]}.")
    if start.missing:
        data.offer(start.data, start.missing)


def command(config: ModelConfig, recipe: Recipe, name: str, threads: int | None = None) -> str:
    """What a person would type in the project's folder to train this without the app, and on so many threads."""
    out, sets = models.runs_folder() / name, datasets.folder()
    if out.is_relative_to(bootstrap.ROOT):
        out = out.relative_to(bootstrap.ROOT)
    usual = sets == bootstrap.ROOT / ".data"
    return train_command(config, recipe, out, data=None if usual else sets, threads=threads)


def _name(start: Start, place) -> str:
    """The name of the run, first one that is free."""
    stem, number = start.preset if start.own else start.data.name, 1
    while (models.runs_folder() / f"{stem}-{number}").exists():
        number += 1
    key, suggested = f"name {stem}", f"{stem}-{number}"
    if st.session_state.get(key) in (None, st.session_state.get(_SUGGESTED)):  # a name that was typed stays
        st.session_state[key] = suggested
    st.session_state[_SUGGESTED] = suggested
    help = f"Of its folder in {models.runs_folder()}."
    return place.text_input("Name of the run", key=key, persist_state="session", help=help).strip()


def _wrong_name(name: str) -> str:
    """Why no run can be called so; "" where one can."""
    if not re.fullmatch(run_library.NAME, name):
        return "the name of a run is made of up to 60 letters, digits, “.”, “_” and “-”, and does not begin with “.”"
    if (models.runs_folder() / name).exists():
        return f"the name {name} is taken: choose another"
    return ""


def _about(start: Start, config: ModelConfig | None, recipe: Recipe) -> str:
    """What the preset is, and what a person changed of it."""
    changed = training_form.changes(start, config, recipe) if config else []
    said = PRESETS[start.preset].about if start.own else f"{start.data.title}: {start.data.about}."
    return said + (f"  \nChanged from the preset: {', '.join(changed)}." if changed else "")


def _begin(name: str, config: ModelConfig, recipe: Recipe) -> None:
    """Make the folder of the run, and let a run of the script that follows start it and show it."""
    threads = torch.get_num_threads()
    said = command(config, recipe, name, threads)
    try:
        create_run(models.runs_folder() / name, config, recipe, command=said, threads=threads)
    except TrainingError as error:
        st.session_state[_ERROR] = _wrong_name(name) or str(error)  # another visitor was quicker
        return
    training_view.begin(name)
    st.rerun()
