"""What several runs do on test samples: accuracy at every exit step, and under noise and attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from engine.analysis import early_exit, evaluation, robustness
from engine.attacks import KINDS, Attack
from engine.checkpoint import Checkpoint
from engine.datasets import DataError
from engine.job import Job

from . import data, session, show, sweep_settings, together, work
from .charts import comparison, theme
from .session import View
from .sweep_settings import AXES, Sweep


def views(
    networks: Mapping[str, Checkpoint], models: Mapping[str, str], *, alike: bool = False
) -> tuple[dict[str, View], list[str]]:
    """Each network on the test samples of its own data, as many as its pages run; a sentence for each that cannot.

    networks: by the name it has on the page. models: what the sidebar calls them. alike: as many samples for each as the
    costliest can run.
    """
    found, told = {}, []
    usual = {name: evaluation.affordable(checkpoint.config) for name, checkpoint in networks.items()}
    if alike and usual:
        usual = dict.fromkeys(usual, min(usual.values()))
    for name, checkpoint in networks.items():
        entry, missing = data.known().get(checkpoint.dataset, (None, ""))
        if entry is None:
            told.append(
                f"{name} was trained on {checkpoint.dataset or 'unknown data'}, which the dashboard does not know."
            )
            continue
        try:
            count = len(session.test_samples(entry, checkpoint.config).labels)
        except DataError:
            told.append(f"{name} needs {entry.title}, which is not here: {missing or 'it cannot be read'}.")
            continue
        view = session.view(models[name], checkpoint, entry, 0, usual[name] if usual[name] < count else None)
        if view.missing:  # taken away at this moment
            told.append(f"{name} needs {entry.title}, which is not here: {view.missing}.")
        else:
            found[name] = view
    return found, told


# ------------------------------------------------------------------------------------------------------ early exit


def exits(found: Mapping[str, View], kept: Mapping[str, int]) -> None:
    """Accuracy at every exit step, and against energy."""
    st.subheader("Early exit", anchor=False)
    submit = {name: lambda start, view=view: work.evaluation_job(view, start=start) for name, view in found.items()}
    counts = sorted({len(view.labels) for view in found.values()})
    said = f"Each network runs {' or '.join(f'{count:,}' for count in counts)} test samples of its data once."
    jobs = together.asked("measure_exits", "Measure on the test samples", "Measuring", submit, said)
    if jobs:
        work.live(
            together.Together("Running the test samples", jobs), lambda: _exit_results(found, jobs, kept), retry=False
        )


def _exit_results(found: Mapping[str, View], jobs: Mapping[str, Job], kept: Mapping[str, int]) -> None:
    table = exit_tables(found, jobs)
    if not table.empty:
        exit_panels(table, comparison.exit_curves(table, kept), kept, "run", "run")


def exit_panels(table: pd.DataFrame, curves: go.Figure, kept: Mapping[str, int], what: str, key: str) -> None:
    """Accuracy over the exit step and against energy, and a table of both. table: as exit_tables. curves: the first of the
    charts. what: "run" or "network", which their rows are. key: of the charts, on the page and in names of files."""
    left, right = st.columns([3, 2])
    last = table.groupby("run", sort=False).tail(1)
    with left:
        st.markdown("**Accuracy when leaving after t**, with 95 % intervals")
        show.chart(curves, table, f"{key}_exits", f"Accuracy at each exit timestep, by {what}.")
    with right:
        st.markdown("**Accuracy at T against energy**")
        figure = comparison.accuracy_energy(last[["run", "accuracy", "energy_nj"]], kept)
        show.chart(figure, last, f"{key}_energy", f"Accuracy at T against the energy of a sample, by {what}.")
    st.dataframe(_at_end(last, what.capitalize()), hide_index=True, height="content")


def exit_tables(found: Mapping[str, View], jobs: Mapping[str, Job]) -> pd.DataFrame:
    """What the evaluations have found so far: run and the columns of early_exit.exit_table; empty before the first."""
    tables = [
        early_exit.exit_table(found[name].checkpoint.config, done).assign(run=name)
        for name, job in jobs.items()
        if (done := work.joined(job)) is not None
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _at_end(last: pd.DataFrame, what: str) -> pd.DataFrame:
    """Each network at its T, for people. last: the last row of each in exit_tables. what: heading of the names."""
    return pd.DataFrame(
        {
            what: last["run"],
            "T": last["step"],
            "Accuracy at T": last["accuracy"].map(show.share),
            "95 % interval": last["low"].map(show.share) + " to " + last["high"].map(show.share),
            "Right": last["correct"].astype(str) + " of " + last["samples"].astype(str),
            "Spikes a sample": last["spikes"].map(show.amount),
            "Energy a sample": last["energy_nj"].map(show.energy),
        }
    )


# ------------------------------------------------------------------------------------------------------ robustness


def robust(found: Mapping[str, View], kept: Mapping[str, int]) -> None:
    """Accuracy under the same noise and attacks."""
    st.subheader("Robustness", anchor=False)
    available = min(len(view.labels) for view in found.values())
    try:
        configs = [view.checkpoint.config for view in found.values()]
        asked = sweep_settings.settings(available, "The first so many test samples of each run's data.", configs)
    except ValueError as error:
        st.error(str(error))
        return
    if len(asked.attacks) < 2:
        st.markdown("Choose a disturbance and its strengths.")
        return
    submit = sweeps(found, asked)
    said = f"{len(asked.attacks) - 1} strengths on {asked.samples} samples, for each run."
    jobs = together.asked("measure_robustness", "Disturb them", "Disturbing", submit, said)
    if jobs:
        title = f"Disturbing {asked.samples} test samples"
        work.live(together.Together(title, jobs), lambda: _robust_results(found, jobs, asked, kept), retry=False)


def sweeps(found: Mapping[str, View], asked: Sweep) -> dict[str, Callable[[bool], Job | None]]:
    """The sweep of each network, as together.asked starts it."""
    return {
        name: lambda start, view=view: work.sweep_job(
            view, asked.attacks, asked.samples, asked.seed, start, _encodings(view, asked)
        )
        for name, view in found.items()
    }


def _encodings(view: View, asked: Sweep) -> int:
    return robustness.encodings_shown(view.checkpoint.config, asked.encodings)


def _robust_results(found: Mapping[str, View], jobs: Mapping[str, Job], asked: Sweep, kept: Mapping[str, int]) -> None:
    table = swept(found, jobs, asked)
    if table.empty:
        return
    kinds = [kind for kind in KINDS if any(attack.kind == kind and attack.strength for attack in asked.attacks)]
    for column, kind in zip(st.columns(len(kinds)), kinds):
        with column:
            st.markdown(f"**{KINDS[kind].label}**")
            curves(table, kind, asked.attacks, kept, f"run_{kind}")
    pinned = {"Disturbance": {"pinned": True}}
    st.dataframe(accuracies(table, asked.attacks), hide_index=True, height="content", column_config=pinned)


def swept(found: Mapping[str, View], jobs: Mapping[str, Job], asked: Sweep) -> pd.DataFrame:
    """What the sweeps have found so far at T: run and the columns of robustness.sweep_table."""
    tables = []
    for name, job in jobs.items():
        config, encodings = found[name].checkpoint.config, _encodings(found[name], asked)
        parts = robustness.sweep_parts(config, asked.attacks, asked.samples, encodings)
        table = robustness.sweep_table(work.sweep_results(job, parts), encodings)
        tables.append(table[table["step"] == config.steps].assign(run=name))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*robustness.SWEEP_COLUMNS, "run"])


def curves(table: pd.DataFrame, kind: str, attacks: Sequence[Attack], kept: Mapping[str, int], key: str) -> None:
    """Accuracy against the strength of one kind of disturbance, a line a run. table: as swept."""
    does = KINDS[kind]
    scale = 255 if does.norm == "L∞" else 1
    part = table[(table["kind"] == kind) | (table["strength"] == 0)]
    part = part.assign(attack=does.label, strength=part["strength"].astype(float) * scale)
    figure = theme.Figure(comparison.robustness_curves(part, AXES[does.norm], kept))
    top = scale * max(attack.strength for attack in attacks if attack.kind == kind)
    figure.update_xaxes(range=[-0.04 * top, 1.04 * top])  # stands still while points arrive
    show.chart(figure, part, key, f"Accuracy under {does.label}, by network.")


def accuracies(table: pd.DataFrame, attacks: Sequence[Attack]) -> pd.DataFrame:
    """A row an attack, a column a run: accuracy at T with its 95 % interval."""
    cells = {
        (
            row.run,
            row.attack,
            row.strength,
        ): f"{show.share(row.accuracy)} ({show.share(row.low)} to {show.share(row.high)})"
        for row in table.itertuples()
    }
    rows = []
    for attack in attacks:
        key = attack.does.label, attack.strength
        rows.append({"Disturbance": attack.label} | {run: cells.get((run, *key), "") for run in table["run"].unique()})
    return pd.DataFrame(rows)
