"""In the sidebar: what runs on this server, and what an earlier one left unfinished."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence

import streamlit as st

from engine import run_library
from engine.jobs import OVER, Job
from engine.runs import TrainingError
from engine.store import Record

from . import navigation, work
from .models import runs_folder


def panel() -> None:
    """What runs on this server, whoever asked for it, and what somebody asked for and an earlier server left
    unfinished."""
    if _running() or _interrupted():
        st.fragment(_list, run_every=2.0 if _running() else None)()


def _running() -> list[Job]:
    return [job for job in work.jobs().all() if job.state not in OVER and job.where[0]]


def _interrupted() -> list[Record]:
    return [record for record in work.jobs().interrupted() if record.page in navigation.pages() and _can_go_on(record)]


def _can_go_on(record: Record) -> bool:
    """Of a training, whether its run is still there and unfinished."""
    if record.page != "training":
        return True
    name = (record.query.get("run") or [""])[0]
    try:
        return run_library.read_run(runs_folder() / name).state in ("interrupted", "failed")
    except TrainingError:
        return False


def _list() -> None:
    running, left = _running(), _interrupted()
    if running:
        st.markdown("**Running now**")
    for job in running:
        st.progress(job.share(), f"{job.title}{_model(job.where[1])}: {work.how_far(job)}")
        for note in job.notes:
            st.caption(note)
        with st.container(horizontal=True, vertical_alignment="center"):
            _open("Open", *job.where)
            st.button("Cancel", key=f"cancel here {job.key}", on_click=job.cancel, type="tertiary")
    if left:
        st.markdown("**Interrupted**", help="The server stopped while this ran. What had been computed is kept.")
    for record in left:
        st.caption(f"{record.title}{_model(record.query)}: {100 * record.done / max(1, record.total):.0f} % done")
        with st.container(horizontal=True, vertical_alignment="center"):
            _open("Open, to resume", record.page, record.query)
            st.button(
                "Forget", key=f"forget {record.key}", on_click=work.jobs().forget, args=[record.key], type="tertiary"
            )


def _model(query: Mapping[str, Sequence[str]]) -> str:
    """Which network a job is about, where it is not the default one."""
    return "".join(f" ({name})" for name in query.get("model", ())[:1])


def _open(label: str, page: str, query: Mapping[str, Sequence[str]]) -> None:
    """A link that loads the app anew: on a page that is open already, choices in a link would not reach the widgets."""
    address = html.escape(navigation.address(page, query))
    st.html(
        f'<a href="{address}" target="_self" style="color: inherit; font-size: .875rem">{label}</a>', width="content"
    )
