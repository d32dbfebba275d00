"""γ across timesteps: by layer, by channel, and how it is spread."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import gamma_history, show
from dashboard.charts import axes, theme, training
from dashboard.charts import gamma as charts
from dashboard.session import current, gamma_threshold
from engine import run_metrics
from engine.analysis import gamma
from engine.checkpoint import Checkpoint
from engine.runs import TrainingError

view = current()
history = gamma_history.of(view)
foreign = gamma_history.foreign(history, view.checkpoint) if history else ""
if foreign:
    history = None
SORTS = {
    "as stored": lambda table: np.arange(table.shape[1]),
    "by peak time": lambda table: np.lexsort((-table.max(0), table.argmax(0))),
    "by mean": lambda table: np.argsort(-table.mean(0), kind="stable"),
    "by the last timestep": lambda table: np.argsort(-table[-1], kind="stable"),
}


def at_epoch() -> tuple[Checkpoint, int | None]:
    """The network with γ as it was after the epoch chosen, and that epoch; None where the run kept no history."""
    if history is None:
        return view.checkpoint, None
    first, last = history.epochs[0], history.epochs[-1]
    epoch = st.slider(
        "Epoch",
        first,
        last,
        history.own or last,
        key=view.key("epoch"),
        bind="query-params",
        help="γ, μ and σ² as they were after this epoch of the training.",
    )
    told = f"Everything below is as it was after epoch {epoch} of {last}."
    if history.own is not None:
        own = "this one" if epoch == history.own else f"that of epoch {history.own}"
        told += f" The network that the other pages run is {own}."
    st.caption(told)
    try:
        return gamma_history.at(history, view.checkpoint, epoch), epoch
    except TrainingError as error:
        st.error(f"{error}.")
        st.stop()


def by_layer(checkpoint: Checkpoint, epoch: int | None) -> float:
    """Layer × timestep, with the threshold of the exit rule, which is returned."""
    left, right = st.columns([3, 2])
    quantity = left.pills(
        "Quantity",
        list(gamma.QUANTITIES),
        default="gamma",
        required=True,
        format_func=gamma.QUANTITIES.get,
        key="quantity",
        bind="query-params",
        help="The effective gain is what a layer really multiplies by: γ over the running standard deviation.",
    )
    with right:
        threshold = gamma_threshold()
    rule = gamma.exit_rule(checkpoint, threshold)
    _rule_sentence(rule, threshold, epoch)
    means = gamma.layer_means(checkpoint, quantity)
    label = f"mean {gamma.QUANTITIES[quantity]}"
    line = threshold if quantity == "gamma" else None
    figure = charts.layer_heatmap(means, label, line, exit_step=None, rule_step=rule)
    if history:
        steady = gamma_history.span(history, checkpoint, quantity, None)
        figure = theme.Figure(figure).update_traces(theme.colour_range(steady), selector={"type": "heatmap"})
    show.chart(figure, lambda: means.rename(columns={"value": label}), "gamma_layers", f"{label} by layer and timestep.")
    return threshold


def _rule_sentence(rule: int | None, threshold: float, epoch: int | None) -> None:
    when = "Mean γ" if epoch is None else f"At epoch {epoch}, mean γ"
    if rule is None:
        st.markdown(f"{when} is never below **{threshold:g}** in every layer at once: the rule does not leave early.")
    else:
        st.markdown(
            f"{when} is below **{threshold:g}** in every layer at **t = {rule}** of {view.steps}: the rule leaves there."
        )


def by_channel(checkpoint: Checkpoint, threshold: float) -> str:
    """One layer, which is returned: channel × timestep and the spread at each timestep."""
    layers = list(checkpoint.stacks)
    left, middle, right = st.columns([2, 3, 2])
    layer = left.selectbox("Layer", layers, key=view.key("layer"), bind="query-params")
    quantity = middle.selectbox(
        "Quantity",
        list(gamma.QUANTITIES),
        format_func=gamma.QUANTITIES.get,
        key="channel_quantity",
        bind="query-params",
    )
    order = right.selectbox("Channels in order", list(SORTS), index=1, key="sort", bind="query-params")
    table = gamma.values(checkpoint, layer, quantity)
    label = gamma.QUANTITIES[quantity]
    spread, line = gamma.quantiles(table), threshold if quantity == "gamma" else None
    channels = charts.channel_heatmap(table, SORTS[order](table), label, None)
    distribution = charts.distribution(spread, label, line)
    if history:
        steady = gamma_history.span(history, checkpoint, quantity, layer)
        channels = theme.Figure(channels).update_traces(theme.colour_range(steady))
        distribution = theme.Figure(distribution).update_yaxes(range=axes.value_range(steady, line))
    one, two = st.columns(2)
    with one:
        st.markdown(f"**{label} of every channel** · {table.shape[1]} channels, {order}")
        said = f"{label} of every channel of {layer} against the timestep."
        show.chart(channels, lambda: _long(table, label), "gamma_channels", said, layer)
    with two:
        st.markdown(f"**How {label} is spread over the channels** · {layer}")
        said = f"Quantiles of {label} over the channels of {layer} at each timestep."
        show.chart(distribution, spread, "gamma_spread", said, layer)
    return layer


def growth(layer: str, threshold: float, epoch: int) -> None:
    """Mean γ of one layer after each epoch, with the epoch chosen marked."""
    table = run_metrics.mean_gamma(history.folder)
    table = table[table["layer"] == layer].drop(columns="layer")
    st.markdown(f"**Mean γ of {layer} after each epoch** · epoch {epoch} is marked")
    figure = theme.Figure(training.gamma_growth(table, "mean γ", history.epochs[-1], threshold))
    figure.add_shape(
        type="rect",
        x0=0.5,
        x1=view.steps + 0.5,
        y0=epoch - 0.5,
        y1=epoch + 0.5,
        line=dict(color=theme.EXIT, width=2),
    )
    said = f"Mean γ of {layer} after each epoch, by timestep."
    show.chart(figure, table.rename(columns={"value": "mean γ"}), "gamma_growth", said, layer)


def _long(table: np.ndarray, label: str) -> pd.DataFrame:
    steps, channels = np.indices(table.shape)
    return pd.DataFrame({"step": steps.ravel() + 1, "channel": channels.ravel(), label: table.ravel()})


show.heading(
    "Gamma",
    view,
    "γ scales each layer at each timestep. It shows when a layer works, and when a timestep no longer matters.",
)
if foreign:
    st.warning(foreign)


@st.fragment
def explore() -> None:
    """All of it in one fragment, as epoch and threshold are drawn in all parts; a layer is one of its own."""
    checkpoint, epoch = at_epoch()
    threshold = by_layer(checkpoint, epoch)
    inside(checkpoint, threshold, epoch)


@st.fragment
def inside(checkpoint: Checkpoint, threshold: float, epoch: int | None) -> None:
    """What depends on the layer chosen."""
    st.subheader("Inside a layer", anchor=False)
    layer = by_channel(checkpoint, threshold)
    if history:
        growth(layer, threshold, epoch)


if view.checkpoint.stacks:
    explore()
else:
    show.what_kind(view)
