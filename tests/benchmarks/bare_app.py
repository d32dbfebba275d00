"""The least Streamlit app that does what the dashboard does: pages of one slider over heat maps, two of each number."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st

LAYERS, STEPS = 8, 25
NAMES, MOST = ("One", "Two"), 7  # of pages, and how many heat maps they have at most


def page(name: str, plots: int) -> st.Page:
    """A page with so many heat maps, all of which show the slider's value."""

    def draw() -> None:
        st.title(f"{name} {plots}", anchor=False)
        threshold = st.slider("Threshold", 0.0, 1.0, 0.1, 0.01)
        for plot in range(plots):
            values = np.random.default_rng(plot).random((LAYERS, STEPS))
            figure = go.Figure(go.Heatmap(z=np.where(values < threshold, 0, values)))
            figure.update_layout(title=f"none below {threshold:g}", height=30 * LAYERS + 100)
            st.plotly_chart(figure, key=f"chart_{name.lower()}_{plots}_{plot}")

    return st.Page(draw, title=f"{name} {plots}", url_path=f"{name.lower()}_{plots}")


st.set_page_config(layout="wide")
st.navigation([page(name, plots) for plots in range(1, MOST + 1) for name in NAMES], expanded=True).run()
