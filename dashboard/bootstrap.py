"""Makes ./.venv and installs what is missing, so that one command starts the project. Standard library only."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
STAMP = VENV / "installed.json"  # name of each requirements file → hash of what was installed from it
OLDEST = (3, 11)


def ensure(module: str, *requirements: str) -> None:
    """Return if the running interpreter has everything; otherwise continue `python -m module` in .venv, which has.

    requirements: names of requirements files, relative to the repository. Outside .venv any installed version of a
    distribution will do, since a machine may come with its own build of torch. What cannot be done ends the program
    with one sentence and exit status 1.
    """
    if sys.version_info < OLDEST:
        wanted, found = (".".join(map(str, version[:2])) for version in (OLDEST, sys.version_info))
        sys.exit(f"Python {wanted} or newer is needed, and this is Python {found}.")
    inside = Path(sys.prefix).resolve() == VENV.resolve()
    if inside and STAMP.exists():
        if stamped(requirements):
            return
    elif not missing(requirements):
        return
    try:
        if not stamped(requirements):
            make_venv()
            install(requirements)
    except KeyboardInterrupt:
        sys.exit("\nInterrupted; the next start goes on from here.")
    except OSError as error:
        sys.exit(f"{VENV} cannot be made: {error}.")
    restart(module)


def missing(requirements: tuple[str, ...]) -> list[str]:
    """Names in the requirements files of which the running interpreter has no version."""
    return [name for file in requirements for name in names((ROOT / file).read_text()) if not installed(name)]


def names(text: str) -> list[str]:
    """Distributions named in the text of a requirements file."""
    lines = (re.match(r"[A-Za-z0-9][\w.-]*", line.strip()) for line in text.splitlines())
    return [match.group() for match in lines if match]


def installed(name: str) -> bool:
    try:
        importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def stamped(requirements: tuple[str, ...]) -> bool:
    """Whether .venv was completed from the requirements files as they are now."""
    done = read_stamp()
    return PYTHON.exists() and all(done.get(file) == digest(file) for file in requirements)


def read_stamp() -> dict[str, str]:
    return json.loads(STAMP.read_text()) if STAMP.exists() else {}


def write_stamp(requirements: tuple[str, ...]) -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(read_stamp() | {file: digest(file) for file in requirements}))
    temporary.replace(STAMP)


def digest(file: str) -> str:
    return hashlib.sha256((ROOT / file).read_bytes()).hexdigest()


def make_venv() -> None:
    """Create .venv unless it has a working pip. One without has been interrupted, or lost its Python: begin again."""
    if PYTHON.exists() and subprocess.run([PYTHON, "-m", "pip", "--version"], capture_output=True).returncode == 0:
        return
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit("This Python cannot make virtual environments: install python3-venv (apt install python3-venv).")
    try:
        venv.create(VENV, clear=True, with_pip=True, symlinks=os.name != "nt")
    except subprocess.CalledProcessError:
        sys.exit("This Python cannot make virtual environments: install python3-venv (apt install python3-venv).")


def install(requirements: tuple[str, ...]) -> None:
    """Install the requirements files into .venv, then stamp it."""
    print(f"Installing the packages of {' and '.join(requirements)} into .venv (some minutes, once) …", flush=True)
    for info in VENV.glob("[Ll]ib/**/site-packages/*.dist-info"):
        if not (info / "INSTALLER").exists():  # pip writes it last, yet takes the folder alone for installed
            shutil.rmtree(info)
    command = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command += [argument for file in requirements for argument in ("-r", ROOT / file)]
    last = deque(maxlen=15)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        for line in pip.stdout:
            last.append(line.rstrip())
            show(last[-1].strip())
    show("")
    if pip.returncode:
        print(*last, sep="\n", file=sys.stderr)
        sys.exit("pip could not install what is needed: see its last lines above; the next start goes on from here.")
    write_stamp(requirements)


def show(line: str) -> None:
    """Show what pip does in one line that is overwritten; nothing where output goes to a file."""
    if sys.stdout.isatty():
        print(f"\r\033[K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def restart(module: str) -> None:
    """Continue in .venv with the same arguments. The module is found whatever the current directory."""
    command = [str(PYTHON), "-m", module, *sys.argv[1:]]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    sys.stdout.flush()
    if os.name == "nt":  # Windows has no exec that keeps the terminal waiting
        sys.exit(subprocess.run(command, env=environment).returncode)
    os.execve(PYTHON, command, environment)
