"""Axes, and the marks on them, that several charts share."""

import numpy as np
import plotly.graph_objects as go

from . import theme


def time_axis(fig: go.Figure, last: int, *, cells: bool = False, title: str = "timestep t") -> None:
    """The x axis over t = 1…last; `cells` leaves half a step on both sides, as heat maps need."""
    # Air, so that lines along the edges are not cut in half; less than 1, because there is no t = 0 to label.
    pad = min(0.75, (0.5 if cells else 0.3) + 0.006 * last)
    span = [1 - pad, last + pad]
    ticks = dict(dtick=1, tick0=1) if last <= 12 else dict(tickmode="auto", nticks=9)
    fig.update_xaxes(title_text=title, range=span, minallowed=span[0], maxallowed=span[1], tickformat="~g", **ticks)
    if fig.layout.hovermode == "x unified":
        fig.update_xaxes(
            unifiedhovertitle_text=f"{title} = %{{x}}", spikethickness=1, spikecolor=theme.MUTED, spikedash="dot"
        )


def row_axis(fig: go.Figure, names: np.ndarray, title: str) -> list[str]:
    """A y axis of many named rows (channels, neurons), first on top, some labelled; returns the y values."""
    count = len(names)
    raw = max(1.0, count / 8)
    size = 10 ** np.floor(np.log10(raw))
    step = int(next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw))
    fig.update_yaxes(
        type="category",
        title_text=title,
        showgrid=False,
        tickmode="linear",
        tick0=0,
        dtick=step,
        range=[count - 0.5, -0.5],
    )
    return np.asarray(names).astype(str).tolist()


def layer_axis(fig: go.Figure, layers: list[str]) -> None:
    """A y axis of layer names for horizontal bars, first layer on top."""
    fig.update_yaxes(
        type="category",
        categoryorder="array",
        categoryarray=layers,
        tickmode="array",
        tickvals=layers,
        ticktext=theme.short(layers),
        range=[len(layers) - 0.5, -0.5],
        showgrid=False,
        fixedrange=True,
    )


def value_range(values: np.ndarray, *also: float | None) -> list[float]:
    """Limits of a value axis that hold all finite values, 0 and the given extra values, with a little air."""
    known = np.asarray(values, dtype=np.float64).ravel()
    known = np.concatenate([known[np.isfinite(known)], [0.0], [v for v in also if v is not None]])
    low, high = float(known.min()), float(known.max())
    air = 0.06 * ((high - low) or 1.0)
    return [low - (air if low < 0 else air / 3), high + air]


def mark_step(
    fig: go.Figure,
    step: int | None,
    last: int,
    text: str,
    color: str,
    *,
    row: int = 0,
    dash: str = "solid",
    cells: bool = False,
) -> None:
    """A vertical line at `step` with its label above the plot; nothing if the step is None or outside 1…last.

    `cells`: between the cells of `step` and of the next one, that is, after the last step that is still computed.
    `row` counts label rows upwards from the plot; the label turns inwards near the edges, so that it is never clipped.
    """
    if step is None or not 1 <= step <= last:
        return
    x = step + 0.5 if cells else step
    place = (x - 0.5) / last if cells else (x - 1) / max(1, last - 1)
    anchor = "center" if last == 1 and not cells else "left" if place < 0.32 else "right" if place > 0.68 else "center"
    fig.add_shape(
        type="line", x0=x, x1=x, y0=0, y1=1, yref="y domain", layer="above", line=dict(color=color, width=2, dash=dash)
    )
    fig.add_annotation(
        x=x,
        y=1,
        yref="paper",
        yshift=2 + row * theme.ROW,
        yanchor="bottom",
        xanchor=anchor,
        text=text,
        showarrow=False,
        borderpad=0,
        font=dict(color=color, size=12),
    )


def reference_line(
    fig: go.Figure, y: float | None, text: str, color: str = theme.MUTED, *, side: str = "right", dash: str = theme.DASH
) -> None:
    """A horizontal line across the plot with its label at one end, above the line; nothing for None or NaN."""
    if y is None or not np.isfinite(y):
        return
    fig.add_shape(
        type="line",
        x0=0,
        x1=1,
        xref="x domain",
        y0=y,
        y1=y,
        layer="above",
        line=dict(color=color, width=1.5, dash=dash),
    )
    fig.add_annotation(
        x=1 if side == "right" else 0,
        xref="paper",
        xanchor=side,
        y=y,
        showarrow=False,
        text=text,
        yanchor="bottom",
        yshift=1,
        borderpad=1,
        font=dict(color=color, size=12),
    )
