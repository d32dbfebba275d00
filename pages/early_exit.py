"""What leaving after t of T timesteps costs and saves."""

from collections.abc import Callable

import pandas as pd
import streamlit as st

from dashboard import show, work
from dashboard.charts import early_exit as charts
from dashboard.session import current, exit_step
from engine.analysis import early_exit, gamma
from engine.analysis.evaluation import Evaluation
from engine.device import device

view = current()
THUMBNAILS = 24


@st.cache_data(max_entries=64, show_spinner=False)
def tables(fingerprint: str, data: str, samples: int, _evaluation: Evaluation):
    """Exit table and energy by layer of a finished or partial evaluation."""
    config = view.checkpoint.config
    return early_exit.exit_table(config, _evaluation), early_exit.energy(config, _evaluation.mean_spikes())


def with_latency(table: pd.DataFrame) -> pd.DataFrame:
    """The exit table with latency_ms, NaN until it has been measured."""
    timed = latency.results[0]
    return table.assign(latency_ms=float("nan")) if timed is None else table.merge(timed, on="step")


@st.fragment
def trade(table: pd.DataFrame, by_layer: pd.DataFrame, evaluation: Evaluation) -> None:
    """The slider, what it means in numbers, and the curves."""
    step = exit_step(view)
    here, end = table.iloc[step - 1], table.iloc[-1]
    _numbers(here, end)
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
    _rule_sentence(table)

    if view.steps > 1:
        _curves(table, step)

    st.subheader(
        "Where the energy goes",
        anchor=False,
        help="45 nm CMOS, 32 bit: 0.9 pJ for each accumulate a spike causes, 4.6 pJ for a multiply-accumulate of an ordinary network.",
    )
    spent = by_layer[by_layer["step"] <= step].groupby("layer", sort=False)["energy_nj"].sum().reset_index()
    ann = early_exit.ann_energy_nj(view.checkpoint.config)
    if view.checkpoint.config.kind != "ann":
        st.markdown(
            f"Up to t = {step}: **{show.energy(here['energy_nj'])}** for one sample; the same layers as an ordinary network: **{show.energy(ann)}**."
        )
    show.chart(charts.energy_by_layer(spent), spent, "energy_layers", "Energy of one sample by layer.")
    if view.steps > 1:
        _changed(evaluation, step)


def _curves(table: pd.DataFrame, step: int) -> None:
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


def _numbers(here: pd.Series, end: pd.Series) -> None:
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
            _cost("Spikes a sample", show.amount, here["spikes"], end["spikes"], said)
        _cost(
            "Energy a sample",
            show.energy,
            here["energy_nj"],
            end["energy_nj"],
            "Estimate: 0.9 pJ per accumulate (45 nm CMOS)",
        )
        said = "Time for one image on this machine, the fastest of 9 runs"
        _cost("Latency", _milliseconds, here["latency_ms"], end["latency_ms"], said)


def _cost(label: str, written: Callable[[float], str], here: float, end: float, about: str) -> None:
    """A number that is the better the lower, against the full T."""
    st.metric(label, written(here), _less(here, end), "inverse", border=True, width=168, help=about)


def _milliseconds(value: float) -> str:
    return "…" if pd.isna(value) else f"{value:.2f} ms"


def _less(value: float, full: float) -> str | None:
    """Change against the full T for a metric; None where there is nothing to compare."""
    if pd.isna(value) or not full or value == full:
        return None
    return f"{100 * (value / full - 1):+.1f} % against T"


def _rule_sentence(table: pd.DataFrame) -> None:
    if not view.checkpoint.stacks or view.caution:
        return
    if rule is None:
        st.markdown(
            "The paper's γ rule does not leave this network early: mean γ never falls below 0.1 in every layer at once."
        )
        return
    lost = 100 * (table["accuracy"].iloc[-1] - table["accuracy"].iloc[rule - 1])
    saved = 100 * (1 - table["energy_nj"].iloc[rule - 1] / table["energy_nj"].iloc[-1])
    change = (
        "the same accuracy as at T"
        if abs(lost) < 0.05
        else f"{abs(lost):.1f} points {'less' if lost > 0 else 'more'} accuracy"
    )
    st.markdown(f"The paper's γ rule leaves at **t = {rule}**: {change}, for {saved:.0f} % less energy.")


def _changed(evaluation: Evaluation, step: int) -> None:
    """Which samples answer differently here and at T."""
    changed = early_exit.changed_answers(evaluation, step)
    st.subheader(f"Answers that change between t = {step} and T = {view.steps}", anchor=False)
    if changed.empty:
        st.markdown(f"None of the {evaluation.samples:,} samples changes its answer.")
        return
    counts = changed["effect"].value_counts()
    st.markdown(
        f"**{len(changed)}** of {evaluation.samples:,} samples: {counts.get('gained', 0)} become right, "
        f"{counts.get('lost', 0)} become wrong, {counts.get('other', 0)} stay wrong."
    )
    words = {"gained": "becomes right", "lost": "becomes wrong", "other": "stays wrong"}
    name = {k: view.class_name(int(k)) for k in set(changed["here"]) | set(changed["at_end"])}
    labels = view.data.classes
    listed = changed.assign(
        label=[labels[k] for k in changed["label"]],
        here=changed["here"].map(name),
        at_end=changed["at_end"].map(name),
        effect=changed["effect"].map(words),
    )
    with st.container(horizontal=True, gap="small"):
        for row in listed.head(THUMBNAILS).itertuples():
            with st.container(width=104):
                st.image(show.picture(view.pixels[row.row], 96), width=96)
                st.caption(f"**{row.here} → {row.at_end}**  \nis {row.label} · #{row.row}")
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
        with st.container(horizontal=True, gap="small"):
            st.metric(
                f"Accuracy in {chosen}",
                show.share(accuracies[0]),
                f"{100 * (accuracies[0] - accuracies[1]):+.2f} points against float32",
                border=True,
            )
            st.metric("Answers that change", f"{changed} of {exact.samples}", border=True)
            st.metric(
                "Spikes a sample",
                show.amount(spikes[0]),
                f"{100 * (spikes[0] / spikes[1] - 1):+.2f} %",
                "off",
                border=True,
            )

    work.live(rough_job, compared)


show.heading("Early exit", view, "Slide the exit timestep and watch accuracy, spikes, energy and latency trade off.")
show.needs_network(view, "Leaving early")
show.what_kind(view, brief=True)
rule = gamma.exit_rule(view.checkpoint)
job = work.evaluation_job(view)
latency = work.latency_job(view)


def draw() -> None:
    """What the finished parts allow."""
    evaluation = work.joined(job)
    if evaluation is None:
        return
    table, by_layer = tables(view.fingerprint, view.data.name, evaluation.samples, evaluation)
    trade(with_latency(table), by_layer, evaluation)


work.live(job, draw, also=[latency])
if job.state == "done":
    precision_effect(work.joined(job))
