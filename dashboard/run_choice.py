"""Which runs of the list a person has chosen, in the table or by name. The choice sits in the URL."""

from __future__ import annotations

import hashlib

import streamlit as st

from engine.run_library import Run

from . import run_table, runs_now

KEY = "compare"  # of the choice, also in the URL
MOST = 8
FILTERED_FROM = 9  # runs, so that fewer need no box to find one
LOOK_SECONDS = 2.0  # between looks at the runs while one trains


def choose(runs: list[Run]) -> list[Run]:
    """Draw the list and return what is chosen, in the order of choosing."""
    names = [run.name for run in runs]
    _forget_the_gone(names)
    asked = (
        st.text_input("Find runs", key="find_runs", placeholder="name, data set, state, …")
        if len(runs) >= FILTERED_FROM
        else ""
    )
    place = st.container()
    chosen = st.multiselect(
        "Chosen runs",
        names,
        key=KEY,
        bind="query-params",
        max_selections=MOST,
        placeholder="Tick runs in the table, or choose them here",
        on_change=lambda: st.session_state.pop("absent_runs", None),
        help=f"One to look at, rename, download or delete; two to {MOST} to compare.",
    )
    with place:
        _table(runs, asked, list(chosen))
    by_name = dict(zip(names, runs))
    return [by_name[name] for name in chosen]


def _forget_the_gone(names: list[str]) -> None:
    """Runs that are no longer here leave the choice; those that a link names are told."""
    if KEY in st.session_state:
        st.session_state[KEY] = [name for name in st.session_state[KEY] if name in names][:MOST]
    elif gone := [name for name in st.query_params.get_all(KEY) if name and name not in names]:
        st.session_state["absent_runs"] = gone  # the URL forgets them after this run
    if absent := [name for name in st.session_state.get("absent_runs", []) if name not in names]:
        st.warning(f"The link names runs that are not here: **{', '.join(absent)}**.")


def _table(runs: list[Run], asked: str, chosen: list[str]) -> None:
    """The list; while one of them trains it looks again every two seconds."""
    read = [runs]  # already, by the run of the script that draws this first
    before = _page_depends_on(runs)

    @st.fragment(run_every=LOOK_SECONDS if any(run.state in runs_now.LIVE for run in runs) else None)
    def body() -> None:
        now = read.pop() if read else runs_now.listed()
        if _page_depends_on(now) != before or st.session_state.get(KEY) != chosen:
            st.rerun()
        shown = run_table.matching(now, asked)
        if shown:
            _rows(shown, chosen)
        else:
            st.markdown(f"No run matches “{asked}”.")

    body()


def _page_depends_on(runs: list[Run]) -> list[tuple]:
    """What the rest of the page shows of the runs: it is drawn again when this changes."""
    return [(run.name, run.state, run.epochs_done > 0) for run in runs]


def _rows(shown: list[Run], chosen: list[str]) -> None:
    names = [run.name for run in shown]
    # what is ticked are places in the table, so another list is another table
    key = f"runs {hashlib.sha256(repr(names).encode()).hexdigest()[:12]}"
    ticked = [place for place, name in enumerate(names) if name in chosen]
    known = st.session_state.get(key)
    # new numbers in the table make the browser forget the ticks
    if (
        known is None
        or sorted(known["selection"]["rows"]) != ticked
        or any(run.state in runs_now.LIVE for run in shown)
    ):
        st.session_state[key] = {"selection": {"rows": ticked, "columns": [], "cells": []}}
    st.dataframe(
        run_table.overview(shown),
        key=key,
        hide_index=True,
        column_config=run_table.COLUMNS,
        placeholder="",
        selection_mode="multi-row",
        on_select=lambda: _tick(key, names),
        alt="Runs, newest first",
    )


def _tick(key: str, names: list[str]) -> None:
    """Take over what was ticked in the table; what it does not show stays chosen."""
    ticked = [names[row] for row in st.session_state[key]["selection"]["rows"]]
    before = st.session_state.get(KEY, [])
    kept = [name for name in before if name in ticked or name not in names]
    st.session_state[KEY] = [*kept, *(name for name in ticked if name not in before)][:MOST]
    st.session_state.pop("absent_runs", None)
