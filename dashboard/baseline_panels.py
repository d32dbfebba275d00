"""The comparisons of the paper: accuracy and spikes over time, noise, attacks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.analysis import evaluation
from engine.analysis.energy import PAPER
from engine.attacks import CLEAN, KINDS, Attack
from engine.job import Job

from . import compare_measured, show, together, work
from .charts import axes, comparison
from .charts import baselines as charts
from .session import View
from .sweep_settings import Sweep

STRENGTHS = {
    "gaussian": [0.1, 0.2, 0.3, 0.4, 0.5],
    "fgsm": [eps / 255 for eps in (4, 8, 16, 32)],
    "pgd": [eps / 255 for eps in (4, 8, 16, 32)],
}
PANELS = 3  # side by side


@dataclass(frozen=True)
class Settings:
    """Of everything on the page that disturbs images: the first `samples` test samples, in how many random encodings."""

    samples: int
    encodings: int
    seed: int


def settings(found: Mapping[str, View]) -> Settings:
    """The fields for them."""
    available = min(len(view.labels) for view in found.values())
    one, two, three, _ = st.columns([2, 2, 2, 3])
    samples = one.number_input(
        *("Samples to disturb", 1, available, min(50, available), 50),
        key="baseline_samples",
        bind="query-params",
        help=f"The first so many of the {available:,} test samples. The more there are, the narrower the intervals and the "
        "longer it takes.",
    )
    encodings = two.number_input(
        *("Encodings", 1, 20, 3),
        key="baseline_encodings",
        bind="query-params",
        help="In how many random encodings each image is tested, where the input is random spikes.",
    )
    seed = three.number_input(
        "Seed", 0, 10**6, 0, key="baseline_seed", bind="query-params", help="Of noise and spikes."
    )
    return Settings(samples, encodings, seed)


# ---------------------------------------------------------------------------------------------------------- over time


def over_time(found: Mapping[str, View], kept: Mapping[str, int]) -> None:
    """Accuracy when leaving after t, energy, and each layer's spikes over time. Runs unasked: a minute at most for each."""
    st.subheader("Accuracy and spikes over time", anchor=False)
    jobs = {name: work.evaluation_job(view) for name, view in found.items()}
    running = together.Together("Running the test samples", jobs)
    work.live(running, lambda: _over_time(found, jobs, kept))


def _over_time(found: Mapping[str, View], jobs: Mapping[str, Job], kept: Mapping[str, int]) -> None:
    table = compare_measured.exit_tables(found, jobs)
    if table.empty:
        return
    compare_measured.exit_panels(table, _exit_curves(found, table, kept), kept, "network", "baseline")
    waiting = (
        "" if all(job.state == "done" for job in jobs.values()) else "Not finished: the numbers of samples differ. "
    )
    st.caption(
        f"{waiting}Energy of the arithmetic at 45 nm, 32-bit float: {PAPER.mac_pj:g} pJ a multiply-accumulate, "
        f"{PAPER.ac_pj:g} pJ an accumulate; memory and leak are not counted. At T, which is the network's own."
    )
    _spikes(found, jobs)


def _exit_curves(found: Mapping[str, View], table: pd.DataFrame, kept: Mapping[str, int]) -> go.Figure:
    """Of spiking networks; an ordinary one has no exit steps and is a line across."""
    ordinary = [name for name, view in found.items() if view.checkpoint.config.kind == "ann"]
    spiking = table[~table["run"].isin(ordinary)]
    figure = comparison.exit_curves(table if spiking.empty else spiking, kept)
    for name in [] if spiking.empty else ordinary:
        accuracy = 100 * table[table["run"] == name]["accuracy"].max()
        axes.reference_line(figure, accuracy, f"{name} {accuracy:.1f} %")
    return figure


