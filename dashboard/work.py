"""Long work for pages: each question is a job, found again by the content it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from itertools import takewhile

import streamlit as st

from engine import cost, datasets, run_library, store
from engine.analysis import evaluation, robustness, transfer, verdict
from engine.analysis.early_exit import latency
from engine.analysis.evaluation import Evaluation
from engine.attacks import Attack, Attacker
from engine.device import device
from engine.jobs import AGAIN, OVER, Job, JobError, Jobs
from engine.recipe import Recipe
from engine.snn import ModelConfig
from engine.training_job import train_run

from . import navigation
from .models import runs_folder
from .session import View
from .together import Together

SEED = 0  # of the input spikes, unless a page asks for another
START_SECONDS = 4.0  # after a first visit; a process that loads Dask would take its page half a second


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The one work queue of the server; its workers start with the first work, or in the background after a first visit,
    when that has its page."""
    queue = Jobs(scheduler=os.environ.get("BNTT_SCHEDULER") or None, store=store.store())
    starting = threading.Timer(START_SECONDS, queue.start)
    starting.daemon = True
    starting.start()
    return queue


def may_have_gpu() -> bool:
    """Whether this machine has one, or work goes to a cluster, whose workers may."""
    return device().type == "cuda" or bool(os.environ.get("BNTT_SCHEDULER"))


def evaluation_job(view: View, precision: str = "float32", start: bool | None = None) -> Job | None:
    """The whole test split, once. start: as for _submit; None never comes back empty-handed."""
    parts = evaluation.evaluation_parts(view.checkpoint.config, len(view.labels))
    title = f"Running {len(view.labels):,} test samples"
    return _submit(view, title, evaluation.evaluate_rows, parts, start=start, precision=precision, seed=SEED)


def sweep_job(
    view: View,
    attacks: Sequence[Attack],
    samples: int,
    seed: int,
    start: bool | None,
    encodings: int = 1,
    title: str = "",
) -> Job | None:
    """Accuracy under these attacks on the first `samples` test samples, each in so many random encodings; None if it
    never ran and `start` is False. title: for people, where it is not just what was asked for."""
    parts = robustness.sweep_parts(view.checkpoint.config, attacks, samples, encodings)
    title, settings = title or f"Disturbing {samples} test samples", {"seed": seed, "encodings": encodings}
    return _submit(view, title, robustness.attack_rows, parts, start=start, **settings)


def transfer_job(
    view: View, attack: Attack, samples: int, seed: int, targets: Sequence[View], encodings: int, start: bool | None
) -> Job | None:
    """Images made on the network of `view`, shown to each of the targets in so many encodings where they are random; None
    as of sweep_job."""
    shown = [robustness.encodings_shown(target.checkpoint.config, encodings) for target in targets]
    networks = [
        transfer.Target(target.checkpoint.model, target.checkpoint.mean, target.checkpoint.std, count)
        for target, count in zip(targets, shown)
    ]
    parts = robustness.sweep_parts(view.checkpoint.config, [attack], samples, sum(shown))
    title = f"Fooling {view.name}, trying it on {'others' if len(targets) > 1 else targets[0].name}"
    names = [[target.fingerprint, count] for target, count in zip(targets, shown)]
    return _submit(
        view,
        title,
        transfer.transfer_rows,
        parts,
        start=start,
        large={"targets": (networks, names)},
        seed=seed,
    )


def gradient_job(view: View, attacker: Attacker, samples: int, seed: int, start: bool | None) -> Job | None:
    """Shares of zero gradients, for verdict.verdict; None as of sweep_job."""
    parts = [(attacker, *part) for part in evaluation.evaluation_parts(view.checkpoint.config, samples)]
    title = "Looking at the gradients"
    return _submit(view, title, verdict.zero_gradients, parts, start=start, noted=False, seed=seed)


def closeup_job(view: View, attack: Attack, seed: int) -> Job:
    """The chosen sample, clean and attacked; a moment's work, which is not kept on disk."""
    parts = [(attack, view.sample)]
    return _submit(view, f"Disturbing sample {view.sample}", robustness.closeup, parts, kept=False, seed=seed)


def latency_job(view: View) -> Job:
    """Time for one image at each exit step; of this machine, so not kept on disk."""
    return _submit(view, "Measuring latency", latency, [()], data=False, kept=False)


def training_job(run: str, start: bool) -> Job | None:
    """The training in the folder of this run, begun or resumed; None if this server did not start it and `start` is
    False."""
    folder = (runs_folder() / run).resolve()
    key = f"training {folder}"
    if not start:
        return jobs().get(key)
    known = jobs().get(key)
    if known is not None and known.state == "done":
        jobs().forget(key)  # of a run of this name before it was deleted
    return _told(
        lambda: jobs().submit(
            key,
            f"Training {run}",
            train_run,
            [(str(folder), str(datasets.folder()))],
            where=("training", {"run": [run]}),
            noted=True,
            training=True,
            progress=lambda: run_library.progress_share(folder),
        )
    )


def cost_job(config: ModelConfig, recipe: Recipe, samples: int) -> Job:
    """What training this on so many samples would cost, measured on a worker: its one result is an engine.cost.Cost."""
    said = json.dumps([config.to_dict(), asdict(recipe), samples], sort_keys=True)
    key = f"cost {hashlib.sha256(said.encode()).hexdigest()}"
    known = jobs().get(key)  # what failed is not tried again unasked
    return known or _told(lambda: jobs().submit(key, "Estimating the cost", cost.measure, [(config, recipe, samples)]))


