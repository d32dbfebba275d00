"""γ across timesteps: by layer, by channel, and how it is spread."""

import numpy as np
import pandas as pd
import streamlit as st

from dashboard import show
from dashboard.charts import gamma as charts
from dashboard.session import current
from engine.analysis import gamma

view = current()
checkpoint = view.checkpoint
SORTS = {
    "as stored": lambda table: np.arange(table.shape[1]),
    "by peak time": lambda table: np.lexsort((-table.max(0), table.argmax(0))),
    "by mean": lambda table: np.argsort(-table.mean(0), kind="stable"),
    "by the last timestep": lambda table: np.argsort(-table[-1], kind="stable"),
}


def by_layer() -> float:
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
    threshold = right.slider(
        "Exit threshold on mean γ",
        0.0,
        1.0,
        0.1,
        0.01,
        key="threshold_gamma",
        bind="query-params",
        help="The paper leaves at the first timestep where the channel mean of γ is below this in every layer.",
    )
    rule = gamma.exit_rule(checkpoint, threshold)
    if rule is None:
        st.markdown(f"Mean γ is never below **{threshold:g}** in every layer at once: the rule does not leave early.")
    else:
        st.markdown(
            f"Mean γ is below **{threshold:g}** in every layer at **t = {rule}** of {view.steps}: the rule leaves there."
        )
    means = gamma.layer_means(checkpoint, quantity)
    label = f"mean {gamma.QUANTITIES[quantity]}"
    show.chart(
        charts.layer_heatmap(means, label, threshold if quantity == "gamma" else None, exit_step=None, rule_step=rule),
        means,
        "gamma_layers",
        f"{label} by layer and timestep.",
    )
    return threshold


def by_channel(threshold: float) -> None:
    """One layer: channel × timestep and the spread at each timestep."""
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
    one, two = st.columns(2)
    with one:
        st.markdown(f"**{label} of every channel** · {table.shape[1]} channels, {order}")
        show.chart(
            charts.channel_heatmap(table, SORTS[order](table), label, None),
            lambda: _long(table),
            "gamma_channels",
            f"{label} of every channel of {layer} against the timestep.",
        )
    with two:
        st.markdown(f"**How {label} is spread over the channels** · {layer}")
        spread = gamma.quantiles(table)
        line = threshold if quantity == "gamma" else None
        show.chart(
            charts.distribution(spread, label, line),
            spread,
            "gamma_spread",
            f"Quantiles of {label} over the channels of {layer} at each timestep.",
        )


def _long(table: np.ndarray) -> pd.DataFrame:
    steps, channels = np.indices(table.shape)
    return pd.DataFrame({"step": steps.ravel() + 1, "channel": channels.ravel(), "value": table.ravel()})


show.heading(
    "Gamma",
    view,
    "γ scales each layer at each timestep. It shows when a layer works, and when a timestep no longer matters.",
)


@st.fragment
def explore() -> None:
    """All of it in one fragment: the threshold is drawn in both parts."""
    threshold = by_layer()
    st.subheader("Inside a layer", anchor=False)
    by_channel(threshold)


if checkpoint.stacks:
    explore()
else:
    show.what_kind(view)
