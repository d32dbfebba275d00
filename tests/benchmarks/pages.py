"""How long the dashboard's pages take beside a bare Streamlit app, with a VGG9 for which all is computed already.

    python3 -m tests.benchmarks.pages [--rounds N] [--starts N] [--json FILE]

Walks one visitor over all pages and moves their sliders by the keyboard. A bare app of one slider and one heat map is
driven in the same way at the same time. Prints the seconds from key or click to the last change of the finished page,
and from the start of the server to the first finished page, median and 95th percentile, and the ratio to the bare app.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import browsing

STOPWATCH = Path(__file__).with_name("stopwatch.js")
BARE = Path(__file__).with_name("bare_app.py")
NAMES = "One", "Two"  # of its pages of a number of plots
MODEL, DATA = "vgg9", "photos"
CLASSES, TRAIN_IMAGES, TEST_IMAGES = 10, 2, 6  # images of a class
AIMS = {"median": 1.3, "p95": 1.5}  # times the bare app
START_AIM = 1.5  # times the bare app and the import of torch


@dataclass(frozen=True)
class Move:
    """A widget of a page. label: what it is called. role: what it is. keys: there and back again, each from where the
    other ends; the last one of each is the one that counts. changed: charts that show its value. says: a pattern of
    what the page says of it, where no chart must change."""

    label: str
    role: str = "slider"
    keys: tuple[Sequence[str], Sequence[str]] = (["ArrowRight"], ["ArrowLeft"])
    changed: Sequence[str] = ()
    says: str | None = None


@dataclass(frozen=True)
class Page:
    """A page of the menu, its charts, and what is moved on it."""

    title: str
    charts: Sequence[str] = ()
    moves: Sequence[Move] = field(default_factory=tuple)

    def finished(self, move: Move | None = None) -> dict:
        """What the stop watch waits for."""
        moved = {"changed": list(move.changed), "says": move.says} if move else {}
        return {"title": self.title, "charts": list(self.charts)} | moved


def choice(label: str, *changed: str, at_end: bool = False) -> Move:
    """A box to choose from: the last entry, and the first one again. at_end: it stands at the last one at first."""
    keys = ["ArrowDown", "End", "Enter"], ["ArrowDown", "Home", "Enter"]
    return Move(label, "combobox", keys[::-1] if at_end else keys, changed)


def number(label: str, *changed: str) -> Move:
    """A field for a number: one more, and one less."""
    return Move(label, "spinbutton", (["ArrowUp"], ["ArrowDown"]), changed)


PAGES = (
    Page("Overview", ["overview_gamma"]),
    Page(
        "Gamma",
        ["gamma_layers", "gamma_channels", "gamma_spread"],
        [
            Move("Exit threshold on mean γ", changed=["gamma_layers", "gamma_spread"]),
            choice("Layer", "gamma_channels", "gamma_spread"),
        ],
    ),
    Page(
        "Spikes",
        ["class_scores", "input_spikes", "firing_rates", "raster", "membrane"],
        [
            Move("Leave after timestep t", changed=["class_scores"]),
            number("Test sample", "class_scores", "input_spikes", "firing_rates", "raster", "membrane"),
            number("Neuron for the membrane trace", "membrane"),
            choice("Layer", "raster", "membrane"),
        ],
    ),
    Page(
        "Early exit",
        ["accuracy", "cost", "trade_off", "energy_layers", "energy_steps", "exit_histogram", "exit_front"],
        [
            Move("Leave after timestep t", changed=["accuracy", "cost"]),
            Move("Exit threshold on mean γ", says=r"mean γ (is|never falls) below [\d.]+"),
            Move("Leave when the answer has been the same for this many timesteps", changed=["exit_histogram"]),
        ],
    ),
    Page("Robustness", ["sweep_noise", "closeup_spikes"]),
    Page("Baselines", ["baseline_exits", "baseline_energy", "baseline_spikes_0"]),
    Page(
        "Training",
        ["run_accuracy", "run_gamma", "run_loss", "run_exits", "run_gamma_layers", "run_rates", "run_lr"],
        [choice("γ of layer", "run_gamma", at_end=True)],
    ),
    Page("Runs"),
)


def bare_page(name: str, plots: int) -> Page:
    """Of the bare app."""
    charts = [f"{name.lower()}_{plots}_{plot}" for plot in range(plots)]
    return Page(f"{name} {plots}", charts, [Move("Threshold", changed=charts)])


class Times(NamedTuple):
    """Seconds until the first plot that is asked for was finished, and until all of the page was."""

    plot: float
    all: float


class Walker:
    """A visitor of one app with a stop watch."""

    def __init__(self, chromium, url: str):
        self._page = browsing.visitor(chromium)
        self._page.add_init_script(path=STOPWATCH)
        self._url = url

    def open(self, path: str, page: Page) -> float:
        """Load the app at a page; the time of day at which that was finished, in seconds since the epoch."""
        self._page.goto(self._url + path)
        return self._page.evaluate("page => finished(page)", page.finished())["at"] / 1000

    def go(self, page: Page) -> Times:
        """To this page from another one."""
        link = self._page.get_by_test_id("stSidebarNav").get_by_role("link", name=page.title, exact=True)
        return self._timed(page.finished(), link.click)

    def move(self, page: Page, move: Move, back: bool) -> Times:
        """To what a widget shows after a key."""
        # a label may be that of a part of the page and of the sidebar; what has a bound value says it behind its label
        widget = self._page.get_by_role(move.role, name=move.label).first
        widget.scroll_into_view_if_needed()  # a list that opens while the page scrolls closes again
        *before, last = move.keys[back]
        for key in before:
            widget.press(key)
            if move.role == "combobox":
                self._page.get_by_role("listbox").wait_for()
        return self._timed(page.finished(move), lambda: widget.press(last))

    def press(self, name: str, page: Page, role: str = "button") -> None:
        """Press a button of the page, once it can be, and wait for what the page shows then."""
        self._page.get_by_test_id("stMain").get_by_role(role, name=name, exact=True).click()
        self._page.evaluate("page => finished(page)", page.finished())

    def _timed(self, awaited: dict, act: Callable[[], None]) -> Times:
        self._page.evaluate("awaited => { window.ending = finished(awaited); window.ending.catch(() => {}); }", awaited)
        act()
        found = self._page.evaluate("() => window.ending")
        return Times(found["plot"] / 1000, found["all"] / 1000)


class Bare:
    """The visitor of the bare app, who does there what was done in the dashboard, with any number of plots."""

    def __init__(self, walker: Walker):
        self._walker = walker
        self._page = bare_page(NAMES[0], 1)
        self._back = False
        walker.open("/", self._page)

    def go(self, plots: int) -> Times:
        """To the other page of so many plots."""
        name = next(name for name in NAMES if f"{name} {plots}" != self._page.title)
        self._page, self._back = bare_page(name, plots), False
        return self._walker.go(self._page)

    def move(self, plots: int) -> Times:
        """The slider over so many plots there, and back at the next call."""
        if len(self._page.charts) != plots:
            self.go(plots)
        taken = self._walker.move(self._page, self._page.moves[0], self._back)
        self._back = not self._back
        return taken


# ---------------------------------------------------------------------------------------------------- what is looked at


def prepare(runs: Path, data: Path) -> None:
    """A VGG9 that is not trained, a few images for it, and a short training to be looked at."""
    photos(data / DATA)
    network(runs / MODEL)
    small = ["--layout", "C4 P F8", "--steps", "25", "--epochs", "4", "--out", str(runs / "short"), "--data", str(data)]
    subprocess.run(
        [sys.executable, "-m", "engine", "train", *small], cwd=browsing.ROOT, check=True, capture_output=True
    )


def photos(folder: Path) -> None:
    """Images of noise in folders by class."""
    import numpy as np
    from PIL import Image

    noise = np.random.default_rng(0)
    for split, images in (("train", TRAIN_IMAGES), ("test", TEST_IMAGES)):
        for label in range(CLASSES):
            place = folder / split / f"class {label}"
            place.mkdir(parents=True)
            for image in range(images):
                Image.fromarray(noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(place / f"{image}.png")


def network(folder: Path) -> None:
    """A network that fires in all layers, with γ that fall over time, sooner or later, as those of a trained one."""
    import torch

    import engine
    from engine.snn.norm import BNTT

    torch.manual_seed(0)
    model = engine.build_model(engine.ModelConfig(arch="vgg9", steps=25, classes=CLASSES, in_shape=(3, 32, 32)))
    norms = [module for module in model.modules() if isinstance(module, BNTT)]
    with torch.no_grad():
        for place, norm in enumerate(norms):
            for step, one in enumerate(norm):
                one.weight.uniform_(1.5, 4.5).mul_(2.0 ** (-step / (3.5 + place / 8)))
    folder.mkdir(parents=True)
    path = folder / "model.safetensors"
    engine.save_checkpoint(path, model, dataset=DATA, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def compute(walker: Walker) -> None:
    """Have everything computed that the pages show, with settings under which every move has an effect."""
    model = f"model=runs/{MODEL}"
    walker.open("/", PAGES[0])  # of the network shown at first, for the starts
    walker.open(f"/robustness?{model}&attacks=Gaussian+noise&samples=20&encodings=1", Page("Robustness"))
    walker.press("Run", Page("Robustness", ["sweep_noise"]))
    for page in PAGES:
        walker.go(page)
        if page.title == "Early exit":
            walker.press("Stability", page, "radio")
    for page in PAGES:
        walker.go(page)
        for move in page.moves:
            for back in (False, True):
                walker.move(page, move, back)


# ------------------------------------------------------------------------------------------------------------ measuring


def walk(dashboard: Walker, bare: Bare, rounds: int) -> dict[str, dict[str, list[tuple[Times, Times, Times]]]]:
    """By what was done, page changes and moves: the times here, in the bare app, and there with as many plots."""
    found = {"page changes": defaultdict(list), "moves": defaultdict(list)}
    for _ in range(rounds):
        for page in PAGES:
            taken = dashboard.go(page), bare.go(1), bare.go(len(page.charts) or 1)
            found["page changes"][page.title].append(taken)
            for move in page.moves:
                for back in (False, True):
                    taken = dashboard.move(page, move, back), bare.move(1), bare.move(len(move.changed) or 1)
                    found["moves"][f"{page.title}: {move.label}"].append(taken)
    return found


def start(chromium, serve: Callable[[], AbstractContextManager[str]], page: Page) -> float:
    """Seconds from the start of a server to its first finished page."""
    begun = time.time()
    with serve() as url:
        return Walker(chromium, url).open("/", page) - begun


def import_torch() -> float:
    """Seconds for that in a fresh process."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.perf_counter() - begun


