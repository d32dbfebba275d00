"""A training that is watched: how far it is, what can be done with it, its curves and its γ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import streamlit as st

from engine import run_library
from engine.jobs import OVER, Job
from engine.run_library import Run
from engine.runs import TrainingError

from . import models, navigation, show, training_panels, work
from .charts import run_looks

STATE_SECONDS, CHART_SECONDS = 1.0, 2.0  # between two looks at a run that is trained
TAB = "Watch"
_RUN, _TAB = "run", "tab"  # in the URL too
_BEGIN, _SEEN, _STOPPING, _PLACES = "begin_run", "seen_run", "stopping_run", "run_places"
COLUMNS = 3


@dataclass(frozen=True)
class State:
    """How a run is doing. said: in one line. share: how much of it is done, 0 … 1. live: it changes by itself. ours: it
    can be stopped here. finished: nothing is left to do. error: why it failed, or ""."""

    said: str
    share: float
    live: bool = False
    ours: bool = False
    finished: bool = False
    error: str = ""

    def changed(self, before: State) -> bool:
        """Whether other buttons may be pressed than before."""
        return (self.live, self.ours, self.finished) != (before.live, before.ours, before.finished)


def look_at(name: str, begin: bool = False) -> None:
    """For callbacks: make this the run looked at, and with `begin` start or resume it."""
    st.query_params[_RUN], st.session_state[_TAB] = name, TAB
    if begin:
        st.session_state[_BEGIN] = name


def begin(name: str) -> None:
    """Start a new run and look at it, in the next run of the script."""
    st.session_state[_BEGIN] = name


def begin_asked() -> None:
    """Start or resume what a button asked for, before the widgets of this run of the script."""
    if name := st.session_state.pop(_BEGIN, None):
        look_at(name)
        work.training_job(name, start=True)


def follow_link() -> None:
    """A link to a run leads to it from the form, too, which is on this very page."""
    if asked := st.query_params.get(_RUN):
        st.session_state[_SEEN] = asked
        if _TAB not in st.query_params and st.session_state.get(_TAB, TAB) != TAB:
            st.session_state[_TAB] = TAB


def choose(runs: list[Run], place) -> Run:
    """The run looked at: the one in the address bar, else the last one, else one that is trained, else the newest.

    The box is not bound to the address bar: a link followed on this very page would change that alone.
    """
    names = [run.name for run in runs]
    asked = st.query_params.get(_RUN)
    if asked and asked not in names:
        st.warning(f"The link names the run **{asked}**, which is not here.")
    trained = next((run.name for run in runs if run.state == "running"), names[0])
    name = next(one for one in (asked, st.session_state.get(_SEEN), trained) if one in names)
    st.query_params[_RUN] = st.session_state[_RUN] = st.session_state[_SEEN] = name
    place.selectbox(
        "Run",
        names,
        key=_RUN,
        on_change=lambda: look_at(st.session_state[_RUN]),
        help=f"Everything trained in {models.runs_folder()}, newest first, also from a terminal.",
    )
    return runs[names.index(name)]


def state_of(run: Run, job: Job | None) -> State:
    """What to say of a run. job: of this server, if it started or resumed the run."""
    under_way = job is not None and job.state not in OVER
    done, epochs = min(run.epochs_done, run.recipe.epochs), run.recipe.epochs
    if run.state == "running":
        said = "Stopping …" if st.session_state.get(_STOPPING) == run.name else _progress(run)
        share = run.progress.share if run.progress else done / epochs
        return State(said, share, live=True, ours=under_way)
    if run.state == "finished":
        return State(_finished(run), 1.0, finished=True)
    if under_way:
        waits = "Waiting for another training …" if job.state == "waiting" else "Starting …"
        return State(waits, done / epochs, live=True, ours=True)
    where = f"after epoch {done} of {epochs}" if done else "before the first epoch ended"
    error = run.error or (job.error if job and job.state == "failed" else "")
    if error:
        return State(f"Failed {where}", done / epochs, error=error)
    stopped = job is not None and job.state == "cancelled"
    return State(f"{'Stopped' if stopped else 'Interrupted'} {where}", done / epochs)


def _progress(run: Run) -> str:
    """The line of a run that is trained."""
    known = run.progress
    if known is None:
        return "Running: reading the data …"
    if known.stage == "testing":
        return f"All {run.epochs_done} epochs are done, measuring on the test samples …"
    said = [f"Running: epoch {known.epoch} of {run.recipe.epochs}"]
    if known.stage == "validating":
        said.append("measuring on the validation samples")
    elif known.loss is not None:
        said.append(f"loss {known.loss:.3g}")
    if known.seconds_left is not None:
        said.append(work.duration(known.seconds_left))
    return ", ".join(said)


def _finished(run: Run) -> str:
    said = "Finished"
    if run.epochs_done < run.recipe.epochs:
        said += (
            f" early, after epoch {run.epochs_done} of {run.recipe.epochs}: none got better for {run.recipe.patience}"
        )
    accuracy, samples = run.result.get("test_accuracy"), run.result.get("test_samples")
    if not isinstance(accuracy, float) or not isinstance(samples, int):
        return said
    how = "" if run.recipe.precision == "float32" else ", computed in float32"
    return f"{said}: {show.share(accuracy)} of the {samples:,} test samples answered right{how}"


def controls(run: Run, places) -> State:
    """Three buttons in these places, and a bar with a line, which stay where they are whatever happens."""
    job = work.training_job(run.name, start=False)
    if run.state == "running" and job is not None and job.state == "failed":
        work.jobs().forget(job.key)  # somebody resumed it elsewhere: why it failed here is no news any more
        job = None
    state = state_of(run, job)
    if not state.live:
        st.session_state.pop(_STOPPING, None)
    stop, resume, leave = places
    stop.button(
        "Stop",
        key="stop_run",
        icon=":material/stop:",
        width="stretch",
        disabled=not state.ours,
        on_click=_stop,
        args=[run.name, job],
        help="It was started elsewhere, in a terminal perhaps: press Ctrl-C there."
        if state.live and not state.ours
        else "Ends it at once. What was learned up to the last finished epoch is kept, and Resume goes on from there.",
    )
    resume.button(
        "Resume",
        key="resume_run",
        icon=":material/play_arrow:",
        width="stretch",
        disabled=state.live or state.finished,
        on_click=look_at,
        args=[run.name, True],
        help="Goes on after the last finished epoch, as if it had never been stopped.",
    )
    there = (run.folder / "model.safetensors").is_file()
    _open(run, leave, there)
    _follow(run, state, there)
    return state


def _open(run: Run, place, there: bool) -> None:
    if place.button(
        "Open in the dashboard",
        key="open_run",
        icon=":material/dashboard:",
        width="stretch",
        disabled=not there,
        help="Shows this network on all other pages. There is one as soon as the first epoch has ended.",
    ):
        st.session_state["upload_choice"] = f"runs/{run.name}"
        st.switch_page(navigation.pages()["overview"])


def _stop(name: str, job: Job) -> None:
    st.session_state[_STOPPING] = name
    job.cancel()


def _follow(run: Run, shown: State, there: bool) -> None:
    """The bar and its line, every second while the run changes by itself. shown, there: what the buttons stand for."""
    mark = f"changed {run.name}"
    st.session_state[mark] = False

    @st.fragment(run_every=STATE_SECONDS if shown.live else None)
    def body():
        if st.session_state[mark]:
            st.rerun()  # a second after the change was drawn, as in work.live
        job = work.training_job(run.name, start=False)
        try:
            state = state_of(run_library.read_run(run.folder, run.name), job)
        except TrainingError as error:
            state = State("It is no longer here", 0.0, error=str(error))
        st.progress(state.share, state.said)
        for note in job.notes if job else ():
            st.caption(note)
        if state.error:
            st.error(f"{state.error[0].upper()}{state.error[1:].rstrip('.')}.")
        st.session_state[mark] = shown.live and (
            state.changed(shown) or there != (run.folder / "model.safetensors").is_file()
        )

    body()


def curves(run: Run, others: list[Run], live: bool, more: list[Callable[[], None]]) -> None:
    """What is drawn of a run and what beside it, everything its epochs have shown so far, and what comes while it is
    looked at, in three columns.

    others: runs it may be compared with. more: draw what follows the charts.
    """
    known = {one.name: one for one in others}

    @lru_cache(maxsize=1)
    def panels(_stamps: tuple, against: tuple[str, ...]) -> list[training_panels.Panel]:
        kept = run_looks.places([run.name, *against], st.session_state.get(_PLACES))
        st.session_state[_PLACES] = kept
        return training_panels.panels(run, [known[name] for name in against], kept)

    @lru_cache(maxsize=1)
    def growth(_stamp: tuple | None, layer: str):
        return training_panels.gamma_growth(run, layer)

    @st.fragment(run_every=CHART_SECONDS if live else None)
    def body():
        against = _choices(list(known))
        stamps = tuple(_stamp(one) for one in (run, *(known[name] for name in against)))
        cells = [partial(_draw, panel) for panel in panels(stamps, against)]  # figures are made anew once an epoch
        if run.config.norm == "bntt":
            cells.insert(1, partial(_growing, run, growth, stamps[0]))
        cells += more
        for row in range(0, len(cells), COLUMNS):
            for column, draw in zip(st.columns(COLUMNS), cells[row : row + COLUMNS]):
                with column:
                    draw()

    body()


def _choices(others: list[str]) -> tuple[str, ...]:
    """Runs to compare with."""
    against = st.multiselect(
        "Compare with other runs",
        others,
        key="against",
        bind="query-params",
        placeholder="Their loss and accuracy are drawn beside this run's",
        disabled=not others,
    )
    return tuple(name for name in against if name in others)


@st.fragment
def _growing(run: Run, growth: Callable, stamp: tuple[int, int] | None) -> None:
    """γ of a layer, epoch by epoch: another layer draws this chart alone. growth: (stamp, layer) → figure and data."""
    layers = [spec.name for spec in run.config.hidden_layers()]
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        st.markdown("**γ, epoch by epoch, of**", width="content")
        layer = st.selectbox(
            "γ of layer",
            layers,
            len(layers) - 1,
            key="gamma_layer",
            bind="query-params",
            label_visibility="collapsed",
            width=120,
        )
    figure, table = growth(stamp, layer)
    show.chart(figure, table, "run_gamma", f"Mean γ of {layer} by epoch and timestep.", layer)


def _draw(panel: training_panels.Panel) -> None:
    with st.container(key=f"title_{panel.key}"):
        st.markdown(f"**{panel.title}**")
    show.chart(panel.figure, panel.table, panel.key, panel.describe)


def _stamp(run: Run) -> tuple[int, int] | None:
    """Changes when an epoch is added."""
    try:
        found = (run.folder / "metrics.jsonl").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size
