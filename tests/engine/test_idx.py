"""MNIST and Fashion-MNIST: the real files against NumPy, where they are looked for, and what damaged ones say."""

import gzip
import hashlib
import os
import shutil
import struct
import tracemalloc
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.datasets import DataError
from engine.datasets.base import _loaded
from engine.datasets.idx import FASHION_MNIST, MNIST, PIXEL_MNIST, SEQUENTIAL_MNIST

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    _loaded.cache_clear()
    yield tmp_path
    _loaded.cache_clear()


@pytest.fixture(scope="session")
def real(shared):
    """The folder with the published files."""
    if not (shared / "data" / "mnist").is_dir():
        pytest.skip("needs MNIST in ../shared/data")
    return shared / "data" / "mnist"


def images_file(count=6, rows=28, columns=28, magic=0x803, claim=None, pixels=None):
    """An IDX file of images; claim: what the header says instead of count."""
    body = bytes(i * 7 % 256 for i in range(count * rows * columns)) if pixels is None else pixels
    return struct.pack(">IIII", magic, count if claim is None else claim, rows, columns) + body


def labels_file(labels=(0, 1, 2, 3, 9, 9), magic=0x801, claim=None):
    return struct.pack(">II", magic, len(labels) if claim is None else claim) + bytes(labels)


def small_set() -> dict[str, bytes]:
    """Six images to train on, three to test on."""
    return {
        TRAIN_IMAGES: images_file(),
        TRAIN_LABELS: labels_file(),
        TEST_IMAGES: images_file(3),
        TEST_LABELS: labels_file((5, 0, 4)),
    }


def place(folder, files: dict[str, bytes | None]):
    """Write the files; None leaves one out; a name that ends in .gz is packed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if content is not None:
            (folder / name).write_bytes(gzip.compress(content, 1) if name.endswith(".gz") else content)


def sentence(call) -> str:
    """The one line of a DataError."""
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 500 and not line.endswith(".") and "Traceback" not in line
    return line


# --- the published files


@pytest.mark.parametrize(
    "split, images, labels", [("train", TRAIN_IMAGES, TRAIN_LABELS), ("test", TEST_IMAGES, TEST_LABELS)]
)
@pytest.mark.parametrize("packed", [True, False])
def test_the_published_files(split, images, labels, packed, real, data):
    """Every pixel and label against numpy.frombuffer, by checksum."""
    folder = data / "MNIST" / "raw"
    folder.mkdir(parents=True)
    content = {name: gzip.decompress((real / f"{name}.gz").read_bytes()) for name in (images, labels)}
    for name in FILES:
        if packed:
            shutil.copy(real / f"{name}.gz", folder)
        else:
            (folder / name).write_bytes(content.get(name, b""))
    found = MNIST.load(split)
    count = {"train": 60000, "test": 10000}[split]
    assert found.pixels.shape == (count, 1, 28, 28) and found.pixels.dtype == torch.uint8
    assert found.labels.shape == (count,) and found.labels.dtype == torch.int64
    expected = np.frombuffer(content[images], np.uint8, offset=16)
    assert hashlib.md5(found.pixels.numpy()).digest() == hashlib.md5(expected).digest()
    assert found.labels.tolist() == list(content[labels][8:])
    assert found.labels[:5].tolist() == ([5, 0, 4, 1, 9] if split == "train" else [7, 2, 1, 0, 4])
    if split == "train":
        levels, often = np.arange(256) / 255, np.bincount(expected, minlength=256) / expected.size
        mean = (levels * often).sum()
        std = ((levels - mean) ** 2 * often).sum() ** 0.5
        np.testing.assert_allclose((mean, std), (MNIST.mean[0], MNIST.std[0]), atol=1e-4)


def test_the_published_files_are_known_by_what_they_unpack_to(real):
    """The unpacked files' checksums, as other projects print them; how they were packed differs from copy to copy."""
    known = {
        TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
        TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
        TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
        TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
    }
    for name, checksum in known.items():
        assert hashlib.md5(gzip.decompress((real / f"{name}.gz").read_bytes())).hexdigest() == checksum


# --- what the registry says