def _spikes(found: Mapping[str, View], jobs: Mapping[str, Job]) -> None:
    st.markdown("**Spikes of each layer over time**, of a sample on average")
    frames = {}
    for name, job in jobs.items():
        config, result = found[name].checkpoint.config, work.joined(job)
        if result is not None and config.kind != "ann":
            frames[name] = spikes_of(config, result)
    top = max((frame["spikes"].max() for frame in frames.values()), default=None)
    names = list(frames)
    for start in range(0, len(names), PANELS):
        for column, name in zip(st.columns(PANELS), names[start : start + PANELS]):
            with column:
                steps, total = found[name].steps, frames[name]["spikes"].sum()
                st.markdown(f"{name}, T = {steps}: {show.amount(total)} spikes")
                key = f"baseline_spikes_{list(found).index(name)}"
                figure = charts.spikes_over_time(frames[name], top)
                show.chart(figure, frames[name].assign(network=name), key, f"Spikes of each layer of {name} over time.")


def spikes_of(config, result: evaluation.Evaluation) -> pd.DataFrame:
    """layer, step, spikes: of a sample at that timestep, on average; hidden layers alone."""
    mean = result.mean_spikes()[:, 1:]
    steps = range(1, len(mean) + 1)
    names = [spec.name for spec in config.hidden_layers()]
    tables = [pd.DataFrame({"layer": n, "step": steps, "spikes": mean[:, at]}) for at, n in enumerate(names)]
    return pd.concat(tables, ignore_index=True)


# ------------------------------------------------------------------------------------------------ noise and attacks


def disturbed(
    found: Mapping[str, View], kind: str, how: Settings, kept: Mapping[str, int]
) -> tuple[Sweep, dict[str, Job]]:
    """One button, and accuracy against the strength of one kind of disturbance: the sweep, and its jobs, by network."""
    does = KINDS[kind]
    st.markdown(f"**{does.label}**", help=does.about)
    attacks = [CLEAN, *(Attack(kind, strength) for strength in STRENGTHS[kind])]
    asked = Sweep(attacks, how.samples, how.seed, how.encodings)
    submit = compare_measured.sweeps(found, asked)
    passes = sum(asked.passes(view.checkpoint.config.random_input) for view in found.values())
    said = f"{passes:,} passes through the networks."
    jobs = together.asked(f"measure_{kind}", "Measure", "Disturbing", submit, said)
    if not jobs:
        return asked, jobs

    def draw() -> None:
        table = compare_measured.swept(found, jobs, asked)
        if not table.empty:
            compare_measured.curves(table, kind, asked.attacks, kept, f"baseline_{kind}")
            st.caption(_caption(kind, how, found))

    work.live(together.Together(does.label, jobs), draw, retry=False)
    return asked, jobs


def _caption(kind: str, how: Settings, found: Mapping[str, View]) -> str:
    """Everything a reader of the figure must know."""
    data = ", ".join(dict.fromkeys(view.data.title for view in found.values()))
    said = f"Accuracy at T on the first {how.samples} test samples of {data}"
    attack = Attack(kind, STRENGTHS[kind][-1])
    random = any(view.checkpoint.config.random_input for view in found.values())
    if attack.does.family == "gradient":
        steps = f"{attack.taken} steps of 2.5·ε/{attack.taken}, " if attack.taken else ""
        code = (
            f"gradient straight through the code, mean of {attack.attacker.draws} encodings" if random else "gradient"
        )
        said += f"; {steps}{code}"
    shown = f", mean over {how.encodings} random encodings" if random and how.encodings > 1 else ""
    return f"{said}{shown}; bars: 95 % Wilson intervals; seed {how.seed}."


def numbers(found: Mapping[str, View], measured: Sequence[tuple[Sweep, Mapping[str, Job]]]) -> None:
    """What was measured of all networks, in one table: accuracy with its interval. measured: as of disturbed."""
    tables, attacks = [], [CLEAN]
    for asked, jobs in measured:
        if len(jobs) == len(found) and all(job.state == "done" for job in jobs.values()):
            tables.append(compare_measured.swept(found, jobs, asked))
            attacks += asked.attacks[1:]
    if tables:
        with st.expander("The numbers, with 95 % intervals"):
            table = compare_measured.accuracies(pd.concat(tables, ignore_index=True), attacks)
            st.dataframe(table, hide_index=True, height="content", column_config={"Disturbance": {"pinned": True}})
            st.caption("Where the intervals of two networks overlap, these samples do not tell them apart.")
