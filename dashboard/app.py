"""The app: theme, sidebar, navigation over pages/. Run by `python -m dashboard`."""

import streamlit as st

from dashboard import navigation, show, sidebar, visitor, work

st.set_page_config(page_title="BNTT dashboard", page_icon="⚡", layout="wide")
show.style()
page = navigation.choose()
work.jobs()
sidebar.draw()
with st.sidebar:
    work.panel()
visitor.remember()
page.run()
