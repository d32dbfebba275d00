"""AEDAT 2.0 files written record by record with struct, and frames counted by a plain loop."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.datasets import DataError, aedat
from engine.datasets.aedat import Events, frames, read_events

HEADER = b"#!AER-DAT2.0\r\n# This is a raw AE data file - do not edit\r\n# Timestamps tick is 1 us\r\n"


def record(t: int, x: int, y: int, polarity: int) -> bytes:
    """One record as the DVS128 sends it: the pixel's x and y on the chip; polarity bit 0 is ON."""
    return struct.pack(">II", y << 8 | x << 1 | polarity, t)


def aedat_bytes(events, header: bytes = HEADER) -> bytes:
    """A file of (t, x, y, polarity) as the camera sends them."""
    return header + b"".join(record(*event) for event in events)


def chip_events(count: int, seed: int = 0) -> list[tuple[int, int, int, int]]:
    """Random events in order of time, the first at 1,000 µs."""
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.integers(0, 13, count)) + 1000
    return [(int(t), *map(int, rng.integers(0, (128, 128, 2)))) for t in times]


def as_rows(events: Events) -> list[tuple[int, ...]]:
    return list(zip(*(part.tolist() for part in events), strict=True))


def test_events_come_back():
    """Every bit of the address and the time, in the picture's coordinates."""
    written = chip_events(3000)
    events = read_events(aedat_bytes(written), "a.aedat")
    first = written[0][0]
    assert as_rows(events) == [(t - first, 127 - y, 127 - x, 1 - polarity) for t, x, y, polarity in written]
    assert [part.dtype for part in events] == [np.int64, np.uint8, np.uint8, np.uint8]


def test_the_picture_stands_upright():
    """As SpikingJelly's CIFAR10DVS has it: x runs up the picture, y to the left; bit 0 tells OFF."""
    up, left, off = (read_events(aedat_bytes([e]), "") for e in ((0, 127, 64, 0), (0, 64, 127, 0), (0, 64, 64, 1)))
    assert (up.x[0], up.y[0], up.polarity[0]) == (63, 0, 1)
    assert (left.x[0], left.y[0]) == (0, 63)
    assert off.polarity[0] == 0


@pytest.mark.parametrize(
    "header",
    [
        b"#!AER-DAT2.0\r\n",
        b"#!AER-DAT2.0\n# ended by LF alone\n",
        "#!AER-DAT2.0\r\n# created Wed 5 Août 2015\t12 µs\r\n".encode("latin-1"),
        "#!AER-DAT2.0\r\n# created Wed 5 Août 2015\r\n".encode(),
        HEADER + b"#\r\n" + b"# preferences\r\n" * 500,
    ],
)
def test_headers(header):
    written = chip_events(20)
    assert len(read_events(aedat_bytes(written, header), "a.aedat").t) == 20


def test_events_may_begin_like_a_header_line():
    """A record whose first byte is that of "#" is no header line, even with a line end further on."""
    strange = struct.pack(">II", 0x23000A00, 5)
    written = chip_events(20)
    assert len(read_events(HEADER + strange + aedat_bytes(written, b""), "a.aedat").t) == 20
    printable = b"# a line?\n" + bytes(6)  # two records that begin like a line: not after the header's declared end
    ended = HEADER + b"#End Of ASCII Header\r\n"
    assert len(read_events(ended + printable + aedat_bytes(written, b""), "a.aedat").t) == 20
    with pytest.raises(DataError, match="middle of an event"):
        read_events(HEADER + b"#" * 5000 + b"\r\n" + aedat_bytes(written, b""), "a.aedat")


def test_other_records_are_left_out():
    """Bit 15 marks an external trigger; whatever is set above is no DVS128's pixel either."""
    written = chip_events(50)
    others = [struct.pack(">II", address, 1100) for address in (0x8000, 0x8FFF, 0x10000, 0x80000000, 0xFFFFFFFF)]
    data = HEADER + b"".join(record(*event) + others[n % 5] for n, event in enumerate(written))
    assert as_rows(read_events(data, "")) == as_rows(read_events(aedat_bytes(written), ""))


@pytest.mark.parametrize("wrap", [2**31, 2**32])
def test_a_clock_that_ran_over_goes_on(wrap):
    written = chip_events(500)
    start = wrap - 2500
    late = [((t + start) % wrap, *rest) for t, *rest in written]
    assert min(t for t, *_ in late) < 100, "it does run over"
    assert as_rows(read_events(aedat_bytes(late), "")) == as_rows(read_events(aedat_bytes(written), ""))


