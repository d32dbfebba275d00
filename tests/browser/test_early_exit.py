"""Early exit in a real browser: a rule for each sample, other constants, and a disturbance."""

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import PATIENCE
from tests.browser.test_flows import fill, main, metric, metric_box, see, until_url

pytestmark = pytest.mark.browser


def test_leaving_when_ready(visit, url):
    page = visit()
    page.goto(f"{url}/early_exit")
    see(page, "Early exit")
    main(page).locator(".st-key-chart_exit_front .js-plotly-plot").wait_for()
    assert float(metric(page, "Mean exit step")) < 25

    main(page).get_by_role("radio", name="Margin", exact=True).click()
    until_url(page, "exit_rule=Margin")
    threshold = main(page).get_by_role("slider", name="Leave when the largest probability exceeds")
    before = metric(page, "Mean exit step")
    for _ in range(5):
        threshold.press("ArrowLeft")
    until_url(page, "exit_margin=0.75")
    other = visit(390, 844)
    other.goto(page.url)
    main(other).locator(".st-key-chart_exit_front .js-plotly-plot").wait_for()
    sooner = metric(other, "Mean exit step")
    expect(metric_box(page, "Mean exit step")).to_have_text(sooner, timeout=PATIENCE)
    assert float(sooner) < float(before), "a lower margin leaves earlier"

    energy = metric(page, "Mean energy")
    fill(page, "Accumulate (pJ)", "0.09")
    expect(metric_box(page, "Mean energy")).not_to_have_text(energy, timeout=PATIENCE)
    assert metric(page, "Mean exit step") == sooner

    fill(page, "Samples to disturb", "10")
    until_url(page, "exit_samples=10")
    main(page).get_by_role("button", name="Disturb", exact=True).click()
    main(page).locator(".st-key-chart_exit_disturbed .js-plotly-plot").wait_for()
    expect(main(page).get_by_text("on 10 samples. Another rule or threshold")).to_be_visible()

    other.goto(page.url)
    see(other, "Early exit")
    main(other).locator(".st-key-chart_exit_disturbed .js-plotly-plot").wait_for()
    assert metric(other, "Mean exit step") == sooner
    assert other.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing sticks out on a phone"
