"""A Streamlit app whose pages have as many elements of each kind as those of the dashboard, and nothing of its own to do.

LIKE names a JSON file. "pages": for each its title, how many plots it has, and how many elements of each kind (as their
data-testid calls them) are in its main part and in the sidebar. "moves": for each how many elements of each kind are sent
when a widget is moved, "plots" among them, and how many of the latter change; `?move=N` shows a slider that sends them.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

LAYERS, STEPS = 8, 25
WORDS = "As many words as **a caption or a sentence** of the dashboard has, on average"
TABLE = pd.DataFrame({name: np.arange(8) for name in ("Layer", "Neurons", "Weights", "Accuracy", "Energy")})
PICTURE = np.full((96, 96), 128, np.uint8)
HELP = "What this is good for"


def popover(key: str) -> None:
    """Closed."""
    with st.popover("Save", key=key):
        st.button("CSV", key=f"in_{key}")


def expander(key: str) -> None:
    """Closed; what is in it counts by itself."""
    st.expander("More", key=key)


ELEMENTS: dict[str, Callable[[str], object]] = {
    "stMarkdown": lambda key: st.markdown(WORDS),
    "stHeading": lambda key: st.subheader("A part of the page", anchor=False),
    "stMetric": lambda key: st.metric("Accuracy", "97.2 %", "−0.3 points vs T", border=True, width=168, help=HELP),
    "stSelectbox": lambda key: st.selectbox("Layer", ["conv1", "conv2"], key=key, help=HELP),
    "stMultiSelect": lambda key: st.multiselect("Runs", ["one", "two"], key=key, help=HELP),
    "stSlider": lambda key: st.slider("Timestep", 1, STEPS, key=key, help=HELP),
    "stNumberInput": lambda key: st.number_input("Neuron", 0, 100, key=key, help=HELP),
    "stTextInput": lambda key: st.text_input("Mean", key=key, help=HELP),
    "stButtonGroup": lambda key: st.pills("Quantity", ["γ", "mean", "spread"], key=key, help=HELP),
    "stCheckbox": lambda key: st.toggle("All", key=key, help=HELP),
    "stRadio": lambda key: st.radio("Rule", ["one", "two"], key=key, help=HELP),
    "stButton": lambda key: st.button("Run", key=key, help=HELP),
    "stDownloadButton": lambda key: st.download_button("CSV", b"", key=key, on_click="ignore"),
    "stPopover": popover,
    "stExpander": expander,
    "stFileUploader": lambda key: st.file_uploader("Open", key=key, help=HELP),
    "stDataFrame": lambda key: st.dataframe(TABLE, hide_index=True, key=key),
    "stTable": lambda key: st.table(TABLE),
    "stImage": lambda key: st.image(PICTURE, width=96),
    "stAlert": lambda key: st.info(WORDS),
    "stCode": lambda key: st.code("python -m engine train", "bash"),
    "stProgress": lambda key: st.progress(0.5, "Half"),
    "stPageLink": lambda key: st.page_link("https://arxiv.org/abs/2010.01729", label="More"),
    "stJson": lambda key: st.json({"epochs": 60, "recipe": {"lr": 0.1}}),
}


def draw(counts: dict[str, int], place: str) -> None:
    """So many elements of each kind."""
    for kind, count in counts.items():
        for number in range(count):
            ELEMENTS[kind](f"{place}_{kind}_{number}")


def chart(name: str, number: int, threshold: float | None = None) -> None:
    """A heat map, which shows the threshold where there is one."""
    figure = go.Figure(go.Heatmap(z=np.random.default_rng(number).random((LAYERS, STEPS))))
    figure.update_layout(height=30 * LAYERS + 100, title=None if threshold is None else f"none below {threshold:g}")
    st.plotly_chart(figure, key=f"chart_{name}")


@st.fragment
def move(number: int, said: dict) -> None:
    """A slider, and what is sent when it is moved."""
    threshold = st.slider("Threshold", 0.0, 1.0, 0.1, 0.01)
    st.caption(f"It is at {threshold:g}")
    counts = dict(said["sent"])
    for plot in range(counts.pop("plots", 0)):
        chart(f"move_{number}_{plot}", plot, threshold if plot < said["changed"] else None)
    draw(counts, f"move_{number}")


def page(said: dict) -> st.Page:
    """A page like one of the dashboard's."""

    def body() -> None:
        name = said["title"].lower().replace(" ", "_")
        st.title(said["title"], anchor=False)
        draw(said["main"], name)
        for plot in range(said["plots"]):
            chart(f"{name}_{plot}", plot)

    return st.Page(body, title=said["title"], url_path=said["title"].lower().replace(" ", "_"))


st.set_page_config(layout="wide")
found = json.loads(Path(os.environ["LIKE"]).read_text())
chosen = st.navigation([page(said) for said in found["pages"]], expanded=True)
with st.sidebar:
    draw(found["pages"][0]["sidebar"], "sidebar")
if "move" in st.query_params:
    number = int(st.query_params["move"])
    st.title(f"Move {number}", anchor=False)
    move(number, found["moves"][number])
else:
    chosen.run()
