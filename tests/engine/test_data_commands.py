"""`python -m engine data`: the tables tell what is there, and every mistake ends in one sentence."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine import commands, data_commands
from engine.commands import UserError
from engine.datasets import DataError, DataSet, Images, get
from engine.datasets.base import Remote

ROOT = Path(__file__).resolve().parents[2]
COUNTS = {"train": 40, "test": 12}


class Fake:
    """A data set of two channels, stored in pixels.bin, with samples that a test may change before they are read."""

    def __init__(self, url="http://127.0.0.1:9"):
        self.samples = {split: self.draw(count) for split, count in COUNTS.items()}
        body = self.samples["train"].pixels.numpy().tobytes()
        checksum = f"sha256:{hashlib.sha256(body).hexdigest()}"
        self.body = body
        self.data = DataSet(
            name="fake",
            title="Fake images",
            classes=("cat", "dog", "owl"),
            shape=(2, 5, 4),
            mean=(0.5, 0.5),
            std=(0.3, 0.3),
            steps=3,
            leak=0.9,
            pad=0,
            flip=False,
            look=self.look,
            read=lambda place, split, steps, side: self.samples[split],
            about="",
            remote=(Remote("fake/pixels.bin", f"{url}/pixels.bin", checksum, len(body)),),
        )

    @staticmethod
    def draw(count):
        labels = torch.tensor([0] * (count // 2) + [1] * (count // 4) + [2] * (count // 4))
        return Images(torch.randint(0, 256, (count, 2, 5, 4), dtype=torch.uint8), labels)

    def look(self, folder):
        for name in ("pixels.bin", "unpacked.bin"):
            if (folder / "fake" / name).exists():
                return (folder / "fake", ("other", folder / "fake" / name))
        raise DataError(f"fake/pixels.bin is not in {folder}")


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The data folder; a command that is given another one forgets it after the test."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture
def fake(place, tmp_path, monkeypatch):
    """The data set in the registry, and a server that has its file."""
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    site = tmp_path / "site"
    site.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=site))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    fake = Fake(f"http://127.0.0.1:{server.server_port}")
    (site / "pixels.bin").write_bytes(fake.body)
    monkeypatch.setattr(data_commands, "_entries", lambda: [get("digits"), fake.data])
    monkeypatch.setattr(commands, "data_set", lambda name, paths=False: fake.data)
    yield fake
    server.shutdown()
    server.server_close()


def put(place, body, name="pixels.bin"):
    (place / "fake").mkdir(parents=True)
    (place / "fake" / name).write_bytes(body)


def run(*words):
    root = argparse.ArgumentParser(exit_on_error=False)
    data_commands.add_parser(root.add_subparsers(dest="command", required=True))
    data_commands.run(root.parse_args(["data", *words]))


@pytest.fixture
def answer(capsys):
    """Runs a command that must succeed and gives back its JSON."""

    def of(*words):
        run(*words, "--json")
        return json.loads(capsys.readouterr().out)

    return of


@pytest.fixture
def said(capsys):
    """Runs a command that must succeed and gives back the lines it prints."""

    def of(*words):
        run(*words)
        return capsys.readouterr().out.splitlines()

    return of


def refused(*words) -> str:
    """The sentence of a command that must fail."""
    with pytest.raises(UserError) as raised:
        run(*words)
    sentence = str(raised.value)
    assert sentence and "\n" not in sentence and not sentence.endswith(".")
    return sentence


# ----------------------------------------------------------------------------------------------------- list


def test_list_tells_what_is_missing(fake, place, answer, said):
    told = answer("list")
    digits, row = told["data_sets"]
    assert told["folder"] == str(place)
    assert digits["name"] == "digits" and digits["there"] and digits["shape"] == [1, 16, 16] and digits["classes"] == 10
    assert row == {
        "name": "fake",
        "title": "Fake images",
        "shape": [2, 5, 4],
        "classes": 3,
        "there": False,
        "missing": f"fake/pixels.bin is not in {place}",
        "where": "",
        "download_bytes": len(fake.body),
    }
    header, first, second, last = said("list")
    assert first.split() == ["digits", "Digits", "1×16×16", "10", "there"]
    assert second.split()[:5] == ["fake", "Fake", "images", "2×5×4", "3"]
    assert second.endswith(f"missing: fake/pixels.bin is not in {place}") and last == f"data folder: {place}"
    assert header.index("shape") == first.index("1×16×16") == second.index("2×5×4")


def test_list_tells_where(fake, place, answer, said):
    put(place, b"")
    assert answer("list")["data_sets"][1]["where"] == str(place / "fake")
    assert said("list")[2].endswith(f"there  {place / 'fake'}")


def test_list_tells_the_folder_of_recordings(place, answer):
    """CIFAR10-DVS's own, not the data folder, which its entry tells along with it."""
    classes = get("cifar10-dvs").classes
    for name in classes:
        (place / "CIFAR10-DVS/events" / name).mkdir(parents=True)
        (place / "CIFAR10-DVS/events" / name / "cifar10_0.aedat").write_bytes(b"")
    row = next(row for row in answer("list")["data_sets"] if row["name"] == "cifar10-dvs")
    assert row["there"] and row["where"] == str(place / "CIFAR10-DVS/events")


