"""The app: theme, sidebar, navigation over pages/. Run by `python -m dashboard`."""

import streamlit as st

from dashboard import navigation, show, sidebar, visitor, work

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
        work.panel()
