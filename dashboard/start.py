"""The button that starts a job which people start themselves, and goes on with it."""

from __future__ import annotations

import streamlit as st

from engine.jobs import AGAIN, Job


def button(job: Job | None, key: str, label: str, said: str, possible: bool = True) -> None:
    """A button with a sentence beside it. job: what these settings ask for, None if it never ran. possible: whether
    there is anything to start. Whether it was pressed stands in st.session_state[key] when the page runs next."""
    again = job is not None and job.state in AGAIN
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            label if not again else f"{label} again" if job.state == "failed" else "Resume",
            key=key,
            type="primary",
            icon=":material/play_arrow:",
            disabled=not possible or not (job is None or again),
        )
        st.caption(said, width="stretch")
