"""A training from the browser: started, watched, left, stopped, resumed, finished, and opened in the other pages."""

import re

import pytest

from tests.benchmarks.sent import Sent
from tests.browser.test_flows import fill, go, main, see, until_url

pytestmark = pytest.mark.browser


def chart(page, name):
    return main(page).locator(f".st-key-chart_{name} .js-plotly-plot")


def line(page, pattern):
    """The line over the progress bar, once it reads so."""
    found = main(page).get_by_test_id("stProgress").get_by_text(re.compile(pattern))
    found.wait_for()
    return found.inner_text()


def press(page, name):
    """Press a button as soon as it can be pressed."""
    main(page).get_by_role("button", name=name, exact=True).click()


def points(page, count):
    """Wait until so many epochs are on the loss curve, or more."""
    page.wait_for_function(
        "count => document.querySelector('.st-key-chart_run_loss .js-plotly-plot')?.calcdata?.[0]?.length >= count",
        arg=count,
    )


def start(page, epochs):
    """A small network from the preset of the digits; the name of its run."""
    main(page).get_by_role("tab", name="New training").click()
    main(page).get_by_label("Preset", exact=True).click()
    page.get_by_role("option", name="Digits: the bundled network").click()
    for label, key, text in (("T", "T", "3"), ("Layers", "layers", "C4 P F16"), ("Epochs", "epochs", str(epochs))):
        fill(page, label, text)
        until_url(page, rf"{key}_digits=")
    main(page).get_by_text("Changed from the preset: layers, T, epochs.").wait_for()
    name = page.get_by_label("Name of the run", exact=True).input_value()
    press(page, "Start")
    return name


def test_a_training_is_watched_left_stopped_and_resumed(visit, url):
    page, other = visit(), visit()
    page.goto(f"{url}/training")
    see(page, "Training")
    name = start(page, 5000)
    line(page, r"epoch \d+ of 5000")
    points(page, 1)
    for one in ("run_accuracy", "run_gamma", "run_gamma_layers"):
        chart(page, one).locator(".main-svg").first.wait_for()
    points(page, 3)

    other.goto(f"{url}/training?run={name}")
    line(other, r"epoch \d+ of 5000")
    go(page, "Gamma")
    go(page, "Training")
    line(page, r"epoch \d+ of 5000")
    page.reload()
    see(page, "Training")
    line(page, r"epoch \d+ of 5000")

    press(page, "Stop")
    stopped = int(re.search(r"after epoch (\d+)", line(page, r"Stopped after epoch \d+ of 5000"))[1])
    line(other, r"Stopped after epoch")
    press(other, "Resume")
    points(other, stopped + 2)
    press(other, "Stop")
    line(other, r"Stopped after epoch")


def test_a_training_is_finished_and_opened_in_the_other_pages(visit, url):
    page = visit()
    page.goto(f"{url}/training")
    see(page, "Training")
    name = start(page, 2)
    line(page, "Finished: .* of the 399 test samples")
    points(page, 2)
    press(page, "Open in the dashboard")
    see(page, "Overview")
    until_url(page, rf"model=runs(%2F|/){name}")
    go(page, "Gamma")
    main(page).get_by_text(f"runs/{name} · T = 3").wait_for()
    chart(page, "gamma_layers").locator(".main-svg").first.wait_for()


def test_training_fits_a_phone(visit, url):
    page = visit(390, 844)
    for tab in ("Watch", "New training"):
        page.goto(f"{url}/training?tab={tab.replace(' ', '+')}")
        see(page, "Training")
        main(page).get_by_role("tab", name=tab, selected=True).wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_layer_draws_one_chart_alone(visit, url):
    """Counted in what the server sends."""
    page = visit()
    sent = Sent(page)
    page.goto(f"{url}/training")
    see(page, "Training")
    start(page, 1)
    points(page, 1)
    line(page, "Finished")
    page.wait_for_timeout(2500)  # longer than between two looks at a run
    sent.counted()
    box = main(page).get_by_role("combobox", name="γ of layer")
    for key in ("ArrowDown", "Home", "Enter"):
        box.press(key)
    until_url(page, r"gamma_layer=conv1")
    page.wait_for_timeout(1000)
    assert sent.counted()["plots"] == 1
