"""CIFAR10-DVS made up of small recordings: where it is looked for, the split, what is kept, and damaged files."""

import errno
import mmap
import os
import re
import shutil
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.datasets import DataError, base, cifar10_dvs, event_store
from engine.datasets.aedat import frames, read_events
from engine.datasets.cifar10_dvs import CIFAR10_DVS, CIFAR10_DVS_DURATION, CLASSES
from tests.engine.test_aedat import aedat_bytes, chip_events

COUNT = 12  # recordings of a class: 10 for training, 2 for testing


def recording(label: int, number: int) -> bytes:
    """A recording that no other one equals; its events are 30 + number."""
    return aedat_bytes(chip_events(30 + number, seed=1000 * label + number))


def write_folders(root: Path, count: int = COUNT, classes=CLASSES) -> None:
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            file = root / name / f"cifar10_{name}_{number}.aedat"
            file.write_bytes(recording(CLASSES.index(name), number))


def write_zips(root: Path, count: int = COUNT, inside: str = "{}/", classes=CLASSES) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for name in classes:
        with zipfile.ZipFile(root / f"{name}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(f"__MACOSX/{name}/._cifar10_{name}_0.aedat", b"of macOS")
            for number in reversed(range(count)):
                member = f"{inside.format(name)}cifar10_{name}_{number}.aedat"
                archive.writestr(member, recording(CLASSES.index(name), number))


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    """An empty data folder; the user's cache folder is a test's own, too."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("BNTT_DATA", str(folder))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    base._loaded.cache_clear()
    yield folder
    base._loaded.cache_clear()


@pytest.fixture
def parsed(monkeypatch) -> list[str]:
    """The names of the recordings parsed so far."""
    names = []

    def spy(content, name):
        names.append(name)
        return read_events(content, name)

    monkeypatch.setattr(cifar10_dvs, "read_events", spy)
    return names


def again(split: str = "train", data=CIFAR10_DVS, **chosen) -> base.Images:
    """As another process would load it."""
    base._loaded.cache_clear()
    return data.load(split, **chosen)


def expected(split: str, steps: int, side: int, by: str) -> tuple[np.ndarray, list[int]]:
    numbers = range(10) if split == "train" else range(10, COUNT)
    order = [(label, number) for number in numbers for label in range(10)]
    events = [read_events(recording(*which), "") for which in order]
    return np.stack([frames(e, steps, side, by) for e in events]), [label for label, _ in order]


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("entry, by", [(CIFAR10_DVS, "count"), (CIFAR10_DVS_DURATION, "duration")])
def test_samples(data, split, entry, by):
    """Pixels, labels, the split and its order: the classes in turn, each in the order of its numbers."""
    write_folders(data / "CIFAR10-DVS")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of arrays that cannot be written
        images = entry.load(split)
    pixels, labels = expected(split, 20, 48, by)
    assert images.pixels.dtype == torch.uint8 and images.labels.dtype == torch.int64
    np.testing.assert_array_equal(images.pixels.numpy(), pixels)
    assert images.labels.tolist() == labels
    per_recording = images.pixels.sum((1, 2, 3, 4)).tolist()
    first = 0 if split == "train" else 10
    assert per_recording == [30 + first + place // 10 for place in range(len(labels))], "no event is lost"


def test_steps_and_side_can_be_chosen(data):
    write_folders(data / "CIFAR10-DVS")
    images = CIFAR10_DVS.load("test", steps=6, side=32)
    np.testing.assert_array_equal(images.pixels.numpy(), expected("test", 6, 32, "count")[0])


@pytest.mark.parametrize("root", ["CIFAR10-DVS", "CIFAR10DVS", "cifar10-dvs", "cifar10dvs", "dvs-cifar10"])
@pytest.mark.parametrize("level", ["", "extract", "download", "events"])
def test_where_it_may_lie(data, root, level):
    write_folders(data / root / level, count=1)
    place = CIFAR10_DVS.look(data)
    assert [source for source, _ in place.sources] == [data / root / level / name for name in CLASSES]
    assert CIFAR10_DVS.missing() == ""


@pytest.mark.parametrize("inside", ["", "{}/", "cifar10-dvs/{}/"])
def test_zips_hold_the_same(data, inside):
    write_zips(data / "cifar10-dvs", inside=inside)
    images = CIFAR10_DVS.load("test")
    pixels, labels = expected("test", 20, 48, "count")
    np.testing.assert_array_equal(images.pixels.numpy(), pixels)
    assert images.labels.tolist() == labels
    assert {path.name for path in data.iterdir()} == {"cifar10-dvs", ".decoded"}, "nothing is unpacked"


def test_the_fullest_folder_counts_and_folders_mix_with_zips(data):
    write_folders(data / "CIFAR10-DVS" / "extract", classes=CLASSES[:3])
    write_zips(data / "cifar10-dvs", classes=CLASSES[2:])
    write_folders(data / "cifar10-dvs", classes=CLASSES[:2])
    np.testing.assert_array_equal(again("test").pixels.numpy(), expected("test", 20, 48, "count")[0])


def test_what_is_missing_is_told(data):
    assert re.fullmatch(
        f"{data} holds no recordings of CIFAR10-DVS: .*airplane.zip or airplane/[^.]*.aedat and so on",
        CIFAR10_DVS.missing(),
    )
    write_folders(data / "cifar10dvs", count=1, classes=[c for c in CLASSES if c not in ("cat", "ship")])
    (data / "cifar10dvs" / "ship").mkdir()
    assert CIFAR10_DVS.missing() == f"{data}/cifar10dvs has neither a zip nor a folder of .aedat files for cat, ship"


def test_a_data_folder_that_cannot_be_looked_into_is_told(monkeypatch):
    monkeypatch.setenv("BNTT_DATA", "/tmp/" + "x" * 300)
    assert re.fullmatch(r"/tmp/x{300}\S* cannot be looked into \(File name too long\)", CIFAR10_DVS.missing())


@pytest.mark.parametrize("count, train, test", [(2, 1, 1), (5, 4, 1), (11, 9, 2), (1000, 900, 100)])
def test_split(count, train, test):
    """Nine tenths, by number, at least one of each, disjoint and complete; any beginning holds every class."""
    classes = [
        [cifar10_dvs.Recording(label, Path(f"{label}/{number}.aedat"), "", 1, 0) for number in range(count)]
        for label in range(10)
    ]
    chosen = {split: cifar10_dvs._chosen(classes, split) for split in ("train", "test")}
    assert (len(chosen["train"]), len(chosen["test"])) == (10 * train, 10 * test)
    for recordings in chosen.values():
        assert [r.label for r in recordings] == list(range(10)) * (len(recordings) // 10)
    numbers = {split: [int(r.file.stem) for r in chosen[split][::10]] for split in chosen}
    assert numbers["train"] + numbers["test"] == list(range(count))


def test_classes_of_different_size_take_turns_as_long_as_they_last():
    classes = [[cifar10_dvs.Recording(label, Path("a"), "", 1, 0)] * n for label, n in enumerate((40, 10, 20))]
    labels = [r.label for r in cifar10_dvs._chosen(classes, "train")]
    assert labels == [0, 1, 2] * 9 + [0, 2] * 9 + [0] * 18


def test_one_recording_is_too_few_for_a_test_split(data):
    write_folders(data / "CIFAR10-DVS", count=1)
    assert len(again("train").labels) == 10
    with pytest.raises(DataError, match="^airplane/cifar10_airplane_0.aedat is the only one"):
        again("test")


def test_recordings_are_parsed_once(data, parsed):
    """For all numbers of frames, sides and ways to bin; and frames are made once."""
    write_zips(data / "cifar10-dvs")
    first = again().pixels
    assert len(parsed) == 100
    again(steps=5)
    again(side=24)
    again(data=CIFAR10_DVS_DURATION)
    assert torch.equal(again().pixels, first)
    assert len(parsed) == 100
    again("test")
    assert len(parsed) == 120


def test_frames_are_made_once(data, monkeypatch):
    write_folders(data / "CIFAR10-DVS")
    first = again("test").pixels.clone()
    monkeypatch.setattr(event_store, "frames", None)
    assert torch.equal(again("test").pixels, first)


def test_two_pages_at_once_parse_once(data, parsed):
    write_folders(data / "CIFAR10-DVS")
    place = CIFAR10_DVS.look(data)
    threads = [threading.Thread(target=CIFAR10_DVS.read, args=(place, "test", 20, 48)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(parsed) == 20


@pytest.mark.parametrize("packed", [False, True])
def test_a_changed_recording_is_read_anew(data, parsed, packed):
    """Even if its size is the old one; and what was made of the old ones is removed."""
    root = data / "cifar10-dvs"
    (write_zips if packed else write_folders)(root)
    before = again("test")
    if packed:
        (root / "cat.zip").unlink()
        with zipfile.ZipFile(root / "cat.zip", "w") as archive:
            for number in range(COUNT):
                archive.writestr(f"cifar10_cat_{number}.aedat", recording(77, number))
    else:
        file = root / "cat" / "cifar10_cat_11.aedat"
        file.write_bytes(recording(77, 11))
    after = again("test")
    assert len(parsed) == 40
    assert not torch.equal(after.pixels[13], before.pixels[13]) and torch.equal(after.pixels[12], before.pixels[12])
    assert len(list((data / ".decoded").iterdir())) == 1


def test_nothing_unfinished_is_used(data, parsed, monkeypatch):
    """Neither what a broken process left nor a file that was cut off; what is left over goes, what is new stays."""
    write_folders(data / "CIFAR10-DVS")
    good = event_store._write_frames
    monkeypatch.setattr(event_store, "_write_frames", None)
    with pytest.raises(TypeError):
        again("test")  # the events are there, the frames not
    monkeypatch.setattr(event_store, "_write_frames", good)
    (folder,) = (data / ".decoded").iterdir()
    old, new = folder / ".test-t.npy.old", folder / ".test-t.npy.new"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 90_000,) * 2)
    address = folder / "test-address.npy"
    np.save(address, np.load(address)[:-2])
    pixels = expected("test", 20, 48, "count")[0]
    np.testing.assert_array_equal(again("test").pixels.numpy(), pixels)
    assert len(parsed) == 40 and not old.exists() and new.exists()
    shutil.copy(folder / "test-count-20x48.npy", folder / "whole")
    for content in (b"", b"not numpy's", (folder / "whole").read_bytes()[:-1]):
        (folder / "test-count-20x48.npy").unlink()
        (folder / "test-count-20x48.npy").write_bytes(content)
        np.testing.assert_array_equal(again("test").pixels.numpy(), pixels)


@pytest.mark.parametrize(
    "other",
    [
        np.zeros((3, 20, 2, 48, 48), np.uint8),
        np.zeros((20, 20, 2, 48, 48), np.int8),
        np.zeros((20, 20, 2, 48, 24), np.uint16),
    ],
    ids=["fewer", "other kind", "as many bytes"],
)
def test_frames_of_another_kind_are_made_anew(data, other):
    write_folders(data / "CIFAR10-DVS")
    first = again("test").pixels.clone()
    (file,) = (data / ".decoded").rglob("test-count-20x48.npy")
    file.unlink()  # others may have it mapped
    np.save(file, other)
    assert torch.equal(again("test").pixels, first)


OTHER_EVENTS = {
    "times of another kind": ("t", lambda kept: kept.astype(np.float32)),
    "addresses of another kind": ("address", lambda kept: kept.astype(np.uint32)),
    "starts of another kind": ("starts", lambda kept: kept.astype(np.float64)),
    "fewer recordings": ("starts", lambda kept: kept[5:]),
    "starts out of order": ("starts", lambda kept: np.concatenate([kept[:1], kept[-2:0:-1], kept[-1:]])),
}


@pytest.mark.parametrize("change", OTHER_EVENTS)
def test_events_of_another_kind_are_parsed_anew(data, parsed, change):
    write_folders(data / "CIFAR10-DVS")
    again("test")
    name, make = OTHER_EVENTS[change]
    (file,) = (data / ".decoded").rglob(f"test-{name}.npy")
    other = make(np.load(file))
    file.unlink()
    np.save(file, other)
    np.testing.assert_array_equal(again("test", steps=5).pixels.numpy(), expected("test", 5, 48, "count")[0])
    assert len(parsed) == 40


def test_decoded_images_of_a_similar_name_are_left_alone(data):
    """Those of a folder of images that is called cifar10-dvs-photos, or like what is kept here."""
    names = ["cifar10-dvs-photos-0123456789abcdef01234567-train", "cifar10-dvs-0123456789abcdef01234567-test"]
    old = "cifar10-dvs-0123456789abcdef"
    for name in (*names, old):
        (data / ".decoded" / name).mkdir(parents=True)
    write_folders(data / "CIFAR10-DVS", count=2)
    again("test")
    left = {path.name for path in (data / ".decoded").iterdir()}
    assert left > set(names) and old not in left and len(left) == 3


def test_frames_that_fit_no_memory_are_mapped_to_be_read(data, monkeypatch):
    """Linux refuses to map more than the memory holds if it might be written to."""
    write_folders(data / "CIFAR10-DVS")
    real = mmap.mmap

    def refusing(*arguments, access, **more):
        if access == mmap.ACCESS_COPY:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return real(*arguments, access=access, **more)

    monkeypatch.setattr(mmap, "mmap", refusing)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = again("test")
    np.testing.assert_array_equal(images.pixels.numpy(), expected("test", 20, 48, "count")[0])


def test_a_failure_while_parsing_leaves_nothing(data):
    write_folders(data / "CIFAR10-DVS")
    (data / "CIFAR10-DVS" / "ship" / "cifar10_ship_11.aedat").write_bytes(b"#!AER-DAT3.1\r\n")
    with pytest.raises(DataError, match="^ship/cifar10_ship_11.aedat is an AEDAT 3.1 file"):
        again("test")
    assert [path for path in (data / ".decoded").rglob("*") if path.is_file()] == []


def test_a_data_folder_that_cannot_be_written(data, parsed, tmp_path):
    """Frames go to the user's cache folder; the events, much more, are kept nowhere."""
    write_folders(data / "CIFAR10-DVS")
    (data / ".decoded").write_text("in the way")
    pixels = expected("test", 20, 48, "count")[0]
    for _ in range(2):
        np.testing.assert_array_equal(again("test").pixels.numpy(), pixels)
    assert len(parsed) == 20
    (kept,) = (path for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept.name == "test-count-20x48.npy" and kept.parents[1] == tmp_path / "cache/bntt/decoded"


def test_no_room(data, parsed, monkeypatch):
    """Events are kept only where there is room; without room for the frames a sentence says how much they need."""
    write_folders(data / "CIFAR10-DVS")
    usage = shutil.disk_usage(data)
    monkeypatch.setattr(cifar10_dvs, "DAMAGED", ())  # no damaged file is to blame
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DataError, match=f"^{data}/.decoded or .* must take 0.0 GB .*No space left on device"):
        again("test")
    assert parsed == []
    frame_bytes = 20 * 2 * 2
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20 * frame_bytes))
    assert again("test", steps=20, side=1).pixels.shape == (20, 20, 2, 1, 1)
    assert [p.name for p in (data / ".decoded").rglob("*.npy")] == ["test-count-20x1.npy"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "airplane.zip cannot be read .File is not a zip file.; if it is damaged, fetch it again"),
        (b"PK\x03\x04 and no more", "airplane.zip cannot be read .File is not a zip file."),
        (b"PK\x05\x06" + bytes(18), "airplane.zip holds no .aedat files"),
    ],
)
def test_damaged_zips_are_told(data, content, words):
    write_zips(data / "cifar10-dvs", count=2)
    (data / "cifar10-dvs" / "airplane.zip").write_bytes(content)
    with pytest.raises(DataError, match=f"^{data}/cifar10-dvs/{words}"):
        again()


