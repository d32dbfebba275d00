"""One look for every chart: colours, fonts, margins, colour maps, names cut to fit.

Written for `st.plotly_chart(fig, theme=None)`: all of the look is set on the figure itself, but for the colour of words,
which follows the page's, light or dark, by TEXT_STYLE. Streamlit hands every figure to Plotly twice. Plotly draws it a
second time, unless it has a `datarevision`, no template and plain rows of numbers; then it sees that nothing has changed.
"""

import base64
from collections.abc import Iterable, Sequence
from os.path import commonprefix

import numpy as np
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

FONT = '"Source Sans", sans-serif'  # Streamlit's

# One meaning a colour, in every chart.
EXIT = "#C65100"  # the exit step you chose
RULE = "#8F2FC4"  # the paper's γ rule, and the threshold it reads
MAIN = "#00768A"  # the one series of a chart that has a single series
TRUTH = "#06915F"  # the true class
MUTED = "#7A8189"  # reference lines, everything that is only context
GRID = "rgba(122,129,137,0.22)"
DASH, DOT = "6px,4px", "2px,3px"
CLEAR = "rgba(0,0,0,0)"

# Unordered series; told apart by lightness as well as hue, so they survive colour blindness and grey print.
CATEGORICAL = ["#00768A", "#D49807", "#3D63C9", "#C0628C", "#6FA8DC", "#7A8189"]
# Up to ten classes stacked upon each other, where neighbours differ in lightness.
CLASSES = ["#00768A", "#D49807", "#3D63C9", "#9AD0A8", "#C0628C", "#6FA8DC", "#5E8C31", "#7A8189", "#B9A7D6", "#8A5A44"]
DASHES = ["solid", "dash", "dot", "dashdot", "longdash", "longdashdot"]

# Equal steps in OKLCH lightness, cool hues only: early layers dark blue, late layers green; warm stays for EXIT.
LAYERS = ["#3644A0", "#00639F", "#007D96", "#009491", "#2EAA75", "#7FB64A"]
# From 0 (nearly white) upwards, and around 0; both change evenly in lightness.
SEQUENTIAL = ["#DCECF1", "#ADE3E9", "#65C9D7", "#28A0C7", "#1671AF", "#22468D", "#1E275F"]
DIVERGING = ["#0B4C92", "#3A84CA", "#98C3E8", "#F1F4F6", "#EBAD97", "#D55A44", "#972620"]

ROW = 17  # pixels of one row of labels above the plot
LEGEND_ROW = 19
EDGE, LETTER, NUMBER_WIDTH, TITLE = 4, 6.6, 6, 22  # at the left: air, a letter (12 px), letters of a number, a title
FOOT = 46  # pixels below the plot: tick labels and the axis title

# For st.plotly_chart(config=…): a double click resets a zoom, so the tool bar keeps only the full screen, and the
# camera, which is not seen: dashboard.show presses it.
CONFIG = {
    "displaylogo": False,
    "displayModeBar": "hover",
    "doubleClick": "reset",
    "modeBarButtonsToRemove": ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "autoScale2d", "resetScale2d"],
}

TEXT_STYLE = """
.stPlotlyChart :is(.xtick, .ytick, .cbaxis, .g-xtitle, .g-ytitle, [class*="cbtitle"]) text {
  fill: currentColor !important; fill-opacity: .65 !important; }
.stPlotlyChart .legendtext { fill: currentColor !important; }
"""


class Figure(go.Figure):
    """A figure that, once frozen, is not put into words again at every look."""

    def freeze(self) -> None:
        """From now on `to_dict` gives one and the same dict. Changes no longer show."""
        self._said = self.to_dict()

    def to_dict(self) -> dict:
        """As Plotly's, without a template and with rows of numbers as they are; of a frozen figure not to be changed."""
        if "_said" in self.__dict__:
            return self._said
        said = _in_numbers(super().to_dict())
        said["layout"].pop("template", None)
        return said


def _in_numbers(value):
    """A part of a figure's dict with arrays of one dimension decoded again; of two they are shorter in base64."""
    if isinstance(value, dict):
        if "bdata" in value and "shape" not in value:
            return np.frombuffer(base64.b64decode(value["bdata"]), value["dtype"])
        return {key: _in_numbers(part) for key, part in value.items()}
    return [_in_numbers(part) for part in value] if isinstance(value, list | tuple) else value


