"""A server that is killed in the middle of a sweep: the next one offers to go on, and does."""

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.browser.conftest import ROOT
from tests.ports import free_port

pytestmark = pytest.mark.browser


def start(folder):
    """A dashboard on this folder; (process, address)."""
    folders = ["--runs", str(folder / "runs"), "--data", str(folder)]
    command = [sys.executable, "-m", "dashboard", "--no-browser", "--port", str(free_port()), *folders]
    environment = {**os.environ, "BNTT_STORE": str(folder / "results")}
    server = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    return server, re.search(r"http://\S+", server.stdout.readline()).group()


def test_a_sweep_goes_on_after_the_server_was_killed(visit, tmp_path):
    first, url = start(tmp_path)
    page = visit()
    page.goto(f"{url}/robustness?attacks=PGD&epsilon=4,+8&samples=100&pgd_steps=4&draws=1&encodings=1")
    page.get_by_role("button", name="Run", exact=True).click()
    page.get_by_text(re.compile(r"Disturbing 100 test samples: [1-9]\d? %")).first.wait_for()
    workers = psutil.Process(first.pid).children(recursive=True)
    first.kill()
    first.wait()
    page.goto("about:blank")
    psutil.wait_procs(workers, timeout=30)

    second, url = start(tmp_path)
    try:
        page = visit()
        page.goto(f"{url}/gamma")
        side = page.get_by_test_id("stSidebar")
        side.get_by_text(re.compile(r"Disturbing 100 test samples: \d+ % done")).wait_for()
        side.get_by_role("link", name="Open, to resume").click()
        page.get_by_text(re.compile(r"Interrupted when the server stopped\. [1-9]\d? % had been computed")).wait_for()
        page.get_by_role("button", name="Resume").click()
        page.get_by_text("Done for these settings, on 100 samples").wait_for()
        assert side.get_by_text("Interrupted").count() == 0
    finally:
        second.send_signal(signal.SIGINT)
        second.wait(20)