def test_a_recording_that_is_too_large_is_not_even_read(data, parsed, monkeypatch):
    write_zips(data / "cifar10-dvs", count=2)
    monkeypatch.setattr("engine.datasets.aedat.LARGEST", 100)
    with pytest.raises(DataError, match="^airplane.zip/airplane/cifar10_airplane_0.aedat is larger than 1 GiB"):
        again()
    assert parsed == []


def test_times_too_far_apart_are_told(data):
    """They would not fit into what is kept: 18 minutes from event to event, and the clock runs over."""
    write_folders(data / "CIFAR10-DVS", count=2)
    far = aedat_bytes([(turn * 2**30, 1, 1, 0) for turn in (0, 1, 2, 3, 0, 1)])
    (data / "CIFAR10-DVS" / "bird" / "cifar10_bird_0.aedat").write_bytes(far)
    with pytest.raises(DataError, match="^bird/cifar10_bird_0.aedat has times more than 71 minutes apart"):
        again()


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> tuple[Path, bytes]:
    """A zip of two recordings beside nine that are left alone."""
    root = tmp_path_factory.mktemp("packed") / "cifar10-dvs"
    write_zips(root, count=2)
    return root.parent, (root / "airplane.zip").read_bytes()


@settings(max_examples=150)
@given(st.data())
def test_no_zip_does_anything_else(packed, data):
    """Whatever is changed in a zip or cut from it: recordings or one sentence that names it."""
    folder, content = packed
    damaged = bytearray(content)
    changes = st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255))
    for place, byte in data.draw(st.lists(changes, max_size=6)):
        damaged[place] = byte
    cut = data.draw(st.one_of(st.none(), st.integers(0, len(content))))
    (folder / "cifar10-dvs" / "airplane.zip").write_bytes(damaged[:cut])
    try:
        classes = cifar10_dvs._listing(CIFAR10_DVS.look(folder))
        for events in cifar10_dvs._parsed(classes[0]):
            assert len(events.t)
    except DataError as error:
        assert "airplane.zip" in str(error).split(" ")[0] and "\n" not in str(error)


def test_entries():
    for entry in (CIFAR10_DVS, CIFAR10_DVS_DURATION):
        assert entry.events and entry.shape == (2, 48, 48) and entry.steps == 20 and len(entry.classes) == 10
        assert [r.path for r in entry.remote] == [f"cifar10-dvs/{name}.zip" for name in CLASSES]
        assert all(re.fullmatch("md5:[0-9a-f]{32}", r.checksum) and r.size > 7e8 for r in entry.remote)
        assert "no official split" in entry.about
    assert len({r.url for r in CIFAR10_DVS.remote} | {r.checksum for r in CIFAR10_DVS.remote}) == 20
    assert CIFAR10_DVS.name != CIFAR10_DVS_DURATION.name and CIFAR10_DVS.title != CIFAR10_DVS_DURATION.title