def test_entries_that_share_the_digits():
    """The sequential tasks are MNIST in another order of time: same files, same images."""
    for entry, steps, encoding in ((SEQUENTIAL_MNIST, 28, "rows"), (PIXEL_MNIST, 784, "pixels")):
        assert (entry.steps, entry.encoding, entry.pad, entry.arch) == (steps, encoding, 0, "mlp")
        assert entry.mean == (0.0,), "the background, black, is no input"
        assert (entry.remote, entry.classes, entry.shape) == (MNIST.remote, MNIST.classes, MNIST.shape)
    assert len({entry.name for entry in (MNIST, FASHION_MNIST, SEQUENTIAL_MNIST, PIXEL_MNIST)}) == 4


def test_fashion_mnist_is_no_mnist():
    assert len(FASHION_MNIST.classes) == 10 and FASHION_MNIST.classes[9] == "Ankle boot" and FASHION_MNIST.flip
    assert (FASHION_MNIST.mean, FASHION_MNIST.std) == ((0.2860,), (0.3530,))
    assert not {remote.checksum for remote in FASHION_MNIST.remote} & {remote.checksum for remote in MNIST.remote}


@pytest.mark.parametrize("entry", [MNIST, FASHION_MNIST])
def test_a_download_lands_where_it_is_looked_for(entry, data):
    assert [remote.path.rpartition("/")[2] for remote in entry.remote] == [f"{name}.gz" for name in FILES]
    for remote, content in zip(entry.remote, small_set().values()):
        assert remote.url.endswith("/" + remote.path.rpartition("/")[2]) and remote.checksum.startswith("md5:")
        place((data / remote.path).parent, {(data / remote.path).name: content})
    assert not entry.missing() and len(entry.load("test").labels) == 3


# --- where the files are looked for


@pytest.mark.parametrize(
    "entry, folder",
    [(MNIST, folder) for folder in ("MNIST/raw", "MNIST", "mnist", "mnist/raw")]
    + [
        (FASHION_MNIST, folder)
        for folder in ("FashionMNIST/raw", "FashionMNIST", "fashion-mnist", "fashion-mnist/raw", "fashion_mnist")
    ],
)
@pytest.mark.parametrize("name", ["{}", "{}.gz", "{}.with a dot", "{}.with a dot.gz"])
def test_folders_and_names(entry, folder, name, data):
    def named(stem):
        return name.format(stem.replace("-idx", ".idx") if "dot" in name else stem).replace(".with a dot", "")

    place(data / folder, {named(stem): content for stem, content in small_set().items()})
    assert entry.missing() == ""
    train, test = entry.load("train"), entry.load("test")
    assert train.labels.tolist() == [0, 1, 2, 3, 9, 9] and test.labels.tolist() == [5, 0, 4]
    assert train.pixels.flatten().tolist() == [i * 7 % 256 for i in range(6 * 784)]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("change", ["size", "time"])
def test_replaced_files_are_read_again(name, change, data):
    """By the same process, too; what has not changed is read once."""
    place(data / "MNIST", small_set())
    before = {split: MNIST.load(split) for split in ("train", "test")}
    assert MNIST.load("test") is before["test"] and hash(MNIST.look(data)) == hash(MNIST.look(data))
    path, split = data / "MNIST" / name, "train" if name in FILES[:2] else "test"
    content, status = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    if change == "size":
        plain, content = content, gzip.compress(content)  # known by how it begins
        assert len(plain) != len(content)
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (change == "time")))
    after = MNIST.load(split)
    changed = [int((new != old).sum()) for new, old in zip(after, before[split], strict=True)]
    assert changed == ([1, 0] if "images" in name else [0, 1])


def test_a_data_folder_that_cannot_be_looked_into_is_told(monkeypatch):
    monkeypatch.setenv("BNTT_DATA", "/tmp/" + "x" * 300)
    assert MNIST.missing().startswith("/tmp/xxx")


def test_plain_and_packed_files_may_be_mixed(data):
    small = small_set()
    place(data / "MNIST", {TRAIN_IMAGES + ".gz": small.pop(TRAIN_IMAGES), **small})
    assert len(MNIST.load("train").labels) == 6


