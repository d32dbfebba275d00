"""BNTT beside its baselines in a real browser, and the verdict on a sweep."""

import re

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PATIENCE
from tests.browser.test_flows import fill, go, main, see, until_url

pytestmark = pytest.mark.browser


def test_baselines_side_by_side(visit, url):
    page = visit()
    page.goto(f"{url}/baselines?networks=BNTT&networks=ANN")  # the others take longer
    see(page, "Baselines")
    for chart in ("baseline_exits", "baseline_energy", "baseline_spikes_0"):
        # while results arrive, the last drawing of a chart may stand beside the next
        expect(main(page).locator(f".st-key-chart_{chart} .js-plotly-plot")).to_have_count(1, timeout=PATIENCE)
    fill(page, "Samples to disturb", "2")
    until_url(page, "baseline_samples=2")
    noise = main(page).locator(".st-key-under_gaussian")
    noise.get_by_role("button", name="Measure").click()
    noise.locator(".st-key-chart_baseline_gaussian .js-plotly-plot").wait_for()
    expect(noise.get_by_text("first 2 test samples")).to_be_visible()

    moved = main(page).locator(".st-key-transfer_matrix")
    moved.get_by_role("button", name="Measure").click()
    moved.locator(".st-key-chart_baseline_transfer .js-plotly-plot").wait_for()
    expect(moved.get_by_text("the diagonal is the direct attack")).to_be_visible()

    other = visit(390, 844)
    other.goto(page.url)
    see(other, "Baselines")
    chart = main(other).locator(".st-key-chart_baseline_transfer .js-plotly-plot")
    expect(chart).to_have_count(1, timeout=PATIENCE)  # while a page is drawn anew, its last charts may stand beside it
    expect(chart).to_be_visible()
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out on a phone"


def test_verdict_comes_with_the_sweep(visit, url):
    page = visit()
    page.goto(f"{url}/robustness?attacks=FGSM&epsilon=8&samples=2&encodings=1")
    see(page, "Robustness")
    main(page).locator(".st-key-run_sweep button").click()
    box = main(page).get_by_text(re.compile("All 8 checks passed|could not tell|probably an artefact"))
    box.first.wait_for()
    page.get_by_text("The evidence", exact=True).click()
    expect(main(page).get_by_test_id("stTable").get_by_text("The attacker sees a gradient")).to_be_visible()
    go(page, "Baselines")