def figure(height: int, view: str, *, labels: int = 0, legend: Sequence[str] = (), **layout) -> go.Figure:
    """An empty figure in the common look.

    height: pixels, all of it, with up to three rows of legend; it grows by what a longer one needs on a phone.
    view: what the axes span; zoom is kept for as long as this text stays the same. labels: rows of labels above the
    plot (see `mark_step`). legend: the names that will stand in it, above those rows.
    """
    top, key = labels * ROW + 10, LEGEND_ROW * legend_rows(legend)
    height += max(0, key - 3 * LEGEND_ROW)
    # The legend is placed in units of the plot's height, which is what the legend itself leaves over.
    inside = max(60, height - FOOT - labels * ROW - 10 - key)
    axis = dict(
        zeroline=False,
        automargin=False,
        title=dict(standoff=8, font=dict(size=14)),
        ticks="outside",
        ticklen=4,
        tickcolor=CLEAR,
        gridcolor=GRID,
        zerolinecolor=GRID,
    )
    fig = Figure(
        layout=dict(
            xaxis=dict(showgrid=False, **axis),
            yaxis=dict(showgrid=True, **axis),
            height=height,
            uirevision=view,
            datarevision=1,
            font=dict(family=FONT, size=12, color=MUTED),
            colorway=CATEGORICAL,
            modebar=dict(bgcolor=CLEAR, color=MUTED, activecolor=MAIN),
            hoverlabel=dict(font=dict(family=FONT, size=12, color="#1F2933"), bgcolor="#FFFFFF", bordercolor="#C9CFD6"),
            paper_bgcolor=CLEAR,
            plot_bgcolor=CLEAR,
            margin=dict(l=EDGE, r=14, t=top, b=FOOT, pad=0),
            hovermode="closest",
            dragmode="zoom",
            showlegend=bool(legend),
            legend=dict(
                orientation="h",
                x=0,
                xanchor="left",
                y=1 + (labels * ROW + 6) / inside,
                yanchor="bottom",
                maxheight=0.8,
                bgcolor=CLEAR,
                title=dict(text=""),
                font=dict(size=12),
                itemsizing="trace",
            ),
        )
    )
    fig.update_layout(**layout)
    return fig


def give_room(fig: go.Figure) -> None:
    """Room at the left for the labels and the title of the y axis, unless there is some already.

    Plotly can find that out by itself (automargin), but draws everything twice for it.
    """
    axis = fig.layout.yaxis
    if fig.layout.margin.l != EDGE or axis.visible is False:
        return
    named = axis.ticktext if axis.ticktext is not None else axis.categoryarray
    if named is None and axis.type == "category":
        named = fig.data[0].y
    widest = NUMBER_WIDTH if named is None else max(map(len, map(str, named)), default=0)
    fig.layout.margin.l = EDGE + round(LETTER * widest) + 8 + TITLE * bool(axis.title.text)


def cells(plot: int, view: str, exit_step: int | None) -> go.Figure:
    """A `figure` whose plot is exactly `plot` pixels high, with a row for the label of the exit, if there is one."""
    labels = int(exit_step is not None)
    return figure(plot + FOOT + 10 + labels * ROW, view, labels=labels)


def empty(sentence: str = "No points yet", height: int = 240) -> go.Figure:
    """A figure without data: one plain sentence in the middle, no axes."""
    fig = figure(height, "empty")
    fig.update_xaxes(visible=False, fixedrange=True)
    fig.update_yaxes(visible=False, fixedrange=True)
    say(fig, sentence)
    return fig


def legend_rows(names: Sequence[str]) -> int:
    """Rows that a legend with these names takes on the narrowest screen, where a plot is about 290 px wide."""
    widest = 42 + 6.6 * max(map(len, names), default=0)
    return -(-len(names) // max(1, int(290 // widest)))


def say(fig: go.Figure, sentence: str) -> None:
    """A sentence in the middle of the plot."""
    fig.add_annotation(
        text=sentence, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False, font=dict(size=14, color=MUTED)
    )


def colours(count: int, scale: Sequence[str] = LAYERS, low: float = 0.0, high: float = 1.0) -> list[str]:
    """`count` colours evenly spread over an ordered scale; a single one comes from its middle."""
    points = np.linspace(low, high, count) if count > 1 else [(low + high) / 2]
    return sample_colorscale(list(scale), list(points), colortype="rgb") if count else []


def colour_bar(title: str) -> dict:
    """A thin colour bar at the right, its title along it, so that a narrow screen keeps its plot."""
    return dict(
        title=dict(text=title, side="right", font=dict(size=12)),
        thickness=10,
        outlinewidth=0,
        xpad=8,
        ypad=0,
        len=1,
        y=0.5,
        nticks=5,
        tickfont=dict(size=12),
        ticks="",
    )


def colour_range(values: np.ndarray) -> dict:
    """Colour map and limits for a heat map: around 0 if values are really two-sided, else upwards. NaN is ignored.

    Two-sided is a minimum below -20 % of the maximum: γ dips a little below 0 in a channel or two, which must not
    repaint a layer. The limits always hold every value, and 0.
    """
    finite = np.append(values[np.isfinite(values)], 0.0)
    low, high = float(finite.min()), float(finite.max())
    if low < -0.2 * high:
        top = max(-low, high)
        return dict(colorscale=DIVERGING, zmin=-top, zmax=top)
    return dict(colorscale=SEQUENTIAL, zmin=low, zmax=high or 1.0)


def line_mode(values: np.ndarray) -> str:
    """The mode "lines", or "lines+markers" if some point has no finite neighbour and would leave no trace as a line."""
    finite = np.pad(np.isfinite(np.asarray(values, dtype=np.float64)), 1)
    alone = finite[1:-1] & ~finite[:-2] & ~finite[2:]
    return "lines+markers" if alone.any() else "lines"


def short(names: Iterable[str], limit: int = 14) -> list[str]:
    """Layer names for an axis or a legend: without the dotted prefix they share, the end kept if still too long."""
    names = [str(name) for name in names]
    if max(map(len, names), default=0) > limit:
        shared = commonprefix(names)
        shared = shared[: shared.rfind(".") + 1]
        names = [name[len(shared) :] for name in names]
    return [name if len(name) <= limit else "…" + name[1 - limit :] for name in names]


def translucent(color: str, alpha: float) -> str:
    """#RRGGBB as rgba() with the given opacity."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