def test_what_is_unpacked_under_its_packed_name_is_read(data):
    """Browsers unpack on the way and keep the name."""
    place(data / "MNIST", small_set())
    (data / "MNIST" / TEST_IMAGES).rename(data / "MNIST" / f"{TEST_IMAGES}.gz")
    assert len(MNIST.load("test").labels) == 3


def test_nothing_there(data):
    for entry in (MNIST, FASHION_MNIST, SEQUENTIAL_MNIST):
        line = sentence(partial(entry.load, "train"))
        assert line.startswith(str(data)) and "train-images-idx3-ubyte.gz" in line and "/raw" in line
        assert entry.missing() == line


def test_some_there(data):
    """Of several folders the fullest one is named, with what it lacks."""
    place(data / "MNIST" / "raw", {TRAIN_IMAGES: images_file()})
    place(data / "mnist", small_set() | {TEST_LABELS: None, TEST_IMAGES: None})
    place(data / "mnist" / "raw", {TRAIN_IMAGES: images_file()})
    line = MNIST.missing()
    assert line.startswith(f"{data / 'mnist'} lacks {TEST_IMAGES} and {TEST_LABELS}; ")
    place(data / "mnist", {TEST_LABELS: labels_file((5, 0, 4))})
    assert f"lacks {TEST_IMAGES};" in MNIST.missing()


def test_all_four_files_from_one_folder(data):
    """Files of another copy are not mixed in."""
    small = small_set()
    place(data / "MNIST" / "raw", {name: small[name] for name in FILES[:2]})
    place(data / "MNIST", {name: small[name] for name in FILES[2:]})
    assert "lacks" in MNIST.missing()


def test_a_folder_is_no_file(data):
    place(data / "MNIST", small_set() | {TEST_IMAGES: None})
    (data / "MNIST" / TEST_IMAGES).mkdir()
    assert f"lacks {TEST_IMAGES};" in sentence(lambda: MNIST.load("test"))


def test_a_file_that_goes_away_or_may_not_be_read(data, monkeypatch):
    place(data / "MNIST", small_set())
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert sentence(lambda: MNIST.load("test")).startswith(f"{TEST_IMAGES} cannot be read (Permission denied)")


# --- damaged files


def cut(content, by):
    return gzip.compress(content)[:-by]


def flipped(content, at):
    packed = bytearray(gzip.compress(content))
    packed[at] ^= 0xFF
    return bytes(packed)


NOISE = np.random.default_rng(0).integers(0, 256, 6 * 784, dtype=np.uint8).tobytes()
# what is there instead of the six training images → how the sentence goes on after the file's name
BAD_IMAGES = {
    "empty": (b"", "is empty or cut off within its header; "),
    "text": (b"<!DOCTYPE html><title>404 Not Found</title>", "is no IDX file of images; "),
    "labels": (labels_file(), "is no IDX file of images; "),
    "floats": (images_file(magic=0xD03), "is no IDX file of images; "),
    "two bytes": (b"\0\0", "is empty or cut off within its header; "),
    "half a header": (images_file()[:12], "is empty or cut off within its header; "),
    "header alone": (images_file()[:16], "is cut off: its header promises 6 images and 0 are there; "),
    "cut off": (images_file()[: 16 + 2 * 784 + 5], "is cut off: its header promises 6 images and 2 are there; "),
    "claims more": (images_file(claim=7), "is cut off: its header promises 7 images and 6 are there; "),
    "claims less": (images_file(claim=5), "holds more than the 5 images that its header promises; "),
    "claims none": (images_file(claim=0), "promises 0 images"),
    "claims too many": (images_file(claim=2**32 - 1), "promises 4294967295 images"),
    "claims just too many": (images_file(claim=1_000_001), "promises 1000001 images"),
    "other sides": (images_file(rows=32, columns=32), "holds images of 32×32 pixels, not 28×28; "),
    "swapped sides": (images_file(rows=14, columns=56), "holds images of 14×56 pixels, not 28×28; "),
    "huge sides": (images_file(1, pixels=b"")[:8] + b"\xff" * 8, "holds images of 4294967295×4294967295 pixels"),
    "one image less": (images_file(5), "holds 5 images and train-labels-idx1-ubyte 6 labels; "),
    "packed, cut off": (cut(images_file(pixels=NOISE), 2000), "is cut off: its header promises 6 images and 3 are"),
    "packed, no end": (cut(images_file(), 3), "is damaged: "),
    "packed, within its header": (gzip.compress(images_file())[:5], "is empty or cut off within its header; "),
    "packed, wrong checksum": (flipped(images_file(), -5), "is damaged: "),
    "packed, damaged": (flipped(images_file(), 10), "is damaged: "),
    "packed text": (gzip.compress(b"<!DOCTYPE html>"), "is no IDX file of images; "),
    "packed nothing": (gzip.compress(b""), "is empty or cut off within its header; "),
    "packed, more": (gzip.compress(images_file(claim=2)), "holds more than the 2 images"),
    "packed twice": (gzip.compress(gzip.compress(images_file())), "is no IDX file of images; "),
}
BAD_LABELS = {
    "out of range": (labels_file((0, 1, 2, 3, 4, 10)), "holds the label 10, and there are only 0 to 9; "),
    "images": (images_file(), "is no IDX file of labels; "),
    "cut off": (labels_file()[:-2], "is cut off: its header promises 6 labels and 4 are there; "),
    "too many": (labels_file(claim=5), "holds more than the 5 labels that its header promises; "),
    "huge claim": (labels_file(claim=2**31), "promises 2147483648 labels"),
    "packed, no end": (cut(labels_file(), 8), "is damaged: "),
}


