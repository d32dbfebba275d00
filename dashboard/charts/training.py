"""A training as it goes on: curves over the epochs, one a run or a layer, and maps that grow epoch by epoch.

The axis of epochs holds all planned epochs from the start, and `uirevision` depends on no number that grows: neither
the plot nor a zoom moves while epochs arrive (but for the one time an axis turns logarithmic). In all of them `epochs`
is the planned number, and `kept` what `run_looks.places` answered for all runs of the page.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import column, layers_by_step
from .gamma import outline
from .run_looks import Look, legend_below, looks
from .spikes import RATE

NO_EPOCHS = "No epochs yet"
TOGETHER = 12  # beyond so many lines one box with all of them would cover the plot: then only the nearest one speaks
FLOORS = (95, 90, 80, 50, 0)  # where an axis of accuracies may begin, in percent
WIDTHS = {"training": 1.25, "validation": 3}  # pixels, of the curves on these samples
COLUMNS = {"training": "train_accuracy", "validation": "validation_accuracy"}
HEIGHT = 360
MAP = 304  # pixels, the highest map: as high as the curves beside it


@drawn
def loss_curves(table: pd.DataFrame, epochs: int, kept: Mapping[str, int] | None = None) -> go.Figure:
    """Training loss, one line a run; logarithmic from two decades on. table: run, epoch, loss."""
    return _run_lines(table, "loss", epochs, kept, "training loss", "%{y:.4~g}", decades=2)


@drawn
def learning_rate(table: pd.DataFrame, epochs: int, kept: Mapping[str, int] | None = None) -> go.Figure:
    """Learning rate, one line a run, in steps; logarithmic from one decade on. table: run, epoch, lr."""
    fig = _run_lines(table, "lr", epochs, kept, "learning rate", "%{y:.4~g}", decades=1)
    return fig.update_traces(line_shape="hvh")


@drawn
def accuracy_curves(
    table: pd.DataFrame, epochs: int, kept: Mapping[str, int] | None = None, chance: float | None = None
) -> go.Figure:
    """Accuracy at T, a colour a run: on the training samples a thin line, on the validation samples a thick one.

    table: run, epoch, train_accuracy, validation_accuracy (0…1; NaN for a run without). The axis ends at 100 % and
    begins at 0 or higher up, where no curve is cut; `chance` (0…1) is drawn if it begins at 0.
    """
    known = [] if table.empty else table[["train_accuracy", "validation_accuracy"]].to_numpy(np.float64) * 100
    if not np.isfinite(known).any():
        return theme.empty(NO_EPOCHS)
    lowest, both = np.nanmin(known), np.isfinite(known[:, 1]).any()
    last = _last(table, epochs)
    runs = looks(table["run"], kept)
    names = [look.name for look in runs.values()] * (len(runs) > 1) + ["training", "validation"] * bool(both)
    lines = len(runs) * (2 if both else 1)
    fig = theme.figure(HEIGHT, f"accuracies {last}", hovermode=_hover(lines), legend=names)
    for run, look in runs.items():
        part = table[table["run"].astype(str) == run].sort_values("epoch")
        _accuracy_lines(fig, part, look, len(runs) == 1, "" if lines <= TOGETHER else ", epoch %{x}")
    for split, width in WIDTHS.items() if both and len(runs) > 1 else ():
        fig.add_scatter(x=[None], y=[None], mode="lines", name=split, line=dict(color=theme.MUTED, width=width))
    floor = next(level for level in FLOORS if level <= lowest or level == 0)
    axes.time_axis(fig, last, title="epoch")
    air = 0.04 * (100 - floor)
    tick = {0: 25, 50: 10, 80: 5, 90: 2, 95: 1}[floor]
    fig.update_yaxes(title_text="accuracy (%)", range=[floor - air, 100 + air], tick0=floor, dtick=tick)
    if chance is not None and floor == 0:
        axes.reference_line(fig, 100 * chance, f"chance {100 * chance:.3g} %", dash=theme.DOT)
    legend_below(fig)
    return fig


@drawn
def firing_rates(table: pd.DataFrame, epochs: int) -> go.Figure:
    """Firing rate, one line a layer, early layers dark blue to late ones green. table: epoch, layer, rate."""
    if table.empty or not table["rate"].notna().any():
        return theme.empty(NO_EPOCHS)
    layers, values = layers_by_step(table[["epoch", "layer", "rate"]].rename(columns={"epoch": "step"}), "rate")
    last, titles = _last(table, epochs), theme.short(layers)
    fig = theme.figure(HEIGHT, f"rates {last}", hovermode=_hover(len(layers)), legend=titles if len(layers) > 1 else [])
    for name, title, row, color in zip(layers, titles, values, theme.colours(len(layers))):
        where = "" if len(layers) <= TOGETHER else ", epoch %{x}"
        fig.add_scatter(
            x=np.arange(1, len(row) + 1, dtype=np.float32),
            y=row,
            name=title,
            mode=theme.line_mode(row),
            line=dict(color=color, width=2),
            marker=dict(size=6),
            hovertemplate=f"{name}{where}: %{{y:.3~g}}<extra></extra>",
        )
    axes.time_axis(fig, last, title="epoch")
    fig.update_yaxes(title_text=RATE, rangemode="tozero")
    legend_below(fig)
    return fig


@drawn
def exit_accuracy(table: pd.DataFrame, epochs: int) -> go.Figure:
    """Accuracy of leaving at t after each epoch: map with epoch 1 on top. table: epoch, step, accuracy (0…1)."""
    if table.empty or not table["accuracy"].notna().any():
        return theme.empty(NO_EPOCHS)
    values = _by_epoch(table, "accuracy") * 100
    fig = _epoch_map(values, epochs, "exit accuracy", "exit step t")
    fig.update_traces(
        zmin=0,
        zmax=100,
        colorscale=theme.SEQUENTIAL,
        colorbar=theme.colour_bar("accuracy (%)"),
        hovertemplate="epoch %{y}, leaving at t = %{x}<br>accuracy %{z:.1f} %<extra></extra>",
    )
    return fig


@drawn
def gamma_growth(table: pd.DataFrame, label: str, epochs: int, threshold: float | None = None) -> go.Figure:
    """Mean γ of one layer (or of all) after each epoch: map of epoch × timestep, epoch 1 on top.

    table: epoch, step, value; label: what the value is, e.g. "mean γ of conv3". Cells below `threshold` are outlined.
    """
    if table.empty or not table["value"].notna().any():
        return theme.empty(NO_EPOCHS)
    values = _by_epoch(table, "value")
    x, y = outline(values < threshold) if threshold is not None else ([], [])
    outlined = [f"below {threshold:.4g}" + ("" if len(x) else ": nowhere")] if threshold is not None else []
    fig = _epoch_map(values, epochs, "γ by epoch", "timestep t", legend=outlined)
    fig.update_traces(
        **theme.colour_range(values),
        colorbar=theme.colour_bar(label),
        hovertemplate=f"epoch %{{y}}, t = %{{x}}<br>{label} %{{z:.4~g}}<extra></extra>",
    )
    if outlined:
        fig.add_scatter(
            x=x if len(x) else [None],
            y=y + 1 if len(y) else [None],
            mode="lines",
            hoverinfo="skip",
            line=dict(color=theme.RULE, width=2),
            name=outlined[0],
            showlegend=True,
        )
    return fig


def _run_lines(
    table: pd.DataFrame, name: str, epochs: int, kept: Mapping[str, int] | None, label: str, said: str, decades: float
) -> go.Figure:
    """One line a run over the epochs; the y axis fits itself and is logarithmic if values span `decades` or more."""
    if table.empty or not np.isfinite(table[name]).any():
        return theme.empty(NO_EPOCHS)
    runs, last = looks(table["run"], kept), _last(table, epochs)
    spanned = _decades(table[name].to_numpy(dtype=np.float64))
    log = spanned >= decades
    names = [look.name for look in runs.values()] * (len(runs) > 1)
    fig = theme.figure(HEIGHT, f"{name} {last} {log}", hovermode=_hover(len(runs)), legend=names)
    for run, look in runs.items():
        part = table[table["run"].astype(str) == run].sort_values("epoch")
        line = column(part, name)
        before = f"{look.name}: " if len(runs) > 1 else f"{label} "
        fig.add_scatter(
            x=column(part, "epoch"),
            y=line,
            name=look.name,
            mode=theme.line_mode(line),
            line=dict(color=look.color, width=2.25, dash=look.dash),
            marker=dict(size=7),
            hovertemplate=before + (said if len(runs) <= TOGETHER else f"{said}, epoch %{{x}}") + "<extra></extra>",
        )
    axes.time_axis(fig, last, title="epoch")
    # The axis is left to fit itself: a range that came from here would undo a zoom with every epoch.
    fig.update_yaxes(title_text=label, **(_log_axis(spanned) if log else dict(rangemode="tozero")))
    legend_below(fig)
    return fig


def _accuracy_lines(fig: go.Figure, part: pd.DataFrame, look: Look, alone: bool, where: str) -> None:
    """The curve on the training samples and, where it is known, the one on the validation samples."""
    splits = [split for split in WIDTHS if part[COLUMNS[split]].notna().any()]
    for split in splits:
        percent = column(part, COLUMNS[split], 100)
        fig.add_scatter(
            x=column(part, "epoch"),
            y=percent,
            name=split if alone else look.name,
            legendgroup=split if alone else look.name,
            showlegend=len(splits) > 1 if alone else split == splits[-1],
            mode=theme.line_mode(percent),
            line=dict(color=look.color, width=WIDTHS[split] if len(splits) > 1 else 2.25, dash=look.dash),
            marker=dict(size=4 + WIDTHS[split]),
            hovertemplate=f"{'' if alone else look.name + ', '}{split} %{{y:.1f}} %{where}<extra></extra>",
        )


def _epoch_map(values: np.ndarray, epochs: int, view: str, title: str, legend: list[str] | None = None) -> go.Figure:
    """A heat map [epochs so far, T] on axes for all planned epochs, epoch 1 on top; colours are the caller's."""
    last, steps = max(epochs, len(values)), values.shape[1]
    row = max(1, min(32, MAP // last))  # whole pixels, or thin rows would come and go
    plot = min(MAP, max(96, row * last))
    legend = legend or []
    fig = theme.figure(plot + theme.FOOT + 10 + 26 * bool(legend), f"{view} {last} × {steps}", legend=legend)
    fig.add_heatmap(
        z=values,
        x0=1,
        dx=1,
        y0=1,
        dy=1,
        xgap=1 if steps <= 30 else 0,
        ygap=1 if row > 5 else 0,
        hoverongaps=False,
        showlegend=False,
    )
    axes.time_axis(fig, steps, cells=True, title=title)
    ticks = dict(dtick=1, tick0=1) if last <= 12 else dict(tickmode="auto", nticks=9)
    # A light ground, so that the epochs to come are seen as room.
    fig.update_layout(plot_bgcolor=theme.translucent(theme.MUTED, 0.08))
    fig.update_yaxes(title_text="epoch", range=[last + 0.5, 0.5], showgrid=False, tickformat="~g", **ticks)
    legend_below(fig)
    return fig


def _by_epoch(table: pd.DataFrame, name: str) -> np.ndarray:
    """float32 [epochs so far, T]; NaN where a row is missing."""
    wide = table.pivot(index="epoch", columns="step", values=name)
    wide = wide.reindex(index=range(1, int(table["epoch"].max()) + 1), columns=range(1, int(table["step"].max()) + 1))
    return wide.to_numpy(dtype=np.float32)


def _last(table: pd.DataFrame, epochs: int) -> int:
    """Where the axis of epochs ends: all planned ones, and those done beyond the plan."""
    return max(epochs, int(table["epoch"].max()))


def _hover(lines: int) -> str:
    return "x unified" if lines <= TOGETHER else "closest"


def _log_axis(decades: float) -> dict:
    """A logarithmic axis with labels at 1, 2 and 5 or, over many decades, at powers of ten; never at all nine."""
    return dict(type="log", tickformat="~g", nticks=3 if decades < 1.5 else 5)


def _decades(values: np.ndarray) -> float:
    """Powers of ten that the finite values span; 0 if one is not positive, which no logarithmic axis could show."""
    known = values[np.isfinite(values)]
    return round(float(np.log10(known.max() / known.min())), 6) if known.min() > 0 else 0.0