@pytest.mark.parametrize("start", [0, 2**32 - 2500])
def test_events_out_of_order_are_sorted(start):
    """Stably: equal times stay as they stand; also where the clock runs over meanwhile."""
    written = chip_events(500)
    mixed = list(written)
    for n in range(3, 480, 7):
        mixed.insert(n + 5, mixed.pop(n))
    late = [((t + start) % 2**32, *rest) for t, *rest in mixed]
    expected = sorted(mixed, key=lambda event: event[0])
    rows = as_rows(read_events(aedat_bytes(late), ""))
    assert rows == [(t - expected[0][0], 127 - y, 127 - x, 1 - p) for t, x, y, p in expected]


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "does not begin with #!AER-DAT2.0"),
        (aedat_bytes(chip_events(5), b""), "does not begin with #!AER-DAT2.0"),
        (aedat_bytes(chip_events(5), b"# no version\r\n"), "does not begin with #!AER-DAT2.0"),
        (aedat_bytes(chip_events(5), b"#!AER-DAT1.0\r\n"), "is an AEDAT 1.0 file; only AEDAT 2.0"),
        (aedat_bytes(chip_events(5), b"#!AER-DAT3.1\r\n#Format: RAW\r\n"), "is an AEDAT 3.1 file"),
        (aedat_bytes(chip_events(5))[:-3], "ends in the middle of an event"),
        (HEADER, "holds no events"),
        (HEADER + struct.pack(">II", 0x8000, 1), "holds no events"),
    ],
)
def test_damaged_files_are_told(data, words):
    with pytest.raises(DataError, match=f"^cat/a.aedat {words}[^.]*(2.0[^.]*)?$") as told:
        read_events(data, "cat/a.aedat")
    assert "\n" not in str(told.value)


def test_too_large_files_are_told(monkeypatch):
    monkeypatch.setattr(aedat, "LARGEST", 100)
    with pytest.raises(DataError, match="^a.aedat is larger than 1 GiB"):
        read_events(aedat_bytes(chip_events(10)), "a.aedat")


def sound(events: Events) -> bool:
    """What the docstring of Events promises."""
    n = len(events.t)
    return (
        n > 0
        and all(len(part) == n for part in events)
        and events.t[0] == 0
        and bool((np.diff(events.t) >= 0).all())
        and max(events.x.max(), events.y.max()) <= 127
        and events.polarity.max() <= 1
    )


@settings(max_examples=300)
@given(st.data())
def test_no_file_does_anything_else(data):
    """Whatever is changed in a file or cut from it: events or one sentence."""
    content = bytearray(aedat_bytes(chip_events(40)))
    for place, byte in data.draw(st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)))):
        content[place] = byte
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut]), bytes(content[cut:])):
        try:
            assert sound(read_events(damaged, "a.aedat"))
        except DataError as error:
            assert str(error).startswith("a.aedat ") and "\n" not in str(error)


@given(st.binary(max_size=200))
def test_no_body_that_begins_like_a_line_does_anything_else(body):
    try:
        assert sound(read_events(HEADER + b"#" + body, "a.aedat"))
    except DataError as error:
        assert str(error).startswith("a.aedat ")


def counted(events: Events, steps: int, side: int, by: str) -> np.ndarray:
    """The frames by their definition, event by event; int64."""
    rows = as_rows(events)
    found = np.zeros((steps, 2, side, side), np.int64)
    for number, (t, x, y, polarity) in enumerate(rows):
        if by == "count":
            frame = next(f for f in range(steps) if number < (f + 1) * len(rows) // steps)
        else:
            frame = next(f for f in range(steps) if t * steps < (f + 1) * (rows[-1][0] + 1))
        found[frame, polarity, y * side // 128, x * side // 128] += 1
    return found


@pytest.mark.parametrize("by", ["count", "duration"])
@pytest.mark.parametrize("count, steps, side", [(700, 20, 48), (701, 7, 128), (5, 9, 32), (1, 3, 1), (400, 1, 30)])
def test_frames_are_those_of_the_plain_loop(by, count, steps, side):
    events = read_events(aedat_bytes(chip_events(count)), "")
    found = frames(events, steps, side, by)
    assert found.dtype == np.uint8
    expected = counted(events, steps, side, by)
    np.testing.assert_array_equal(found, np.minimum(expected, 255))
    assert expected.sum() == count
    if side > 1:
        assert found.sum() == count, "no event is lost"


def test_runs_of_events_are_as_equal_as_can_be():
    events = read_events(aedat_bytes(chip_events(703)), "")
    sums = frames(events, 10, 48).sum((1, 2, 3))
    assert sums.max() - sums.min() == 1 and sums.sum() == 703


def test_frames_of_equal_duration_may_be_empty():
    events = read_events(aedat_bytes([(0, 1, 2, 0), (10, 3, 4, 1), (999_999, 5, 6, 0)]), "")
    assert frames(events, 4, 128, "duration").sum((1, 2, 3)).tolist() == [2, 0, 0, 1]
    assert frames(events, 3, 128, "count").sum((1, 2, 3)).tolist() == [1, 1, 1]


def test_frames_hold_255_at_most():
    events = read_events(aedat_bytes([(t, 3, 4, 0) for t in range(300)]), "")
    assert frames(events, 1, 48).max() == 255


def test_unknown_frames_are_told():
    with pytest.raises(ValueError, match="'time'"):
        frames(read_events(aedat_bytes(chip_events(3)), ""), 2, 48, "time")
