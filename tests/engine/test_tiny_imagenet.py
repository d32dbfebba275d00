"""Tiny-ImageNet: the real images of 20 classes, and small trees in the official layout written here."""

import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.datasets import decoded, image_archive
from engine.datasets.base import DataError
from engine.datasets.image_folder import discover
from engine.datasets.tiny_imagenet import FOLDER, TINY_IMAGENET, _archive_facts, entry

WORDS = "n01\tgoldfish, Carassius auratus\nn02\tcrane\nn03\tcrane\nn04\tnot here, left out\n"
WNIDS = "n03\nn01\nn02\n"  # in another order than by name
ANNOTATIONS = [("val_1.JPEG", "n01"), ("val_10.JPEG", "n02"), ("val_2.JPEG", "n03"), ("val_0.JPEG", "n01")]


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder; every change of a file is noticed at once."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(decoded, "REST", 0)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def picture(seed: int) -> bytes:
    """A JPEG of one colour each."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), tuple(seed * step % 256 for step in (5, 83, 171))).save(file, "jpeg", quality=95)
    return file.getvalue()


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).transpose(2, 0, 1)


def small(extra: tuple[str, ...] = ()) -> dict[str, bytes]:
    """The files of a Tiny-ImageNet of three classes with two training images each, by path."""
    lines = "".join(f"{image}\t{wnid}\t0\t0\t62\t62\n" for image, wnid in ANNOTATIONS)
    found = {"words.txt": WORDS.encode(), "val/val_annotations.txt": lines.encode()}
    names = [f"train/{wnid}/images/{wnid}_{number}.JPEG" for wnid in ("n01", "n02", "n03") for number in (10, 9)]
    names += [f"val/images/{image}" for image, _wnid in ANNOTATIONS] + ["val/images/val_3.JPEG"]
    names += ["test/images/test_0.JPEG", "train/n04/images/n04_0.JPEG", *extra]
    found |= {name: picture(number) for number, name in enumerate(names)}
    found["train/n01/n01_boxes.txt"] = b"n01_9.JPEG\t0\t0\t1\t1\n"
    return found | {"wnids.txt": WNIDS.encode()}


def write(root, files) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def write_archive(path, files, top=f"{FOLDER}/") -> None:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as file:
            for name, content in files.items():
                file.writestr(top + name, content)
        return
    with tarfile.open(path, f"w:{path.suffix[1:]}") as file:
        for name, content in files.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))


def expect_small(found) -> None:
    """Both splits of `small`, sample by sample."""
    files = small()
    assert found.classes == ("crane (n03)", "goldfish", "crane (n02)") and found.shape == (3, 64, 64)
    train, test = found.load("train"), found.load("test")
    order = [f"train/{wnid}/images/{wnid}_{number}.JPEG" for number in (9, 10) for wnid in ("n03", "n01", "n02")]
    assert train.labels.tolist() == [0, 1, 2] * 2 and test.labels.tolist() == [1, 2, 0, 1]
    for images, names in ((train, order), (test, [f"val/images/{image}" for image, _wnid in ANNOTATIONS])):
        assert images.pixels.dtype == torch.uint8 and images.pixels.shape == (len(names), 3, 64, 64)
        np.testing.assert_array_equal(images.pixels.numpy(), [pixels(files[name]) for name in names])


@pytest.mark.parametrize("place", [FOLDER, f"tiny-imagenet/{FOLDER}", "tiny-imagenet"])
def test_unpacked(data, place):
    write(data / place, small())
    expect_small(entry(data))
    assert entry(data) is entry(data) and discover(data) == []


@pytest.mark.parametrize("name", [f"{FOLDER}.zip", "tiny-imagenet-3.tar.xz", "tiny-imagenet.tar.gz"])
@pytest.mark.parametrize("place, top", [("", f"{FOLDER}/"), ("tiny-imagenet", f"./{FOLDER}/"), ("", "")])
def test_packed(data, name, place, top):
    (data / place).mkdir(exist_ok=True)
    write_archive(data / place / name, small(), top)
    expect_small(entry(data))
    assert entry(data) is entry(data) and discover(data) == []


def test_unpacked_before_packed_and_the_official_archive_first(data):
    write_archive(data / "tiny-imagenet-0.tar.gz", {})
    write_archive(data / f"{FOLDER}.zip", small())
    expect_small(entry(data))
    write(data / FOLDER, small() | {"wnids.txt": b"n01 n02 n03"})
    assert entry(data).classes[0] == "goldfish"


def test_nothing_there(data):
    assert entry(data) is TINY_IMAGENET and len(TINY_IMAGENET.classes) == 200
    assert "holds no Tiny-ImageNet; put tiny-imagenet-200.zip there" in TINY_IMAGENET.missing()


@pytest.mark.parametrize("name", ["/tmp/" + "x" * 300, "/tmp/" + "x/" * 3000], ids=["name", "path"])
def test_a_data_folder_that_cannot_be_looked_into_is_told(monkeypatch, name):
    monkeypatch.setenv("BNTT_DATA", name)
    assert entry(Path(name)) is TINY_IMAGENET
    sentence = f"{Path(name)} cannot be looked into (File name too long); choose another data folder"
    assert TINY_IMAGENET.missing() == sentence


def test_archive_is_looked_through_once(data, monkeypatch):
    """Not again by the next process either, nor when it is a damaged one."""
    write_archive(data / f"{FOLDER}.zip", small())
    first = entry(data)
    _archive_facts.cache_clear()
    monkeypatch.setattr(image_archive, "members", None)
    assert entry(data) is first and not first.missing()


def test_damaged_archive_is_looked_through_once(data, monkeypatch):
    (data / f"{FOLDER}.zip").write_bytes(b"cut off")
    assert entry(data) is TINY_IMAGENET
    monkeypatch.setattr(image_archive, "members", None)
    assert TINY_IMAGENET.missing().startswith(f"{FOLDER}.zip is cut off or damaged")


def test_words_are_not_needed(data):
    files = small()
    del files["words.txt"]
    write(data / FOLDER, files)
    assert entry(data).classes == ("n03", "n01", "n02") and len(entry(data).load("test").labels) == 4


def without(name: str):
    return lambda files: files.pop(name)


def with_text(name: str, text: str):
    return lambda files: files.update({name: text.encode()})


@pytest.mark.parametrize(
    "change, sentence",
    [
        (without("wnids.txt"), "lacks wnids.txt; unpack"),
        (with_text("wnids.txt", "n01\nn01\n"), "/wnids.txt does not name two classes or more, each once"),
        (with_text("wnids.txt", "n01\nn05\n"), "/train/n05/images holds no image"),
        (without("val/val_annotations.txt"), "lacks val/val_annotations.txt"),
        (with_text("val/val_annotations.txt", ""), "/val/val_annotations.txt names no image"),
        (
            with_text("val/val_annotations.txt", "val_1.JPEG\tn09\t0"),
            "/val/val_annotations.txt names in line 1 the class",
        ),
        (with_text("val/val_annotations.txt", "val_1.JPEG"), "/val/val_annotations.txt names in line 1 the class"),
        (with_text("val/val_annotations.txt", "val_9.JPEG\tn01"), "/val/.* names in line 1 the image .* is not there"),
        (with_text("val/val_annotations.txt", "val_1.JPEG\tn01\n" * 2), "/val/.* names in line 2 the image .* twice"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_missing_pieces_are_told(data, change, sentence, packed):
    files = small()
    change(files)
    if packed:
        write_archive(data / f"{FOLDER}.zip", files)
    else:
        write(data / FOLDER, files)
    title = f"{FOLDER}.zip" if packed else FOLDER
    assert re.search(f"{title} ?{sentence}", entry(data).missing())


def test_damaged_image_is_named(data):
    write(data / FOLDER, small() | {"val/images/val_2.JPEG": picture(1)[:-30]})
    found = entry(data)
    assert len(found.load("train").labels) == 6, "the other split can be read"
    with pytest.raises(DataError, match=rf"^{FOLDER}/val/images/val_2\.JPEG is no readable image \(truncated\)"):
        found.load("test")


def test_changes_are_noticed(data):
    write(data / FOLDER, small())
    before = entry(data)
    old = before.load("test")
    (data / FOLDER / "val/images/val_1.JPEG").write_bytes(picture(50))
    assert entry(data) is before
    np.testing.assert_array_equal(before.load("test").pixels[0].numpy(), pixels(picture(50)))
    write(data / FOLDER, {"wnids.txt": b"n01\nn02\nn03\n"})
    assert entry(data).classes[0] == "goldfish" and entry(data).load("test").labels.tolist() == [0, 1, 2, 0]
    assert old.labels.tolist() == [1, 2, 0, 1]
    shutil.rmtree(data / FOLDER / "val/images")
    assert "names in line 1 the image" in entry(data).missing()


# ------------------------------------------------------------------------------------------------- real images


@pytest.fixture(scope="module")
def real(shared, tmp_path_factory):
    """A data folder with the real images of 20 classes, packed, and its entry."""
    root = tmp_path_factory.mktemp("real")
    (root / "tiny-imagenet-20.tar.xz").symlink_to(shared / "data/tiny-imagenet-20.tar.xz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNTT_DATA", str(root))
        yield root, entry(root)


def test_real_images(real):
    root, found = real
    assert len(found.classes) == 20 and found.classes[0] == "goldfish"
    train, test = found.load("train"), found.load("test")
    assert train.pixels.shape == (10_000, 3, 64, 64) and test.pixels.shape == (1_000, 3, 64, 64)
    assert torch.bincount(train.labels).tolist() == [500] * 20 and torch.bincount(test.labels).tolist() == [50] * 20
    assert train.labels.tolist() == list(range(20)) * 500
    assert 90 < float(train.pixels[:1000].float().mean()) < 140


def test_real_images_against_a_read_of_their_own(real):
    """The first and last validation images, and one of training: n01443537_7.JPEG is the eighth of the first class."""
    root, found = real
    train, test = found.load("train"), found.load("test")
    wanted = {"train/n01443537/images/n01443537_7.JPEG": train.pixels[7 * 20]}
    wanted |= {"val/images/val_1.JPEG": test.pixels[0], "wnids.txt": None, "val/val_annotations.txt": None}
    with tarfile.open(root / "tiny-imagenet-20.tar.xz") as file:
        contents = {
            info.name.removeprefix(f"{FOLDER}/"): file.extractfile(info).read()
            for info in file
            if info.name.removeprefix(f"{FOLDER}/") in wanted
        }
    wnids = contents.pop("wnids.txt").decode().split()
    rows = [line.split("\t")[:2] for line in contents.pop("val/val_annotations.txt").decode().splitlines()]
    assert test.labels.tolist() == [wnids.index(wnid) for _image, wnid in rows]
    for name, content in contents.items():
        np.testing.assert_array_equal(wanted[name].numpy(), pixels(content))


MEASURE = """
import resource, sys
import torch
from pathlib import Path
from engine.datasets.base import folder
from engine.datasets.tiny_imagenet import entry
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
images = entry(folder()).load("train")
built = peak()
total = sum(int(part.sum()) for part in images.pixels.split(1000))
print(before, built, peak(), len(images.labels), total)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="measures memory as Linux counts it")
def test_memory_does_not_grow_with_the_data_set(data):
    """20,000 images have 246 MB of pixels: decoding adds little, and reading at most the pages of the map itself."""
    rng = np.random.default_rng(0)
    contents = []
    for _ in range(50):
        file = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "jpeg")
        contents.append(file.getvalue())
    names = [f"train/{wnid}/images/{wnid}_{number}.JPEG" for wnid in ("n01", "n02") for number in range(10_000)]
    lists = {"wnids.txt": b"n01\nn02\n", "val/val_annotations.txt": b"val_0.JPEG\tn01\n"}
    write(data / FOLDER, lists | {name: contents[i % 50] for i, name in enumerate((*names, "val/images/val_0.JPEG"))})
    done = subprocess.run(
        [sys.executable, "-c", MEASURE],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        check=True,
    )
    before, built, read, count, total = map(int, done.stdout.split())
    assert count == 20_000 and total > 0
    assert built - before < 150 and read - before < 150 + 246
