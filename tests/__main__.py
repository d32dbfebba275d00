"""python -m tests [pytest arguments]: installs what is missing, a browser included, then runs pytest.

Without arguments all tests run, two at a time; with arguments, what pytest makes of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from dashboard import bootstrap

NAMES = ("chromium", "google-chrome", "chromium-browser")
DOWNLOAD_SECONDS = 180


def find_chromium() -> str | None:
    """A Chromium that starts: $CHROMIUM, one on PATH, or Playwright's own."""
    for path in (os.environ.get("CHROMIUM"), *map(shutil.which, NAMES)):
        if path and starts(path):
            return path
    return playwright_chromium()


def playwright_chromium() -> str | None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if starts(path) else None


def starts(browser: str) -> bool:
    """Whether the program runs at all; a download can lack the libraries it needs."""
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def install_chromium() -> str | None:
    """Playwright's download, or else Debian's package where we may install one."""
    print("Installing Chromium for the browser tests (once) …", flush=True)
    if succeeds(sys.executable, "-m", "playwright", "install", "chromium", seconds=DOWNLOAD_SECONDS):
        path = playwright_chromium()
        if path:
            return path
    if shutil.which("apt-get"):
        root = [] if os.geteuid() == 0 else ["sudo", "-n"]
        quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
        if succeeds(*root, *quiet, "update"):
            succeeds(*root, *quiet, "install", "-y", "--no-install-recommends", "chromium")
    return find_chromium()


def succeeds(*command: str, seconds: float | None = None) -> bool:
    try:
        return subprocess.run(command, capture_output=True, timeout=seconds).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def main() -> None:
    bootstrap.ensure("tests", "requirements.txt", "tests/requirements.txt")
    chromium = find_chromium() or install_chromium()
    if chromium:
        os.environ["CHROMIUM"] = chromium
    else:
        print("No Chromium could be installed, so the browser tests cannot run: install one, or name it in CHROMIUM.")
        if os.environ.get("CI") == "true":
            sys.exit(1)

    os.environ["BNTT_WORKER_THREADS"] = "1"  # several clusters run side by side here

    import pytest

    os.chdir(bootstrap.ROOT)
    everything = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]  # the browser's, the longest, come first
    sys.exit(pytest.main(sys.argv[1:] or everything))


if __name__ == "__main__":
    main()
