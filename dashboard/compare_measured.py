"""What several runs do on test samples: accuracy at every exit step, and under noise and attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import streamlit as st

from engine.analysis import early_exit, evaluation, robustness
from engine.analysis.robustness import ATTACKS, Attack
from engine.attacks import KINDS
from engine.checkpoint import Checkpoint
from engine.datasets import DataError
from engine.job import OVER, Job
from engine.jobs import AGAIN

from . import data, session, show, sweep_settings, work
from .charts import comparison
from .session import View
from .sweep_settings import AXES, Sweep


class Together:
    """The jobs of several runs as the one that `work.live` shows: one bar, one Cancel."""

    def __init__(self, title: str, jobs: Mapping[str, Job]):
        self.title, self.jobs = title, jobs
        self.key = " ".join(job.key for job in jobs.values())

    @property
    def state(self) -> str:
        states = [job.state for job in self.jobs.values()]
        order = ("running", "starting", "waiting", "failed", "cancelled", "interrupted", "done")
        return min(states, key=order.index)

    @property
    def error(self) -> str:
        return " ".join(f"{name}: {job.error}" for name, job in self.jobs.items() if job.error)

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for job in self.jobs.values() for note in job.notes))

    def share(self) -> float:
        return sum(job.done for job in self.jobs.values()) / sum(job.total for job in self.jobs.values())

    def seconds_left(self) -> float | None:
        """They share the workers: the slowest tells."""
        return max((left for job in self.jobs.values() if (left := job.seconds_left()) is not None), default=None)

    def cancel(self) -> None:
        for job in self.jobs.values():
            job.cancel()


def views(networks: Mapping[str, Checkpoint]) -> tuple[dict[str, View], list[str]]:
    """Each network on the test samples of its own data, as many as its pages run; a sentence for each that cannot."""
    found, told = {}, []
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
        usual = evaluation.affordable(checkpoint.config)
        view = session.view(f"runs/{name}", checkpoint, entry, 0, usual if usual < count else None)
        if view.missing:  # taken away at this moment
            told.append(f"{name} needs {entry.title}, which is not here: {view.missing}.")
        else:
            found[name] = view
    return found, told


def _asked(
    key: str, label: str, title: str, submit: Mapping[str, Callable[[bool], Job | None]], said: str
) -> dict[str, Job]:
    """A button that starts what is not known yet, and the jobs there are. submit: start → job, by run."""
    jobs = {name: one(False) for name, one in submit.items()}
    lacking = [name for name, job in jobs.items() if job is None or job.state in AGAIN]
    if lacking and st.session_state.get(key, False):
        jobs |= {name: submit[name](True) for name in lacking}
        lacking = []
    running = any(job is not None and job.state not in OVER for job in jobs.values())
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(label, key=key, type="primary", icon=":material/play_arrow:", disabled=running or not lacking)
        if not lacking:
            said = f"{title} …" if running else "Done for all of them, and kept for the next time."
        elif len(lacking) < len(jobs):
            said = f"Still to do: {', '.join(lacking)}. {said}"
        st.caption(said, width="stretch")
    return {name: job for name, job in jobs.items() if job is not None}


# ------------------------------------------------------------------------------------------------------ early exit


def exits(found: Mapping[str, View], kept: Mapping[str, int]) -> None:
    """Accuracy at every exit step, and against energy."""
    st.subheader("Early exit", anchor=False)
    submit = {name: lambda start, view=view: work.evaluation_job(view, start=start) for name, view in found.items()}
    counts = sorted({len(view.labels) for view in found.values()})
    said = f"Each network runs {' or '.join(f'{count:,}' for count in counts)} test samples of its data once."
    jobs = _asked("measure_exits", "Measure on the test samples", "Measuring", submit, said)
    if jobs:
        work.live(Together("Running the test samples", jobs), lambda: _exit_results(found, jobs, kept), retry=False)


def _exit_results(found: Mapping[str, View], jobs: Mapping[str, Job], kept: Mapping[str, int]) -> None:
    tables = [
        early_exit.exit_table(found[name].checkpoint.config, done).assign(run=name)
        for name, job in jobs.items()
        if (done := work.joined(job)) is not None
    ]
    if not tables:
        return
    table = pd.concat(tables, ignore_index=True)
    last = table.groupby("run", sort=False).tail(1)
    left, right = st.columns([3, 2])
    with left:
        st.markdown("**Accuracy when leaving after t**, with 95 % intervals")
        show.chart(comparison.exit_curves(table, kept), table, "run_exits", "Accuracy at each exit timestep, by run.")
    with right:
        st.markdown("**Accuracy at T against energy**")
        figure = comparison.accuracy_energy(last[["run", "accuracy", "energy_nj"]], kept)
        show.chart(figure, last, "run_energy", "Accuracy at T against the energy of a sample, by run.")
    st.dataframe(
        pd.DataFrame(
            {
                "Run": last["run"],
                "T": last["step"],
                "Accuracy at T": last["accuracy"].map(show.share),
                "95 % interval": last["low"].map(show.share) + " to " + last["high"].map(show.share),
                "Right": last["correct"].astype(str) + " of " + last["samples"].astype(str),
                "Spikes a sample": last["spikes"].map(show.amount),
                "Energy a sample": last["energy_nj"].map(show.energy),
            }
        ),
        hide_index=True,
        height="content",
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
    submit = {
        name: lambda start, view=view: work.sweep_job(
            view, asked.attacks, asked.samples, asked.seed, start, _encodings(view, asked)
        )
        for name, view in found.items()
    }
    said = f"{len(asked.attacks) - 1} strengths on {asked.samples} samples, for each run."
    jobs = _asked("measure_robustness", "Disturb them", "Disturbing", submit, said)
    if jobs:
        title = f"Disturbing {asked.samples} test samples"
        work.live(Together(title, jobs), lambda: _robust_results(found, jobs, asked, kept), retry=False)


def _encodings(view: View, asked: Sweep) -> int:
    return robustness.encodings_shown(view.checkpoint.config, asked.encodings)


def _robust_results(found: Mapping[str, View], jobs: Mapping[str, Job], asked: Sweep, kept: Mapping[str, int]) -> None:
    attacks, tables = asked.attacks, []
    for name, job in jobs.items():
        config, encodings = found[name].checkpoint.config, _encodings(found[name], asked)
        parts = robustness.sweep_parts(config, attacks, asked.samples, encodings)
        table = robustness.sweep_table(work.sweep_results(job, parts), encodings)
        tables.append(table[table["step"] == config.steps].assign(run=name))
    table = pd.concat(tables, ignore_index=True)
    if table.empty:
        return
    kinds = [kind for kind in ATTACKS if any(attack.kind == kind and attack.strength for attack in attacks)]
    for column, kind in zip(st.columns(len(kinds)), kinds):
        part = table[(table["attack"] == ATTACKS[kind]) | (table["strength"] == 0)]
        scale = 255 if KINDS[kind].norm == "L∞" else 1
        part = part.assign(attack=ATTACKS[kind], strength=part["strength"].astype(float) * scale)
        with column:
            st.markdown(f"**{ATTACKS[kind]}**")
            figure = comparison.robustness_curves(part, AXES[KINDS[kind].norm], kept)
            top = scale * max(attack.strength for attack in attacks if attack.kind == kind)
            figure.update_xaxes(range=[-0.04 * top, 1.04 * top])  # stands still while points arrive
            show.chart(figure, part, f"run_{kind}", f"Accuracy under {ATTACKS[kind]}, by run.")
    st.dataframe(
        _accuracies(table, attacks), hide_index=True, height="content", column_config={"Disturbance": {"pinned": True}}
    )


def _accuracies(table: pd.DataFrame, attacks: Sequence[Attack]) -> pd.DataFrame:
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
        key = ATTACKS[attack.kind], attack.strength
        rows.append({"Disturbance": attack.label} | {run: cells.get((run, *key), "") for run in table["run"].unique()})
    return pd.DataFrame(rows)
