"""What a training will cost, said before it starts: measured on a worker, once for all settings that cost the same."""

from __future__ import annotations

import streamlit as st

from engine import cost
from engine.cost import Cost
from engine.datasets import DataError
from engine.jobs import OVER, Job
from engine.recipe import Recipe
from engine.snn import ModelConfig

from . import work

_ASKED = "cost_job"  # key of the measurement that this visitor asked for last
_OVER = "cost_known"


def estimate(config: ModelConfig, recipe: Recipe) -> None:
    """One line on time and memory, or a warning where the memory will not do."""
    try:
        samples = cost.training_samples(recipe.dataset)
    except (ValueError, DataError):
        return  # the form says what is wrong with the data set
    job = _job(config, recipe, samples)
    polled = job.state not in OVER
    st.session_state[_OVER] = False

    @st.fragment(run_every=1.0 if polled else None)
    def body():
        if st.session_state[_OVER]:
            st.rerun()  # stops the timer, as in work.live
        st.session_state[_OVER] = polled and job.state in OVER
        if job.state == "failed":
            st.caption(f"What it will cost could not be measured: {job.error}")
        elif job.state == "done":
            _say(job.results[0], recipe)
        else:
            st.caption("Measuring on its first steps what it will cost …")

    body()


def _job(config: ModelConfig, recipe: Recipe, samples: int) -> Job:
    """The measurement, with what it does not depend on left as usual; one that nobody looks at any more is cancelled."""
    same = {name: getattr(recipe, name) for name in ("batch", "optimizer", "validation", "clip", "precision")}
    like = Recipe(recipe.dataset, epochs=1, **same)
    job = work.cost_job(config, like, samples)
    if job.state == "cancelled":  # by a visitor who went on to other settings
        work.jobs().forget(job.key)
        job = work.cost_job(config, like, samples)
    before = st.session_state.get(_ASKED)
    st.session_state[_ASKED] = job.key
    if before != job.key and (old := work.jobs().get(before)) is not None:
        old.cancel()
    return job


def _say(found: Cost, recipe: Recipe) -> None:
    seconds, there = found.seconds_epoch * recipe.epochs, found.machine
    few = 4 * found.batch_measured < recipe.batch
    said = (
        f"{'Very roughly' if few else 'About'} **{_span(seconds)}** and **{_gigabytes(found.memory)}** of memory, measured on "
        f"{found.steps_measured} steps of {found.batch_measured} samples{f' instead of {recipe.batch}' if few else ''}; corrected "
        "while it trains."
    )
    if there is not None and found.memory > there:
        st.warning(f"{said} This machine has {_gigabytes(there)}: choose a smaller batch, network or T.")
    else:
        st.caption(said)


def _span(seconds: float) -> str:
    """A length of time, roughly."""
    for size, name in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 1.5 * size:
            count = seconds / size
            return f"{count:.0f} {name}" if count >= 10 else f"{count:.2g} {name}"
    return f"{max(1, round(seconds))} s"


def _gigabytes(count: float) -> str:
    if count < 1e9:
        return f"{max(1, count / 1e6):.0f} MB"
    return f"{count / 1e9:.2g} GB" if count < 1e11 else f"{count / 1e9:,.0f} GB"
