"""python -m dashboard: installs what is missing, starts the app and says where it is."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import threading
import time
import webbrowser
from pathlib import Path

from . import bootstrap

APP = Path(__file__).with_name("app.py")
FIRST_PORT, LAST_PORT = 8501, 8600


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line."""

    def error(self, message: str):
        self.exit(2, f"{self.prog}: {message}\n")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line, checked; ends the program with status 2 and one line when it cannot be followed."""
    parser = Parser(prog="python -m dashboard", description="Starts the dashboard and says where it is.")
    parser.add_argument("--port", type=port, help=f"default: {FIRST_PORT}, or the next one that is free")
    parser.add_argument("--host", type=host, default="127.0.0.1", help="address to listen at; 0.0.0.0 for everyone")
    parser.add_argument("--data", type=folder, default=bootstrap.ROOT / ".data", metavar="DIR", help="data sets")
    parser.add_argument("--runs", type=folder, default=bootstrap.ROOT / "runs", metavar="DIR", help="trained models")
    parser.add_argument("--scheduler", type=address, metavar="ADDRESS", help="of a Dask cluster, tcp://host:8786")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    options = parser.parse_args(arguments)
    if options.port is None:
        options.port = next((p for p in range(FIRST_PORT, LAST_PORT + 1) if free(options.host, p)), None)
        if options.port is None:
            parser.error(f"no port from {FIRST_PORT} to {LAST_PORT} is free: choose one with --port")
    elif not free(options.host, options.port):
        parser.error(f"port {options.port} is in use: choose another with --port")
    return options


def port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port, a number from 1 to 65535")
    return int(text)


def host(text: str) -> str:
    try:
        socket.getaddrinfo(text, None)
    except (OSError, UnicodeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address of this machine") from None
    return "127.0.0.1" if text == "localhost" else text


def folder(text: str) -> Path:
    path = Path(text).expanduser().resolve()
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is a file, not a folder")
    return path


def address(text: str) -> str:
    if not re.fullmatch(r"(\w+://)?[^\s/]+:\d+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not an address such as tcp://host:8786")
    return text


def free(host: str, port: int) -> bool:
    """Whether a server can listen there."""
    family, kind, protocol, _, target = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        if os.name != "nt":  # as servers do, so that a server that just stopped is not in the way
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(target)
        except OSError:
            return False
    return True


def has_display() -> bool:
    """Whether a browser opened here would be seen by the person who typed the command."""
    if os.environ.get("CI") or os.environ.get("SSH_CONNECTION"):
        return False
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def announce(options: argparse.Namespace) -> None:
    """Say, and open, the address once the server answers."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    reached = everywhere.get(options.host, options.host)
    while True:
        try:
            socket.create_connection((reached, options.port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.1)
    name = "localhost" if reached in ("127.0.0.1", "::1") else f"[{reached}]" if ":" in reached else reached
    url = f"http://{name}:{options.port}"
    print(f"The dashboard runs at {url} (Ctrl-C ends it).", flush=True)
    if not options.no_browser and has_display():
        webbrowser.open(url)


def serve(options: argparse.Namespace) -> None:
    """Run Streamlit in this process until it is told to stop."""
    os.environ["BNTT_DATA"] = str(options.data)
    os.environ["BNTT_RUNS"] = str(options.runs)
    os.environ["BNTT_SCHEDULER"] = options.scheduler or ""
    os.chdir(bootstrap.ROOT)  # where Streamlit finds .streamlit/config.toml, and with it all that is not asked for here
    sys.path.insert(0, str(bootstrap.ROOT))
    from streamlit.web import cli

    threading.Thread(target=announce, args=[options], daemon=True).start()
    cli.main(["run", str(APP), *flags(options.host, options.port)], prog_name="streamlit")


def flags(host: str, port: int) -> list[str]:
    """Of Streamlit; what is the same wherever it listens stands in .streamlit/config.toml."""
    said = {
        "server.address": host,
        "server.port": port,
        "server.headless": "true",
        "logger.hideWelcomeMessage": "true",
        "logger.level": "warning",
    }
    return [f"--{name}={value}" for name, value in said.items()]


def main() -> None:
    options = parse(sys.argv[1:])
    bootstrap.ensure("dashboard", "requirements.txt")
    serve(options)


if __name__ == "__main__":
    main()
