"""Leaving at one timestep for all samples: what it costs and saves, in numbers, curves and changed answers."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import streamlit as st

from engine.analysis import early_exit
from engine.analysis.energy import Constants
from engine.analysis.evaluation import Evaluation

from . import show
from .charts import early_exit as charts
from .session import View

THUMBNAILS = 24


def numbers(view: View, here: pd.Series, end: pd.Series, constants: Constants) -> None:
    """Accuracy, spikes, energy and latency of one exit step against T. here, end: rows of an exit table."""
    points = 100 * (here["accuracy"] - end["accuracy"])
    same = abs(points) < 0.05
    gained = "as at T" if same else f"{points:+.1f} points vs T"
    with st.container(horizontal=True, gap="small"):
        st.metric(
            "Accuracy",
            show.share(here["accuracy"]),
            gained if here["step"] < end["step"] else None,
            "off" if same else "normal",
            delta_arrow="off" if same else "auto",
            border=True,
            width=168,
            help=f"{here['correct']:.0f} of {here['samples']:.0f} samples right; 95 % interval {show.share(here['low'])} to {show.share(here['high'])}",
        )
        if view.checkpoint.config.kind != "ann":
            said = "Fired by all hidden layers up to the exit, mean over the samples"
            cost("Spikes a sample", show.amount, here["spikes"], end["spikes"], said)
        said = f"Estimate: {constants.ac_pj:g} pJ per accumulate, {constants.mac_pj:g} pJ per multiply-accumulate"
        cost("Energy a sample", show.energy, here["energy_nj"], end["energy_nj"], said)
        said = "Time for one image on this machine, the fastest of 9 runs"
        cost("Latency", milliseconds, here["latency_ms"], end["latency_ms"], said)


def cost(label: str, written: Callable[[float], str], here: float, end: float, about: str) -> None:
    """A number that is the better the lower, against the full T."""
    st.metric(label, written(here), _less(here, end), "inverse", border=True, width=168, help=about)


def milliseconds(value: float) -> str:
    """A latency in ms as people read it; "…" for NaN, before it has been measured."""
    return "…" if pd.isna(value) else f"{value:.2f} ms"


def _less(value: float, full: float) -> str | None:
    """Change against the full T for a metric; None where there is nothing to compare."""
    if pd.isna(value) or not full or value == full:
        return None
    return f"{100 * (value / full - 1):+.1f} % vs T"


def rule_sentence(view: View, table: pd.DataFrame, rule: int | None, threshold: float) -> None:
    """What the paper's γ rule saves, at this threshold."""
    if not view.checkpoint.stacks or view.caution:
        return
    if rule is None:
        st.markdown(
            "The paper's γ rule does not leave this network early: mean γ never falls below "
            f"{threshold:g} in every layer at once."
        )
        return
    lost = 100 * (table["accuracy"].iloc[-1] - table["accuracy"].iloc[rule - 1])
    saved = 100 * (1 - table["energy_nj"].iloc[rule - 1] / table["energy_nj"].iloc[-1])
    change = (
        "the same accuracy as at T"
        if abs(lost) < 0.05
        else f"{abs(lost):.1f} points {'less' if lost > 0 else 'more'} accuracy"
    )
    st.markdown(
        f"The paper's γ rule leaves at **t = {rule}**, where mean γ is below {threshold:g} in every layer: {change}, for "
        f"{saved:.0f} % less energy."
    )


def curves(table: pd.DataFrame, step: int, rule: int | None) -> None:
    """Accuracy and costs against the exit step, and against each other."""
    st.subheader("Accuracy against the exit timestep", anchor=False)
    show.chart(
        charts.accuracy_curve(table, step, rule),
        table,
        "accuracy",
        "Accuracy at each exit timestep with its 95 % interval.",
    )
    left, right = st.columns(2)
    with left:
        st.markdown("**Cost of leaving at t**, as a share of the full T")
        show.chart(
            charts.cost_curves(table, step, rule), table, "cost", "Spikes, energy and latency at each exit timestep."
        )
    with right:
        st.markdown("**Accuracy against energy**, a point per exit timestep")
        show.chart(
            charts.trade_off(table, step, rule), table, "trade_off", "Accuracy against energy for each exit timestep."
        )


def changed(view: View, evaluation: Evaluation, step: int) -> None:
    """Which samples answer differently here and at T."""
    found = early_exit.changed_answers(evaluation, step)
    st.subheader(f"Answers that change between t = {step} and T = {view.steps}", anchor=False)
    if found.empty:
        st.markdown(f"None of the {evaluation.samples:,} samples changes its answer.")
        return
    counts = found["effect"].value_counts()
    st.markdown(
        f"**{len(found)}** of {evaluation.samples:,} samples: {counts.get('gained', 0)} become right, "
        f"{counts.get('lost', 0)} become wrong, {counts.get('other', 0)} stay wrong."
    )
    words = {"gained": "becomes right", "lost": "becomes wrong", "other": "stays wrong"}
    name = {k: view.class_name(int(k)) for k in set(found["here"]) | set(found["at_end"])}
    labels = view.data.classes
    listed = found.assign(
        label=[labels[k] for k in found["label"]],
        here=found["here"].map(name),
        at_end=found["at_end"].map(name),
        effect=found["effect"].map(words),
    )
    first = list(listed.head(THUMBNAILS).itertuples())
    st.image(
        [show.picture(view.pixels[row.row], 96) for row in first],
        [f"{row.here} → {row.at_end}, is {row.label} · #{row.row}" for row in first],
        width=96,
    )
    with st.expander("All of them as a table"):
        st.dataframe(
            listed.rename(
                columns={
                    "row": "Sample",
                    "label": "True class",
                    "here": f"At t = {step}",
                    "at_end": f"At T = {view.steps}",
                    "effect": "Going on",
                }
            ),
            hide_index=True,
        )
