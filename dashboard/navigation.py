"""The pages, by name: for the menu and for links from one page to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlencode

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

PAGES = Path(__file__).resolve().parent.parent / "pages"
ATTEMPTS = 5
_TITLES = {
    "overview": ("Overview", ":material/dashboard:"),
    "gamma": ("Gamma", ":material/grid_on:"),
    "spikes": ("Spikes", ":material/bolt:"),
    "early_exit": ("Early exit", ":material/exit_to_app:"),
    "robustness": ("Robustness", ":material/shield:"),
    "baselines": ("Baselines", ":material/compare:"),
    "training": ("Training", ":material/model_training:"),
    "runs": ("Runs", ":material/folder_open:"),
}


def choose() -> st.Page:
    """The page this run is asked for; `current` tells its name from now on."""
    named = pages()
    page = _asked(list(named.values()))
    st.session_state["page_name"] = next(
        name for name, entry in named.items() if entry._script_hash == page._script_hash
    )
    return page


def _asked(entries: list[st.Page]) -> st.Page:
    """Streamlit 1.67 keeps the page asked for in one place a visitor, where a run that is just being stopped may still
    write its own: a click on a link that met a redraw stayed without effect. So we set it again to what this run was
    started with, and look whether that is what came out."""
    run = get_script_run_ctx()
    asked = run.page_script_hash
    if asked not in {entry._script_hash for entry in entries}:
        return st.navigation(entries)  # a first visit: the path in the URL decides
    for _ in range(ATTEMPTS):
        run.pages_manager.set_script_intent(asked, "")
        page = st.navigation(entries)
        if page._script_hash == asked:
            break
    return page


def pages() -> dict[str, st.Page]:
    """Name → page, in the order of the menu."""
    return {
        name: st.Page(PAGES / f"{name}.py", title=title, icon=icon, default=name == "overview")
        for name, (title, icon) in _TITLES.items()
    }


def current() -> str:
    """Name of the page this run draws."""
    return st.session_state["page_name"]


def link(name: str, label: str | None = None, query: Mapping[str, Sequence[str]] | None = None) -> None:
    """A link to another page, with the choices on that page that `query` names."""
    icon = ":material/arrow_forward:"
    st.page_link(pages()[name], label=label or f"See {_TITLES[name][0]}", icon=icon, query_params=query)


def address(name: str, query: Mapping[str, Sequence[str]]) -> str:
    """Where a page is found with these choices, seen from any other page."""
    path = pages()[name].url_path or "."
    return f"{path}?{urlencode(query, doseq=True)}"
