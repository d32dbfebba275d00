"""What leaving after t of T timesteps costs and saves: at one step for all samples, or for each when it is ready."""

import pandas as pd
import streamlit as st

from dashboard import energy_settings, exit_disturbed, exit_ready, exit_step, session, show, work
from dashboard.session import GAMMA_THRESHOLD, current
from engine.analysis import early_exit, energy, gamma
from engine.analysis.energy import Constants
from engine.analysis.evaluation import Evaluation
from engine.device import device

view = current()


@st.cache_data(max_entries=64, show_spinner=False)
def tables(fingerprint: str, data: str, samples: int, constants: Constants, _evaluation: Evaluation):
    """Exit table and energy by layer of a finished or partial evaluation."""
    config = view.checkpoint.config
    spent = energy.energy(config, _evaluation.mean_spikes(), constants)
    return early_exit.exit_table(config, _evaluation, constants), spent


def with_latency(table: pd.DataFrame) -> pd.DataFrame:
    """The exit table with latency_ms, NaN until it has been measured."""
    timed = latency.results[0]
    return table.assign(latency_ms=float("nan")) if timed is None else table.merge(timed, on="step")


@st.fragment
def trade(table: pd.DataFrame, by_layer: pd.DataFrame, evaluation: Evaluation) -> None:
    """The sliders, what they mean in numbers, the curves, what changes, and where the energy goes."""
    step, limit = sliders()
    here, end = table.iloc[step - 1], table.iloc[-1]
    exit_step.numbers(view, here, end, constants)
    doubt = st.container()
    if not view.caution and early_exit.near_chance(view.checkpoint.config, table):
        doubt.warning(
            f"At T = {view.steps} this network is no better than guessing on these samples: λ, θ, the normalisation or the "
            "data set may not be those it was trained with, or it needs more training. What it saves by leaving early means "
            "little then."
            if view.checkpoint.config.kind != "ann"
            else "This network is no better than guessing on these samples: the normalisation or the data set may not be "
            "those it was trained with, or it needs more training."
        )
    exit_step.rule_sentence(view, table, rule, limit)
    if view.steps > 1:
        exit_step.curves(table, step, rule)
        exit_step.changed(view, evaluation, step)
    energy_settings.where_it_goes(view, constants, by_layer, here["energy_nj"], step, rule)


def sliders() -> tuple[int, float]:
    """The exit step, and the threshold of the γ rule. The rest of the page depends on where that rule leaves, too."""
    if not view.checkpoint.stacks or view.steps == 1:
        return session.exit_step(view), threshold
    left, right = st.columns([3, 2])
    with left:
        step = session.exit_step(view)
    with right:
        limit = session.gamma_threshold()
    if gamma.exit_rule(view.checkpoint, limit) != rule:
        st.rerun()
    return step, limit


@st.fragment
def precision_effect(exact: Evaluation) -> None:
    """What computing in a coarser format would change, measured on the same samples and spikes."""
    st.subheader("Precision", anchor=False)
    choices = ["bfloat16", "tf32"] if device().type == "cuda" else ["bfloat16"]
    chosen = st.segmented_control(
        "Everything above is computed in float32. Compare with",
        choices,
        key="precision",
        bind="query-params",
        help="Coarser convolutions and matrix products are faster and change a few spikes; norm and membrane stay float32.",
    )
    if chosen is None:
        return
    rough_job = work.evaluation_job(view, chosen)

    def compared() -> None:
        if rough_job.state != "done":
            return
        rough = work.joined(rough_job)
        accuracies = [e.accuracy()["accuracy"].iloc[-1] for e in (rough, exact)]
        spikes = [e.mean_spikes()[:, 1:].sum() for e in (rough, exact)]
        changed = (rough.predictions[-1] != exact.predictions[-1]).sum()
        points = 100 * (accuracies[0] - accuracies[1])
        differs = abs(points) >= 0.005
        with st.container(horizontal=True, gap="small"):
            st.metric(
                f"Accuracy in {chosen}",
                show.share(accuracies[0]),
                f"{points:+.2f} points against float32" if differs else "as in float32",
                "normal" if differs else "off",
                border=True,
                delta_arrow="auto" if differs else "off",
            )
            st.metric(
                "Answers that change",
                f"{changed} of {exact.samples}",
                f"{show.share(changed / exact.samples)} of the samples",
                "off",
                border=True,
                delta_arrow="off",
            )
            st.metric(
                "Spikes a sample",
                show.amount(spikes[0]),
                f"{100 * (spikes[0] / spikes[1] - 1):+.2f} %",
                "off",
                border=True,
            )

    work.live(rough_job, compared)


@st.fragment
def ready(evaluation: Evaluation) -> None:
    """Leaving each sample when it is ready, and the same under noise and attack."""
    chosen = exit_ready.section(view, evaluation, constants, rule, latency.results[0])
    exit_disturbed.section(view, *chosen, constants)


@st.fragment
def best(evaluation: Evaluation) -> None:
    """The best threshold for a loss, which does not depend on the one chosen above."""
    exit_ready.halves(view, evaluation, constants, rule)


show.heading("Early exit", view, "Slide the exit timestep and watch accuracy, spikes, energy and latency trade off.")
show.needs_network(view, "Leaving early")
show.what_kind(view, brief=True)
threshold = st.session_state.get("threshold_gamma", GAMMA_THRESHOLD)
rule = gamma.exit_rule(view.checkpoint, threshold)
job = work.evaluation_job(view)
latency = work.latency_job(view)
above = st.container()
constants = energy_settings.settings()
energy_settings.formula(view, constants)


def draw() -> None:
    """What the finished parts allow."""
    evaluation = work.joined(job)
    if evaluation is None:
        return
    table, by_layer = tables(view.fingerprint, view.data.name, evaluation.samples, constants, evaluation)
    trade(with_latency(table), by_layer, evaluation)


with above:
    work.live(job, draw, also=[latency])
if job.state == "done":
    if view.steps > 1:
        ready(work.joined(job))
        best(work.joined(job))
    precision_effect(work.joined(job))