def test_list_of_a_folder_that_cannot_be_looked_into(said):
    for line in said("list", "--data", "/tmp/" + "x" * 300)[2:-1]:
        assert " missing: /tmp/xxx" in line


def test_list_of_the_registry(place, answer):
    row = next(row for row in answer("list")["data_sets"] if row["name"] == "digits")
    assert row["title"] == "Digits" and row["there"] and row["where"] == "" and row["download_bytes"] == 0


# ------------------------------------------------------------------------------------------------------ get


def test_get_fetches(fake, place, answer):
    told = answer("get", "fake")
    assert (place / "fake/pixels.bin").read_bytes() == fake.body
    assert told == {
        "name": "fake",
        "folder": str(place),
        "where": str(place / "fake"),
        "there": [],
        "fetched": ["fake/pixels.bin"],
        "fetched_bytes": len(fake.body),
    }
    told = answer("get", "fake")
    assert (told["there"], told["fetched"], told["fetched_bytes"]) == (["fake/pixels.bin"], [], 0)


def test_get_in_words(fake, place, said):
    assert said("get", "fake") == ["fake/pixels.bin is fetched", f"fake is in {place}, 0.0 MB are new"]
    assert said("get", "fake") == ["fake/pixels.bin was there already", "fake was there already"]


def test_get_replaces_what_is_damaged(fake, place, answer):
    put(place, b"damaged")
    assert answer("get", "fake")["fetched"] == ["fake/pixels.bin"]
    assert (place / "fake/pixels.bin").read_bytes() == fake.body


def test_get_replaces_what_is_damaged_alone(fake, place, answer):
    """The data set does without a file that is not there, and is not given it."""
    object.__setattr__(
        fake.data, "remote", (*fake.data.remote, Remote("fake/more.bin", "http://127.0.0.1:9", "md5:0", 1))
    )
    put(place, b"damaged")
    assert answer("get", "fake")["fetched"] == ["fake/pixels.bin"]


def test_get_leaves_what_is_unpacked(fake, place, answer):
    put(place, b"", "unpacked.bin")
    told = answer("get", "fake")
    assert told["fetched"] == told["there"] == [] and os.listdir(place / "fake") == ["unpacked.bin"]


def test_get_of_what_needs_no_download(place, said, answer):
    assert said("get", "digits") == ["digits was there already"]
    assert answer("get", "digits")["where"] == "" and not place.exists()


def test_get_into_a_named_folder(fake, place, tmp_path, answer):
    other = tmp_path / "other"
    assert answer("get", "fake", "--data", str(other))["folder"] == str(other)
    assert (other / "fake/pixels.bin").exists() and not place.exists()


