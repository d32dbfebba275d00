"""Accuracy under Gaussian noise and gradient attacks, and one sample seen closely."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import show, sweep_settings, work
from dashboard.charts import robustness as charts
from dashboard.charts import spikes as spike_charts
from dashboard.session import current
from engine.analysis import robustness
from engine.analysis.robustness import ATTACKS, Attack
from engine.jobs import AGAIN, Job

view = current()


def sweep(attacks: list[Attack], samples: int, seed: int) -> None:
    """Run button, progress, points as they come, table: nothing above Cancel comes or goes while a sweep runs."""
    job = _asked_sweep(attacks, samples, seed)
    note = st.empty()
    shown = (job, attacks, samples) if job else _last_sweep(note)
    if shown:
        job, attacks, samples = shown
        parts = robustness.sweep_parts(view.checkpoint.config, attacks, samples)
        work.live(job, lambda: results(job, parts, attacks), retry=False)


def _asked_sweep(attacks: list[Attack], samples: int, seed: int) -> Job | None:
    """A button to run the sweep these settings ask for, and that sweep; None if it never ran."""
    clicked = st.session_state.get("run_sweep", False) and len(attacks) > 1
    job = work.sweep_job(view, attacks, samples, seed, start=clicked)
    passes = sum(attack.passes for attack in attacks) * samples
    said = f"{len(attacks) - 1} strengths on {samples} samples, {passes:,} passes through the network"
    if job is None:
        said += ". Points appear as they are computed; you can look at other pages meanwhile."
    elif job.state == "done":
        said = f"Done for these settings, on {samples} samples. Change any of them to run again."
    again = job is not None and job.state in AGAIN
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            "Run" if not again else "Run again" if job.state == "failed" else "Resume",
            key="run_sweep",
            type="primary",
            icon=":material/play_arrow:",
            disabled=len(attacks) < 2 or not (job is None or again),
        )
        st.caption(said, width="stretch")
    if job is not None:
        st.session_state["last_sweep"] = (view.fingerprint, view.data.name, attacks, samples, seed)
    return job


def _last_sweep(note) -> tuple[Job, list[Attack], int] | None:
    """What this visitor ran last on this network and data, so that trying other settings does not hide it."""
    last = st.session_state.get("last_sweep")
    if last is None or last[:2] != (view.fingerprint, view.data.name):
        return None
    attacks, samples, seed = last[2:]
    job = work.sweep_job(view, attacks, samples, seed, start=False)
    if job is None:
        return None
    note.caption(f"Below, your last run: {', '.join(a.label for a in attacks[1:])}, {samples} samples.")
    return job, attacks, samples


def results(job, parts, attacks: list[Attack]) -> None:
    """Curves and table of what has been computed so far."""
    table = robustness.sweep_table(work.sweep_results(job, parts))
    final = table[table["step"] == view.steps]
    clean = final[final["strength"] == 0]["accuracy"]
    clean = float(clean.iloc[0]) if len(clean) else None
    chance = 1 / view.checkpoint.config.classes
    noise = final[(final["attack"] == ATTACKS["gaussian"]) & (final["strength"] > 0)]
    attacked = final[(final["attack"] != ATTACKS["gaussian"]) & (final["strength"] > 0)]
    top = {
        gaussian: max((a.strength for a in attacks if (a.kind == "gaussian") == gaussian), default=0)
        for gaussian in (True, False)
    }
    panels = []
    if top[True]:
        panels.append(("noise", "**Gaussian noise**", noise, "σ (pixels run from 0 to 1)", top[True]))
    if top[False]:
        scaled = attacked.assign(strength=attacked["strength"] * 255)
        panels.append(("attack", "**Gradient attacks**", scaled, "ε in 1/255", top[False] * 255))
    for column, (key, title, frame, label, limit) in zip(
        st.columns(len(panels)) if len(panels) > 1 else [st.container()], panels
    ):
        with column:
            st.markdown(title)
            figure = charts.sweep(frame, label, clean, chance, x_range=(0, limit * 1.05))
            show.chart(figure, table, f"sweep_{key}", f"Accuracy against {label}.")
    if not final.empty:
        st.dataframe(_readable(final), hide_index=True, height="content")


def _readable(final: pd.DataFrame) -> pd.DataFrame:
    gaussian = final["attack"] == ATTACKS["gaussian"]
    strength = np.where(
        gaussian,
        "σ = " + final["strength"].map("{:g}".format),
        "ε = " + (final["strength"] * 255).map("{:.3g}".format) + "/255",
    )
    return pd.DataFrame(
        {
            "Disturbance": np.where(final["strength"] == 0, "none (clean)", final["attack"]),
            "Strength": np.where(final["strength"] == 0, "", strength),
            "Accuracy": final["accuracy"].map(show.share),
            "95 % interval": final["low"].map(show.share) + " to " + final["high"].map(show.share),
            "Right": final["correct"].astype(str) + " of " + final["samples"].astype(str),
            "Spikes a sample": final["spikes"].map(show.amount),
        }
    )


def closely(attacks: list[Attack], seed: int) -> None:
    """The chosen sample: clean, perturbation, perturbed, and spikes by layer."""
    st.subheader("One sample closely", anchor=False)
    choices = {a.label: a for a in attacks if a.strength}
    if not choices:
        st.markdown("Choose a disturbance above to see what it does to one sample.")
        return
    chosen = choices[
        st.selectbox(
            "Disturbance", list(choices), index=len(choices) - 1, key="closely", bind="query-params", width=320
        )
    ]
    job = work.closeup_job(view, chosen, seed)

    def draw():
        if job.results[0] is not None:
            pictures(job.results[0], chosen)

    work.live(job, draw)


def pictures(close: robustness.Closeup, attack: Attack) -> None:
    """Three images side by side and the spikes under them."""
    difference = close.attacked - close.clean
    largest = float(np.abs(difference).max())
    factor = 0.5 / largest if largest else 1.0
    label = int(close.clean_result.labels[0])
    truth = f" (it is {view.data.classes[label]})" if not view.caution else ""
    answers = [view.class_name(int(r.predictions[-1, 0])) for r in (close.clean_result, close.attacked_result)]
    # all frames of a recording are laid together, where more and less would hide each other
    change = np.abs(difference) if view.data.events else 0.5 + factor * difference
    scaled = "summed over the frames" if view.data.events else f"**scaled ×{factor:.3g}** around grey"
    shown = (
        (close.clean, f"Clean · answer **{answers[0]}**{truth}"),
        (
            change,
            f"Perturbation, {scaled}; largest change {largest * 255:.1f}/255",
        ),
        (close.attacked, f"Perturbed · answer **{answers[1]}**"),
    )
    with st.container(horizontal=True, gap="medium"):
        for image, text in shown:
            with st.container(width=232):
                st.image(show.picture(image, 224), width=224)
                st.markdown(text)
    if view.checkpoint.config.kind == "ann":
        return
    frame = robustness.spikes_by_layer(
        view.checkpoint.config, {"clean": close.clean_result, attack.label: close.attacked_result}
    )
    st.markdown("**Spikes by layer**, over all timesteps")
    show.chart(
        spike_charts.spikes_by_layer(frame),
        frame,
        "closeup_spikes",
        "Spikes of each layer for the clean and the perturbed sample.",
    )


show.heading(
    "Robustness",
    view,
    "How the network's accuracy falls under random noise and under attacks that follow its gradient.",
)
show.needs_network(view, "Noise and attacks")
if view.data.events:
    st.caption(
        "Noise and attacks act on the frames of events: ε = 1/255 is at most one event more or less at each pixel of each "
        "frame, and σ = 1/255 as much on average."
    )
show.what_kind(view, brief=True)
try:
    count = len(view.labels)
    chosen, samples, seed = sweep_settings.settings(count, f"The first so many of {count} test samples.")
except ValueError as error:
    st.error(str(error))
    st.stop()
with st.container(key="sweep"):
    sweep(chosen, samples, seed)
with st.container():
    closely(chosen, seed)