def joined(job: Job) -> Evaluation | None:
    """The finished parts of an evaluation job up to the first gap, where positions are rows; None before the first."""
    parts = list(takewhile(lambda result: result is not None, job.results))
    return evaluation.join(parts) if parts else None


def sweep_results(job: Job, parts: Sequence[tuple]) -> list[tuple[Attack, Evaluation]]:
    """The finished parts of a sweep, joined by attack, in the order asked for."""
    found: dict[Attack, list[Evaluation]] = {}
    for (attack, *_), result in zip(parts, job.results):
        if result is not None:
            found.setdefault(attack, []).append(result)
    return [(attack, evaluation.join(results)) for attack, results in found.items()]


def _submit(
    view: View,
    title: str,
    function: Callable,
    parts: list[tuple],
    *,
    data: bool = True,
    kept: bool = True,
    start: bool | None = None,
    noted: bool = True,
    large: Mapping[str, tuple[object, object]] | None = None,
    **settings,
) -> Job | None:
    """start: True runs it, False only looks for it, None runs it if it was never tried. noted: whether a later server
    offers to go on with what a person started. large: settings as (value, JSON that stands for it)."""
    large = large or {}
    names = {name: stands for name, (_, stands) in large.items()}
    question = store.question(view.checkpoint, view.data if data else None, function, **settings, **names)
    key = question.job_key(parts)
    where = (navigation.current(), {name: st.query_params.get_all(name) for name in st.query_params})
    if start is not True:
        known = jobs().find(key, title, parts, question, where) if kept and start is False else jobs().get(key)
        if start is False or known is not None:  # what failed is not tried again unasked
            return known
    shared = {"model": view.checkpoint.model, **settings, **{name: value for name, (value, _) in large.items()}}
    if data:
        shared |= {
            "pixels": view.pixels,
            "labels": view.labels,
            "mean": view.checkpoint.mean,
            "std": view.checkpoint.std,
        }
    asked = question if kept else None
    # what a page asks for by itself it asks for again: only what a person started is worth a note on disk
    return _told(
        lambda: jobs().submit(
            key, title, function, parts, shared, question=asked, where=where, noted=noted and start is True
        )
    )


def _told(submit: Callable[[], Job]) -> Job:
    """The job; where there are no workers, one sentence and the end of the page."""
    try:
        return submit()
    except JobError as error:
        st.error(f"{error} Reload the page to try again.")
        st.stop()


def live(job: Job, draw: Callable[[], None], *, also: Sequence[Job] = (), retry: bool = True) -> None:
    """Draw now, and again every second while the job or one of `also` runs, with the job's progress above.

    draw() must read what it draws from the jobs. retry: offer to run again what failed or was cancelled.
    """
    watched = [job, *also]
    polled = any(one.state not in OVER for one in watched)
    mark = f"live {job.key}"
    st.session_state[mark] = False

    @st.fragment(run_every=1.0 if polled else None)
    def body():
        if st.session_state[mark]:
            # Stops the timer and lets the rest of the page see the result: a second after that was drawn, because
            # Streamlit can lose a click that meets a rerun, and people click when they see a result.
            st.rerun()
        said, drawn = st.container(), st.container()  # what is drawn keeps its place when the progress bar goes
        with said:
            _state(job, watched, retry)
        with drawn:
            draw()
        st.session_state[mark] = polled and all(one.state in OVER for one in watched)

    body()


def _state(job: Job, watched: Sequence[Job], retry: bool) -> None:
    """How far it is, or how it ended."""
    if job.state not in OVER:
        progress(job)
    elif job.state in ("cancelled", "interrupted"):
        ended = "Cancelled" if job.state == "cancelled" else "Interrupted when the server stopped"
        st.info(f"{ended}. {100 * job.share():.0f} % had been computed by then, and is not computed again.")
    for one in watched:
        for note in one.notes:
            st.caption(note)
        if one.state == "failed":
            st.error(f"{one.title}: {one.error}")
        if retry and one.state in ("failed", "cancelled") and st.button("Try again", key=f"retry {one.key}"):
            for inside in one.jobs.values() if isinstance(one, Together) else [one]:
                if inside.state in AGAIN:
                    jobs().forget(inside.key)
            st.rerun()


def progress(job: Job, key: str = "") -> None:
    """How far a job is that is not over, with a button that cancels it. key: of the place, where it is shown twice."""
    bar, button = st.columns([6, 1], vertical_alignment="center")
    bar.progress(job.share(), f"{job.title}: {how_far(job)}")
    button.button("Cancel", key=f"cancel {key}{job.key}", on_click=job.cancel, width="stretch")


def how_far(job: Job) -> str:
    """In words: "40 %, about 12 s left"."""
    if job.state in ("starting", "waiting"):
        return "starting the workers …" if job.state == "starting" else "waiting for another training …"
    left = job.seconds_left()
    return f"{100 * job.share():.0f} %" + ("" if left is None else f", {duration(left)}")


def duration(seconds: float) -> str:
    """Time left, as people say it: "about 5 min left"."""
    if seconds < 1:
        return "nearly done"
    if seconds < 100:
        return f"about {seconds:.0f} s left"
    return f"about {seconds / 60:.0f} min left" if seconds < 100 * 60 else f"about {seconds / 3600:.1f} h left"
