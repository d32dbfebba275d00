"""What all pages share: headings, charts that can be taken away, small pictures."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
import torch

from . import data
from .charts import theme
from .session import View

_SHOWN = "charts_are_of"

# The camera of the bar over a chart can only save one format, so the buttons set the format and press it. Who opens the
# file need not have the font of the page: it is laid out anew, with one that is everywhere, and words in dark grey.
_SAVE = """
export default function({ data, parentElement }) {
  const save = (format) => {
    const plot = document.querySelector(`.st-key-chart_${data.chart} .js-plotly-plot`);
    const own = plot.layout.font;
    plot._context.toImageButtonOptions = { format, filename: data.file, scale: format === "svg" ? 1 : 3 };
    plot.layout.font = { ...own, family: "Arial, Helvetica, sans-serif", color: "#444B52" };
    plot.querySelector('.modebar-btn[data-title^="Download plot"]').dispatchEvent(new MouseEvent("click", { bubbles: true }));
    plot.layout.font = own;
  };
  parentElement.querySelectorAll("button").forEach((button) => { button.onclick = () => save(button.dataset.format); });
}
"""
_SAVE_HTML = """
<button data-format="png" title="Save the chart as a PNG picture">PNG</button>
<button data-format="svg" title="Save the chart as an SVG drawing">SVG</button>
"""
_SAVE_CSS = """
:host { display: flex; }
button { background: none; border: none; color: var(--st-text-color); opacity: .65; cursor: pointer; font: 500 .8rem var(--st-font);
  padding: .25rem .5rem; border-radius: .4rem; }