def measure(rounds: int, starts: int) -> dict[str, dict[str, list]]:
    """Everything that `summary` sums up."""
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as data, browsing.browser() as chromium:
        folders = Path(runs), Path(data)
        prepare(*folders)
        with browsing.dashboard(*folders) as url, browsing.streamlit(BARE) as bare_url:
            dashboard, bare = Walker(chromium, url), Bare(Walker(chromium, bare_url))
            compute(dashboard)
            for plots in (1, 1, 7, 7):  # what a browser loads when it needs it for the first time is there then
                bare.go(plots)
                bare.move(plots)
            found = walk(dashboard, bare, rounds)
        found["starts"] = defaultdict(list)
        for _ in range(starts):
            taken = found["starts"]
            taken["dashboard"].append(start(chromium, lambda: browsing.dashboard(*folders), PAGES[0]))
            taken["bare app"].append(start(chromium, lambda: browsing.streamlit(BARE), bare_page(NAMES[0], 1)))
            taken["import torch"].append(import_torch())
    return found


# ------------------------------------------------------------------------------------------------------------ the table


def summary(found: dict[str, dict[str, list]]) -> dict:
    """Of page changes and of moves all together, each page and each widget: spreads, and ratios to the bare app with one
    plot and with as many; the starts; and whether the aims are met."""
    said = {}
    for kind in ("page changes", "moves"):
        everything = [taken for some in found[kind].values() for taken in some]
        said[kind] = {name: _beside(some) for name, some in {"all": everything, **found[kind]}.items()}
    starts = {name: statistics.median(some) for name, some in found["starts"].items()}
    ratio = starts["dashboard"] / (starts["bare app"] + starts["import torch"])
    return said | {"starts": starts | {"ratio": ratio, "met": ratio <= START_AIM}}


