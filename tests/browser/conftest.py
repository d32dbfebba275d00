"""The app as README starts it, and a headless Chromium that fails a test on any uncaught error of the page."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 120_000  # milliseconds; only a busy machine needs more than a few seconds


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    """Address of a freshly started dashboard."""
    folders = ["--runs", str(tmp_path_factory.mktemp("runs")), "--data", str(tmp_path_factory.mktemp("data"))]
    command = [sys.executable, "-m", "dashboard", "--no-browser", "--port", str(free_port()), *folders]
    log = tmp_path_factory.mktemp("server") / "log"
    with log.open("w") as file:
        server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True)
    try:
        found = re.search(r"http://\S+", server.stdout.readline())
        assert found, f"the dashboard did not start: {log.read_text()}"
        yield found.group()
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            raise


@pytest.fixture(scope="session")
def chromium():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, tmp_path):
    """visit(width, height) → a page of a new visitor; after the test none may have met an error."""
    contexts, pages, errors = [], [], []

    def new(width=1440, height=900):
        contexts.append(chromium.new_context(viewport={"width": width, "height": height}, accept_downloads=True))
        contexts[-1].set_default_timeout(PATIENCE)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        pages.append(page)
        return page

    yield new
    for number, page in enumerate(pages):
        page.screenshot(path=tmp_path / f"{number}.png")  # kept by pytest for the last runs
    shown = [page.locator("[data-testid=stException]").all_inner_texts() for page in pages]
    for context in contexts:
        context.close()
    assert not errors and not any(shown), (errors, shown)
