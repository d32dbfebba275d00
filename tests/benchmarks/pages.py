"""How long the dashboard's pages take beside a bare Streamlit app, with a VGG9 for which all is computed already.

    python3 -m tests.benchmarks.pages [--rounds N] [--starts N] [--json FILE]

Walks one visitor over all pages and moves their sliders by the keyboard. A bare app of one slider and one heat map is
driven in the same way at the same time, with one heat map and with as many as the page has or the widget changes, and
another one that has as many elements of each kind as the page, or sends as many when a slider is moved: buttons,
sentences, plots. Prints the seconds from key or click to the finished plot and to the last change of the page, median and 95th percentile, the
median from the start of the server to the first finished page, and the ratios to the bare apps. What is computed already
is what the network yields; sliders move to values at which nothing was drawn before, and back.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from tests.benchmarks import browsing, pages_table
from tests.benchmarks.walk import NAMES, PAGES, Bare, Page, Times, Walker, bare_page, like, like_move

BARE, LIKE = (Path(__file__).with_name(f"{name}_app.py") for name in ("bare", "like"))
MODEL, DATA = "vgg9", "photos"
MOVES = [(page, move, back) for page in PAGES for move in page.moves for back in (False, True)]
CLASSES, TRAIN_IMAGES, TEST_IMAGES = 10, 2, 6  # images of a class


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


def arrive(walker: Walker, page: Page) -> None:
    """At a page for the first time, with the rule for leaving early whose threshold is moved."""
    walker.go(page)
    if page.title == "Early exit":
        walker.press("Stability", page, "radio")


def compute(walker: Walker) -> None:
    """Have everything computed that the pages show, with settings under which every move has an effect."""
    model = f"model=runs/{MODEL}"
    walker.open("/", PAGES[0])  # of the network shown at first, for the starts
    walker.open(f"/robustness?{model}&attacks=Gaussian+noise&samples=20&encodings=1", Page("Robustness"))
    walker.press("Run", Page("Robustness", ["sweep_noise"]))
    for page in PAGES:
        arrive(walker, page)
        for move in page.moves:
            for back in (False, True):
                walker.move(page, move, back)
            if move.fresh:
                walker.move(page, move, back=False)  # the next one there is new


def elements(walker: Walker) -> list[dict]:
    """What LIKE is told of every page."""
    found = []
    for page in PAGES:
        walker.go(page)
        found.append({"title": page.title, "plots": len(page.charts), **walker.elements()})
    return found


def sent(walker: Walker) -> list[dict]:
    """What LIKE is told of every move, there and back."""
    found, at = [], None
    for page, move, back in MOVES:
        if page is not at:
            arrive(walker, page)
            at = page
        walker.sent()
        walker.move(page, move, back)
        counts = walker.sent()
        counts["plots"] = max(len(move.changed), counts.get("plots", 0))
        there_already = {"stSlider": move.role == "slider", "stMarkdown": 1, "stDownloadButton": counts["plots"]}
        for kind, one in there_already.items():  # a slider, a caption; what lies in the closed menu of a chart
            counts[kind] = max(0, counts.get(kind, 0) - one)
        found.append({"sent": counts, "changed": len(move.changed)})
    return found


def as_much(walker: Walker, number: int) -> Times:
    """A move of the slider that sends as many elements as a move here does, after some that are not counted."""
    page, move, _ = MOVES[number]
    there = like_move(number, page, move)
    walker.open(f"/?move={number}", there)
    for back in (False, True):
        walker.move(there, there.moves[0], back)
    return walker.move(there, there.moves[0], back=False)


def walk(
    dashboard: Walker, bare: Bare, as_full: Walker, slider: Walker, rounds: int
) -> dict[str, dict[str, list[tuple[Times, ...]]]]:
    """By what was done, page changes and moves: the times here, in the bare app, there with as many plots, and in the one
    with as many elements, which has a visitor for its pages and one for its sliders."""
    found = {"page changes": defaultdict(list), "moves": defaultdict(list)}
    for _ in range(rounds):
        number = 0
        for page in PAGES:
            taken = dashboard.go(page), bare.go(1), bare.go(len(page.charts) or 1), as_full.go(like(page))
            found["page changes"][page.title].append(taken)
            for move in page.moves:
                for back in (False, True):
                    taken = dashboard.move(page, move, back), bare.move(1), bare.move(len(move.changed) or 1)
                    which = " (a new value)" if move.fresh and not back else ""
                    taken += (as_much(slider, number),)
                    found["moves"][f"{page.title}: {move.label[:26]}{which}"].append(taken)
                    number += 1
                if move.fresh:
                    dashboard.move(page, move, back=False)  # the next one there is new
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
    """Everything that `pages_table.summary` sums up."""
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as data, browsing.browser() as chromium:
        folders = Path(runs), Path(data)
        prepare(*folders)
        with browsing.dashboard(*folders) as url, browsing.streamlit(BARE) as bare_url:
            dashboard, bare = Walker(chromium, url), Bare(Walker(chromium, bare_url))
            compute(dashboard)
            counting = Walker(chromium, url, counting=True)
            counting.open(f"/?model=runs/{MODEL}", PAGES[0])
            told = Path(runs) / "elements.json"
            told.write_text(json.dumps({"pages": elements(dashboard), "moves": sent(counting)}))
            counting.close()
            os.environ["LIKE"] = str(told)
            with browsing.streamlit(LIKE) as like_url:
                as_full = Walker(chromium, like_url)
                as_full.open("/", like(PAGES[0]))
                for page in PAGES:  # what a browser loads when it needs it for the first time is there then
                    as_full.go(like(page))
                for plots in (1, 1, 7, 7):
                    bare.go(plots)
                    bare.move(plots)
                found = walk(dashboard, bare, as_full, Walker(chromium, like_url), rounds)
        found["starts"] = defaultdict(list)
        for _ in range(starts):
            taken = found["starts"]
            taken["dashboard"].append(start(chromium, lambda: browsing.dashboard(*folders), PAGES[0]))
            taken["bare app"].append(start(chromium, lambda: browsing.streamlit(BARE), bare_page(NAMES[0], 1)))
            taken["import torch"].append(import_torch())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.benchmarks.pages", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="walks over all pages (default: 5)")
    parser.add_argument("--starts", type=int, default=3, help="starts of each server (default: 3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    browsing.prepare("tests.benchmarks.pages")
    said = pages_table.summary(measure(options.rounds, options.starts))
    print(pages_table.table(said))
    browsing.save(options.json, said)


if __name__ == "__main__":
    main()