def _beside(taken: list[tuple[Times, Times, Times]]) -> dict:
    own, one, many = zip(*taken)
    return {
        "plot": _ratio([t.plot for t in own], [t.plot for t in one]),
        "all": _ratio([t.all for t in own], [t.all for t in one]),
        "as many plots": _ratio([t.all for t in own], [t.all for t in many]),
    }


def _ratio(own: list[float], bare: list[float]) -> dict:
    here, there = browsing.spread(own), browsing.spread(bare)
    ratio = {name: here[name] / there[name] for name in AIMS}
    return here | {"bare": there, "ratio": ratio, "met": {name: ratio[name] <= aim for name, aim in AIMS.items()}}


COLUMNS = {
    "plot": "first plot, × bare app",
    "all": "all of the page, × bare app",
    "as many plots": "× bare app, as many plots",
}


def table(said: dict) -> str:
    """For people: a line for each page and each widget, under that of all together; ✓ where an aim is met."""
    lines = [f"{'median and 95th percentile':46}" + "".join(f"{title:>34}" for title in COLUMNS.values())]
    for kind in ("page changes", "moves"):
        for name, one in said[kind].items():
            title = kind.capitalize() if name == "all" else f"  {name}"
            lines.append(f"{title[:45]:46}" + "".join(_cell(one[column]) for column in COLUMNS))
    lines.append(
        f"Aims: at most {AIMS['median']:g} × the bare app at the median, {AIMS['p95']:g} × at the 95th percentile. It took "
        f"{said['page changes']['all']['all']['bare']['median']:.3f} s a page, {said['moves']['all']['all']['bare']['median']:.3f} s a move."
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.benchmarks.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="walks over all pages (default: 5)")
    parser.add_argument("--starts", type=int, default=3, help="starts of each server (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    browsing.prepare("tests.benchmarks.pages")
    said = summary(measure(options.rounds, options.starts))
    print(table(said))
    browsing.save(options.json, said)


if __name__ == "__main__":
    main()
