"""`python -m dashboard`: its arguments, and a real start and stop of the server."""

import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import psutil
import pytest

from dashboard.__main__ import FIRST_PORT, free, parse

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def taken():
    """A port that somebody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    "arguments, complaint",
    [
        (["--port", "many"], "'many' is not a port"),
        (["--port", "0"], "'0' is not a port"),
        (["--port", "70000"], "'70000' is not a port"),
        (["--host", "no such host"], "'no such host' is not an address"),
        (["--data", __file__], "is a file, not a folder"),
        (["--runs", __file__], "is a file, not a folder"),
        (["--scheduler", "somewhere"], "'somewhere' is not an address such as tcp://host:8786"),
        (["--colour"], "unrecognized arguments: --colour"),
    ],
)
def test_mistake_ends_with_status_2_and_one_line(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as end:
        parse(arguments)
    assert end.value.code == 2
    error = capsys.readouterr().err
    assert complaint in error and error.count("\n") == 1 and error.startswith("python -m dashboard: ")


def test_port_in_use_is_told(taken, capsys):
    with pytest.raises(SystemExit) as end:
        parse(["--port", str(taken)])
    assert end.value.code == 2
    assert f"port {taken} is in use" in capsys.readouterr().err


def test_next_free_port_is_taken(taken, monkeypatch):
    monkeypatch.setattr("dashboard.__main__.FIRST_PORT", taken)
    monkeypatch.setattr("dashboard.__main__.LAST_PORT", taken + 20)
    chosen = parse([]).port
    assert taken < chosen <= taken + 20 and free("127.0.0.1", chosen)


def test_no_free_port_is_told(taken, monkeypatch, capsys):
    monkeypatch.setattr("dashboard.__main__.FIRST_PORT", taken)
    monkeypatch.setattr("dashboard.__main__.LAST_PORT", taken)
    with pytest.raises(SystemExit):
        parse([])
    assert "choose one with --port" in capsys.readouterr().err


def test_folders(tmp_path, monkeypatch):
    assert parse([]).data == ROOT / ".data" and parse([]).runs == ROOT / "runs"
    monkeypatch.chdir(tmp_path)
    assert parse(["--data", "here"]).data == tmp_path / "here"
    assert FIRST_PORT == 8501


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=str)
def test_starts_says_where_and_ends_quietly(how, tmp_path):
    command = [sys.executable, "-m", "dashboard", "--data", tmp_path, "--runs", tmp_path, "--no-browser"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = server.stdout.readline()
    url = re.fullmatch(r"The dashboard runs at (http://localhost:\d+) \(Ctrl-C ends it\)\.\n", said).group(1)
    with urllib.request.urlopen(f"{url}/_stcore/health") as answer:
        assert answer.read() == b"ok"
    family = psutil.Process(server.pid).children(recursive=True)
    server.send_signal(how)
    said, complaints = server.communicate(timeout=15)
    assert "Traceback" not in said + complaints
    assert psutil.wait_procs(family, timeout=5)[1] == []