@pytest.mark.parametrize(
    "stem, case", [(TRAIN_IMAGES, c) for c in BAD_IMAGES] + [(TRAIN_LABELS, c) for c in BAD_LABELS]
)
def test_damaged_files(stem, case, data):
    content, rest = (BAD_IMAGES if stem == TRAIN_IMAGES else BAD_LABELS)[case]
    place(data / "MNIST", small_set() | {stem: content})
    assert MNIST.missing() == "", "only reading finds out"
    line = sentence(lambda: MNIST.load("train"))
    assert line.startswith(f"{stem} {rest}") and "; " in line
    assert len(MNIST.load("test").labels) == 3, "the other split is whole"


def test_other_counts_of_labels_than_images(data):
    place(data / "MNIST", small_set() | {TRAIN_LABELS: labels_file((1, 2))})
    assert sentence(lambda: MNIST.load("train")).startswith(
        f"{TRAIN_IMAGES} holds 6 images and {TRAIN_LABELS} 2 labels"
    )


def test_a_bomb_is_unpacked_only_as_far_as_its_header_goes(data):
    """A quarter of a gigabyte of zeros behind a header of two images."""
    content = images_file(2, pixels=b"")
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = bytes(16 << 20)
    bomb = packer.compress(content) + b"".join(packer.compress(zeros) for _ in range(16)) + packer.flush()
    place(data / "MNIST", small_set() | {TRAIN_IMAGES: bomb})
    tracemalloc.start()
    try:
        assert "holds more than the 2 images" in sentence(lambda: MNIST.load("train"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_claim_alone_takes_no_memory(data):
    """A million images are claimed, none is there."""
    place(data / "MNIST", small_set() | {TRAIN_IMAGES: images_file(1, claim=1_000_000)})
    tracemalloc.start()
    try:
        assert "promises 1000000 images and 1 are there" in sentence(lambda: MNIST.load("train"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.booleans(), st.sampled_from(FILES[:2]))
def test_any_damage_is_loaded_or_told(data, draw, packed, stem):
    """Some bytes changed and the end cut off: images of the right shape, or one sentence."""
    _loaded.cache_clear()
    content = bytearray(gzip.compress(small_set()[stem]) if packed else small_set()[stem])
    for _ in range(draw.draw(st.integers(0, 3))):
        content[draw.draw(st.integers(0, min(40, len(content) - 1)))] = draw.draw(st.integers(0, 255))
    place(data / "MNIST", small_set() | {stem: bytes(content[: draw.draw(st.integers(0, len(content)))])})
    try:
        found = MNIST.load("train")
    except DataError as error:
        assert (
            str(error).startswith(("train-images-idx3-ubyte", "train-labels-idx1-ubyte")) and str(error).isprintable()
        )
    else:
        assert found.pixels.shape == (6, 1, 28, 28) and found.labels.shape == (6,) and found.labels.max() < 10
