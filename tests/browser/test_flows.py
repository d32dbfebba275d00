"""What a newcomer and a researcher live through, in a real browser."""

import io
import os
import pickle
import re
import subprocess
import sys

import pandas as pd
import pytest
from playwright.sync_api import TimeoutError as PlaywrightTimeout
from playwright.sync_api import expect

from engine import bundled
from engine.analysis import gamma
from engine.checkpoint import load_checkpoint
from engine.datasets import get
from tests.browser.conftest import PATIENCE

pytestmark = pytest.mark.browser

PAGES = {"": "Overview", "gamma": "Gamma", "spikes": "Spikes", "early_exit": "Early exit", "robustness": "Robustness"}


def see(page, title):
    page.get_by_role("heading", name=title, exact=True, level=1).wait_for()


def go(page, title):
    """Change the page; a second click where the first met a redraw within milliseconds, which Streamlit can lose."""
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=title, exact=True).click()
    try:
        page.get_by_role("heading", name=title, exact=True, level=1).wait_for(timeout=PATIENCE / 6)
    except PlaywrightTimeout:
        page.get_by_test_id("stSidebarNav").get_by_role("link", name=title, exact=True).click()
        see(page, title)


def main(page):
    return page.get_by_test_id("stMain")


def metric(page, label):
    """Value of the metric with this label."""
    return metric_box(page, label).inner_text()


def metric_box(page, label):
    box = main(page).get_by_test_id("stMetric").filter(has=page.get_by_text(label, exact=True))
    return box.get_by_test_id("stMetricValue")


def fill(page, label, text):
    field = page.get_by_label(label, exact=True)
    expect(field).to_have_count(1)  # until a page is drawn anew, fields of the last one may stand beside its own
    field.fill(text)
    field.press("Enter")


def until_url(page, pattern):
    page.wait_for_url(re.compile(pattern))


def test_newcomer(visit, url):
    page = visit()
    page.goto(url)
    see(page, "Overview")
    main(page).get_by_text("The γ rule leaves at t =").wait_for()
    main(page).get_by_role("link", name="See Gamma").first.click()
    see(page, "Gamma")
    main(page).locator(".js-plotly-plot .heatmaplayer").first.wait_for()

    go(page, "Early exit")
    main(page).get_by_text("Answers that change between").wait_for()
    before = metric(page, "Spikes a sample")
    slider = main(page).get_by_role("slider", name="Leave after timestep t")
    for _ in range(12):
        slider.press("ArrowLeft")
    until_url(page, r"[?&]t=7\b")
    expect(metric_box(page, "Spikes a sample")).not_to_have_text(before, timeout=PATIENCE)

    go(page, "Robustness")
    main(page).get_by_role("button", name="FGSM", exact=True).click()
    until_url(page, "attacks=")
    fill(page, "Gaussian σ", "0.3")
    fill(page, "Samples", "20")
    until_url(page, "samples=20")
    main(page).get_by_role("button", name="Run", exact=True).click()
    main(page).locator(".st-key-chart_sweep_noise .js-plotly-plot").wait_for()
    main(page).get_by_test_id("stDataFrame").wait_for()
    go(page, "Gamma")
    go(page, "Robustness")
    main(page).get_by_test_id("stDataFrame").wait_for()
    page.reload()
    see(page, "Robustness")
    main(page).get_by_test_id("stDataFrame").wait_for()
    assert page.get_by_label("Samples", exact=True).input_value() == "20"

    other = visit()
    other.goto(page.url)
    see(other, "Robustness")
    other.get_by_test_id("stMain").get_by_test_id("stDataFrame").wait_for()


def test_researcher(visit, url, shared, tmp_path):
    name = "cifar10vgg9_timestep5_lr0.3_epoch90_leak0.95_bestmodel.pth.tar"
    subprocess.run(
        [
            sys.executable,
            shared / "fixtures" / "reference_state.py",
            "vgg9",
            tmp_path / name,
            "--steps",
            "5",
            "--image-size",
            "8",
        ],
        check=True,
    )
    page = visit()
    page.goto(url)
    see(page, "Overview")
    page.locator("input[type=file]").set_input_files(tmp_path / name)
    until_url(page, "model=uploads")
    main(page).get_by_text("a checkpoint in the published layout", exact=False).wait_for()
    page.get_by_text("was guessed").first.wait_for()

    fill(page, "Leak λ", "0.9")
    main(page).get_by_text("λ = 0.9 ").wait_for()
    until_url(page, r"leak_[0-9a-f]+=0.9")
    go(page, "Gamma")
    main(page).get_by_text("λ = 0.9 ").wait_for()
    for layer in ("conv1", "conv7", "fc1"):
        main(page).locator(".ytick").get_by_text(layer, exact=True).first.wait_for()
    go(page, "Spikes")
    main(page).locator(".js-plotly-plot").nth(3).wait_for()
    page.reload()
    see(page, "Spikes")
    main(page).get_by_text("λ = 0.9 ").wait_for()

    stranger = visit()
    stranger.goto(page.url)
    see(stranger, "Spikes")
    stranger.get_by_test_id("stSidebar").get_by_text("is not here:").wait_for()
    stranger.get_by_test_id("stMain").get_by_text("bundled/digits").wait_for()


