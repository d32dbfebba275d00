"""The app: theme, sidebar, navigation over pages/. Run by `python -m dashboard`."""

import gc

import streamlit as st

from dashboard import navigation, show, sidebar, visitor, work, work_panel


@st.cache_resource(show_spinner=False)
def settle() -> None:
    """Spare Python's garbage collector what was loaded for the first page and stays: looking through torch, pandas and
    plotly takes it a third of a second, in which no page is drawn."""
    gc.collect()
    gc.freeze()


st.set_page_config(page_title="BNTT dashboard", page_icon="⚡", layout="wide")
show.style()
page = navigation.choose()
work.jobs()
sidebar.draw()
visitor.remember()
below = st.sidebar.container()
try:
    page.run()
finally:  # what the page has just started or resumed is listed, too; many pages end by st.stop
    with below:
        work_panel.panel()
    settle()
