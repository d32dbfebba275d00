"""How much slower pages get for one visitor while two others train and sweep.

    python3 -m tests.benchmarks.busy_pages [--rounds N] [--json FILE]

Starts a dashboard, walks one visitor over the pages, then starts a training and a robustness sweep by two others and
walks again. Prints the time from click to finished plot, median and 95th percentile, idle and busy, and their ratio.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks import browsing

WALK = ("Gamma", "Spikes", "Early exit", "Robustness", "Overview")
RUN = ["--layout", "C16 C16 P C32 C32 P F128", "--steps", "25", "--epochs", "500", "--batch", "64", "--lr", "0.1"]


def walk(page, rounds: int) -> list[float]:
    """Seconds from a click in the menu to the last plot of the page, for each page of each round."""
    seconds = []
    for _ in range(rounds):
        for title in WALK:
            started = time.perf_counter()
            page.get_by_test_id("stSidebarNav").get_by_role("link", name=title, exact=True).click()
            page.get_by_role("heading", name=title, exact=True, level=1).wait_for()
            page.locator("[data-testid=stMain] .js-plotly-plot .main-svg").first.wait_for()
            page.locator("[data-testid=stApp][data-test-script-state=notRunning]").wait_for()
            seconds.append(time.perf_counter() - started)
    return seconds


def measure(rounds: int) -> dict[str, list[float]]:
    """The walk alone and beside the work of two other visitors."""
    with tempfile.TemporaryDirectory() as runs, tempfile.TemporaryDirectory() as data:
        with browsing.dashboard(Path(runs), Path(data)) as url, browsing.browser() as chromium:
            third = browsing.visitor(chromium)
            third.goto(url)
            walk(third, 1)  # everything is computed once
            idle = walk(third, rounds)
            train(browsing.visitor(chromium), url, runs, data)
            sweep(browsing.visitor(chromium), url)
            busy = walk(third, rounds)
    return {"idle": idle, "busy": busy}


def train(page, url: str, runs: str, data: str) -> None:
    """The first visitor resumes a long training that was stopped at its beginning."""
    command = [sys.executable, "-m", "engine", "train", *RUN, "--out", f"{runs}/long", "--data", data]
    begun = subprocess.Popen(command, cwd=browsing.ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    begun.stderr.readline()  # one epoch
    begun.kill()
    begun.communicate()
    page.goto(f"{url}/training?run=long")
    page.get_by_role("button", name="Resume").click()
    page.get_by_text(re.compile(r"epoch [1-9]\d* of 500")).first.wait_for()


def sweep(page, url: str) -> None:
    """The second visitor disturbs all samples by everything there is."""
    page.goto(f"{url}/robustness?attacks=Gaussian+noise&attacks=FGSM&attacks=PGD&samples=399&pgd_steps=200")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"Disturbing 399 test samples: \d+ %")).first.wait_for()


def summary(found: dict[str, list[float]]) -> dict:
    """Median and 95th percentile in seconds, and busy over idle."""
    said = {name: browsing.spread(seconds) for name, seconds in found.items()}
    return said | {"ratio": {name: said["busy"][name] / said["idle"][name] for name in ("median", "p95")}}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m tests.benchmarks.busy_pages", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="walks over the five pages (default: 6)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    options = parser.parse_args()
    browsing.prepare("tests.benchmarks.busy_pages")
    said = summary(measure(options.rounds))
    print(f"{'':8}{'median':>10}{'95 %':>10}")
    for name in ("idle", "busy"):
        print(f"{name:8}{said[name]['median']:>8.2f} s{said[name]['p95']:>8.2f} s")
    print(f"{'ratio':8}{said['ratio']['median']:>10.2f}{said['ratio']['p95']:>10.2f}")
    browsing.save(options.json, said)


if __name__ == "__main__":
    main()