class Exploit:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_bad_uploads_get_one_sentence(visit, url, tmp_path):
    proof = tmp_path / "executed"
    files = {
        "notes.pth": b"just some text\n",
        "empty.pt": b"",
        "cut.pth": b"PK\x03\x04" + bytes(100),
        "exploit.pth": pickle.dumps(Exploit(proof)),
    }
    page = visit()
    page.goto(url)
    see(page, "Overview")
    for name, content in files.items():
        page.wait_for_function("document.querySelectorAll('input[type=file]').length === 1")
        page.locator("input[type=file]").set_input_files(
            {"name": name, "mimeType": "application/octet-stream", "buffer": content}
        )
        said = page.get_by_test_id("stSidebar").get_by_test_id("stAlert").filter(has_text=name)
        said.wait_for()
        assert "Traceback" not in said.inner_text() and "\n" not in said.inner_text().strip()
        main(page).get_by_text("bundled/digits").wait_for()
    assert not proof.exists()


def test_charts_are_handed_over(visit, url):
    page = visit()
    page.goto(f"{url}/gamma")
    see(page, "Gamma")
    main(page).locator(".st-key-chart_gamma_layers .js-plotly-plot .main-svg").first.wait_for()
    got = {}
    menu = main(page).locator(".st-key-save_gamma_layers").get_by_role("button", name="Save")
    for button in ("PNG", "SVG", "CSV"):  # a picture closes the menu
        menu.click()
        with page.expect_download() as download:
            page.get_by_role("button", name=button, exact=True).click()
        got[download.value.suggested_filename] = download.value.path().read_bytes()
    assert got["bntt_digits_gamma_layers.png"].startswith(b"\x89PNG")
    assert b"<svg" in got["bntt_digits_gamma_layers.svg"][:200]
    assert b"Arial" in got["bntt_digits_gamma_layers.svg"] and b"Source Sans" not in got["bntt_digits_gamma_layers.svg"]
    table = pd.read_csv(io.BytesIO(got["bntt_digits_gamma_layers.csv"]))
    expected = gamma.layer_means(load_checkpoint(bundled.path("digits")))
    assert table["layer"].tolist() == expected["layer"].tolist()
    assert table["mean γ"].tolist() == pytest.approx(expected["value"].tolist())


def test_a_sweep_can_be_cancelled(visit, url):
    page = visit()
    count = len(get("digits").load("test").labels)
    page.goto(f"{url}/robustness?attacks=PGD&pgd_steps=200&samples={count}")
    see(page, "Robustness")
    sweep = main(page).locator(".st-key-sweep")
    sweep.get_by_role("button", name="Run", exact=True).click()
    sweep.get_by_role("button", name="Cancel").click()
    sweep.get_by_text("Cancelled.").wait_for()
    sweep.get_by_role("button", name="Resume").wait_for()
    go(page, "Gamma")
    main(page).locator(".js-plotly-plot").first.wait_for()


@pytest.mark.parametrize("path", PAGES)
def test_pages_fit_a_phone(visit, url, path):
    page = visit(390, 844)
    page.goto(f"{url}/{path}")
    see(page, PAGES[path])
    main(page).locator(".js-plotly-plot .main-svg").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_data_set_that_is_not_here_is_offered_and_another_one_chosen(visit, url):
    """From a link to a network whose data is not here, to its γ, to the button that fetches the data, and back."""
    page = visit()
    page.goto(f"{url}/gamma?model=bundled/sequential-mnist")
    main(page).locator(".st-key-chart_gamma_layers .js-plotly-plot .heatmaplayer").wait_for()
    go(page, "Spikes")
    main(page).get_by_text("gets Digits here").wait_for()
    side = page.get_by_test_id("stSidebar")
    side.get_by_label("Data set", exact=True).first.click()
    page.get_by_role("option", name="cifar10", exact=True).click()
    main(page).get_by_text("CIFAR-10 is not here.").wait_for()
    main(page).get_by_role("button", name="Download CIFAR-10 (170 MB)").wait_for()
    until_url(page, r"data_[0-9a-f]+=cifar10\b")
    page.reload()
    main(page).get_by_text("CIFAR-10 is not here.").wait_for()
    side.get_by_label("Data set", exact=True).first.click()
    page.get_by_role("option", name="digits", exact=True).click()
    main(page).get_by_text("one row of the image is the current at every timestep").wait_for()
