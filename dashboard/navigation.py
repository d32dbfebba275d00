"""The pages, by name: for the menu and for links from one page to another."""

from pathlib import Path

import streamlit as st

PAGES = Path(__file__).resolve().parent.parent / "pages"
_TITLES = {
    "overview": ("Overview", ":material/dashboard:"),
    "gamma": ("Gamma", ":material/grid_on:"),
    "spikes": ("Spikes", ":material/bolt:"),
    "early_exit": ("Early exit", ":material/exit_to_app:"),
    "robustness": ("Robustness", ":material/shield:"),
}


def pages() -> dict[str, st.Page]:
    """Name → page, in the order of the menu."""
    return {
        name: st.Page(PAGES / f"{name}.py", title=title, icon=icon, default=name == "overview")
        for name, (title, icon) in _TITLES.items()
    }


def link(name: str) -> None:
    """A link to a page."""
    st.page_link(pages()[name], label=f"See {_TITLES[name][0]}", icon=":material/arrow_forward:")