def test_get_shows_a_bar_where_a_person_looks(fake, monkeypatch, capsys):
    """The bar counts bytes up to the size of the file."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    run("get", "fake")
    told = capsys.readouterr().err
    assert "fake: 100%" in told and f"{len(fake.body) / 1000:.2f}k" in told


# ---------------------------------------------------------------------------------------------------- check


def test_check_of_digits_equals_numpy(place, answer):
    told = answer("check", "digits")
    assert told["name"] == "digits" and told["verified"] == []
    for split, row in told["splits"].items():
        pixels, labels = (tensor.numpy() for tensor in get("digits").load(split))
        counts = np.bincount(labels, minlength=10)
        assert (row["samples"], row["shape"]) == (len(labels), [1, 16, 16])
        assert (row["class_min"], row["class_max"]) == (counts.min(), counts.max())
        assert row["mean"] == pytest.approx([(pixels / 255).mean()], rel=1e-12)
        assert row["std"] == pytest.approx([(pixels / 255).std()], rel=1e-12)


@pytest.mark.parametrize("read", [1, 3 * 40, 1 << 24], ids=["one by one", "three by three", "at once"])
def test_check_reads_in_parts(read, fake, place, answer, monkeypatch):
    """Channel by channel against numpy, however many samples are read at once."""
    monkeypatch.setattr(data_commands, "READ", read)
    put(place, fake.body)
    told = answer("check", "fake")
    assert told["verified"] == ["fake/pixels.bin"]
    for split, row in told["splits"].items():
        unit = fake.samples[split].pixels.numpy() / 255
        assert row["mean"] == pytest.approx(unit.mean((0, 2, 3)), rel=1e-12)
        assert row["std"] == pytest.approx(unit.std((0, 2, 3)), rel=1e-12)
        assert (row["class_min"], row["class_max"]) == (COUNTS[split] // 4, COUNTS[split] // 2)


def test_check_reads_a_mapped_file(fake, place, answer):
    put(place, fake.body)
    mapped = np.memmap(place / "fake/pixels.bin", np.uint8, "r+", shape=(40, 2, 5, 4))
    fake.samples["train"] = Images(torch.from_numpy(mapped), fake.samples["train"].labels)
    assert answer("check", "fake")["splits"]["train"]["mean"] == pytest.approx((mapped / 255).mean((0, 2, 3)))


def test_check_of_events_counts_them(fake, place, answer):
    object.__setattr__(fake.data, "encoding", "events")
    put(place, fake.body)
    for split, count in COUNTS.items():
        frames = torch.randint(0, 256, (count, 3, 2, 5, 4), dtype=torch.uint8)
        fake.samples[split] = Images(frames, fake.samples[split].labels)
    for split, row in answer("check", "fake")["splits"].items():
        frames = fake.samples[split].pixels.numpy()
        assert row["shape"] == [3, 2, 5, 4]
        assert row["mean"] == pytest.approx(frames.mean((0, 1, 3, 4))), "events of a pixel and frame, not divided"
        assert row["std"] == pytest.approx(frames.std((0, 1, 3, 4)))


def test_check_in_words(place, said):
    train, test, last = said("check", "digits")
    assert train.startswith("train: 1,398 samples of 1×16×16") and "mean 0.3053, standard deviation 0.3189" in train
    assert test.startswith("test: 399 samples") and last == "digits is in order"


# -------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("action", ["get", "check"])
def test_unknown_name(action, place):
    assert "'mnisst' is not known" in refused(action, "mnisst")


@pytest.mark.parametrize("action", [["list"], ["get", "digits"], ["check", "digits"]], ids=lambda words: words[0])
def test_empty_folder_name(action, place):
    assert refused(*action, "--data", "").startswith("--data")


def pictures(folder):
    """A folder of images by class."""
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number, 0, 9)).save(folder / name / f"{number}.png")


def test_check_takes_a_path(place, tmp_path, answer):
    pictures(tmp_path / "pets")
    told = answer("check", str(tmp_path / "pets"))
    assert told["name"] == "pets" and told["splits"]["train"]["samples"] == 8


def test_get_takes_no_path(place, tmp_path):
    pictures(tmp_path / "pets")
    assert "is not known" in refused("get", str(tmp_path / "pets"))


def test_check_of_an_archive_that_is_cut_off(place):
    place.mkdir()
    (place / "pets.zip").write_bytes(b"PK\x03\x04 and no more")
    assert refused("check", "pets").startswith("pets.zip is cut off or damaged")
    assert refused("get", "pets").startswith("pets.zip is cut off or damaged")


def test_check_of_what_is_missing(fake, place):
    assert refused("check", "fake") == f"fake/pixels.bin is not in {place}"


def test_check_of_a_damaged_file(fake, place):
    put(place, b"damaged")
    sentence = refused("check", "fake")
    assert sentence.startswith(str(place / "fake/pixels.bin")) and "python -m engine data get fake" in sentence


WRONG = {
    "shape": (lambda pixels, labels: (pixels[:, :, 1:], labels), "(2, 4, 4) and not (2, 5, 4)"),
    "kind": (lambda pixels, labels: (pixels.float(), labels), "torch.float32"),
    "kind of the labels": (lambda pixels, labels: (pixels, labels.int()), "torch.int32"),
    "lacking labels": (lambda pixels, labels: (pixels, labels[1:]), "12 samples and 11 labels"),
    "nothing": (lambda pixels, labels: (pixels[:0], labels[:0]), "there are none"),
    "label above": (lambda pixels, labels: (pixels, labels + (labels == 2)), "sample 9 is 3, and there are 3 classes"),
    "label below": (lambda pixels, labels: (pixels, labels - 1), "sample 0 is -1"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_check_of_wrong_samples(wrong, fake, place):
    change, named = WRONG[wrong]
    put(place, fake.body)
    fake.samples["test"] = Images(*change(*fake.samples["test"]))
    sentence = refused("check", "fake")
    assert sentence.startswith("fake is damaged, in its test samples") and named in sentence


def test_check_of_a_file_that_cannot_be_read(fake, place):
    def read(*_):
        raise DataError("fake/pixels.bin is cut off")

    object.__setattr__(fake.data, "read", read)
    put(place, fake.body)
    assert refused("check", "fake") == "fake/pixels.bin is cut off"


def test_get_of_what_the_server_has_not(fake, place, tmp_path):
    (tmp_path / "site/pixels.bin").unlink()
    assert "the server answered 404" in refused("get", "fake")
    assert not (place / "fake/pixels.bin").exists()


def test_get_of_what_has_no_address(fake, place):
    object.__setattr__(fake.data, "remote", ())
    sentence = refused("get", "fake")
    assert sentence.startswith("fake has no address") and str(place) in sentence


def test_get_that_brings_too_little(fake, place):
    """Every file arrived, and yet something else is missing."""

    def look(folder):
        raise DataError(f"fake/labels.bin is not in {folder}")

    object.__setattr__(fake.data, "look", look)
    assert refused("get", "fake") == f"fake/labels.bin is not in {place}"


@pytest.mark.parametrize("words", [["get"], ["check"], ["paint"], []], ids=lambda words: " ".join(words) or "nothing")
def test_bad_arguments(words):
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        run(*words)


def test_understanding_arguments_takes_no_torch():
    """The command line answers --help and mistakes at once."""
    program = (
        "import argparse, sys\n"
        "from engine import data_commands\n"
        "root = argparse.ArgumentParser()\n"
        "data_commands.add_parser(root.add_subparsers())\n"
        "root.parse_args(['data', 'get', 'digits'])\n"
        "sys.exit(bool({'torch', 'pandas', 'pooch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=60).returncode == 0
