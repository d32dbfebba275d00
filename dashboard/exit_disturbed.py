"""What noise and attacks do to samples that leave when they are ready."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from engine.analysis import energy, exit_rules, robustness
from engine.analysis.energy import Constants
from engine.analysis.evaluation import Evaluation
from engine.analysis.exit_rules import Outcome
from engine.attacks import CLEAN, KINDS, Attack
from engine.jobs import Job

from . import show, start, work
from .charts import exit_rules as charts
from .knobs import Knobs, Number
from .session import View

_STRENGTHS = {
    "gaussian": (Number("σ", 0.001, 10.0, 0.05, "Standard deviation of the noise; pixels run from 0 to 1."), 0.2, 1),
    "fgsm": (Number("ε in 1/255", 0.01, 255.0, 1.0, "Largest change of any pixel, in steps of 1/255."), 8.0, 255),
    "pgd": (Number("ε in 1/255", 0.01, 255.0, 1.0, "Largest change of any pixel, in steps of 1/255."), 8.0, 255),
}


def section(view: View, rule: str, threshold: float, constants: Constants) -> None:
    """A disturbance to choose and to run, and the rule on clean and on disturbed samples."""
    st.subheader("Under noise and attack", anchor=False)
    st.markdown("What a disturbance does to the rule chosen above: when samples leave, and how many are right.")
    asked = _asked(view)
    if asked is None:
        return
    attack, samples = asked
    job = _job(view, attack, samples)
    if job is None:
        return
    parts = robustness.sweep_parts(view.checkpoint.config, [CLEAN, attack], samples)

    def draw() -> None:
        found = dict(work.sweep_results(job, parts))
        if CLEAN in found and attack in found and job.state == "done":
            _compare(view, found[CLEAN], found[attack], attack, rule, threshold, constants)

    work.live(job, draw, retry=False)


def _asked(view: View) -> tuple[Attack, int] | None:
    """The disturbance and the number of samples; None, and a sentence, where a number is out of bounds."""
    one, two, three = st.columns(3)
    kind = one.selectbox(
        "Disturbance",
        list(_STRENGTHS),
        format_func=lambda kind: KINDS[kind].label,
        key="exit_disturbance",
        bind="query-params",
    )
    knobs, (about, first, scale) = Knobs(kind), _STRENGTHS[kind]
    strength = knobs.number(two, "exit_strength", about, first)
    count = len(view.labels)
    about = Number("Samples to disturb", 1, count, 50, f"The first so many of {count} test samples.")
    samples = Knobs().number(three, "exit_samples", about, min(100, count)) if not knobs.wrong else None
    if samples is not None and not 1 <= samples <= count:
        knobs.wrong.append(f"Samples to disturb must be from 1 to {count:,}")
    if knobs.wrong:
        st.error(f"{knobs.wrong[0]}.")
        return None
    return Attack(kind, strength / scale), samples


def _job(view: View, attack: Attack, samples: int) -> Job | None:
    """A button to run it, and the run; None if it never ran."""
    clicked = st.session_state.get("run_disturbed", False)
    job = work.sweep_job(view, [CLEAN, attack], samples, work.SEED, start=clicked)
    passes = (1 + attack.passes(view.checkpoint.config.random_input)) * samples
    said = f"{attack.label} on {samples} samples, {passes:,} passes through the network."
    if job is not None and job.state == "done":
        said = f"Done for {attack.label} on {samples} samples. Another rule or threshold needs no new run."
    start.button(job, "run_disturbed", "Disturb", said)
    return job


def _compare(
    view: View,
    clean: Evaluation,
    disturbed: Evaluation,
    attack: Attack,
    rule: str,
    threshold: float,
    constants: Constants,
) -> None:
    """Accuracy and exits of the rule, side by side."""
    conditions = {"clean": clean, attack.label: disturbed}
    steps = {name: exit_rules.exit_steps(found, rule, threshold) for name, found in conditions.items()}
    one, other = (
        exit_rules.outcome(found, steps[name], energy.costs(view.checkpoint.config, found, constants))
        for name, found in conditions.items()
    )
    _numbers(one, other)
    at_end = [show.interval(*found.accuracy().iloc[-1][["accuracy", "low", "high"]]) for found in conditions.values()]
    when_ready = [show.interval(found.accuracy, found.low, found.high) for found in (one, other)]
    st.markdown(
        f"Right when ready: {when_ready[0]} clean, {when_ready[1]} under {attack.label}. Staying to T = {view.steps}: "
        f"{at_end[0]} clean, {at_end[1]} under {attack.label}. All on the first {clean.samples:,} test samples in one "
        "encoding, with 95 % intervals over the samples."
    )
    table = pd.concat(
        [exit_rules.shares(found, view.steps).assign(condition=name) for name, found in steps.items()],
        ignore_index=True,
    )
    said = "Share of samples that leave at each timestep, clean and disturbed."
    show.chart(charts.disturbed_exits(table, view.steps), table, "exit_disturbed", said)


def _numbers(one: Outcome, other: Outcome) -> None:
    """Of the disturbed samples (other), against the clean ones (one)."""
    with st.container(horizontal=True, gap="small"):
        wide = dict(border=True, width=248)
        lost = 100 * (other.accuracy - one.accuracy)
        said = f"{lost:+.1f} points, clean {show.share(one.accuracy)}"
        st.metric("Right, disturbed", show.share(other.accuracy), said, "normal" if lost else "off", **wide)
        later = other.mean_step - one.mean_step
        said = f"{later:+.2f} timesteps, clean {one.mean_step:.2f}"
        st.metric("Mean exit step, disturbed", f"{other.mean_step:.2f}", said, "inverse" if later else "off", **wide)
        more = 100 * (other.energy_nj / one.energy_nj - 1) if one.energy_nj else 0.0
        said = f"{more:+.1f} %, clean {show.energy(one.energy_nj)}"
        st.metric("Mean energy, disturbed", show.energy(other.energy_nj), said, "inverse" if more else "off", **wide)
