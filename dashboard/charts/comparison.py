"""Several runs in one chart: accuracy over the exit step, under attack, against energy, and where their γ differ.

`kept` is what `run_looks.places` answered for all runs of the page.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .early_exit import energy_unit, percent_range
from .frames import column, layers_by_step
from .run_looks import legend_below, looks, short

NO_RUNS = "No runs to compare"
DETAILED = 4  # runs; with more of them one box with every interval would cover the plot on a phone


@drawn
def exit_curves(table: pd.DataFrame, kept: Mapping[str, int] | None = None) -> go.Figure:
    """Accuracy against the exit step, one line a run, with light 95 % bands; runs may differ in T.

    table: run, step, accuracy, low, high (these three 0…1; low and high NaN where unknown).
    """
    if table.empty or not table["accuracy"].notna().any():
        return theme.empty(NO_RUNS)
    runs, last = looks(table["run"], kept), int(table["step"].max())
    names = [look.name for look in runs.values()]
    fig = theme.figure(380, f"exit curves {last}", hovermode="x unified", legend=names)
    parts = {run: table[table["run"].astype(str) == run].sort_values("step") for run in runs}
    for run, part in parts.items():  # the bands first, under all lines
        x, y = _band(*(column(part, name) for name in ("step", "low", "high")))
        fig.add_scatter(
            x=x,
            y=100 * y,
            fill="toself",
            mode="lines",
            line=dict(width=0),
            fillcolor=theme.translucent(runs[run].color, 0.14),
            legendgroup=run,
            showlegend=False,
            hoverinfo="skip",
        )
    for run, part in parts.items():
        look, percent = runs[run], column(part, "accuracy", 100)
        fig.add_scatter(
            x=column(part, "step"),
            y=percent,
            name=look.name,
            mode=theme.line_mode(percent),
            legendgroup=run,
            showlegend=True,
            line=dict(color=look.color, width=2.25, dash=look.dash),
            marker=dict(size=8, symbol=look.symbol),
            text=_intervals(part) if len(runs) <= DETAILED else None,
            hovertemplate=f"{look.name}: %{{y:.1f}} %{'%{text}' if len(runs) <= DETAILED else ''}<extra></extra>",
        )
    axes.time_axis(fig, last, title="exit step t")
    known = table[["accuracy", "low", "high"]].to_numpy(dtype=np.float64) * 100
    fig.update_yaxes(title_text="accuracy (%)", range=percent_range(known))
    legend_below(fig)
    return fig


@drawn
def robustness_curves(table: pd.DataFrame, label: str, kept: Mapping[str, int] | None = None) -> go.Figure:
    """Accuracy against the strength of one attack, one line a run, with 95 % intervals.

    table: run, attack, strength, accuracy, low, high (these three 0…1; low and high NaN where unknown), rows of one
    attack; label: the strength with its unit, e.g. "ε (1/255)".
    """
    if table.empty or not table["accuracy"].notna().any():
        return theme.empty(NO_RUNS)
    runs, strengths = looks(table["run"], kept), column(table, "strength")
    start, end = float(strengths.min()), float(strengths.max())
    air = 0.04 * (end - start) or max(0.5 * abs(end), 0.5)
    names = [look.name for look in runs.values()]
    fig = theme.figure(380, f"robustness {start} {end}", legend=names)
    for run, look in runs.items():
        part = table[table["run"].astype(str) == run].sort_values("strength")
        percent = column(part, "accuracy", 100)
        fig.add_scatter(
            x=column(part, "strength"),
            y=percent,
            name=look.name,
            mode="lines+markers",
            showlegend=True,
            line=dict(color=look.color, width=2.25, dash=look.dash),
            marker=dict(size=8, symbol=look.symbol, line=dict(color="white", width=1)),
            text=_intervals(part),
            error_y=dict(
                array=column(part, "high", 100) - percent,
                arrayminus=percent - column(part, "low", 100),
                symmetric=False,
                thickness=1.25,
                width=3,
                color=theme.translucent(look.color, 0.6),
            ),
            hovertemplate=f"{look.name}<br>{part['attack'].iloc[0]}, %{{x:.4~g}}"
            "<br>%{y:.1f} %%{text}<extra></extra>",
        )
    fig.update_xaxes(title_text=label, range=[start - air, end + air], nticks=8)
    fig.update_yaxes(title_text="accuracy (%)", range=[-3, 104], dtick=25, tick0=0)
    legend_below(fig)
    return fig


@drawn
def gamma_difference(a: pd.DataFrame, b: pd.DataFrame, names: tuple[str, str]) -> go.Figure:
    """Mean γ of run A less that of run B, layer × timestep, in colours around 0.

    a, b: layer, step, value. The layers that both have, in A's order; timesteps that only one of them has stay empty.
    """
    both = [] if a.empty or b.empty else [name for name in a["layer"].drop_duplicates() if name in set(b["layer"])]
    if not both:
        return theme.empty("No layer that both runs have")
    layers, stacked = _on_one_grid(both, a, b)
    difference = stacked[0] - stacked[1]
    if not np.isfinite(difference).any():
        return theme.empty("No timestep that both runs have")
    count, last = difference.shape
    common = int(min(a["step"].max(), b["step"].max()))
    cut = short(names)
    higher = [f"higher in {name}" for name in cut]
    fig = theme.figure(
        max(120, min(520, 30 * count)) + theme.FOOT + 36 + theme.ROW * (common < last),
        f"γ difference {count} × {last}",
        labels=int(common < last),
        legend=higher,
    )
    top = float(np.nanmax(np.abs(difference))) or 1.0
    fig.add_heatmap(
        z=difference,
        x0=1,
        dx=1,
        y0=0,
        dy=1,
        xgap=1 if last <= 30 else 0,
        ygap=1,
        zmin=-top,
        zmax=top,
        colorscale=theme.DIVERGING,
        colorbar=theme.colour_bar("difference of mean γ"),
        hoverongaps=False,
        showlegend=False,
        customdata=np.moveaxis(stacked, 0, -1),
        hovertemplate=f"%{{y}}, t = %{{x}}<br>difference %{{z:+.3~g}}<br>{cut[0]}: %{{customdata[0]:.4~g}}"
        f"<br>{cut[1]}: %{{customdata[1]:.4~g}}<extra></extra>",
    )
    for name, color in zip(higher, (theme.DIVERGING[-2], theme.DIVERGING[1])):
        look = dict(symbol="square", size=10, color=color)
        fig.add_scatter(x=[None], y=[None], mode="markers", name=name, marker=look, showlegend=True)
    axes.time_axis(fig, last, cells=True)
    fig.update_yaxes(
        range=[count - 0.44, -0.56],
        showgrid=False,
        tickmode="array",
        tickvals=list(range(count)),
        ticktext=theme.short(layers),
        fixedrange=True,
    )
    if common < last:
        axes.mark_step(fig, common, last, f"both up to t = {common}", theme.MUTED, dash=theme.DASH, cells=True)
    legend_below(fig)
    fig.update_layout(legend=dict(itemclick=False, itemdoubleclick=False))
    return fig


@drawn
def accuracy_energy(table: pd.DataFrame, kept: Mapping[str, int] | None = None) -> go.Figure:
    """Accuracy at T against energy, one point a run. table: run, accuracy (0…1), energy_nj per sample."""
    known = table if table.empty else table.dropna(subset=["accuracy", "energy_nj"])
    if known.empty:
        return theme.empty(NO_RUNS)
    runs = looks(known["run"], kept)
    unit, scale = energy_unit(known["energy_nj"].max())
    fig = theme.figure(340, f"accuracy energy {unit}", legend=[look.name for look in runs.values()])
    for run, look in runs.items():
        part = known[known["run"].astype(str) == run]
        fig.add_scatter(
            x=column(part, "energy_nj", scale),
            y=column(part, "accuracy", 100),
            name=look.name,
            mode="markers",
            showlegend=True,
            marker=dict(color=look.color, symbol=look.symbol, size=12, line=dict(color="white", width=1)),
            hovertemplate=f"{look.name}<br>%{{y:.1f}} %, %{{x:,.4~r}} {unit} per sample<extra></extra>",
        )
    top = float(known["energy_nj"].max()) * scale or 1.0
    fig.update_xaxes(title_text=f"energy per sample ({unit})", range=[-0.04 * top, 1.06 * top], nticks=7, showgrid=True)
    fig.update_yaxes(title_text="accuracy (%)", range=percent_range(column(known, "accuracy", 100)))
    legend_below(fig)
    return fig


def _band(steps: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A closed outline around every stretch of known bounds, NaN between them; a single step becomes a short box."""
    known = np.isfinite(low) & np.isfinite(high)
    ends = np.flatnonzero(np.diff(np.pad(known.astype(np.int8), 1))).reshape(-1, 2)
    x, y = [], []
    for start, end in ends:
        along = steps[start:end] if end - start > 1 else steps[start] + np.array([-0.2, 0.2])
        below, above = (np.resize(bound[start:end], len(along)) for bound in (low, high))
        x.append(np.concatenate([along, along[::-1], along[:1], [np.nan]]))
        y.append(np.concatenate([below, above[::-1], below[:1], [np.nan]]))
    return tuple(np.concatenate([*parts, []]).astype(np.float32) for parts in (x, y))


def _intervals(part: pd.DataFrame) -> list[str]:
    """What to add to an accuracy in a hover text: its interval, or nothing where it is unknown."""
    bounds = zip(column(part, "low", 100), column(part, "high", 100))
    return [f" ({low:.1f} to {high:.1f} %)" if np.isfinite(low + high) else "" for low, high in bounds]


def _on_one_grid(layers: list, a: pd.DataFrame, b: pd.DataFrame) -> tuple[list[str], np.ndarray]:
    """(names, float32 [2, layers, longer T]) of the given layers of both; NaN where one has no value."""
    last = int(max(a["step"].max(), b["step"].max()))
    stacked = np.full((2, len(layers), last), np.nan, dtype=np.float32)
    for values, frame in zip(stacked, (a, b)):
        found, part = layers_by_step(frame[frame["layer"].isin(layers)], "value")
        order = [found.index(str(name)) for name in layers]
        values[:, : part.shape[1]] = part[order]
    return [str(name) for name in layers], stacked
