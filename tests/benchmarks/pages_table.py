"""What tests.benchmarks.pages prints."""

from __future__ import annotations

import statistics

from tests.benchmarks import browsing
from tests.benchmarks.walk import Times

AIMS = {"median": 1.3, "p95": 1.5}  # times the bare app
START_AIM = 1.5  # times the bare app and the import of torch


def summary(found: dict[str, dict[str, list]]) -> dict:
    """Of page changes and of moves all together, each page and each widget: spreads, and ratios to the bare app with one
    plot, with as many and with as many elements; the starts; and whether the aims are met."""
    said = {}
    for kind in ("page changes", "moves"):
        everything = [taken for some in found[kind].values() for taken in some]
        said[kind] = {name: _beside(some) for name, some in {"all": everything, **found[kind]}.items()}
    starts = {name: statistics.median(some) for name, some in found["starts"].items()}
    ratio = starts["dashboard"] / (starts["bare app"] + starts["import torch"])
    return said | {"starts": starts | {"ratio": ratio, "met": ratio <= START_AIM}}


def _beside(taken: list[tuple[Times, ...]]) -> dict:
    own, one, *others = zip(*taken)
    found = {"plot": _ratio([t.plot for t in own], [t.plot for t in one])}
    for column, there in zip(list(COLUMNS)[1:], (one, *others)):
        found[column] = _ratio([t.all for t in own], [t.all for t in there])
    return found


def _ratio(own: list[float], bare: list[float]) -> dict:
    here, there = browsing.spread(own), browsing.spread(bare)
    ratio = {name: here[name] / there[name] for name in AIMS}
    return here | {"bare": there, "ratio": ratio, "met": {name: ratio[name] <= aim for name, aim in AIMS.items()}}


COLUMNS = {
    "plot": "first plot, × bare app",
    "all": "all of the page, × bare app",
    "as many plots": "× bare app, as many plots",
    "as many elements": "× bare app, as many elements",
}


def table(said: dict) -> str:
    """For people: a line for each page and each widget, under that of all together; ✓ where an aim is met."""
    lines = [f"{'median and 95th percentile':58}" + "".join(f"{title:>34}" for title in COLUMNS.values())]
    for kind in ("page changes", "moves"):
        for name, one in said[kind].items():
            title = kind.capitalize() if name == "all" else f"  {name}"
            lines.append(f"{title[:57]:58}" + "".join(_cell(one[column]) for column in one))
    page, move = (said[kind]["all"]["all"]["bare"]["median"] for kind in ("page changes", "moves"))
    lines.append(
        f"Aims: at most {AIMS['median']:g} × the bare app at the median, {AIMS['p95']:g} × at the 95th percentile. It took "
        f"{page:.3f} s a page, {move:.3f} s a move."
    )
    starts = said["starts"]
    lines += [f"Start, {name:53}{starts[name]:>7.2f} s" for name in ("dashboard", "bare app", "import torch")]
    lines.append(
        f"Start of the dashboard: {starts['ratio']:.2f} {_mark(starts['met'])} × the bare app and the import of torch; "
        f"aim: at most {START_AIM:g}."
    )
    return "\n".join(lines)


def _cell(one: dict) -> str:
    seconds = f"{one['median']:.3f} {one['p95']:.3f} s"
    return f"{seconds:>18}" + "".join(f"{one['ratio'][which]:>6.2f} {_mark(one['met'][which])}" for which in AIMS)


def _mark(met: bool) -> str:
    return "✓" if met else "✗"
