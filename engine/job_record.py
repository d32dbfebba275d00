"""What is known on disk of a job, so that one whose server died can be told from one that still runs."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .job import OVER

AWAY_SECONDS = 60  # a server on another machine that has not written for so long is taken for dead


@dataclass(frozen=True)
class Record:
    """A job as its server last saw it.

    key, title, state, done, total: of the job. page, query: where it was asked for. owner: the server's process, as
    `owner` writes it. created, updated: when it was submitted and when this was written, in seconds since the epoch.
    """

    key: str
    title: str
    state: str
    done: int
    total: int
    page: str
    query: Mapping[str, list[str]]
    owner: str
    created: float
    updated: float

    @property
    def interrupted(self) -> bool:
        """Whether it has not come to its end and nobody works on it any more."""
        return self.state == "interrupted" or (self.state not in OVER and not owner_alive(self))


def owner() -> str:
    """This process, as "host:process id:when it started" in the kernel's own count ("" where there is no /proc)."""
    return f"{platform.node()}:{os.getpid()}:{_started(os.getpid())}"


def owner_alive(record: Record) -> bool:
    """Whether the process that runs a job is still there; of another machine, whether it wrote in the last minute."""
    host, _, process = record.owner.partition(":")
    if host != platform.node() or os.name == "nt":  # where looking at a process by os.kill would stop it
        return time.time() - record.updated < AWAY_SECONDS
    number, _, started = process.partition(":")
    if not (number.isascii() and number.isdigit()):
        return False
    if started:  # numbers are used again
        return _started(int(number)) == started
    try:
        os.kill(int(number), 0)
    except PermissionError:
        return True
    except (ProcessLookupError, OverflowError):
        return False
    return True


def _started(number: int) -> str:
    """When a process started; "" for one that is not there, has ended but was not waited for, or without /proc."""
    try:
        stat = Path(f"/proc/{number}/stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()  # its name, in brackets, may hold anything
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()
