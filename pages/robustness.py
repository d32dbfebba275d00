"""Accuracy under Gaussian noise and gradient attacks, and one sample seen closely."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import show, start, sweep_settings, verdict_panel, work
from dashboard.charts import robustness as charts
from dashboard.charts import spikes as spike_charts
from dashboard.session import current
from dashboard.sweep_settings import AXES, Sweep
from engine.analysis import robustness
from engine.attacks import FOLLOWING, KINDS, Attack, check
from engine.jobs import Job

view = current()
PANELS = {
    "σ": "Gaussian noise",
    "L∞": "No pixel changed by more than ε",
    "L2": "Whole change no longer than ε",
    "share": "Events lost or added",
    "frames": "Events moved in time",
}
CHARTS = {"σ": "noise", "L∞": "attack", "L2": "l2", "share": "events", "frames": "jitter"}  # in names of files


def sweep(asked: Sweep) -> None:
    """Run button, progress, points as they come, table: nothing above Cancel comes or goes while a sweep runs."""
    job = _asked_sweep(asked)
    note = st.empty()
    shown = (job, asked) if job else _last_sweep(note)
    if shown:
        job, asked = shown
        parts = robustness.sweep_parts(view.checkpoint.config, asked.attacks, asked.samples, asked.encodings)
        work.live(job, lambda: results(job, parts, asked), retry=False)
        verdict_panel.section(view, asked, job)


def _asked_sweep(asked: Sweep) -> Job | None:
    """A button to run the sweep these settings ask for, and that sweep; None if it never ran."""
    attacks, samples = asked.attacks, asked.samples
    clicked = st.session_state.get("run_sweep", False) and len(attacks) > 1
    job = work.sweep_job(view, attacks, samples, asked.seed, clicked, asked.encodings)
    said = f"{len(attacks) - 1} strengths on {samples} samples, {asked.passes(view.checkpoint.config.random_input):,} passes through the network"
    if len(attacks) < 2:
        said = "Choose a disturbance above and give it at least one strength."
    elif job is None:
        said += ". Points appear as they are computed; you can look at other pages meanwhile."
    elif job.state == "done":
        said = f"Done for these settings, on {samples} samples. Change any of them to run again."
    start.button(job, "run_sweep", "Run", said, possible=len(attacks) > 1)
    if job is not None:
        st.session_state["last_sweep"] = (view.fingerprint, view.data.name, asked)
    return job


def _last_sweep(note) -> tuple[Job, Sweep] | None:
    """What this visitor ran last on this network and data, so that trying other settings does not hide it."""
    last = st.session_state.get("last_sweep")
    if last is None or last[:2] != (view.fingerprint, view.data.name) or last[2].samples > len(view.labels):
        return None
    asked = last[2]
    job = work.sweep_job(view, asked.attacks, asked.samples, asked.seed, False, asked.encodings)
    if job is None:
        return None
    said = f"Below, your last run: {', '.join(a.label for a in asked.attacks[1:])}, {asked.samples} samples"
    followed = {attack.attacker.label: None for attack in asked.attacks if attack.kind in FOLLOWING}
    note.caption(f"{said}, gradient: {'; '.join(followed)}." if followed else f"{said}.")
    return job, asked


def results(job: Job, parts: list, asked: Sweep) -> None:
    """Curves and table of what has been computed so far."""
    table = robustness.sweep_table(work.sweep_results(job, parts), asked.encodings)
    final = table[table["step"] == view.steps]
    clean = final[final["strength"] == 0]["accuracy"]
    clean = float(clean.iloc[0]) if len(clean) else None
    norms = [norm for norm in AXES if any(a.does.norm == norm and a.strength for a in asked.attacks)]
    for pair in range(0, len(norms), 2):
        columns = st.columns(2) if len(norms) > 1 else [st.container()]
        for column, norm in zip(columns, norms[pair : pair + 2]):
            with column:
                _panel(norm, final, table, clean, asked)
    if not final.empty:
        st.dataframe(_readable(final, asked), hide_index=True, height="content")


def _panel(norm: str, final: pd.DataFrame, table: pd.DataFrame, clean: float | None, asked: Sweep) -> None:
    """Curves of the disturbances whose strength is measured alike."""
    kinds = [kind for kind, does in KINDS.items() if does.norm == norm]
    scale = 255 if norm == "L∞" else 1
    part = final[final["kind"].isin(kinds) & (final["strength"] > 0)]
    top = scale * max(attack.strength for attack in asked.attacks if attack.kind in kinds)
    st.markdown(f"**{PANELS[norm]}**")
    figure = charts.sweep(
        part.assign(strength=scale * part["strength"].astype(float)),
        *(AXES[norm], clean, 1 / view.checkpoint.config.classes),
        x_range=(0, top * 1.05),
    )
    show.chart(
        figure,
        lambda: _handed_over(table, kinds),
        f"sweep_{CHARTS[norm]}",
        f"Accuracy against {AXES[norm]}.",
    )


def _handed_over(table: pd.DataFrame, kinds: list[str]) -> pd.DataFrame:
    """The rows of some disturbances, and of none, which is called so."""
    none = table["strength"] == 0
    found = table[table["kind"].isin(kinds) | none]
    return found.assign(**{name: found[name].mask(none, "none") for name in ("kind", "attack")})


def _readable(final: pd.DataFrame, asked: Sweep) -> pd.DataFrame:
    by_key = {(attack.kind, attack.strength): attack.amount for attack in asked.attacks if attack.strength}
    right = final["correct"].map("{:.1f}".format if asked.encodings > 1 else "{:.0f}".format)
    columns = {
        "Disturbance": np.where(final["strength"] == 0, "none (clean)", final["attack"]),
        "Strength": [by_key.get(key, "") for key in zip(final["kind"], final["strength"])],
        "Accuracy": final["accuracy"].map(show.share),
        "95 % interval (samples)": final["low"].map(show.share) + " to " + final["high"].map(show.share),
        "± between encodings": (100 * final["spread"]).map("{:.1f} points".format),
        "Right": right + " of " + final["samples"].astype(str),
        "Spikes a sample": final["spikes"].map(show.amount),
    }
    return pd.DataFrame(columns if asked.encodings > 1 else {k: v for k, v in columns.items() if k[0] != "±"})


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
    "How the network's accuracy falls under random noise and under attacks that look for the worst change.",
)
show.needs_network(view, "Noise and attacks")
if view.data.events:
    st.caption(
        "Noise and attacks act on the frames of events: ε = 1/255 is at most one event more or less at each pixel of each "
        "frame; σ = 1/255 is a standard deviation of one event, before what falls below none is cut off."
    )
show.what_kind(view, brief=True)
try:
    count = len(view.labels)
    about = f"The first so many of {count} test samples."
    asked = sweep_settings.settings(count, about, [view.checkpoint.config])
    for attack in asked.attacks:
        check(attack, view.checkpoint.model, events=view.data.events)
except ValueError as error:
    st.error(str(error))
    st.stop()
with st.container(key="sweep"):
    sweep(asked)
with st.container():
    closely(asked.attacks, asked.seed)
