"""Accuracy under noise and attacks."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from . import axes, theme
from .drawn import drawn
from .frames import column


@drawn
def sweep(
    frame: pd.DataFrame,
    x_label: str,
    clean: float | None,
    chance: float | None,
    x_range: tuple[float, float] | None = None,
) -> go.Figure:
    """Accuracy against the strength of each attack, with 95 % intervals; made to be redrawn while points arrive.

    frame: attack, strength, accuracy, low, high (these three 0…1), samples. clean, chance: reference accuracies, 0…1.
    x_label: the strength with its unit. x_range: the strengths of the whole sweep, so that the axis stands still.
    """
    if frame.empty and x_range is None:
        return theme.empty()
    strengths = column(frame, "strength") if not frame.empty else np.array([])
    low, high = x_range or (float(strengths.min()), float(strengths.max()))
    air = 0.04 * (high - low) or max(0.5 * abs(high), 0.5)
    attacks = frame["attack"].drop_duplicates().tolist() if not frame.empty else []
    fig = theme.figure(380, f"sweep {low} {high}", legend=list(map(str, attacks)))
    for place, attack in enumerate(attacks):
        part = frame[frame["attack"] == attack].sort_values("strength")
        percent = column(part, "accuracy", 100)
        color = theme.CATEGORICAL[place % len(theme.CATEGORICAL)]
        details = part[["low", "high", "samples"]].to_numpy(dtype=np.float32) * np.array(
            [100, 100, 1], dtype=np.float32
        )
        fig.add_scatter(
            x=column(part, "strength"),
            y=percent,
            name=str(attack),
            mode="lines+markers",
            showlegend=True,
            line=dict(color=color, width=2.5, dash=theme.DASHES[place % len(theme.DASHES)]),
            marker=dict(size=8, line=dict(color="white", width=1)),
            customdata=details,
            error_y=dict(
                array=column(part, "high", 100) - percent,
                symmetric=False,
                thickness=1.5,
                width=4,
                arrayminus=percent - column(part, "low", 100),
                color=theme.translucent(color, 0.7),
            ),
            hovertemplate=f"{attack}, %{{x:.4~g}}<br>%{{y:.1f}} %, 95 % interval %{{customdata[0]:.1f}} to "
            "%{customdata[1]:.1f}<br>%{customdata[2]:,.0f} samples<extra></extra>",
        )
    if not attacks:
        theme.say(fig, "No points yet")
    fig.update_xaxes(title_text=x_label, range=[low - air, high + air], nticks=8)
    fig.update_yaxes(title_text="accuracy (%)", range=[-3, 109], dtick=25, tick0=0)
    axes.reference_line(fig, _percent(clean), f"clean {_percent(clean):.1f} %")
    axes.reference_line(fig, _percent(chance), f"chance {_percent(chance):.1f} %", side="left", dash=theme.DOT)
    return fig


@drawn
def exit_curves(frame: pd.DataFrame) -> go.Figure:
    """Accuracy against the exit step, one line a strength, darker when stronger.

    frame: attack, strength, step, accuracy (0…1).
    """
    if frame.empty or not frame["accuracy"].notna().any():
        return theme.empty()
    last = int(frame["step"].max())
    strengths = np.unique(frame["strength"].to_numpy(dtype=np.float64))
    shades = dict(zip(strengths, theme.colours(len(strengths), theme.SEQUENTIAL, 0.35, 0.85)))
    attacks = frame["attack"].drop_duplicates().tolist()
    curves = {
        f"{attack} {strength:.3g}" if strength else f"{attack} 0 (clean)": (attack, strength, part)
        for (attack, strength), part in frame.sort_values("step").groupby(["attack", "strength"], sort=True)
    }
    # Beyond a dozen lines one box with all of them would cover the plot: then only the nearest one speaks.
    together = len(curves) <= 12
    fig = theme.figure(
        380, f"exit curves {last}", hovermode="x unified" if together else "closest", legend=list(curves)
    )
    for title, (attack, strength, part) in curves.items():
        percent, where = column(part, "accuracy", 100), "" if together else ", t = %{x}"
        fig.add_scatter(
            x=column(part, "step"),
            y=percent,
            name=title,
            mode=theme.line_mode(percent),
            showlegend=True,
            line=dict(color=shades[strength], width=2.25, dash=theme.DASHES[attacks.index(attack) % 6]),
            marker=dict(size=6),
            hovertemplate=f"{title}{where}: %{{y:.1f}} %<extra></extra>",
        )
    axes.time_axis(fig, last, title="exit step t")
    fig.update_yaxes(title_text="accuracy (%)", range=[-3, 104], dtick=25, tick0=0)
    return fig


def _percent(share: float | None) -> float:
    return float("nan") if share is None else 100 * share
