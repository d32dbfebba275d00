"""What one sample does inside the network: input spikes, rasters, rates, a membrane trace, the class scores."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import column, layers_by_step
from .lines import layer_lines

RATE = "spikes per neuron per timestep"
FILM = theme.DIVERGING[1:-1]
FILM_PHONE, FILM_SPARE, FILM_TILE = 350, 48, 104  # pixels: width on a phone, room left empty there, largest tile
NAMED = 6  # classes with a colour and a name of their own
CLASS_COLOURS = ["#00768A", "#D49807", "#3D63C9", "#C0628C", "#6FA8DC", "#8A6D3B"]


@drawn
def input_film(frames: np.ndarray, steps: list[int], columns: int = 8) -> go.Figure:
    """Film strip of the input spikes, one tile a timestep, t above each tile.

    frames: [T, H, W] signed sums over the colour channels, frame i is t = i + 1; steps: which t to show, in order;
    columns: at most this many tiles side by side, fewer if that fills the rows more evenly.
    """
    frames = np.asarray(frames, dtype=np.float32)
    if not frames.size or not len(steps):
        return theme.empty("No input spikes to show")
    tiles = frames[np.asarray(steps) - 1]
    rows = -(-len(tiles) // columns)
    sheet, x, y = _tile(tiles, -(-len(tiles) // rows))
    down, across = sheet.shape
    # The height is fixed but the width is not: it exceeds what a phone fills by so little that no hole shows there.
    height = min(FILM_TILE * down / tiles.shape[2], FILM_PHONE * down / across + FILM_SPARE)
    top = max(1, round(float(np.abs(tiles).max())))
    to = "" if top == 1 else "to "
    names = [f"negative spikes ({to}−{top})", f"positive spikes ({to}+{top})"]
    fig = theme.figure(round(height) + 34, f"film {sheet.shape}", legend=names)
    fig.add_heatmap(z=sheet, colorscale=FILM, zmin=-top, zmax=top, hoverinfo="skip", showscale=False)
    fig.add_scatter(
        x=x,
        y=y,
        mode="text",
        text=[f"t\u2009=\u2009{step}" for step in steps],
        textposition="top center",
        textfont=dict(size=11, color=theme.MUTED),
        hoverinfo="skip",
        cliponaxis=False,
        showlegend=False,
    )
    for name, color in zip(names, (FILM[0], FILM[-1])):
        fig.add_scatter(
            x=[None], y=[None], mode="markers", name=name, marker=dict(symbol="square", size=10, color=color)
        )
    fig.update_layout(margin=dict(t=30, b=4, l=0, r=0))
    fig.update_xaxes(visible=False, range=[-0.5, across - 0.5], constrain="domain", constraintoward="left")
    fig.update_yaxes(
        visible=False, range=[down - 0.5, -0.5], scaleanchor="x", constrain="domain", constraintoward="top"
    )
    return fig


@drawn
def raster(spikes: np.ndarray, neurons: np.ndarray, exit_step: int | None) -> go.Figure:
    """Neuron × timestep raster. spikes: bool [T, N], N up to 600 rows; neurons: [N], their indices, drawn top down."""
    spikes = np.asarray(spikes)
    if not spikes.size:
        return theme.empty("No neurons to show")
    last, count = spikes.shape
    # Whole pixels a row, or thin rows would come and go.
    row = next(size for size, limit in ((14, 24), (6, 60), (4, 100), (3, 150), (2, 250), (1, count)) if count <= limit)
    fig = theme.cells(max(60, row * count), f"raster {spikes.shape}", exit_step)
    rows = axes.row_axis(fig, neurons, "neuron")
    fig.add_heatmap(
        z=np.ascontiguousarray(spikes.T, dtype=np.uint8),
        x0=1,
        dx=1,
        xgap=1 if last <= 60 else 0,
        y=rows,
        zmin=0,
        zmax=1,
        showscale=False,
        colorscale=[[0, "rgba(122,129,137,0.10)"], [1, theme.MAIN]],
        hovertemplate="neuron %{y}, t = %{x}<br>spikes: %{z}<extra></extra>",
    )
    axes.time_axis(fig, last, cells=True)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT, cells=True)
    return fig


@drawn
def channel_rates(rates: np.ndarray, exit_step: int | None) -> go.Figure:
    """Firing rate of each channel at each timestep: the raster of a layer too large to show. rates: [T, C], 0…1."""
    rates = np.asarray(rates, dtype=np.float32)
    if not rates.size or not np.isfinite(rates).any():
        return theme.empty("No firing rates to show")
    last, count = rates.shape
    fig = theme.cells(max(140, min(420, 14 * count)), f"rates {rates.shape}", exit_step)
    rows = axes.row_axis(fig, np.arange(count), "channel")
    fig.add_heatmap(
        z=np.ascontiguousarray(rates.T),
        x0=1,
        dx=1,
        y=rows,
        **theme.colour_range(rates),
        colorbar=theme.colour_bar(RATE),
        hoverongaps=False,
        hovertemplate=f"channel %{{y}}, t = %{{x}}<br>%{{z:.3~g}} {RATE}<extra></extra>",
    )
    axes.time_axis(fig, last, cells=True)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT, cells=True)
    return fig


@drawn
def firing_rates(frame: pd.DataFrame, exit_step: int | None) -> go.Figure:
    """Firing rate over t, one line a layer. frame: layer, step, rate in spikes per neuron per timestep."""
    if frame.empty or not frame["rate"].notna().any():
        return theme.empty("No firing rates to show")
    layers, values = layers_by_step(frame, "rate")
    fig = layer_lines(layers, values, RATE, exit_step)
    fig.update_yaxes(range=axes.value_range(values))
    return fig


@drawn
def membrane(frame: pd.DataFrame, threshold: float, exit_step: int | None) -> go.Figure:
    """Membrane potential u of one neuron, with its threshold θ and its resets.

    frame: step, before (u before the reset), after (u once θ is subtracted), spike (bool). A reset is a vertical drop.
    """
    if frame.empty or not frame["before"].notna().any():
        return theme.empty("No membrane trace to show")
    last = int(frame["step"].max())
    steps, before, after = (column(frame, name) for name in ("step", "before", "after"))
    fired = frame["spike"].to_numpy(dtype=bool)
    names = ["membrane potential u", "spike, then u drops by θ"]
    fig = theme.figure(320, f"membrane {last}", labels=int(exit_step is not None), hovermode="x unified", legend=names)
    fig.add_scatter(
        x=np.repeat(steps, 2),
        y=np.stack([before, after], axis=1).ravel(),
        name=names[0],
        mode="lines+markers" if last == 1 else "lines",
        line=dict(color=theme.MAIN, width=2),
        hoverinfo="skip",
    )
    fig.add_scatter(
        x=steps[~fired],
        y=before[~fired],
        mode="markers",
        marker=dict(color=theme.MAIN, size=1, opacity=0),
        showlegend=False,
        hovertemplate="u = %{y:.3f}, no spike<extra></extra>",
    )
    fig.add_scatter(
        x=steps[fired],
        y=before[fired],
        name=names[1],
        mode="markers",
        marker=dict(color=theme.CATEGORICAL[1], size=9, line=dict(color="white", width=1)),
        customdata=after[fired],
        showlegend=True,
        hovertemplate="u = %{y:.3f}, spike, reset to %{customdata:.3f}<extra></extra>",
    )
    axes.time_axis(fig, last)
    fig.update_yaxes(
        title_text="membrane potential u",
        zeroline=True,
        zerolinewidth=1,
        range=axes.value_range(np.stack([before, after]), 1.1 * threshold),
    )
    axes.reference_line(fig, threshold, f"threshold θ = {threshold:.4g}")
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT)
    return fig


@drawn
def class_scores(frame: pd.DataFrame, label: str, exit_step: int | None, truth: str | None) -> go.Figure:
    """Class probabilities over t: the strongest classes and the true one in colour, all others one grey trace.

    The true class and the answers at the exit and at the end are drawn thick.

    frame: step, class_name, probability (0…1); label: what the probability is; truth: name of the true class, if known.
    """
    if frame.empty or not frame["probability"].notna().any():
        return theme.empty("No class scores to show")
    wide = frame.pivot(index="class_name", columns="step", values="probability")
    wide = wide.reindex(columns=range(1, int(frame["step"].max()) + 1))
    last = wide.shape[1]
    steps = np.arange(1, last + 1, dtype=np.float32)
    # The answers when leaving at the chosen exit and at the end.
    leaders = [wide[step].idxmax() for step in (exit_step, last) if step in wide and wide[step].notna().any()]
    named = _named(wide, truth, leaders)
    rest = wide.drop(index=named).to_numpy(dtype=np.float32) * 100
    others = [f"{len(rest)} other classes"] * bool(len(rest))
    titles = {name: _title(name, truth) for name in named}
    fig = theme.figure(
        360,
        f"scores {last}",
        labels=int(exit_step is not None),
        hovermode="x unified",
        legend=[brief for _, brief in titles.values()] + others,
    )
    if others:
        broken = np.pad(rest, ((0, 0), (0, 1)), constant_values=np.nan)
        fig.add_scatter(
            x=np.tile(np.append(steps, np.float32(np.nan)), len(rest)),
            y=broken.ravel(),
            mode=theme.line_mode(broken.ravel()),
            name=others[0],
            hoverinfo="skip",
            showlegend=True,
            line=dict(color=theme.translucent(theme.MUTED, 0.45), width=1),
            marker=dict(size=4),
        )
    for place, name in reversed(list(enumerate(named))):  # strongest last, on top of the others
        values, (title, brief) = wide.loc[name].to_numpy(dtype=np.float32) * 100, titles[name]
        color = theme.TRUTH if name == truth else CLASS_COLOURS[place]
        fig.add_scatter(
            x=steps,
            y=values,
            name=brief,
            mode=theme.line_mode(values),
            legendrank=place,
            showlegend=True,
            line=dict(color=color, width=3.5 if name in (truth, *leaders) else 1.75),
            marker=dict(size=6),
            hovertemplate=f"{title}: %{{y:.1f}} %<extra></extra>",
        )
    axes.time_axis(fig, last)
    fig.update_yaxes(title_text=f"{label} (%)", range=[-2, 104], dtick=25)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT)
    return fig


@drawn
def spikes_by_layer(frame: pd.DataFrame) -> go.Figure:
    """Spikes of one sample by layer, one bar a condition. frame: layer, condition, spikes; first layer on top."""
    if frame.empty:
        return theme.empty("No spikes to show")
    layers = frame["layer"].drop_duplicates().astype(str).tolist()
    conditions = frame["condition"].drop_duplicates().tolist()
    thick = max(26, 13 * len(conditions) + 9)
    fig = theme.figure(
        max(110, thick * len(layers)) + theme.FOOT + 40,
        f"bars {len(layers)}",
        barmode="group",
        bargap=0.28,
        bargroupgap=0.08,
        legend=list(map(str, conditions)) if len(conditions) > 1 else [],
    )
    for place, condition in enumerate(conditions):
        part = frame[frame["condition"] == condition]
        fig.add_bar(
            x=column(part, "spikes"),
            y=part["layer"].astype(str).tolist(),
            orientation="h",
            name=str(condition),
            marker=dict(color=theme.CATEGORICAL[place % len(theme.CATEGORICAL)], line=dict(width=0)),
            hovertemplate=f"%{{y}}, {condition}<br>%{{x:,.0f}} spikes<extra></extra>",
        )
    axes.layer_axis(fig, layers)
    fig.update_xaxes(title_text="spikes", showgrid=True, rangemode="tozero", tickformat="~s", nticks=6)
    return fig


def _tile(tiles: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Tiles [N, H, W] on one sheet with NaN between them, and where the label of each tile stands (x, y)."""
    count, height, width = tiles.shape
    side, head = max(1, round(width / 10)), max(2, round(width * 0.38))
    rows = -(-count // columns)
    sheet = np.full((rows * columns, height + head, width + side), np.nan, dtype=np.float32)
    sheet[:count, head:, :width] = tiles
    sheet = sheet.reshape(rows, columns, height + head, width + side).swapaxes(1, 2).reshape(rows * (height + head), -1)
    place = np.arange(count)
    return (
        sheet,
        (place % columns) * (width + side) + (width - 1) / 2,
        (place // columns) * (height + head) + 0.94 * head - 0.5,
    )


def _named(wide: pd.DataFrame, truth: str | None, leaders: list) -> list:
    """The classes that get a name, at most NAMED: the true one, the leaders, then by their highest probability."""
    strongest = wide.max(axis=1).sort_values(ascending=False, kind="stable").index
    first = [truth] if truth in wide.index else []
    return list(dict.fromkeys([*first, *leaders, *strongest]))[:NAMED]


def _title(name, truth: str | None) -> tuple[str, str]:
    """A class name in full and cut for the legend, each saying so if it is the true class."""
    full, mark = str(name), " (true)" if name == truth else ""
    return full + mark, (full if len(full) <= 16 else full[:15] + "…") + mark
