"""The least Streamlit app that does what the dashboard does: two pages, each a slider over a heat map."""

import numpy as np
import plotly.graph_objects as go
import streamlit as st

LAYERS, STEPS = 8, 25


def page(name: str) -> st.Page:
    """A page of this name."""

    def draw() -> None:
        st.title(name, anchor=False)
        threshold = st.slider("Threshold", 0.0, 1.0, 0.1, 0.01)
        values = np.random.default_rng(0).random((LAYERS, STEPS))
        figure = go.Figure(go.Heatmap(z=np.where(values < threshold, 0, values)))
        figure.update_layout(title=f"none below {threshold:g}", height=30 * LAYERS + 100)
        st.plotly_chart(figure, key=f"chart_{name.lower()}")

    return st.Page(draw, title=name, url_path=name.lower())


st.set_page_config(layout="wide")
st.navigation([page("One"), page("Two")]).run()
