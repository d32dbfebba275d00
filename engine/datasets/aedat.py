"""Recordings of the event camera DVS128: reading AEDAT 2.0 files, as jAER writes them, and cutting them into frames.

The file (https://docs.inivation.com/software/software-advanced-usage/file-formats/aedat-2.0.html): lines of text that
begin with "#" and end with CR LF, the first "#!AER-DAT2.0"; then records of 8 bytes, an address and a time in µs, both
uint32, big-endian. A DVS128's address: bit 0 polarity (0 = ON: jAER's DVS128.java, libcaer's dvs128.c, and dat2mat.m
all turn it round), bits 1–7 x, bits 8–14 y; a higher bit marks what is no pixel's event (an external trigger).

CIFAR10-DVS was recorded with the camera on its side. For an upright picture SpikingJelly's CIFAR10DVS takes
127 − y for the column and 127 − x for the row, and so does this reader; events-tfds takes the same rows and the columns
the other way round. By the drivers' convention SpikingJelly's is the picture's mirror image.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np

from .base import DataError

SIDE = 128
LARGEST = 2**30  # bytes; a recording of CIFAR10-DVS has 1.6 MB

VERSION = re.compile(rb"#!AER-DAT([0-9.]{1,8})[ \t]*\r?\n")
# Events may begin with the byte of "#", too: only printable text (ASCII or Latin-1) that soon ends is a header line.
LINE = re.compile(rb"#[\t\x20-\x7e\xa0-\xff]{0,4096}\r?\n")
LAST_LINE = b"#End Of ASCII Header"  # newer jAER says where the header ends
HEADER = 2**20  # bytes; no header is longer
WRAP = 2**31  # µs; clocks run over at 2^31 or at 2^32


class Events(NamedTuple):
    """The events of one recording in order of time, at least one; all arrays are [n].

    t: int64, µs since the first. x, y: uint8 0 … 127, column and row of the upright picture, from its top left.
    polarity: uint8, 1 = ON (brighter), 0 = OFF (darker).
    """

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    polarity: np.ndarray


def check_size(size: int, name: str) -> None:
    """Raises DataError for more bytes than a recording can have."""
    if size > LARGEST:
        raise DataError(f"{name} is larger than 1 GiB, far too much for one recording")


def read_events(data: bytes, name: str) -> Events:
    """The events in the bytes of an AEDAT 2.0 file of a DVS128; records that are no pixel's event are left out.

    Times that run over are continued; events that are out of order nevertheless are sorted, equal times as they stand.
    Raises DataError, in one sentence that begins with `name`, for whatever is not such a file or holds no event.
    """
    check_size(len(data), name)
    start = _header(data, name)
    if (len(data) - start) % 8:
        raise DataError(f"{name} ends in the middle of an event, so it was cut off or damaged")
    halves = np.frombuffer(data, ">u2", offset=start).reshape(-1, 4)
    times = np.frombuffer(data, ">u4", offset=start)[1::2]
    address = halves[:, 1].astype(np.uint16)
    pixels = (halves[:, 0] == 0) & (address < 0x8000)
    if not pixels.all():
        address, times = address[pixels], times[pixels]
    if not len(address):
        raise DataError(f"{name} holds no events of a DVS128")
    t, order = _ascending(times.astype(np.int64))
    address = address if order is None else address[order]
    x = (SIDE - 1 - (address >> 8)).astype(np.uint8)
    y = (SIDE - 1 - (address >> 1 & 0x7F)).astype(np.uint8)
    return Events(t - t[0], x, y, (~address & 1).astype(np.uint8))


def frames(events: Events, steps: int, side: int, by: str = "count") -> np.ndarray:
    """How many events fall into each pixel of each frame: uint8 [steps, 2, side, side], 255 where there are more.

    Channel 0 holds OFF, channel 1 ON events; pixel x of the camera falls into column ⌊x·side/128⌋. by="count" cuts the
    recording into runs of equally many events (they differ by one at most), by="duration" into equal spans of time.
    Raises ValueError for another `by`.
    """
    n = len(events.t)
    if by == "count":
        frame = np.repeat(np.arange(steps), np.diff(np.arange(steps + 1) * n // steps))
    elif by == "duration":
        frame = events.t * steps // (events.t[-1] + 1)
    else:
        raise ValueError(f"by must be 'count' or 'duration', not {by!r}")
    scaled = np.arange(SIDE) * side // SIDE
    cell = ((frame * 2 + events.polarity) * side + scaled[events.y]) * side + scaled[events.x]
    counts = np.bincount(cell, minlength=steps * 2 * side * side)
    return np.minimum(counts, 255).astype(np.uint8).reshape(steps, 2, side, side)


def _header(data: bytes, name: str) -> int:
    """Where the records begin."""
    line = VERSION.match(data)
    if line is None:
        raise DataError(f"{name} does not begin with #!AER-DAT2.0, so it is no AEDAT 2.0 file")
    if line[1] != b"2.0":
        raise DataError(f"{name} is an AEDAT {line[1].decode()} file; only AEDAT 2.0 is read")
    end = line.end()
    while end < HEADER and (line := LINE.match(data, end)):
        end = line.end()
        if line[0].startswith(LAST_LINE):
            break
    return end


def _ascending(t: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Ascending times (int64), and the order the events have then; None where it is the old one."""
    steps = np.diff(t)
    if (steps >= 0).all():
        return t, None
    # A clock that ran over jumps by about a multiple of 2^31; the nearest multiple, 0 for small steps, is taken back.
    t[1:] -= np.cumsum(np.rint(steps / WRAP).astype(np.int64) * WRAP)
    if (np.diff(t) >= 0).all():
        return t, None
    order = np.argsort(t, kind="stable")
    return t[order], order
