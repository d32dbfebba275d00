"""Several jobs that one button starts and one bar shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import streamlit as st

from engine.job import OVER, Job
from engine.jobs import AGAIN


class Together:
    """Several jobs as the one that `work.live` shows: one bar, one Cancel."""

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


def asked(
    key: str, label: str, title: str, submit: Mapping[str, Callable[[bool], Job | None]], said: str, named: bool = True
) -> dict[str, Job]:
    """A button that starts what is not known yet, and the jobs there are. submit: start → job, by name. named: whether
    those names mean something to people."""
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
            said = f"Still to do: {', '.join(lacking)}. {said}" if named else f"Part of it is known already. {said}"
        st.caption(said, width="stretch")
    return {name: job for name, job in jobs.items() if job is not None}
