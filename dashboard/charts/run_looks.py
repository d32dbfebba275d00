"""How runs are told apart in every chart: a colour each, kept while other runs come and go, and names cut to fit."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os.path import commonprefix

import plotly.graph_objects as go

from . import theme

# Chosen to stay apart for deuteranopes and protanopes too (distance in OKLab), on a light and on a dark page, and to
# keep clear of the colours that mean something (theme.EXIT, theme.RULE). The first is the colour of a single series.
COLOURS = [theme.MAIN, "#D49807", "#914B41", "#5DA2FD", "#C679BC", "#57B982", "#7C8113", "#7263C9"]
SYMBOLS = ["circle", "square", "diamond", "triangle-up", "star", "triangle-down", "hexagon", "cross"]
LETTER = 6.1  # pixels of a letter in a legend, on average, rather too many
LIMIT = 28  # letters of a name in a legend: two fit side by side in half a page, one on a phone


@dataclass(frozen=True)
class Look:
    """What a run looks like: name for legends, colour, dash of its lines, symbol of its points."""

    name: str
    color: str
    dash: str
    symbol: str


def places(runs: Iterable[str], before: Mapping[str, int] | None = None) -> dict[str, int]:
    """Place of each run in the list of colours: as `before` where it had one, else the lowest that is free.

    A page keeps the answer and hands it in again (and to every chart), so that runs keep their colours while others
    are added and removed.
    """
    runs, before = list(dict.fromkeys(map(str, runs))), before or {}
    found = {run: before[run] for run in runs if run in before}
    free = (place for place in range(len(runs) + len(before)) if place not in found.values())
    return {run: found[run] if run in found else next(free) for run in runs}


def looks(runs: Iterable[str], kept: Mapping[str, int] | None = None) -> dict[str, Look]:
    """Look of each run, in the given order; `kept`: the answer of `places` for all runs of the page."""
    kept = kept or {}
    runs = list(dict.fromkeys(map(str, runs)))
    # Runs the page did not name take what is left over, so that no two look the same.
    where = places([*kept, *runs], kept)
    names = dict(zip(where, short(where), strict=True))
    return {run: _look(names[run], where[run]) for run in runs}


def short(names: Iterable[str], limit: int = LIMIT) -> list[str]:
    """Names of at most about `limit` letters that stay apart: the middle of a longer one gives way to "…".

    Names that would look alike then show the stretch where they begin to differ; what still looks alike is numbered.
    """
    names = list(names)
    half = limit // 2
    said = [name if len(name) <= limit else f"{name[: half - 1]}…{name[half - limit :]}" for name in names]
    for text in [text for text, times in Counter(said).items() if times > 1]:
        alike = [place for place, other in enumerate(said) if other == text]
        begin = max(0, len(commonprefix([names[place] for place in alike])) - limit // 3)
        for place in alike:
            rest = names[place][begin:]
            part = rest if len(rest) < limit else rest[: limit - 2] + "…"
            said[place] = f"…{part}" if begin else part
    seen: Counter[str] = Counter()
    for place, text in enumerate(said):
        seen[text] += 1
        said[place] = text if seen[text] == 1 else f"{text} ({seen[text]})"
    return said


def legend_below(fig: go.Figure) -> None:
    """The legend under the plot: names of runs are long, and the plots of neighbouring charts start at one height."""
    named = [trace.name for trace in fig.data if trace.name and trace.showlegend is not False]
    # One width for all names, so that they stand in columns.
    width = dict(entrywidth=LETTER * max(map(len, named), default=0), entrywidthmode="pixels", tracegroupgap=0)
    fig.update_xaxes(automargin=True)  # above the legend, however high that is
    # Plotly knows a line that a click has hidden by its place alone: with other lines all are shown again.
    fig.update_layout(
        legend=dict(yref="container", y=0, yanchor="bottom", uirevision=json.dumps([t.name for t in fig.data]), **width)
    )


def _look(name: str, place: int) -> Look:
    turn, color = divmod(place, len(COLOURS))
    return Look(name, COLOURS[color], theme.DASHES[turn % len(theme.DASHES)], SYMBOLS[color])
