"""Curves over the timestep, one a layer."""

import numpy as np
import plotly.graph_objects as go

from . import axes, theme


def layer_lines(layers: list[str], values: np.ndarray, label: str, exit_step: int | None) -> go.Figure:
    """One line a layer over t = 1…T, early layers dark blue to late layers green. values: [layers, T]."""
    count, last = values.shape
    steps = np.arange(1, last + 1, dtype=np.float32)
    # Beyond a dozen layers one box with every layer would cover the plot: then only the nearest line speaks.
    together = count <= 12
    titles = theme.short(layers)
    fig = theme.figure(
        380,
        f"layer lines {last}",
        labels=int(exit_step is not None),
        legend=titles if count > 1 else [],
        hovermode="x unified" if together else "closest",
    )
    for name, title, row, color in zip(layers, titles, values, theme.colours(count)):
        where = "" if together else ", t = %{x}"
        fig.add_scatter(
            x=steps,
            y=row,
            name=title,
            mode=theme.line_mode(row),
            line=dict(color=color, width=2),
            marker=dict(size=6),
            hovertemplate=f"{name}{where}: %{{y:.3~g}}<extra></extra>",
        )
    axes.time_axis(fig, last)
    fig.update_yaxes(title_text=label)
    axes.mark_step(fig, exit_step, last, f"your exit, t = {exit_step}", theme.EXIT)
    return fig
