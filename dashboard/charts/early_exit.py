"""What leaving early costs and saves: accuracy, spikes, energy and latency over the exit step."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import at_step, column, layers_by_step

COSTS = [
    ("spikes", "spikes", "%{customdata:.3~s}"),
    ("energy_nj", "energy", "%{customdata:,.4~r} nJ"),
    ("latency_ms", "latency", "%{customdata:,.4~r} ms"),
]


@drawn
def accuracy_curve(
    frame: pd.DataFrame, exit_step: int | None, rule_step: int | None, label: str = "accuracy"
) -> go.Figure:
    """Accuracy over the exit step, with the chosen exit, the γ rule and the full T marked.

    frame: step, accuracy (0…1), and, if known, low and high (its interval).
    """
    if frame.empty or not frame["accuracy"].notna().any():
        return theme.empty()
    frame = frame.sort_values("step")
    last, steps, percent = int(frame["step"].max()), column(frame, "step"), column(frame, "accuracy", 100)
    full = at_step(frame, "accuracy", last) * 100
    known = {"low", "high"} <= set(frame.columns)
    names = [f"full T = {last}: {full:.1f} %"] * bool(np.isfinite(full)) + ["confidence interval"] * known
    labels = (exit_step is not None) + (rule_step is not None)
    fig = theme.figure(360, f"accuracy {last}", labels=labels, hovermode="x unified", legend=names)
    spread = [percent]
    if known:
        low, high = column(frame, "low", 100), column(frame, "high", 100)
        spread += [low, high]
        edge = dict(x=steps, mode="lines", line=dict(width=0), hoverinfo="skip")
        fig.add_scatter(y=low, showlegend=False, **edge)
        fig.add_scatter(y=high, name=names[-1], fill="tonexty", fillcolor=theme.translucent(theme.MAIN, 0.16), **edge)
    if np.isfinite(full):
        fig.add_scatter(
            x=[0, last + 1],
            y=[full, full],
            mode="lines",
            name=names[0],
            showlegend=True,
            hoverinfo="skip",
            line=dict(color=theme.MUTED, width=1.5, dash=theme.DOT),
        )
    fig.add_scatter(
        x=steps,
        y=percent,
        name=label,
        mode=theme.line_mode(percent),
        showlegend=False,
        line=dict(color=theme.MAIN, width=2.5),
        marker=dict(size=7),
        hovertemplate=f"{label} %{{y:.2f}} %<extra></extra>",
    )
    axes.time_axis(fig, last, title="exit step t")
    fig.update_yaxes(title_text=f"{label} (%)", range=percent_range(np.concatenate(spread)))
    _mark_both(fig, frame, "accuracy", exit_step, rule_step, last)
    return fig


@drawn
def cost_curves(frame: pd.DataFrame, exit_step: int | None, rule_step: int | None) -> go.Figure:
    """Spikes, energy and latency of an early exit as a share of what the full T costs.

    frame: step, spikes, energy_nj, latency_ms, each up to and including the step.
    """
    if frame.empty:
        return theme.empty()
    frame = frame.sort_values("step")
    last, steps = int(frame["step"].max()), column(frame, "step")
    labels = (exit_step is not None) + (rule_step is not None)
    fig = theme.figure(
        360, f"costs {last}", labels=labels, hovermode="x unified", legend=[name for _, name, _ in COSTS]
    )
    for place, (name, title, absolute) in enumerate(COSTS):
        values = column(frame, name)
        share = values / values[-1] * 100 if values[-1] else np.full_like(values, np.nan)
        fig.add_scatter(
            x=steps,
            y=share,
            name=title,
            mode=theme.line_mode(share),
            customdata=values,
            line=dict(color=theme.CATEGORICAL[place], width=2.5, dash=theme.DASHES[place]),
            marker=dict(size=7),
            hovertemplate=f"{title}: {absolute}, %{{y:.1f}} % of full T<extra></extra>",
        )
    axes.time_axis(fig, last, title="exit step t")
    fig.update_yaxes(title_text="share of the full-T cost (%)", range=[-2, 105], dtick=25)
    axes.mark_step(fig, rule_step, last, f"γ rule, t = {rule_step}", theme.RULE, row=labels - 1, dash=theme.DASH)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT)
    return fig


@drawn
def trade_off(frame: pd.DataFrame, exit_step: int | None, rule_step: int | None) -> go.Figure:
    """Accuracy against energy, one point an exit step, some of them labelled.

    frame: step, accuracy (0…1), energy_nj per sample, up to and including the step.
    """
    if not frame.empty:
        frame = frame.dropna(subset=["accuracy", "energy_nj"]).sort_values("step")
    if frame.empty:
        return theme.empty()
    percent, energy = column(frame, "accuracy", 100), column(frame, "energy_nj")
    unit, scale = energy_unit(energy.max())
    energy = energy * scale
    steps = frame["step"].to_numpy()
    marks = [
        (step, f"{title}, t = {step}", *look)
        for step, title, *look in (
            (rule_step, "γ rule", theme.RULE, "diamond", 15),
            (exit_step, "your exit", theme.EXIT, "circle", 11),
        )
        if step in steps
    ]
    fig = theme.figure(380, f"trade-off {steps[-1]}", legend=[title for _, title, *_ in marks])
    fig.add_scatter(
        x=energy,
        y=percent,
        name="exit steps",
        mode="lines+markers",
        customdata=steps.astype(np.int16),
        line=dict(color=theme.translucent(theme.MAIN, 0.5), width=1.5),
        marker=dict(color=theme.MAIN, size=6),
        showlegend=False,
        hovertemplate="leaving at t = %{customdata}<br>%{y:.2f} %, %{x:,.4~r} " + unit + "<extra></extra>",
    )
    limits, top = percent_range(percent), float(energy.max()) or 1.0
    x, y = energy / top, (percent - limits[0]) / (limits[1] - limits[0])
    some = _labelled(x, y, np.isin(steps, [step for step, *_ in marks]))
    fig.add_scatter(
        x=energy[some],
        y=percent[some],
        mode="markers+text",
        text=[f"t = {step}" for step in steps[some]],
        textposition=np.where(x[some] > 0.85, "bottom left", "bottom right").tolist(),
        hoverinfo="skip",
        textfont=dict(size=12, color=theme.MUTED),
        marker=dict(color=theme.MAIN, size=6),
        showlegend=False,
        cliponaxis=False,
    )
    for step, title, color, symbol, size in marks:
        fig.add_scatter(
            x=energy[steps == step],
            y=percent[steps == step],
            mode="markers",
            name=title,
            showlegend=True,
            marker=dict(color=color, size=size, symbol=symbol, line=dict(color="white", width=1.5)),
            hovertemplate=f"{title}<br>%{{y:.2f}} %, %{{x:,.4~r}} {unit}<extra></extra>",
        )
    fig.update_xaxes(title_text=f"energy per sample ({unit})", range=[-0.04 * top, 1.06 * top], nticks=7)
    fig.update_yaxes(title_text="accuracy (%)", range=limits)
    return fig


@drawn
def energy_by_layer(frame: pd.DataFrame, twin: pd.DataFrame | None = None) -> go.Figure:
    """Energy per sample by layer, first layer on top. frame: layer, energy_nj. twin: the same of the ANN, beside it."""
    if frame.empty:
        return theme.empty("No energy to show")
    layers = frame["layer"].astype(str).tolist()
    tables = [("this network", frame)] + ([("the same layers as an ANN", twin)] if twin is not None else [])
    unit, scale = energy_unit(max(np.nansum(table["energy_nj"]) for _, table in tables))
    legend = [name for name, _ in tables] if twin is not None else []
    height = max(80, (28 + 12 * len(legend)) * len(layers)) + theme.FOOT + 10 + theme.LEGEND_ROW * len(legend)
    fig = theme.figure(height, f"energy {len(layers)}", bargap=0.3, legend=legend)
    top = 0.0
    for name, table in tables:
        values = column(table, "energy_nj", scale)
        top = max(top, float(np.nanmax(values, initial=0.0)))
        fig.add_bar(
            x=values,
            y=layers,
            name=name,
            orientation="h",
            marker=dict(
                color=theme.MAIN
                if legend and table is frame
                else theme.MUTED
                if legend
                else theme.colours(len(layers)),
                line=dict(width=0),
            ),
            texttemplate="%{x:,.3~r}",
            textposition="outside",
            cliponaxis=False,
            textangle=0,
            hovertemplate=f"%{{y}}, {name}<br>%{{x:,.4~r}} {unit} per sample<extra></extra>",
        )
    axes.layer_axis(fig, layers)
    fig.update_xaxes(title_text=f"energy per sample ({unit})", showgrid=True, range=[0, 1.15 * (top or 1.0)], nticks=6)
    return fig


@drawn
def energy_by_step(frame: pd.DataFrame, exit_step: int | None, rule_step: int | None) -> go.Figure:
    """Energy per sample at each timestep, stacked by layer. frame: layer, step, energy_nj (at that step alone)."""
    if frame.empty:
        return theme.empty("No energy to show")
    layers, values = layers_by_step(frame, "energy_nj")
    unit, scale = energy_unit(float(np.nansum(values, 0).max()))
    last, titles = values.shape[1], theme.short(layers)
    labels = (exit_step is not None) + (rule_step is not None)
    fig = theme.figure(360, f"energy steps {last}", labels=labels, legend=titles, barmode="stack", bargap=0.12)
    for name, title, row, color in zip(layers, titles, values, theme.colours(len(layers))):
        fig.add_bar(
            x=np.arange(1, last + 1, dtype=np.float32),
            y=row * np.float32(scale),
            name=title,
            marker=dict(color=color, line=dict(width=0)),
            hovertemplate=f"{name}, t = %{{x}}: %{{y:,.3~r}} {unit}<extra></extra>",
        )
    axes.time_axis(fig, last, cells=True)
    fig.update_yaxes(title_text=f"energy at t ({unit})", rangemode="tozero")
    fig.update_layout(legend_traceorder="normal")
    mark = dict(cells=True, last=last)
    axes.mark_step(
        fig, rule_step, text=f"γ rule, t = {rule_step}", color=theme.RULE, row=labels - 1, dash=theme.DASH, **mark
    )
    axes.mark_step(fig, exit_step, text=f"your exit, t = {exit_step}", color=theme.EXIT, **mark)
    return fig


def energy_unit(nanojoule: float) -> tuple[str, float]:
    """Unit for energies up to this much, and what nanojoules are multiplied by for it; the text beside uses the same."""
    return ("µJ", 1e-3) if nanojoule >= 1e3 else ("nJ", 1.0)


def _mark_both(
    fig: go.Figure, frame: pd.DataFrame, name: str, exit_step: int | None, rule_step: int | None, last: int
) -> None:
    """The γ rule and the chosen exit as labelled lines, the exit also as a dot on the curve."""
    at_rule, at_exit = at_step(frame, name, rule_step) * 100, at_step(frame, name, exit_step) * 100
    axes.mark_step(
        fig,
        rule_step,
        last,
        f"γ rule, t = {rule_step}: {at_rule:.1f} %",
        theme.RULE,
        row=int(exit_step is not None),
        dash=theme.DASH,
    )
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}: {at_exit:.1f} %", theme.EXIT)
    for step, value, color, title in (
        (rule_step, at_rule, theme.RULE, "γ rule"),
        (exit_step, at_exit, theme.EXIT, "your exit"),
    ):
        if np.isfinite(value):
            fig.add_scatter(
                x=[step],
                y=[value],
                mode="markers",
                name=title,
                cliponaxis=False,
                showlegend=False,
                marker=dict(color=color, size=11, line=dict(color="white", width=1.5)),
                hoverinfo="skip",
            )


def percent_range(percent: np.ndarray) -> list[float]:
    """Limits around the finite percentages, with air and at least five points apart, but hardly outside 0…100."""
    low, high = float(np.nanmin(percent)), float(np.nanmax(percent))
    air = max(0.07 * (high - low), (5 - (high - low)) / 2)
    edge = 0.04 * (high - low + 2 * air)
    return [max(-edge, low - air), min(100 + edge, high + air)]


def _labelled(x: np.ndarray, y: np.ndarray, marked: np.ndarray, count: int = 7) -> list[int]:
    """Indices of at most `count` points, evenly spaced along the curve, whose labels keep clear of each other.

    x, y: positions as shares of the plot; marked: points that carry a mark of their own and need room too.
    """
    along = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(y)))])
    even = np.searchsorted(along, np.linspace(0, along[-1], count) * (1 - 1e-9)).clip(0, len(x) - 1)
    taken, kept = list(np.flatnonzero(marked)), []
    for place in np.unique(even)[::-1]:  # the full T first
        if all(abs(x[place] - x[other]) > 0.2 or abs(y[place] - y[other]) > 0.07 for other in taken):
            taken.append(place)
            kept.append(int(place))
    return kept[::-1]
