"""Long work for pages: each question is a job, found again by the content it depends on."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from itertools import takewhile

import streamlit as st

from engine.analysis import evaluation, robustness
from engine.analysis.early_exit import latency
from engine.analysis.evaluation import Evaluation
from engine.analysis.robustness import Attack
from engine.jobs import OVER, Job, JobError, Jobs

from .session import View

SEED = 0  # of the input spikes, unless a page asks for another


@st.cache_resource(show_spinner=False)
def jobs() -> Jobs:
    """The one work queue of the server; its workers start in the background at the first visit."""
    queue = Jobs(scheduler=os.environ.get("BNTT_SCHEDULER") or None)
    threading.Thread(target=queue.start, name="start workers", daemon=True).start()
    return queue


def evaluation_job(view: View, precision: str = "float32") -> Job:
    """The whole test split, once."""
    config, count = view.checkpoint.config, len(view.labels)
    size = max(1, min(evaluation.chunk_size(config), robustness.part_size(config, 1), -(-count // 10)))
    parts = [(start, min(start + size, count)) for start in range(0, count, size)]
    return _submit(
        view, f"Running {count:,} test samples", evaluation.evaluate_rows, parts, precision=precision, seed=SEED
    )


def sweep_job(view: View, attacks: Sequence[Attack], samples: int, seed: int, start: bool) -> Job | None:
    """Accuracy under these attacks on the first `samples` test samples; None if it never ran and `start` is False."""
    parts = robustness.sweep_parts(view.checkpoint.config, attacks, samples)
    return _submit(view, f"Disturbing {samples} test samples", robustness.attack_rows, parts, start=start, seed=seed)


def closeup_job(view: View, attack: Attack, seed: int) -> Job:
    """The chosen sample, clean and attacked."""
    return _submit(view, f"Disturbing sample {view.sample}", robustness.closeup, [(attack, view.sample)], seed=seed)


def latency_job(view: View) -> Job:
    """Time for one image at each exit step."""
    return _submit(view, "Measuring latency", latency, [()], data=False)


def joined(job: Job) -> Evaluation | None:
    """The finished parts of an evaluation job up to the first gap, so that positions are rows; None before the first."""
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
    view: View, title: str, function: Callable, parts: list[tuple], *, data=True, start: bool | None = None, **settings
) -> Job | None:
    asked = [
        view.fingerprint,
        view.data.name if data else None,
        title,
        repr(parts),
        json.dumps(settings, sort_keys=True),
    ]
    key = hashlib.sha256("\n".join(map(str, asked)).encode()).hexdigest()
    known = jobs().get(key)
    if start is False or (start is None and known is not None):  # what failed is not tried again unasked
        return known
    shared = {"model": view.checkpoint.model, **settings}
    if data:
        shared |= {
            "pixels": view.pixels,
            "labels": view.labels,
            "mean": view.checkpoint.mean,
            "std": view.checkpoint.std,
        }
    try:
        return jobs().submit(key, title, function, parts, shared)
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
        _progress(job)
    elif job.state == "cancelled":
        st.info(f"Cancelled. {100 * job.done / job.total:.0f} % had been computed by then.")
    for one in watched:
        if one.state == "failed":
            st.error(f"{one.title}: {one.error}")
        if retry and one.state in ("failed", "cancelled") and st.button("Try again", key=f"retry {one.key}"):
            jobs().forget(one.key)
            st.rerun()


def _progress(job: Job) -> None:
    left = job.seconds_left()
    said = "starting the workers …" if job.state == "starting" else f"{100 * job.done / job.total:.0f} %"
    if left is not None:
        said += f", about {left:.0f} s left" if left >= 1 else ", nearly done"
    bar, button = st.columns([6, 1], vertical_alignment="center")
    bar.progress(job.done / job.total, f"{job.title}: {said}")
    button.button("Cancel", key=f"cancel {job.key}", on_click=job.cancel, width="stretch")
