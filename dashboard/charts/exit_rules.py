"""Samples that leave when they are ready: when they do, and what each rule costs for how much accuracy."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .early_exit import energy_unit, percent_range
from .frames import column

# What an exit may cost: column of a front → what people read.
COSTS = {"mean_step": "mean exit step", "spikes": "spikes per sample", "energy_nj": "energy per sample"}
STACKED = len(theme.CLASSES)
NEAR = 10  # points of a percent
BARS = 60


@drawn
def histogram(frame: pd.DataFrame, classes: Sequence[str], last: int, mean: float | None = None) -> go.Figure:
    """How many samples leave at each step: stacked by class, or class × step as a heat map where classes are many.

    frame: label (place in `classes`), step, samples. last: T. mean: the mean exit step, marked.
    """
    if frame.empty:
        return theme.empty("No samples to show")
    table = np.zeros((len(classes), last), np.float32)
    np.add.at(table, (frame["label"].to_numpy(), frame["step"].to_numpy() - 1), column(frame, "samples"))
    if len(classes) > STACKED:
        return _class_map(table, classes)
    table, middles, spans = _binned(table)
    titles = theme.short(classes)
    labels = int(mean is not None)
    fig = theme.figure(460, f"exits {last}", labels=labels, legend=titles, barmode="stack", bargap=0.12)
    for row, title, color in zip(table, titles, theme.CLASSES):
        _bars(fig, middles, row, title, color, spans, "%{y:,}")
    axes.time_axis(fig, last, cells=True, title="exit step t")
    fig.update_yaxes(title_text="samples", rangemode="tozero", nticks=6)
    fig.update_layout(legend_traceorder="normal")
    if mean is not None:
        axes.mark_step(fig, mean, last, f"mean {mean:.1f}", theme.EXIT, dash=theme.DASH)
    return fig


def _binned(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """[rows, T] summed over neighbouring steps where T is larger than BARS, the middle of each bin, and its steps in
    words."""
    last = table.shape[1]
    width = -(-last // BARS)
    starts = np.arange(1, last + 1, width)
    ends = np.minimum(starts + width - 1, last)
    spans = [str(start) if start == end else f"{start} … {end}" for start, end in zip(starts, ends)]
    return np.add.reduceat(table, starts - 1, axis=1), (starts + (width - 1) / 2).astype(np.float32), spans


def _bars(
    fig: go.Figure, x: np.ndarray, y: np.ndarray, name: str, color: str, spans: Sequence[str], amount: str
) -> None:
    """One series of exits; amount: how a bar's height is written."""
    fig.add_bar(
        x=x,
        y=y,
        name=name,
        showlegend=True,
        customdata=spans,
        marker=dict(color=color, line=dict(width=0)),
        hovertemplate=f"{name}: {amount} leave at t = %{{customdata}}<extra></extra>",
    )


def _class_map(table: np.ndarray, classes: Sequence[str]) -> go.Figure:
    count, last = table.shape
    fig = theme.cells(max(260, min(520, 6 * count)), f"exits {count} × {last}", None)
    names = axes.row_axis(fig, np.asarray(classes), "class")
    fig.add_heatmap(
        z=table,
        x0=1,
        dx=1,
        y=names,
        colorbar=theme.colour_bar("samples"),
        hovertemplate="%{y}: %{z:,} leave at t = %{x}<extra></extra>",
        **theme.colour_range(table),
    )
    axes.time_axis(fig, last, cells=True, title="exit step t")
    return fig


@drawn
def front(
    frame: pd.DataFrame, titles: dict[str, str], cost: str, marks: pd.DataFrame, whole: bool = False
) -> go.Figure:
    """Accuracy against what it costs, a line a rule over all its thresholds.

    frame: rule, threshold, accuracy (0…1), mean_step, spikes, energy_nj. titles: of the rules, in their order. cost: one
    of COSTS. marks: points of their own, with the same columns, name, and color and symbol. whole: down to the lowest
    accuracy; else what is within NEAR points of the best, where rules differ, and the marks.
    """
    if frame.empty:
        return theme.empty()
    unit, scale = energy_unit(frame[cost].max()) if cost == "energy_nj" else ("", 1.0)
    label = COSTS[cost] + (f" ({unit})" if unit else "")
    fig = theme.figure(420, f"front {cost} {unit} {whole}", legend=[*titles.values(), *marks["name"]])
    for place, (rule, title) in enumerate(titles.items()):
        part = frame[frame["rule"] == rule].sort_values([cost, "accuracy"])
        color = theme.MUTED if rule == "fixed" else theme.CATEGORICAL[place - 1]
        few = len(part) <= 30 and rule in ("fixed", "stability")
        fig.add_scatter(
            x=column(part, cost, scale),
            y=column(part, "accuracy", 100),
            name=title,
            mode="lines+markers" if few else "lines",
            showlegend=True,
            customdata=column(part, "threshold"),
            line=dict(color=color, width=2, dash=theme.DASHES[place]),
            marker=dict(color=color, size=6),
            hovertemplate=f"{title}, threshold %{{customdata:.4~g}}<br>%{{y:.2f}} %, %{{x:,.4~r}} {unit}<extra></extra>",
        )
    _marks(fig, marks, cost, scale, unit)
    top = float(frame[cost].max()) * scale or 1.0
    fig.update_xaxes(title_text=label, range=[-0.02 * top, 1.04 * top], nticks=7, showgrid=True)
    percent = column(frame, "accuracy", 100)
    if not whole:
        percent = np.append(percent[percent >= percent.max() - NEAR], column(marks, "accuracy", 100))
    fig.update_yaxes(title_text="accuracy (%)", range=percent_range(percent))
    return fig


def _marks(fig: go.Figure, marks: pd.DataFrame, cost: str, scale: float, unit: str) -> None:
    for mark in marks.to_dict("records"):
        fig.add_scatter(
            x=[mark[cost] * scale],
            y=[100 * mark["accuracy"]],
            name=mark["name"],
            mode="markers",
            showlegend=True,
            cliponaxis=False,
            marker=dict(color=mark["color"], size=14, symbol=mark["symbol"], line=dict(color="white", width=1.5)),
            hovertemplate=f"{mark['name']}<br>%{{y:.2f}} %, %{{x:,.4~r}} {unit}<extra></extra>",
        )


@drawn
def disturbed_exits(frame: pd.DataFrame, last: int) -> go.Figure:
    """Share of the samples that leave at each step, a bar a condition. frame: condition, step, share (0…1), a row a step 1 … T =
    last."""
    if frame.empty:
        return theme.empty("No samples to show")
    conditions = frame["condition"].drop_duplicates().tolist()
    fig = theme.figure(340, f"disturbed exits {last}", legend=conditions, barmode="group", bargap=0.15, bargroupgap=0)
    for condition, color in zip(conditions, (theme.MAIN, theme.CATEGORICAL[1])):
        part = frame[frame["condition"] == condition].sort_values("step")
        (row,), middles, spans = _binned(column(part, "share", 100)[None])
        _bars(fig, middles, row, condition, color, spans, "%{y:.1f} %")
    axes.time_axis(fig, last, cells=True, title="exit step t")
    fig.update_yaxes(title_text="samples (%)", rangemode="tozero", nticks=6)
    return fig
