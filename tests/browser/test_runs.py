"""Two trainings from a terminal, and everything a person does with them on the Runs and Gamma pages."""

import io
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.browser.conftest import ROOT
from tests.browser.test_flows import fill, go, main, see, until_url

pytestmark = pytest.mark.browser
HEAD, ROW, TICK = 36, 35, 18  # pixels of the table: its head, a row, the middle of the column of ticks


@pytest.fixture(scope="module")
def trained(chromium, url, tmp_path_factory):
    """Two small runs, trained where the page says that runs lie; what they measure at the end is kept elsewhere."""
    page = chromium.new_page()
    page.goto(f"{url}/runs")
    see(page, "Runs")
    folder = Path(main(page).locator("code").first.inner_text())
    page.close()
    train = [sys.executable, "-m", "engine", "train", "--layout", "C4 P F8", "--epochs", "4", "--validation", "0.1"]
    own = {"OMP_NUM_THREADS": "1", "BNTT_STORE": str(tmp_path_factory.mktemp("elsewhere"))}
    both = [
        subprocess.Popen([*train, *more, "--out", folder / name], cwd=ROOT, env={**os.environ, **own})
        for name, more in (("red", ("--steps", "3")), ("blue", ("--steps", "4", "--seed", "1")))
    ]
    assert [process.wait(120) for process in both] == [0, 0]
    return folder


def tick(page, place):
    """Click the box in front of a row of the list."""
    table = main(page).get_by_test_id("stDataFrame").first
    table.click(position={"x": TICK, "y": HEAD + ROW * place + ROW / 2})


def names(folder):
    """The runs as the list shows them: newest first."""
    found = {path.parent.name: json.loads(path.read_text())["created"] for path in folder.glob("*/config.json")}
    return sorted(found, key=found.get, reverse=True)


def plot(page, chart):
    return main(page).locator(f".st-key-chart_{chart} .js-plotly-plot .main-svg").first


def test_two_runs_side_by_side(visit, url, trained):
    page = visit()
    page.goto(f"{url}/runs")
    see(page, "Runs")
    order = names(trained)
    tick(page, order.index("red"))
    until_url(page, r"[?&]compare=red\b")
    tick(page, order.index("blue"))
    until_url(page, r"compare=red&compare=blue\b")
    main(page).get_by_role("heading", name="What differs").wait_for()
    for chart in ("run_loss", "run_accuracy", "gamma_difference"):
        plot(page, chart).wait_for()
    main(page).locator(".st-key-exits").get_by_role("button", name="Measure on the test samples").click()
    plot(page, "run_exits").wait_for()
    main(page).locator(".st-key-exits").get_by_text("Done for all of them").wait_for()

    fill(page, "Gaussian σ", "0.3")
    fill(page, "ε in 1/255", "8")
    fill(page, "Samples", "20")
    until_url(page, "samples=20")
    main(page).locator(".st-key-robust").get_by_role("button", name="Disturb them").click()
    for chart in ("run_gaussian", "run_fgsm"):
        plot(page, chart).wait_for()
    main(page).locator(".st-key-robust").get_by_text("Done for all of them").wait_for()

    other = visit(390, 844)
    other.goto(page.url)
    see(other, "Runs")
    for chart in ("run_loss", "run_exits", "gamma_difference", "run_gaussian", "run_fgsm"):
        plot(other, chart).wait_for()  # a link shows it all, nothing is computed again
    assert other.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_run_is_opened_renamed_taken_away_and_deleted(visit, url, trained):
    page = visit()
    page.goto(f"{url}/runs?compare=blue")
    see(page, "Runs")
    with page.expect_download() as download:
        main(page).get_by_role("button", name="Download (").click()
    assert download.value.suggested_filename == "blue.zip"
    with zipfile.ZipFile(io.BytesIO(download.value.path().read_bytes())) as archive:
        assert archive.testzip() is None
        packed = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    kept = [path for path in (trained / "blue").rglob("*") if path.is_file() and not path.name.startswith(".")]
    assert packed == {path.relative_to(trained / "blue").as_posix(): path.read_bytes() for path in kept}

    main(page).get_by_role("button", name="Open in the dashboard").click()
    see(page, "Overview")
    until_url(page, "model=runs(/|%2F)blue")
    page.goto(f"{url}/runs?compare=blue&model=runs/blue")
    see(page, "Runs")
    main(page).get_by_role("button", name="Rename").click()
    for name in ("../elsewhere", "red"):
        fill(page, "New name", name)
        main(page).get_by_test_id("stAlert").filter(has_text=name).wait_for()
    fill(page, "New name", "green")
    until_url(page, "compare=green")
    until_url(page, "model=runs(/|%2F)green")
    main(page).get_by_role("heading", name="green").wait_for()
    assert (trained / "green").is_dir() and not (trained / "blue").exists()

    main(page).get_by_role("button", name="Delete …").click()
    question = page.get_by_role("dialog")
    question.get_by_text("green goes for good").wait_for()
    question.get_by_role("button", name="Keep it").click()
    question.wait_for(state="detached")
    assert (trained / "green").is_dir()
    main(page).get_by_role("button", name="Delete …").click()
    question.get_by_role("button", name="Delete it for good").click()
    question.wait_for(state="detached")
    page.get_by_text("green is deleted.").wait_for()
    main(page).get_by_role("heading", name="green").wait_for(state="detached")
    assert not (trained / "green").exists()
    assert page.get_by_test_id("stAlert").count() == 0
    go(page, "Gamma")
    main(page).get_by_text("bundled/digits").wait_for()


def test_gamma_of_every_epoch(visit, url, trained):
    page = visit()
    page.goto(f"{url}/gamma?model=runs/red")
    see(page, "Gamma")
    slider = main(page).get_by_role("slider", name="Epoch")
    plot(page, "gamma_growth").wait_for()
    slider.press("Home")
    main(page).get_by_text("At epoch 1, mean γ").wait_for()
    until_url(page, r"epoch_[0-9a-f]+=1\b")
    slider.press("ArrowRight")
    main(page).get_by_text("At epoch 2, mean γ").wait_for()
    page.reload()
    see(page, "Gamma")
    main(page).get_by_text("At epoch 2, mean γ").wait_for()
    page.goto(f"{url}/gamma")
    see(page, "Gamma")
    plot(page, "gamma_layers").wait_for()
    assert main(page).get_by_role("slider", name="Epoch").count() == 0
