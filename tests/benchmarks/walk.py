"""Who walks over the pages of the dashboard, and over those of the bare app, for tests.benchmarks.pages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks import browsing
from tests.benchmarks.sent import Sent

STOPWATCH = Path(__file__).with_name("stopwatch.js")
NAMES = "One", "Two"  # of the bare app's pages of a number of plots


@dataclass(frozen=True)
class Move:
    """A widget of a page. label: what it is called. role: what it is. keys: there and back again, each from where the
    other ends; the last one of each is the one that counts. changed: charts that show its value. says: a pattern of
    what the page says of it, where no chart must change. fresh: each time there, it stands where it never was before."""

    label: str
    role: str = "slider"
    keys: tuple[Sequence[str], Sequence[str]] = (["ArrowRight"], ["ArrowLeft"])
    changed: Sequence[str] = ()
    says: str | None = None
    fresh: bool = True


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
    return Move(label, "combobox", keys[::-1] if at_end else keys, changed, fresh=False)


def number(label: str, *changed: str, fresh: bool = True) -> Move:
    """A field for a number: one more, and one less."""
    return Move(label, "spinbutton", (["ArrowUp"], ["ArrowDown"]), changed, fresh=fresh)


def exits(*changed: str) -> Move:
    """The slider over exit steps, which begins near its end."""
    return Move("Leave after timestep t", keys=(["ArrowLeft"], ["ArrowRight"]), changed=changed)


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
            exits("class_scores"),
            # another sample would have to run through the network first
            number("Test sample", "class_scores", "input_spikes", "firing_rates", "raster", "membrane", fresh=False),
            number("Neuron for the membrane trace", "membrane"),
            choice("Layer", "raster", "membrane"),
        ],
    ),
    Page(
        "Early exit",
        ["accuracy", "cost", "trade_off", "energy_layers", "energy_steps", "exit_histogram", "exit_front"],
        [
            exits("accuracy", "cost", "trade_off", "energy_layers", "energy_steps"),
            Move("Exit threshold on mean γ", says=r"mean γ (is|never falls) below [\d.]+"),
            Move("Leave when the answer has been the same for this many timesteps", changed=["exit_histogram", "exit_front"]),
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


def like(page: Page) -> Page:
    """The one of the app with as many elements."""
    name = page.title.lower().replace(" ", "_")
    return Page(page.title, [f"{name}_{plot}" for plot in range(len(page.charts))])


def like_move(number: int, page: Page, move: Move) -> Page:
    """The one of that app with as many elements as a move sends."""
    charts = [f"move_{number}_{plot}" for plot in range(len(move.changed))]
    said = Move("Threshold", changed=charts, says=None if charts else r"It is at [\d.]+")
    return Page(f"Move {number}", charts, [said])


class Times(NamedTuple):
    """Seconds until the first plot that is asked for was finished, and until all of the page was."""

    plot: float
    all: float


class Walker:
    """A visitor of one app with a stop watch."""

    def __init__(self, chromium, url: str, counting: bool = False):
        self._page = browsing.visitor(chromium)
        self._sent = Sent(self._page) if counting else None
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

    def elements(self) -> dict[str, dict[str, int]]:
        """How many elements of each kind, but for plots and titles, are in the main part of the page and in the sidebar."""
        return self._page.evaluate("() => ({ main: elements('stMain'), sidebar: elements('stSidebar') })")

    def close(self) -> None:
        """Leave."""
        self._page.context.close()

    def sent(self) -> dict[str, int]:
        """How many elements of each kind the app sent since this was last asked, of a walker that counts."""
        self._page.wait_for_timeout(50)  # what came is told between its own calls
        return self._sent.counted()

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
