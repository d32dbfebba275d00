"""BNTT beside its baselines: spikes of each layer over time, and whom images made on one network fool."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import layers_by_step
from .lines import layer_lines
from .run_looks import short

SPIKES = "spikes a sample, per timestep"
CLEAN = "no attack"


@drawn
def spikes_over_time(frame: pd.DataFrame, top: float | None = None) -> go.Figure:
    """Mean spikes of each layer of one network at each timestep, one line a layer.

    frame: layer, step, spikes (of a sample). top: the most of any network beside it, so that the panels compare.
    """
    if frame.empty or not frame["spikes"].notna().any():
        return theme.empty("No spikes to show")
    layers, values = layers_by_step(frame, "spikes")
    fig = layer_lines(layers, values, SPIKES, None)
    fig.update_yaxes(range=axes.value_range(values, top))
    fig.update_layout(height=300)
    return fig


@drawn
def transfer(table: pd.DataFrame) -> go.Figure:
    """Accuracy of each network on the images made on each, as a map: what fools more is paler. The first row is of images
    that nobody changed.

    table: made_on, tried_on, accuracy, low, high, clean (0 … 1), samples; pairs that are not known yet may be missing.
    """
    if table.empty or not table["accuracy"].notna().any():
        return theme.empty("No images made yet")
    made, tried = (list(dict.fromkeys(table[name])) for name in ("made_on", "tried_on"))
    if table["clean"].notna().any():
        clean = table.drop_duplicates("tried_on").assign(made_on=CLEAN, low=np.nan, high=np.nan)
        made, table = [CLEAN, *made], pd.concat([clean.assign(accuracy=clean["clean"]), table])
    percent, said = np.full((len(made), len(tried)), np.nan), np.full((len(made), len(tried)), "", dtype=object)
    for row in table.itertuples():
        at = made.index(row.made_on), tried.index(row.tried_on)
        percent[at] = 100 * row.accuracy
        if row.made_on != CLEAN:
            said[at] = f", 95 % interval {100 * row.low:.1f} to {100 * row.high:.1f}<br>{row.samples:,} samples"
    # x labels are tilted where they would overlap: their room is below the plot
    fig = theme.figure(44 * len(made) + 150, f"transfer {len(made)} × {len(tried)}")
    fig.add_heatmap(
        z=percent,
        x0=0,
        dx=1,
        y0=0,
        dy=1,
        xgap=2,
        ygap=2,
        zmin=0,
        zmax=100,
        colorscale=theme.SEQUENTIAL,
        colorbar=theme.colour_bar("accuracy (%)"),
        hoverongaps=False,
        texttemplate="%{z:.0f}",
        textfont=dict(size=13),
        text=said,
        hovertemplate="made on %{y}, tried on %{x}<br>%{z:.1f} %%{text}<extra></extra>",
    )
    names = short(made, 16), short(tried, 16)
    labels = dict(tickmode="array", showgrid=False, fixedrange=True, ticks="")
    fig.update_xaxes(
        title_text="tried on",
        automargin=True,  # its labels may be turned
        tickvals=list(range(len(tried))),
        ticktext=names[1],
        range=[-0.5, len(tried) - 0.5],
        **labels,
    )
    fig.update_yaxes(
        title_text="made on",
        tickvals=list(range(len(made))),
        ticktext=names[0],
        range=[len(made) - 0.5, -0.5],
        **labels,
    )
    return fig
