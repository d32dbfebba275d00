"""One sample on its way through the network: every spike and every membrane potential."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import show, work
from dashboard.charts import spikes as charts
from dashboard.session import current, exit_step
from engine.analysis import activity

view = current()
ROWS = 400  # of a raster
WAYS = {
    "even": "neurons at equal distances",
    "active": "the most active neurons",
    "rates": "firing rate of each channel",
}


@st.cache_resource(max_entries=8, show_spinner="Running the sample …")
def recorded(fingerprint: str, data: str, sample: int, _view) -> activity.Activity:
    """One pass, kept: membranes of a large network are tens of megabytes, so they are not copied at each read."""
    checkpoint = _view.checkpoint
    return activity.record(
        checkpoint.model, _view.pixels[sample], sample, checkpoint.mean, checkpoint.std, seed=work.SEED
    )


@st.fragment
def answer() -> None:
    """The image, and the class scores growing over time."""
    step = exit_step(view)
    left, right = st.columns([1, 2])
    with left:
        truth = view.class_name(int(view.labels[view.sample]))
        st.markdown(
            f"**Sample {view.sample}** · it shows **{truth}**" if not view.caution else f"**Sample {view.sample}**"
        )
        st.image(show.picture(view.pixels[view.sample], 260), width=260)
    with right:
        probabilities = run.probabilities()
        guess = int(probabilities[step - 1].argmax())
        st.markdown(
            f"**Answer when leaving at t = {step}: {view.class_name(guess)}** with {show.share(probabilities[step - 1, guess])} of the softmax"
        )
        frame = pd.DataFrame(
            {
                "step": np.repeat(np.arange(1, len(probabilities) + 1), probabilities.shape[1]),
                "class_name": [view.class_name(k) for k in range(probabilities.shape[1])] * len(probabilities),
                "probability": probabilities.ravel(),
            }
        )
        known = truth if not view.caution else None
        show.chart(
            charts.class_scores(frame, "softmax of the scores so far", step, known),
            frame,
            "class_scores",
            "Class scores against the exit timestep.",
        )


def inputs() -> None:
    """What the first layer gets at each timestep."""
    if run.config.analog_input:
        what = {
            "direct": "the image itself is",
            "rows": "one row of the image is",
            "pixels": "one pixel of the image is",
        }
        st.markdown(
            f"**Input** · {what[run.config.encoding]} the current at every timestep, there are no input spikes."
        )
        return
    events = run.config.encoding == "events"
    signed = run.inputs[:, 1] - run.inputs[:, 0] if events else run.inputs.sum(1)
    shown = sorted({int(t) for t in np.linspace(1, len(signed), min(len(signed), 16)).round()})
    st.markdown(
        "**Input events** · ON minus OFF events: red where it gets brighter, blue where it gets darker"
        if events
        else "**Input spikes** · red where a pixel sends +1, blue where it sends −1"
        + (", summed over colour channels" if run.inputs.shape[1] > 1 else "")
        + (f"; {len(shown)} of {len(signed)} timesteps" if len(shown) < len(signed) else "")
    )
    show.chart(
        charts.input_film(signed, shown), lambda: _pixels(signed), "input_spikes", "Input spikes at each timestep."
    )


def _pixels(signed: np.ndarray) -> pd.DataFrame:
    step, row, column = np.nonzero(signed)
    return pd.DataFrame(
        {"step": step + 1, "row": row, "column": column, "spikes": signed[step, row, column].astype(int)}
    )


def rates() -> None:
    """How much each layer fires over time."""
    st.subheader("Firing rate", anchor=False, help="Share of a layer's neurons that fire at a timestep.")
    frame = run.firing_rates()
    show.chart(
        charts.firing_rates(frame, None), frame, "firing_rates", "Firing rate of each layer against the timestep."
    )


@st.fragment
def layer_closely() -> None:
    """Raster of a layer and the membrane of one neuron."""
    st.subheader("Inside a layer", anchor=False)
    layers = list(run.spikes)
    left, middle, right = st.columns([2, 3, 2])
    layer = left.selectbox("Layer", layers, key=view.key("layer"), bind="query-params")
    fired = run.spikes[layer]
    way = middle.selectbox("Show", list(WAYS), format_func=WAYS.get, key="raster", bind="query-params")
    count = fired.shape[1]
    busiest = int(fired.sum(0).argmax())
    neuron = right.number_input(
        "Neuron for the membrane trace",
        0,
        count - 1,
        busiest,
        key=view.key(f"neuron_{layer}"),
        bind="query-params",
        help=f"0 to {count - 1}; the most active one of this layer is {busiest}.",
    )
    one, two = st.columns(2)
    with one:
        _raster(layer, fired, way)
    with two:
        trace = run.trace(layer, neuron)
        st.markdown(
            f"**Membrane potential** of neuron {neuron} in {layer} · it fires {int(trace['spike'].sum())} times"
        )
        show.chart(
            charts.membrane(trace, run.config.threshold, None),
            trace,
            "membrane",
            "Membrane potential of one neuron against the timestep.",
            f"{layer}_{neuron}",
        )


def _raster(layer: str, fired: np.ndarray, way: str) -> None:
    count = fired.shape[1]
    if way == "rates":
        rates = run.channel_rates(layer)
        st.markdown(
            f"**Firing rate of all {rates.shape[1]} channels** of {layer} · each averages {count // rates.shape[1]:,} neurons"
        )
        figure = charts.channel_rates(rates, None)
    else:
        chosen = activity.choose_neurons(fired, way, ROWS)
        part = f"all {count:,} neurons" if len(chosen) == count else f"{len(chosen)} of {count:,} neurons, {WAYS[way]}"
        st.markdown(f"**Spikes** in {layer} · {part}")
        figure = charts.raster(fired[:, chosen], chosen, None)
    show.chart(figure, lambda: _events(fired), "raster", f"Spikes of {layer} against the timestep.", layer)


def _events(fired: np.ndarray) -> pd.DataFrame:
    step, neuron = np.nonzero(fired)
    return pd.DataFrame({"step": step + 1, "neuron": neuron})


show.heading(
    "Spikes",
    view,
    "One sample on its way through the network: what goes in, which neurons fire when, and how the answer forms.",
)
show.needs_network(view, "This page")
show.what_kind(view, brief=view.checkpoint.config.kind != "ann")
if view.checkpoint.config.kind == "ann":
    st.stop()
run = recorded(view.fingerprint, view.data.name, view.sample, view)
answer()
inputs()
rates()
layer_closely()