button:hover, button:focus-visible { opacity: 1; color: var(--st-primary-color); outline-offset: -2px; }
"""


@st.cache_resource(show_spinner=False)
def _saver():
    return st.components.v2.component("bntt_save", html=_SAVE_HTML, css=_SAVE_CSS, js=_SAVE)


_STYLE = """
[data-testid="stMainBlockContainer"] { padding-top: 3.2rem; padding-bottom: 3rem; }
[data-testid="stImage"] { column-gap: .5rem; }
[data-testid="stImage"] img { border: 1px solid rgba(122, 129, 137, .35); border-radius: .3rem; }
[class*="st-key-title_"] { min-height: 2.5rem; justify-content: center; }  /* as high as a box, so that charts are level */
[class*="st-key-save_"] { margin-top: -1.25rem; align-self: flex-end; }
@media (max-width: 640px) { .modebar { display: none; } }  /* it would lie over the labels */
.modebar-btn[data-title^="Download plot"], .plotly-notifier { display: none !important; }  /* the menu saves, and at once */
:is([class*="st-key-save_"], [class*="st-key-csv_"]) button p { font-size: .8rem; opacity: .65; }
:is([class*="st-key-save_"], [class*="st-key-csv_"]) button:hover p { opacity: 1; }
"""


def chart(
    figure: go.Figure, table: pd.DataFrame | Callable[[], pd.DataFrame], key: str, describe: str, part: str = ""
) -> None:
    """A figure, with a menu that hands it over as PNG and SVG and its data as CSV.

    table: the data behind it, or a function that makes it on demand. key: unique on the page, letters, digits and
    underscores. describe: what the chart shows, for screen readers. part: of the network, such as a layer, if it shows
    that alone. Saved files are named after the network, the key and the part.
    """
    file = re.sub(r"[^\w.-]+", "-", "_".join(filter(None, ["bntt", st.session_state.get(_SHOWN), key, part])))
    st.plotly_chart(figure, key=f"chart_{key}", config=theme.CONFIG, alt=describe, theme=None)
    with (
        st.popover("Save", type="tertiary", key=f"save_{key}", wrap=False),  # drawn when it is opened, and not before
        st.container(horizontal=True, vertical_alignment="center", gap="xxsmall"),
    ):
        _saver()(data={"chart": key, "file": file}, key=f"saver_{key}", width="content")
        st.download_button(
            "CSV",
            lambda: _csv(table),
            f"{file}.csv",
            "text/csv",
            key=f"csv_{key}",
            type="tertiary",
            on_click="ignore",
            help="Save the data behind the chart",
        )


def _csv(table) -> bytes:
    return (table() if callable(table) else table).to_csv(index=False).encode()


def style() -> None:
    """What the theme has no setting for; once in each run, before all else."""
    saved_as("")
    st.html(f"<style>{_STYLE}{theme.TEXT_STYLE}</style>")


def saved_as(name: str) -> None:
    """What the charts of the page are of, for the names of saved files: a network's or a run's name; "" for several."""
    st.session_state[_SHOWN] = name.rpartition("/")[2]


def heading(title: str, view: View, about: str) -> None:
    """Title of a page, one sentence on what it is for, and what is being looked at."""
    st.title(title, anchor=False)
    st.markdown(about)
    saved_as(view.name)
    config = view.checkpoint.config
    if config:
        neuron = "" if config.kind == "ann" else f" · λ = {config.leak:g} · θ = {config.threshold:g}"
        sample = "" if view.missing else f", sample {view.sample}"
        said = f"{view.name} · T = {config.steps}{neuron} · {view.data.title}{sample}"
    else:
        said = f"{view.name} · γ only"
    st.caption(said)


def what_kind(view: View, brief: bool = False) -> None:
    """What a baseline is and what can be seen of it, in a box, or `brief` in small print; nothing for a BNTT network."""
    config = view.checkpoint.config
    if config is None or config.norm == "bntt":
        return
    said = {
        "ann": "This is an **ordinary network** (ReLU, one pass): it has no timesteps, no spikes and no γ over time, so "
        "Gamma, Spikes and the exit slider have nothing to show. Its accuracy, energy and robustness are there to compare.",
        "converted": "This is a **converted network**: integrate-and-fire neurons whose firing rates stand for the activations "
        "of an ordinary network. Its normalisation is folded into a fixed scale and bias: there is no γ over time, so Gamma "
        "has nothing to show and the γ rule cannot leave early. Everything else works as for BNTT.",
    }
    norms = {
        "bn": "one BatchNorm for all timesteps",
        "tdbn": "tdBN, one threshold-dependent BatchNorm over batch and time together",
        "none": "no normalisation",
    }
    (st.caption if brief else st.info)(
        said.get(config.kind)
        or f"This is a **baseline** with {norms[config.norm]}: it has no γ over time, so Gamma has nothing to show and the "
        "γ rule cannot leave early. Everything else works as for BNTT."
    )


def needs_network(view: View, what: str) -> None:
    """Stop the page with one sentence where the file holds γ alone."""
    if view.checkpoint.model is None:
        st.info(f"{what} needs a network that can be run. {view.checkpoint.missing}")
        st.stop()
    if view.missing:
        data.offer(view.data, view.missing)
        st.stop()
    if view.caution:
        st.warning(view.caution)


def picture(pixels, side: int) -> np.ndarray:
    """An image [C, H, W] (uint8, or float in [0, 1]) enlarged without smoothing to about `side` pixels: uint8.

    Of event counts [T, 2, H, W] all frames are laid together, ON in red and OFF in blue.
    """
    array = pixels.numpy() if isinstance(pixels, torch.Tensor) else np.asarray(pixels)
    if array.ndim == 4:
        off, on = np.sqrt(array.sum(0, dtype=np.float64))  # few pixels hold most events
        array = np.stack([on, np.zeros_like(on), off]) / max(on.max(), off.max(), 1.0)
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    array = array.transpose(1, 2, 0)
    times = max(1, round(side / array.shape[1]))
    array = array.repeat(times, 0).repeat(times, 1)
    return array if array.shape[2] == 3 else array.mean(2).astype(np.uint8)


def share(value: float) -> str:
    """A share as people read it: 0.9725 → "97.2 %"."""
    return f"{100 * value:.1f} %"


def interval(value: float, low: float, high: float) -> str:
    """A share with its interval: "97.2 % (95.0 to 98.4)"."""
    return f"{share(value)} ({100 * low:.1f} to {100 * high:.1f})"


def amount(value: float) -> str:
    """A count as people read it: 12345.6 → "12,346"; small ones keep a digit."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def energy(nanojoule: float) -> str:
    """Energy with a fitting unit."""
    return f"{nanojoule / 1e3:.3g} µJ" if nanojoule >= 1e3 else f"{nanojoule:.3g} nJ"
