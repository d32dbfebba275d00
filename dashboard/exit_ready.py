"""Leaving each sample when it is ready: the rule and its threshold, what they yield, and what is best within a loss."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import streamlit as st

from engine.analysis import energy, exit_rules
from engine.analysis.energy import Constants, Costs
from engine.analysis.evaluation import Evaluation
from engine.analysis.exit_rules import RULES, Outcome

from . import exit_step, show
from .charts import exit_rules as charts
from .charts import theme
from .knobs import Knobs, Number
from .session import View

DYNAMIC = {name: title.capitalize() for name, title in RULES.items() if name != "fixed"}
SEED = 0  # of the halves
TOO_EARLY = 0.1  # of accuracy lost against T, from which on what is saved is no news
_READS = {
    "confidence": ("Leave when the largest probability is at least", 0.9),
    "margin": ("Leave when the largest probability exceeds the second by at least", 0.8),
    "entropy": ("Leave when the entropy of the probabilities (nats) is at most", 0.3),
    "stability": ("Leave when the answer has been the same for this many timesteps", 3),
}


@st.cache_data(max_entries=32, show_spinner=False)
def measured(
    fingerprint: str, data: str, samples: int, constants: Constants, _view: View, _evaluation: Evaluation
) -> tuple[Costs, pd.DataFrame]:
    """Costs of every sample of a finished evaluation, and the front of all rules."""
    costs = energy.costs(_view.checkpoint.config, _evaluation, constants)
    return costs, exit_rules.front(_evaluation, costs)


@st.cache_data(max_entries=64, show_spinner=False)
def _chosen(
    fingerprint: str,
    data: str,
    samples: int,
    constants: Constants,
    loss: float,
    rule_step: int | None,
    _evaluation: Evaluation,
    _costs: Costs,
) -> pd.DataFrame:
    return exit_rules.chosen(_evaluation, _costs, loss, SEED, rule_step)


def _asked(view: View, evaluation: Evaluation) -> tuple[str, str, int]:
    """What tells the evaluation of these samples from any other."""
    return view.fingerprint, view.data.name, evaluation.samples


def choice(view: View) -> tuple[str, float]:
    """The rule and its threshold, as chosen by a person."""
    st.subheader("Leave each sample when it is ready", anchor=False)
    st.markdown(
        "Each sample leaves at the first timestep at which its own answer is sure enough: easy ones early, hard ones late."
    )
    left, right = st.columns([2, 3])
    rule = left.pills(
        "Ready by",
        list(DYNAMIC),
        default="confidence",
        required=True,
        format_func=DYNAMIC.get,
        key="exit_rule",
        bind="query-params",
        help="Probabilities are the softmax of the scores collected up to t. Stability only looks at the answer.",
    )
    label, first = _READS[rule]
    key = view.key(f"exit_{rule}")
    if rule == "stability":
        return rule, right.slider(label, 1, view.steps, min(first, view.steps), key=key, bind="query-params")
    top = 1.0 if rule != "entropy" else math.ceil(100 * math.log(view.checkpoint.config.classes)) / 100
    return rule, right.slider(label, 0.0, top, first, 0.01, key=key, bind="query-params")


def section(
    view: View, evaluation: Evaluation, constants: Constants, gamma_step: int | None, timed: pd.DataFrame | None
) -> tuple[str, float]:
    """The choice, which is returned, what it yields, when samples leave, and all rules in one chart.

    gamma_step: of the γ rule. timed: of `early_exit.latency`, None until it has been measured.
    """
    costs, table = measured(*_asked(view, evaluation), constants, view, evaluation)
    rule, threshold = choice(view)
    steps = exit_rules.exit_steps(evaluation, rule, threshold)
    found = exit_rules.outcome(evaluation, steps, costs)
    full = _fixed(evaluation, costs, view.steps)
    latency, full_latency = (
        float("nan") if timed is None else exit_rules.mean_latency(at, timed) for at in (steps, np.array([view.steps]))
    )
    _numbers(found, full, latency, full_latency)
    if full.accuracy - found.accuracy > TOO_EARLY:
        st.warning(
            f"Here the rule lets samples go too early: {show.share(found.accuracy)} are right, and at T "
            f"{show.share(full.accuracy)}. Ask for surer answers."
        )
    else:
        _against_fixed(table, found)
    left, right = st.columns(2)
    with left:
        st.markdown("**When samples leave**, by class")
        counted = exit_rules.histogram(evaluation, steps)
        figure = charts.histogram(counted, view.data.classes, view.steps, found.mean_step)
        show.chart(figure, counted, "exit_histogram", "How many samples of each class leave at each timestep.")
    with right:
        _front(table, found, gamma_step and _fixed(evaluation, costs, gamma_step), gamma_step)
    return rule, threshold


def _fixed(evaluation: Evaluation, costs: Costs, step: int) -> Outcome:
    return exit_rules.outcome(evaluation, exit_rules.exit_steps(evaluation, "fixed", step), costs)


def _numbers(found: Outcome, full: Outcome, latency: float, full_latency: float) -> None:
    points = 100 * (found.accuracy - full.accuracy)
    same = abs(points) < 0.05
    with st.container(horizontal=True, gap="small"):
        st.metric(
            "Right when ready",
            show.share(found.accuracy),
            "as at T" if same else f"{points:+.1f} points vs T",
            "off" if same else "normal",
            delta_arrow="off" if same else "auto",
            border=True,
            width=168,
            help=f"{found.correct} of {found.samples} samples right; 95 % interval {show.share(found.low)} to "
            f"{show.share(found.high)}",
        )
        exit_step.cost("Mean exit step", "{:.2f}".format, found.mean_step, full.mean_step, "Mean over the samples")
        exit_step.cost("Mean spikes", show.amount, found.spikes, full.spikes, "Of a sample, up to its own exit")
        exit_step.cost("Mean energy", show.energy, found.energy_nj, full.energy_nj, "Of a sample, up to its own exit")
        said = "Time for one image on this machine at each exit step, mean over the samples"
        exit_step.cost("Mean latency", exit_step.milliseconds, latency, full_latency, said)


def _against_fixed(table: pd.DataFrame, found: Outcome) -> None:
    """What the rule saves against one step for all that is as accurate."""
    fixed = exit_rules.as_good(table, found.accuracy)
    if fixed is None:
        st.markdown("No fixed step is as accurate as this.")
        return
    saved = 100 * (1 - found.energy_nj / fixed["energy_nj"]) if fixed["energy_nj"] else 0.0
    st.markdown(
        f"As accurate with one step for all samples: **t = {fixed['threshold']:.0f}** at the earliest. Leaving when ready "
        f"takes **{found.mean_step:.1f}** timesteps on average and {abs(saved):.0f} % {'less' if saved >= 0 else 'more'} "
        "energy."
    )


def _front(table: pd.DataFrame, found: Outcome, gamma_found: Outcome | None, gamma_step: int | None) -> None:
    with st.container(horizontal=True, vertical_alignment="bottom"):
        cost = st.segmented_control(
            "**Accuracy of all rules** against",
            list(charts.COSTS),
            default="mean_step",
            required=True,
            format_func={"mean_step": "Mean steps", "spikes": "Spikes", "energy_nj": "Energy"}.get,
            key="front",
            bind="query-params",
        )
        whole = st.toggle(
            "All accuracies",
            key="front_whole",
            bind="query-params",
            help=f"Otherwise what is within {charts.NEAR} points of the best, where the rules differ.",
        )
    marks = [{"name": "your choice", "color": theme.EXIT, "symbol": "circle", **asdict(found)}]
    if gamma_found:
        name = f"γ rule, t = {gamma_step}"
        marks.insert(0, {"name": name, "color": theme.RULE, "symbol": "diamond", **asdict(gamma_found)})
    figure = charts.front(table, RULES, cost, pd.DataFrame(marks), whole)
    said = "Accuracy against the mean exit step, spikes or energy, for every exit rule over all its thresholds."
    show.chart(figure, table, "exit_front", said)


def halves(view: View, evaluation: Evaluation, constants: Constants, gamma_step: int | None) -> None:
    """The best threshold of each rule for an allowed loss, chosen on one half of the samples, reported on the other."""
    st.subheader("Chosen on one half, reported on the other", anchor=False)
    if evaluation.samples < 2:
        st.markdown("This needs at least two samples.")
        return
    knobs = Knobs()
    about = Number(
        "Accuracy that may be lost (points)",
        0.0,
        100.0,
        0.5,
        "How many points of a percent less accurate than at T a rule may be on the half that chooses.",
    )
    loss = knobs.number(st.container(width=260), "loss", about, 1.0)
    if knobs.wrong:
        st.error(f"{knobs.wrong[0]}.")
        return
    costs, _ = measured(*_asked(view, evaluation), constants, view, evaluation)
    table = _chosen(*_asked(view, evaluation), constants, loss / 100, gamma_step, evaluation, costs)
    reported = int(table["samples"].iloc[0])
    st.markdown(
        f"{evaluation.samples - reported:,} samples chose the threshold that leaves earliest within **{loss:g}** "
        f"{'point' if loss == 1 else 'points'}; the table is what it then does on the {reported:,} others. The halves are "
        f"drawn at random, class by class (seed {SEED})."
    )
    st.dataframe(_readable(table), hide_index=True, height="content")
    st.caption(
        "Spikes and energy are a sample's. The loss allowed holds on the half that chose, whose accuracy stands last; on the "
        "other it may come out larger or smaller."
    )


def _readable(table: pd.DataFrame) -> pd.DataFrame:
    titles = {"full": "stay to T", "gamma": "γ rule (nothing chosen)"} | RULES
    full = table["energy_nj"].iloc[0]
    spent = table["energy_nj"] / full if full else table["energy_nj"] * np.nan
    points = -100 * table["lost"]
    return pd.DataFrame(
        {
            "Rule": table["rule"].map(titles),
            "Threshold": [_threshold(rule, value) for rule, value in zip(table["rule"], table["threshold"])],
            "Accuracy (95 % interval)": [show.interval(row.accuracy, row.low, row.high) for row in table.itertuples()],
            "Against T": points.map("{:+.1f} points".format).replace("-0.0 points", "+0.0 points"),
            "Mean exit step": table["mean_step"].map("{:.2f}".format),
            "Spikes": table["spikes"].map(show.amount),
            "Energy": table["energy_nj"].map(show.energy),
            "Saved": (100 * (1 - spent)).map("{:.0f} %".format),
            "Where chosen": table["chosen_accuracy"].map(show.share),
        }
    )


def _threshold(rule: str, value: float) -> str:
    if math.isnan(value):
        return "none: stays to T"
    sign = {"confidence": "≥ ", "margin": "≥ ", "entropy": "≤ ", "stability": ""}.get(rule, "t = ")
    return f"{sign}{value:.4g}" + (" in a row" if rule == "stability" else "")
