"""γ (or a running statistic) over layers, channels and timesteps."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import column, layers_by_step
from .lines import layer_lines

NO_VALUES = "No values to show"
BANDS = [("min", "max", "min to max", 0.13), ("p05", "p95", "5 to 95 %", 0.22), ("p25", "p75", "25 to 75 %", 0.38)]


@drawn
def layer_heatmap(
    means: pd.DataFrame, label: str, threshold: float | None, exit_step: int | None, rule_step: int | None = None
) -> go.Figure:
    """Layer × timestep heat map of a channel mean, first layer on top.

    means: layer, step (1…T), value; layers with fewer steps leave gaps, NaN too. label: what it is, e.g. "mean γ".
    Cells below `threshold` are outlined; vertical lines follow the last step computed when leaving at `exit_step`
    (the one you chose) and at `rule_step` (the γ rule's).
    """
    if means.empty or not means["value"].notna().any():
        return theme.empty(NO_VALUES)
    layers, values = layers_by_step(means, "value")
    count, last = values.shape
    x, y = outline(values < threshold) if threshold is not None else ([], [])
    outlined = f"{label} below {threshold:.4g}" + ("" if len(x) else ": nowhere") if threshold is not None else None
    labels = (exit_step is not None) + (rule_step is not None)
    rows = max(120, min(520, 30 * count))
    fig = theme.figure(
        rows + theme.FOOT + 10 + theme.ROW * labels + 26 * bool(outlined),
        f"layers {count} × {last}",
        labels=labels,
        legend=[outlined] if outlined else [],
    )
    fig.add_heatmap(
        z=values,
        x0=1,
        dx=1,
        y0=0,
        dy=1,
        xgap=1 if last <= 60 else 0,
        ygap=1,
        **theme.colour_range(values),
        colorbar=theme.colour_bar(label),
        hoverongaps=False,
        showlegend=False,
        hovertemplate=f"%{{y}}, t = %{{x}}<br>{label} %{{z:.4~g}}<extra></extra>",
    )
    if outlined:
        fig.add_scatter(
            x=x if len(x) else [None],
            y=y if len(y) else [None],
            mode="lines",
            hoverinfo="skip",
            line=dict(color=theme.RULE, width=2.5),
            name=outlined,
            showlegend=True,
        )
    axes.time_axis(fig, last, cells=True)
    fig.update_yaxes(
        range=[count - 0.44, -0.56],
        showgrid=False,
        tickmode="array",
        tickvals=list(range(count)),
        ticktext=theme.short(layers),
        fixedrange=True,
    )
    axes.mark_step(
        fig, rule_step, last, f"γ rule, t = {rule_step}", theme.RULE, row=labels - 1, dash=theme.DASH, cells=True
    )
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT, cells=True)
    return fig


@drawn
def channel_heatmap(values: np.ndarray, order: np.ndarray, label: str, exit_step: int | None) -> go.Figure:
    """Channel × timestep heat map of one layer.

    values: [T, C]; order: the channel indices to show, from top to bottom; up to 4096 × 50 stays below 1.5 MB.
    """
    values, order = np.asarray(values, dtype=np.float32), np.asarray(order)
    if not values.size or not order.size or not np.isfinite(values).any():
        return theme.empty(NO_VALUES)
    last, shown = len(values), values[:, order].T
    fig = theme.cells(max(140, min(420, 14 * len(order))), f"channels {shown.shape}", exit_step)
    rows = axes.row_axis(fig, order, "channel")
    fig.add_heatmap(
        z=np.ascontiguousarray(shown),
        x0=1,
        dx=1,
        y=rows,
        **theme.colour_range(shown),
        colorbar=theme.colour_bar(label),
        hoverongaps=False,
        hovertemplate=f"channel %{{y}}, t = %{{x}}<br>{label} %{{z:.4~g}}<extra></extra>",
    )
    axes.time_axis(fig, last, cells=True)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT, cells=True)
    return fig


@drawn
def distribution(quantiles: pd.DataFrame, label: str, threshold: float | None) -> go.Figure:
    """How a value spreads over the channels of one layer at each timestep.

    quantiles: step, min, p05, p25, median, p75, p95, max, mean. Bands, median and mean lines, the threshold as a line.
    """
    names = ["min", "p05", "p25", "median", "p75", "p95", "max", "mean"]
    quantiles = quantiles if quantiles.empty else quantiles.dropna(subset=names)
    if quantiles.empty:
        return theme.empty(NO_VALUES)
    last = int(quantiles["step"].max())
    fig = theme.figure(
        360, f"distribution {last}", hovermode="x unified", legend=[*(name for *_, name, _ in BANDS), "median", "mean"]
    )
    # A single step has no width to fill: it is drawn as a short box.
    steps = column(quantiles, "step") if last > 1 else np.array([0.8, 1.2], dtype=np.float32)
    spread = quantiles if last > 1 else quantiles.loc[quantiles.index.repeat(2)]
    for low, high, name, alpha in BANDS:
        edge = dict(x=steps, mode="lines", line=dict(width=0), legendgroup=name, hoverinfo="skip")
        fig.add_scatter(y=column(spread, low), showlegend=False, **edge)
        fig.add_scatter(
            y=column(spread, high), name=name, fill="tonexty", fillcolor=theme.translucent(theme.MAIN, alpha), **edge
        )
    details = quantiles[["min", "p05", "p25", "p75", "p95", "max"]].to_numpy(dtype=np.float32)
    fig.add_scatter(
        x=steps,
        y=column(spread, "median"),
        name="median",
        mode="lines",
        line=dict(color=theme.MAIN, width=2.5),
        customdata=details if last > 1 else details.repeat(2, axis=0),
        hovertemplate="median %{y:.3~g}<br>25 to 75 %: %{customdata[2]:.3~g} to %{customdata[3]:.3~g}"
        "<br>5 to 95 %: %{customdata[1]:.3~g} to %{customdata[4]:.3~g}"
        "<br>min to max: %{customdata[0]:.3~g} to %{customdata[5]:.3~g}<extra></extra>",
    )
    fig.add_scatter(
        x=steps,
        y=column(spread, "mean"),
        name="mean",
        mode="lines",
        line=dict(color=theme.CATEGORICAL[2], width=2, dash="dot"),
        hovertemplate="mean %{y:.3~g}<extra></extra>",
    )
    axes.time_axis(fig, last)
    limits = axes.value_range(quantiles[names].to_numpy(dtype=np.float64), threshold)
    fig.update_yaxes(title_text=f"{label} over channels", range=limits)
    axes.reference_line(fig, threshold, f"threshold {threshold:.4g}" if threshold is not None else "", theme.RULE)
    return fig


@drawn
def mean_curves(means: pd.DataFrame, label: str, threshold: float | None, exit_step: int | None) -> go.Figure:
    """The channel mean over t, one line a layer. means: layer, step, value; label: what the value is, with its unit."""
    if means.empty or not means["value"].notna().any():
        return theme.empty(NO_VALUES)
    layers, values = layers_by_step(means, "value")
    fig = layer_lines(layers, values, label, exit_step)
    fig.update_yaxes(range=axes.value_range(values, threshold))
    axes.reference_line(fig, threshold, f"threshold {threshold:.4g}" if threshold is not None else "", theme.RULE)
    return fig


def outline(inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The border of the True cells of [rows, T] as one broken line; cell (r, i) spans t = i + 1 ± ½, row r ± ½."""
    padded = np.pad(inside, 1)
    level, start, end = _runs(padded[1:, 1:-1] != padded[:-1, 1:-1])  # between neighbouring layers
    across = np.stack([start + 0.5, level - 0.5, end + 0.5, level - 0.5], axis=1)
    place, start, end = _runs((padded[1:-1, 1:] != padded[1:-1, :-1]).T)  # between neighbours in t
    upright = np.stack([place + 0.5, start - 0.5, place + 0.5, end - 0.5], axis=1)
    edges = np.concatenate([across, upright]).astype(np.float32).reshape(-1, 2, 2)
    broken = np.pad(edges, ((0, 0), (0, 1), (0, 0)), constant_values=np.nan)
    return broken[..., 0].ravel(), broken[..., 1].ravel()


def _runs(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row, start, end) of every run of True in [rows, columns], end exclusive."""
    change = np.diff(np.pad(rows.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    row, start = np.nonzero(change == 1)
    return row, start, np.nonzero(change == -1)[1]
