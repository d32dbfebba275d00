"""What the benchmarks of the app in a browser share: servers, Chromium, figures."""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from dashboard import bootstrap
from dashboard.__main__ import flags
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
HOST = "127.0.0.1"
PATIENCE = 120_000  # milliseconds; only a first visit, which computes, needs more than a few seconds


def prepare(module: str) -> None:
    """Have everything installed that `python -m module` needs, a Chromium included, or end the program."""
    bootstrap.ensure(module, "requirements.txt", "tests/requirements.txt")
    from tests.__main__ import find_chromium, install_chromium

    os.environ["CHROMIUM"] = find_chromium() or install_chromium() or sys.exit("No Chromium can be had.")


@contextmanager
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=os.environ["CHROMIUM"], args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visitor(chromium):
    """A page of somebody who was never here."""
    page = chromium.new_context(viewport={"width": 1440, "height": 900}).new_page()
    page.set_default_timeout(PATIENCE)
    return page


@contextmanager
def dashboard(runs: Path, data: Path) -> Iterator[str]:
    """The dashboard on these folders; its address, as soon as it answers."""
    port = free_port()
    with _serving(["dashboard", "--no-browser", "--port", str(port), "--runs", str(runs), "--data", str(data)], port):
        yield f"http://{HOST}:{port}"


@contextmanager
def streamlit(script: Path) -> Iterator[str]:
    """Any other Streamlit app, run with the flags and the settings of the dashboard; its address."""
    port = free_port()
    with _serving(["streamlit", "run", str(script), *flags(HOST, port)], port):
        yield f"http://{HOST}:{port}"


@contextmanager
def _serving(command: Sequence[str], port: int) -> Iterator[None]:
    server = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _answers(port):
            if server.poll() is not None:
                sys.exit(f"{command[0]} ended before it answered.")
            time.sleep(0.02)
        yield
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(30)


def _answers(port: int) -> bool:
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def spread(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95th percentile in seconds, and of how many."""
    p95 = statistics.quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
    return {"median": statistics.median(seconds), "p95": p95, "visits": len(seconds)}


def save(path: Path | None, said: Mapping) -> None:
    """Write the figures, if a file is asked for, with what they depend on."""
    if path:
        machine = {"date": date.today().isoformat(), "cores": os.cpu_count(), "machine": platform.machine()}
        path.write_text(json.dumps(machine | dict(said), indent=1) + "\n")
