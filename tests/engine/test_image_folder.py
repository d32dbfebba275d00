"""Folders and archives of images: layouts, formats, damage, and what is kept once decoded; all files written here.

Expected pixels come from the arrays that were written, by numpy, or from an independent read with Pillow.
"""

import errno
import io
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
import zlib

import numpy as np
import psutil
import pytest
import torch
from filelock import FileLock
from PIL import Image

from engine.datasets import archived_folder, decoded, image_archive, image_folder
from engine.datasets.base import DataError
from engine.datasets.image_folder import discover, from_path

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")
SIDE = 16


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """An empty data folder; every change of a file is noticed at once."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(decoded, "REST", 0)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape or (SIDE, SIDE, 3), dtype=np.uint8)


def save(path, image, **options) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(path, **options)


def write_tree(root, places, count=3) -> dict[str, np.ndarray]:
    """`count` pictures in each place, as PNG; the pixels written, by path."""
    written = {}
    for place in places:
        for number in range(1, count + 1):
            path = f"{place}/img{number}.png"
            written[path] = noise(len(written))
            save(root / path, written[path])
    return written


def pack(root, archive, top="") -> None:
    """Pack a folder as the ending of `archive` says, in an order of its own."""
    paths = sorted((path for path in root.rglob("*") if path.is_file()), key=lambda path: zlib.crc32(bytes(path)))
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
            for path in paths:
                file.write(path, f"{top}{path.relative_to(root).as_posix()}")
        return
    kind = {".gz": "gz", ".tgz": "gz", ".xz": "xz", ".bz2": "bz2"}.get(archive.suffix, "")
    with tarfile.open(archive, f"w:{kind}") as file:
        for path in paths:
            file.add(path, f"{top}{path.relative_to(root).as_posix()}")


def planes(image: np.ndarray) -> np.ndarray:
    return image.transpose(2, 0, 1)


def expect(images, written, paths, labels) -> None:
    """The samples are these pictures in this order."""
    assert images.labels.dtype == torch.int64 and images.labels.tolist() == list(labels)
    assert images.pixels.dtype == torch.uint8 and len(images.pixels) == len(paths)
    for pixels, path in zip(images.pixels.numpy(), paths, strict=True):
        np.testing.assert_array_equal(pixels, planes(written[path]), err_msg=path)


def kept(data) -> list[str]:
    """What lies in the folder of decoded images, locks aside."""
    return sorted(path.name for path in (data / ".decoded").glob("*") if path.suffix != ".lock")


# ------------------------------------------------------------------------------------------------- layouts


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
def test_train_and_test_folders(data, test):
    written = write_tree(data / "Pets", ["train/dog", "train/cat", f"{test}/cat", f"{test}/dog"])
    for ignored in ("train/cat/.img0.png", "train/.thumbs/img1.png", ".extra/img1.png"):
        save(data / "Pets" / ignored, noise(99))
    (data / "Pets/train/cat/notes.txt").write_text("no image")
    entry = from_path(data / "Pets")
    assert (entry.name, entry.title, entry.classes, entry.shape) == ("pets", "Pets", ("cat", "dog"), (3, SIDE, SIDE))
    for split, place in (("train", "train"), ("test", test)):
        paths = [f"{place}/{name}/img{number}.png" for number in (1, 2, 3) for name in ("cat", "dog")]
        expect(entry.load(split), written, paths, [0, 1] * 3)


def test_test_folders_have_an_order(data):
    """test comes before val; what is in val is left alone."""
    written = write_tree(data / "pets", ["train/a", "train/b", "val/a", "val/b", "test/a"], 2)
    expect(from_path(data / "pets").load("test"), written, ["test/a/img1.png", "test/a/img2.png"], [0, 0])


def test_classes_alone_hold_out_every_fifth(data):
    """In natural order: img5 and img10 of the first class, img5 of the second, which is shorter."""
    written = write_tree(data / "pets", ["a"], 11) | write_tree(data / "pets", ["train"], 6)
    entry = from_path(data / "pets")
    assert entry.classes == ("a", "train") and "every 5th image" in entry.about
    expect(entry.load("test"), written, ["a/img5.png", "train/img5.png", "a/img10.png"], [0, 1, 0])
    rest = ["a/img1.png", "train/img1.png", "a/img2.png", "train/img2.png", "a/img3.png", "train/img3.png"]
    rest += ["a/img4.png", "train/img4.png", "a/img6.png", "train/img6.png"]
    rest += [f"a/img{number}.png" for number in (7, 8, 9, 11)]
    expect(entry.load("train"), written, rest, [0, 1] * 5 + [0] * 4)


def test_training_folder_alone_holds_out_too(data):
    written = write_tree(data / "pets", ["train/a", "train/b"], 5)
    entry = from_path(data / "pets")
    assert entry.classes == ("a", "b")
    expect(entry.load("test"), written, ["train/a/img5.png", "train/b/img5.png"], [0, 1])


def test_natural_order():
    names = ["img10.png", "img2.png", "IMG1.png", "img02.png", "img.png", "2.png", "10.png", "img" + "9" * 5000]
    order = ["2.png", "10.png", "IMG1.png", "img02.png", "img2.png", "img10.png", "img" + "9" * 5000, "img.png"]
    assert sorted(names, key=image_archive.natural) == order


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("layout, top", [("split", ""), ("split", "Pets 2/"), ("flat", "./"), ("flat", "Pets 2/")])
def test_archives_hold_what_the_folder_holds(data, tmp_path, kind, layout, top):
    places = ["train/dog", "train/cat", "val/cat"] if layout == "split" else ["dog", "cat"]
    write_tree(tmp_path / "tree", places, 11)
    pack(tmp_path / "tree", data / f"my pets!{kind}", top)
    found, expected = from_path(data / f"my pets!{kind}"), from_path(tmp_path / "tree")
    assert (found.name, found.title) == ("my-pets-", "my pets!")
    assert (found.classes, found.shape, found.arch) == (("cat", "dog"), (3, SIDE, SIDE), expected.arch)
    for split in ("train", "test"):
        for one, other in zip(found.load(split), expected.load(split), strict=True):
            assert torch.equal(one, other)


def test_archive_is_read_once_for_both_splits(data, tmp_path, monkeypatch):
    write_tree(tmp_path / "tree", ["train/a", "train/b", "test/a"])
    pack(tmp_path / "tree", data / "pets.tar.gz")
    entry = from_path(data / "pets.tar.gz")
    entry.load("train")
    monkeypatch.setattr(image_archive, "members", None)
    assert len(entry.load("test").labels) == 3


def test_links_and_names_that_lead_out_of_a_tar_are_passed_by(data):
    picture = io.BytesIO()
    Image.fromarray(noise(0)).save(picture, "png")
    with tarfile.open(data / "pets.tar", "w") as file:
        for name in ("a/1.png", "b/1.png", "a/2.png", "/c/1.png", "../d/1.png", "a/../e/1.png", "__MACOSX/a/1.png"):
            info = tarfile.TarInfo(name)
            info.size = len(picture.getvalue())
            file.addfile(info, io.BytesIO(picture.getvalue()))
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)):
            info = tarfile.TarInfo(f"a/link{number}.png")
            info.type, info.linkname = kind, "/etc/passwd"
            file.addfile(info)
    names = [member.name for member in image_archive.members(data / "pets.tar")]
    assert names == ["a/1.png", "b/1.png", "a/2.png", "__MACOSX/a/1.png"]
    with pytest.raises(DataError, match="no image for testing"):
        from_path(data / "pets.tar")


def test_links_in_a_zip_are_passed_by(data):
    with zipfile.ZipFile(data / "pets.zip", "w") as file:
        link = zipfile.ZipInfo("a/link.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, "/etc/passwd")
        for name in ("a/1.png", "../b/1.png", "/c/1.png"):
            file.writestr(name, b"")
    assert [member.name for member in image_archive.members(data / "pets.zip")] == ["a/1.png"]


def test_unbalanced_classes_alternate_as_long_as_they_can():
    groups = (["a1", "a2", "a3"], ["b1"], [], ["d1", "d2"])
    assert image_archive.interleaved(groups) == [("a1", 0), ("b1", 1), ("d1", 3), ("a2", 0), ("d2", 3), ("a3", 0)]


# ------------------------------------------------------------------------------------------------- the entry


@pytest.mark.parametrize(
    "sizes, mode, shape",
    [
        ([(24, 24)], "RGB", (3, 24, 24)),
        ([(224, 224)], "RGB", (3, 224, 224)),
        ([(32, 32)], "L", (1, 32, 32)),
        ([(225, 225)], "RGB", (3, 64, 64)),
        ([(4, 4)], "RGB", (3, 64, 64)),
        ([(24, 24), (25, 25)], "RGB", (3, 64, 64)),
        ([(24, 20)], "L", (1, 64, 64)),
    ],
)
def test_shape_follows_the_images(data, sizes, mode, shape):
    for number in range(5):
        for place in ("a", "b"):
            save(data / f"pets/{place}/{number}.png", Image.new(mode, sizes[number % len(sizes)]))
    entry = from_path(data / "pets")
    assert entry.shape == shape and len(entry.mean) == len(entry.std) == shape[0]
    assert entry.load("train").pixels.shape == (8, *shape)
    assert entry.arch == ("vgg9" if shape[1] >= 32 else "vgg-small") and entry.pad == shape[1] // 8
    assert hash(entry) == hash(from_path(data / "pets"))


def test_one_coloured_image_makes_all_coloured(data):
    write_tree(data / "pets", ["a"], 5)
    for number in range(5):
        save(data / f"pets/b/{number}.png", noise(number, SIDE, SIDE))
    images = from_path(data / "pets").load("train")
    assert images.pixels.shape[1:] == (3, SIDE, SIDE)
    np.testing.assert_array_equal(images.pixels[1].numpy(), [noise(0, SIDE, SIDE)] * 3)


def test_discover_finds_folders_and_archives(data, tmp_path):
    write_tree(data / "pets", ["a", "b"], 5)
    write_tree(data / "Big cats", ["train/a", "train/b", "val/b"])
    write_tree(data / "skipped", ["a", "b"], 5)
    write_tree(data / "one", ["a"], 5)
    write_tree(data / "listed", ["train/images", "train/labels"], 5)
    shutil.rmtree(data / "listed/train/labels")
    (data / "listed/train/labels").mkdir()
    (data / "cifar-10-batches-py").mkdir()
    pack(data / "pets", data / "pets.zip")
    pack(data / "pets", data / "other.tar.xz", "top/")
    pack(data / "pets", data / "skipped-too.tar.gz")
    found = discover(data, skip=("skipped", "skipped-too"))
    assert [entry.name for entry in found] == ["big-cats", "pets", "other"]
    assert [len(entry.load("test").labels) for entry in found] == [3, 2, 2]
    again = discover(data, skip={"skipped", "skipped-too"})
    assert all(one is other for one, other in zip(found, again, strict=True))
    assert from_path(data / "pets") is found[1] and from_path(data / "other.tar.xz") is found[2]
    assert discover(tmp_path / "nowhere") == []


def test_discover_passes_by_archives_of_other_things(data):
    with zipfile.ZipFile(data / "program.zip", "w") as file:
        for number in range(9):
            file.writestr(f"program/source{number}.py", "")
            file.writestr(f"program/icons{number % 2}/{number}.png", "")
    with tarfile.open(data / "tiny-imagenet-200.tar", "w") as file:
        for place in ("train/n1/images/1.JPEG", "train/n2/images/1.JPEG", "test/images/1.JPEG", "val/images/1.JPEG"):
            file.addfile(tarfile.TarInfo(f"tiny-imagenet-200/{place}"))
    assert discover(data) == []


def test_discover_gives_a_new_entry_when_classes_come(data):
    write_tree(data / "pets", ["a", "b"], 5)
    (old,) = discover(data)
    write_tree(data / "pets", ["c"], 5)
    (new,) = discover(data)
    assert (old.classes, new.classes) == (("a", "b"), ("a", "b", "c"))
    assert "other classes" in old.missing() and not new.missing()
    shutil.rmtree(data / "pets")
    assert discover(data) == [] and "pets" in new.missing()


def test_discover_says_what_is_wrong_when_asked(data):
    write_tree(data / "pets", ["a", "b"], 5)
    pack(data / "pets", data / "cut.tar")
    content = (data / "cut.tar").read_bytes()
    (data / "cut.tar").write_bytes(content[: len(content) // 2 // 512 * 512 + 100])
    (data / "pets/c").mkdir()
    pets, cut = discover(data)
    assert "no image of the class c" in pets.missing()
    assert cut.missing().startswith("cut.tar is cut off or damaged") and cut.classes == ()


@pytest.mark.parametrize("kind", ARCHIVES)
@pytest.mark.parametrize("share", [0, 0.5, 0.95])
def test_discover_says_which_archives_are_cut_off(data, tmp_path, kind, share):
    """A .zip tells nothing without its end, and the others nothing before their beginning."""
    write_tree(tmp_path / "tree", ["a", "b"], 6)
    pack(tmp_path / "tree", data / f"cut{kind}")
    content = (data / f"cut{kind}").read_bytes().rstrip(b"\0")
    (data / f"cut{kind}").write_bytes(content[: int(len(content) * share)])
    (entry,) = discover(data)
    assert entry.name == "cut" and entry.classes == ()
    assert re.fullmatch(rf"cut{kind} is cut off or damaged \(.*\); pack or download it again", entry.missing())


def test_discover_says_which_archives_are_something_else(data):
    (data / "notes.zip").write_bytes(b"no archive")
    (entry,) = discover(data)
    assert entry.missing().startswith("notes.zip is cut off or damaged (File is not a zip file);")


def test_discover_does_not_look_through_large_archives_unasked(data, monkeypatch):
    write_tree(data / "pets", ["a", "b"], 5)
    pack(data / "pets", data / "large.tar.xz")
    shutil.rmtree(data / "pets")
    monkeypatch.setattr(archived_folder, "LISTED", 1)
    (entry,) = discover(data)
    assert "unpack it" in entry.missing()
    asked = from_path(data / "large.tar.xz")
    assert discover(data) == [asked] and not asked.missing()


def test_archive_is_not_looked_through_again_by_the_next_process(data, monkeypatch):
    write_tree(data / "pets", ["a", "b"], 5)
    pack(data / "pets", data / "packed.tar.xz")
    before = from_path(data / "packed.tar.xz")
    archived_folder.entry.cache_clear()
    monkeypatch.setattr(archived_folder, "_scan", None)
    after = from_path(data / "packed.tar.xz")
    assert after is not before and (after.classes, after.shape) == (before.classes, before.shape)


# ------------------------------------------------------------------------------------------------- pixels


def only(data, suffix: str, image, shape=(3, SIDE, SIDE), **options) -> np.ndarray:
    """The pixels that one image ends up as."""
    save(data / f"one{suffix}", image, **options)
    return image_archive.decode((data / f"one{suffix}").read_bytes(), shape, "one")


@pytest.mark.parametrize(
    "suffix, options", [(".png", {}), (".bmp", {}), (".webp", {"lossless": True}), (".jpg", {}), (".gif", {})]
)
def test_formats(data, suffix, options):
    found = only(data, suffix, noise(1), **options)
    expected = np.asarray(Image.open(data / f"one{suffix}").convert("RGB"))
    np.testing.assert_array_equal(found, planes(expected))
    if suffix in (".png", ".bmp", ".webp"):
        np.testing.assert_array_equal(found, planes(noise(1)))


def test_rare_formats_are_not_even_tried(data):
    with pytest.raises(DataError, match="one is no readable image .not PNG, JPEG, BMP, GIF or WEBP.; replace"):
        only(data, ".tiff", noise(1))


def test_modes(data):
    """Against numpy; 16 bits lose their lower half, transparency lies over black."""
    grey, colour, alpha = noise(1, SIDE, SIDE), noise(2), noise(3, SIDE, SIDE)
    deep = np.random.default_rng(4).integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
    over = (colour * (alpha[..., None] / 255.0)).round()
    palette = Image.fromarray(colour).quantize(16)
    faint = Image.fromarray(grey).convert("P")
    faint.info["transparency"] = 0
    seen = np.where(np.asarray(faint)[..., None] == 0, 0, np.asarray(faint.convert("RGB")))
    for image, expected, slack in (
        (grey, np.stack([grey] * 3, -1), 0),
        (deep, np.stack([deep >> 8] * 3, -1), 0),
        (np.dstack([colour, alpha]), over, 1),
        (Image.merge("LA", [Image.fromarray(part) for part in (grey, alpha)]), (grey * (alpha / 255.0))[..., None], 1),
        (palette, np.asarray(palette.convert("RGB")), 0),
        (faint, seen, 0),
        (Image.fromarray(grey > 99), (grey > 99)[..., None] * 255.0, 0),
    ):
        found = only(data, ".png", image).transpose(1, 2, 0).astype(float)
        assert np.abs(found - expected).max() <= slack
    found = only(data, ".png", colour, (1, SIDE, SIDE))[0]
    assert np.abs(found - colour @ [0.299, 0.587, 0.114]).max() <= 1


def test_cmyk_jpeg(data):
    ink = np.full((SIDE, SIDE, 4), (10, 200, 60, 40), np.uint8)
    found = only(data, ".jpg", Image.fromarray(ink, "CMYK"), quality=100)[:, 0, 0].astype(float)
    assert np.abs(found - [(255 - c) * (255 - 40) / 255 for c in (10, 200, 60)]).max() <= 3


def test_rotation_noted_in_the_file_is_not_applied(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(only(data, ".png", noise(1), exif=exif), planes(noise(1)))


def test_first_frame_of_a_moving_image_counts(data):
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in ("red", "lime")]
    found = only(data, ".gif", frames[0], save_all=True, append_images=frames[1:])
    assert (found == np.array([255, 0, 0])[:, None, None]).all()


@pytest.mark.parametrize("size", [(96, 64), (64, 96), (65, 64)])
def test_the_square_in_the_centre_is_kept(data, size):
    """A blue square between red borders."""
    image = Image.new("RGB", size, "red")
    left, top = ((extent - 64) // 2 for extent in size)
    image.paste("blue", (left, top, left + 64, top + 64))
    assert (only(data, ".png", image) == np.array([0, 0, 255])[:, None, None]).all()


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_shrinking_averages(data, suffix):
    """A fine checkerboard becomes grey, not one of its colours; of a JPEG even when it is decoded at an eighth."""
    board = (np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)
    found = only(data, suffix, board, (1, SIDE, SIDE), **({"quality": 95} if suffix == ".jpg" else {}))
    assert np.abs(found.astype(float) - 127.5).max() <= 2


def test_large_photographs_keep_their_content(data):
    """Four quarters of different colours, decoded at a part of the size."""
    image = Image.new("RGB", (600, 400))
    for number, colour in enumerate(("red", "lime", "blue", "white")):
        left, top = 100 + number % 2 * 200, number // 2 * 200
        image.paste(colour, (left, top, left + 200, top + 200))
    found = only(data, ".jpg", image, quality=95).astype(float)
    for (row, column), colour in {(3, 3): (255, 0, 0), (3, 12): (0, 255, 0), (12, 3): (0, 0, 255)}.items():
        assert np.abs(found[:, row, column] - colour).max() <= 8


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(noise(1)).save(file, kind)
    return file.getvalue()


CUT = "truncated|damaged|not .* WEBP"  # as the parsers tell it
DAMAGED = {
    "jpeg": (encoded("JPEG")[:-50], "truncated"),
    "png": (encoded("PNG")[:-200], "truncated"),
    "png in its header": (encoded("PNG")[:20], CUT),
    "bmp": (encoded("BMP")[:-50], "truncated"),
    "gif": (encoded("GIF")[:-50], CUT),
    "gif in its header": (b"GIF89a", CUT),
    "webp": (encoded("WEBP")[:-50], CUT),
    "bits": (encoded("PNG")[:60] + bytes(100) + encoded("PNG")[160:], "truncated|damaged"),
    "nothing": (b"", "empty"),
    "page": (b"<html>not found</html>", "not PNG, JPEG, BMP, GIF or WEBP"),
    "bomb": (png_claiming(60000, 60000), "more than 4096×4096 pixels"),
    "long": (png_claiming(4097, 1), "more than 4096×4096 pixels"),
    "flat": (png_claiming(0, 5), CUT),
}


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_damaged_images_are_named(data, kind, packed):
    content, reason = DAMAGED[kind]
    write_tree(data / "pets", ["train/cat", "train/dog", "test/cat"])
    (data / "pets/train/cat/0007.jpg").write_bytes(content)
    if packed:
        pack(data / "pets", data / "pets.tar.gz")
    path = data / ("pets.tar.gz" if packed else "pets")
    with pytest.raises(DataError) as caught:
        from_path(path).load("train")
    sentence = rf"{path.name}/train/cat/0007\.jpg is no readable image \(({reason})\); replace or delete it"
    assert re.fullmatch(sentence, str(caught.value))
    assert not [name for name in kept(data) if not name.endswith(".json")], "nothing half done"


# ------------------------------------------------------------------------------------------------- what is wrong


def test_layouts_that_are_none_are_told(data):
    write_tree(data / "pets", ["a"], 5)
    (data / "pets.txt").write_text("")
    for path, words in (
        (data / "pets", "pets holds no images in folders by class"),
        (data / "nowhere", "nowhere is neither a folder nor an archive"),
        (data / "pets.txt", "pets.txt is neither a folder nor an archive"),
        (data / "nowhere.zip", "nowhere.zip is neither a folder nor an archive"),
    ):
        with pytest.raises(DataError, match=words):
            from_path(path)


def test_classes_without_images_are_told(data):
    write_tree(data / "pets", ["train/a", "train/b", "test/b"])
    (data / "pets/train/c").mkdir()
    (data / "pets/train/c/notes.txt").write_text("")
    with pytest.raises(DataError, match="^pets holds no image of the class c; add some or delete its folder$"):
        from_path(data / "pets")


@pytest.mark.parametrize("kind", ["", ".tar"])
def test_classes_for_testing_alone_are_told(data, kind):
    write_tree(data / "pets", ["train/a", "train/b", "test/c"])
    if kind:
        pack(data / "pets", data / f"pets{kind}")
    with pytest.raises(DataError, match=f"^pets{kind} has the class c for testing alone; add images of it"):
        from_path(data / f"pets{kind}")


@pytest.mark.parametrize("places", [["a", "b"], ["train/a", "train/b", "test/.hidden"]])
def test_nothing_for_testing_is_told(data, places):
    write_tree(data / "pets", places, 4)
    with pytest.raises(DataError, match="^pets holds no image for testing; add some"):
        from_path(data / "pets")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_cut_archives_are_told(data, tmp_path, kind):
    """Wherever they are cut: never fewer images without a word."""
    write_tree(tmp_path / "tree", ["a", "b"], 6)
    pack(tmp_path / "tree", data / f"whole{kind}")
    content = (data / f"whole{kind}").read_bytes().rstrip(b"\0")  # a .tar ends in padding
    for number, share in enumerate((0, 0.01, 0.2, 0.5, 0.7, 0.9)):
        path = data / f"cut{number}{kind}"
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(DataError, match=f"^{path.name} (is cut off or damaged|holds no images)"):
            from_path(path)


def test_damaged_headers_in_a_tar_are_told(data, tmp_path):
    """tarfile itself would take one for the end of the archive."""
    write_tree(tmp_path / "tree", ["a", "b"], 6)
    pack(tmp_path / "tree", data / "pets.tar")
    content = bytearray((data / "pets.tar").read_bytes())
    header = content.index(b"ustar", 3000) - 257
    content[header] ^= 1
    (data / "pets.tar").write_bytes(content)
    with pytest.raises(DataError, match="^pets.tar is cut off or damaged"):
        from_path(data / "pets.tar")


def tar_header(name: bytes, size: bytes, kind: bytes) -> bytes:
    head = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + size.ljust(12, b"\0") + b"00000000000\0"
    tail = kind + bytes(100) + b"ustar\x0000" + bytes(247)
    return head + b"%06o\0 " % (sum(head) + sum(tail) + 8 * 32) + tail


@pytest.mark.parametrize("kind", [b"0", b"x", b"L", b"g"])
@pytest.mark.parametrize("size", [b"\xff" * 11 + b"\0", b"\x80" + b"\0" * 5 + b"\x01" + b"\0" * 5, b"77777777777\0"])
def test_headers_of_impossible_length_are_told(data, kind, size):
    """Sizes below zero, of 1 TiB and of 8 GiB: neither an endless loop nor as much memory."""
    (data / "pets.tar").write_bytes(tar_header(b"a/1.png", size, kind) + bytes(10240))
    with pytest.raises(DataError, match="^pets.tar is cut off or damaged"):
        list(image_archive.members(data / "pets.tar"))


@pytest.mark.parametrize("kind", ["", ".tar.xz", ".zip"])
def test_huge_files_are_told_and_not_read(data, monkeypatch, kind):
    write_tree(data / "pets", ["train/a", "train/b", "test/a"])
    (data / "pets/train/a/img2.png").write_bytes(bytes(100_000))
    if kind:
        pack(data / "pets", data / f"pets{kind}")
    for module in (image_archive, decoded):
        monkeypatch.setattr(module, "LARGEST_FILE", 50_000)
    with pytest.raises(DataError, match=rf"^pets{kind}/train/a/img2\.png is larger than .* MiB"):
        from_path(data / f"pets{kind}").load("train")


def test_archives_of_too_many_members_are_told(data, monkeypatch):
    write_tree(data / "pets", ["a", "b"], 5)
    pack(data / "pets", data / "pets.zip")
    monkeypatch.setattr(image_archive, "MOST_MEMBERS", 9)
    with pytest.raises(DataError, match="^pets.zip has more than 9 members"):
        from_path(data / "pets.zip")


def test_encrypted_archives_are_told(data):
    write_tree(data / "pets", ["a", "b"], 5)
    pack(data / "pets", data / "pets.zip")
    content = bytearray((data / "pets.zip").read_bytes())
    for start in (match.start() for match in re.finditer(b"PK\x01\x02", bytes(content))):
        content[start + 8] |= 1
    for start in (match.start() for match in re.finditer(b"PK\x03\x04", bytes(content))):
        content[start + 6] |= 1
    (data / "pets.zip").write_bytes(content)
    with pytest.raises(DataError, match="^pets.zip is .*encrypted"):
        from_path(data / "pets.zip")


def test_names_that_are_no_text_can_be_shown(data):
    """Linux allows any bytes in a name."""
    try:
        write_tree(data / os.fsdecode(b"p\xe9ts"), [os.fsdecode(b"a\xff"), "b"], 5)
    except OSError:
        pytest.skip("this file system wants Unicode")
    (entry,) = discover(data)
    assert (entry.title, entry.name, entry.classes) == ("p?ts", "p-ts", ("a?", "b"))
    assert len(entry.load("test").labels) == 2


# ------------------------------------------------------------------------------------------------- what is kept


@pytest.fixture
def pets(data):
    """A folder of ten pictures of two classes each, read through its entry."""
    write_tree(data / "pets", ["a", "b"], 10)
    return data / "pets"


def load(path, split="train"):
    """As a process would that has just begun."""
    return (entry := from_path(path)).read(entry.look(None), split, 0, 0)


def test_pixels_are_mapped_and_not_decoded_again(data, pets, monkeypatch):
    first = load(pets)
    monkeypatch.setattr(decoded, "decode", None)
    again = load(pets)
    assert torch.equal(first.pixels, again.pixels) and torch.equal(first.labels, again.labels)
    again.pixels[:] = 0  # by mistake
    assert torch.equal(first.pixels, load(pets).pixels), "the file is not written"
    (name,) = kept(data)
    assert re.fullmatch("pets-[0-9a-f]{24}-train", name)
    assert stat.S_IMODE((data / ".decoded" / name / "labels.npy").stat().st_mode) == 0o644


def test_data_folder_can_be_moved(data, pets, tmp_path, monkeypatch):
    load(pets)
    os.rename(data, tmp_path / "moved")
    monkeypatch.setenv("BNTT_DATA", str(tmp_path / "moved"))
    monkeypatch.setattr(decoded, "decode", None)
    load(tmp_path / "moved/pets")


@pytest.mark.parametrize("change", ["content", "added", "removed", "renamed", "touched"])
def test_changes_are_noticed_and_what_was_kept_is_removed(data, pets, change):
    entry = from_path(pets)
    old, place = entry.load("train"), entry.look(data)
    entry.load("test")
    path = pets / "a/img1.png"
    if change == "content":
        save(path, noise(77))
    elif change == "added":
        save(pets / "a/img0.png", noise(77))
    elif change == "removed":
        path.unlink()
    elif change == "renamed":
        path.rename(pets / "a/img11.png")
    else:
        os.utime(path, ns=(1, 1))
    new = from_path(pets).load("train")
    assert from_path(pets).look(data) != place and new.pixels is not old.pixels
    if change == "content":
        np.testing.assert_array_equal(new.pixels[0].numpy(), planes(noise(77)))
        assert torch.equal(old.pixels[1:], new.pixels[1:])
    (name,) = kept(data)
    assert name.endswith("-train") and place[1] not in name


def test_changed_archives_are_noticed(data, pets):
    pack(pets, data / "packed.zip")
    old = from_path(data / "packed.zip")
    old.load("train")
    save(pets / "a/img1.png", noise(77))
    pack(pets, data / "packed.zip")
    assert old.missing().startswith("packed.zip has changed")
    np.testing.assert_array_equal(from_path(data / "packed.zip").load("train").pixels[0].numpy(), planes(noise(77)))
    assert len(kept(data)) == 3, "facts, train and test of the new one alone"


def test_folders_of_one_name_do_not_remove_each_other(data, tmp_path):
    for number in (1, 2):
        write_tree(tmp_path / f"{number}/pets", ["a", "b"], 5 * number)
        load(tmp_path / f"{number}/pets")
    assert len(kept(data)) == 2


def test_many_files_are_not_looked_at_with_every_click(pets, monkeypatch):
    monkeypatch.setattr(decoded, "REST", 1e9)
    before = from_path(pets)
    monkeypatch.setattr(image_folder, "_listing", None)
    assert from_path(pets) is before


@pytest.mark.parametrize("damage", ["cut", "empty", "no labels", "other shape"])
def test_damaged_results_are_made_again(data, pets, damage):
    first = load(pets)
    (place,) = (data / ".decoded").glob("pets-*")
    if damage == "cut":
        os.truncate(place / "pixels.npy", 1000)
    elif damage == "empty":
        (place / "pixels.npy").write_bytes(b"")
    elif damage == "no labels":
        (place / "labels.npy").unlink()
    else:
        np.save(place / "labels.npy", np.zeros(3, np.int64))
    assert torch.equal(load(pets).labels, first.labels)


class Stopped(BaseException):
    """Like KeyboardInterrupt."""


def stop_at(monkeypatch, number: int) -> None:
    """Decoding ends in the middle."""
    calls = iter(range(number))
    real = decoded.decode

    def decode(*arguments):
        if next(calls, None) is None:
            raise Stopped
        return real(*arguments)

    monkeypatch.setattr(decoded, "decode", decode)


def test_nothing_is_left_when_a_build_is_stopped(data, pets, monkeypatch):
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(Stopped):
            load(pets)
    assert kept(data) == []
    assert len(load(pets).labels) == 16


def test_killed_builds_leave_nothing_that_counts_and_are_cleared_away(data, pets):
    """A process is killed while it decodes; the next build, of whatever, removes what it left."""
    script = (
        "import os, signal, sys; from engine.datasets import decoded; from engine.datasets.image_folder import *\n"
        "decoded.decode = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "from_path(sys.argv[1]).load('train')"
    )
    done = subprocess.run([sys.executable, "-c", script, str(pets)], env={**os.environ, "PYTHONPATH": "."})
    assert done.returncode == -9
    (left,) = kept(data)
    assert left.startswith(".building-pets-")
    write_tree(data / "others", ["a", "b"], 5)
    load(data / "others", "test")
    assert [name.split("-")[0] for name in kept(data)] == ["others"]
    assert len(load(pets).labels) == 16


def test_builds_under_way_are_left_alone(data, pets):
    (data / ".decoded/.building-others-0123abcd/train").mkdir(parents=True)
    with FileLock(data / ".decoded/.building-others-0123abcd.lock"):
        load(pets)
    assert ".building-others-0123abcd" in kept(data)


def test_threads_that_ask_at_once_decode_once(pets, monkeypatch):
    count, real, found = [], decoded.decode, []
    monkeypatch.setattr(decoded, "decode", lambda *arguments: count.append(1) or real(*arguments))
    threads = [threading.Thread(target=lambda: found.append(load(pets))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and len(count) == 16
    assert all(torch.equal(one.pixels, found[0].pixels) for one in found)


def test_processes_that_ask_at_once_both_end_well(data, pets):
    script = (
        "import sys; from engine.datasets.image_folder import from_path\n"
        "print(from_path(sys.argv[1]).load('train').pixels.sum())"
    )
    command = [sys.executable, "-c", script, str(pets)]
    environment = {**os.environ, "PYTHONPATH": "."}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = {process.communicate()[0] for process in both}
    assert outputs == {f"{load(pets).pixels.sum()!r}\n"}
    assert len(kept(data)) == 1


def test_cache_folder_of_the_user_takes_the_place_of_a_data_folder_that_cannot_be_written(data, pets, tmp_path):
    (data / ".decoded").write_text("in the way, even of root")
    first = load(pets)
    assert list((tmp_path / "cache").glob("bntt/decoded/pets-*-train"))
    assert torch.equal(load(pets).pixels, first.pixels)


def test_no_place_at_all_is_told(data, pets, tmp_path):
    for path in (data / ".decoded", tmp_path / "cache"):
        path.write_text("in the way")
    with pytest.raises(DataError, match="cannot be written.*BNTT_DATA"):
        load(pets)


def test_full_disks_are_told(data, pets, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(decoded.shutil, "disk_usage", lambda _path: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(DataError, match="has no room for 0.0 GB"):
            load(pets)
    with monkeypatch.context() as patch:
        patch.setattr(decoded.os, "fsync", lambda _file: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left")))
        with pytest.raises(DataError, match=r"cannot be written \(No space left\); make room"):
            load(pets)
    assert kept(data) == []


def test_files_that_go_away_meanwhile_are_told(pets, monkeypatch):
    entry = from_path(pets)
    place = entry.look(None)
    (pets / "a/img1.png").unlink()
    with pytest.raises(DataError, match="^pets changed while it was read"):
        entry.read(place, "train", 0, 0)
    monkeypatch.setattr(image_archive, "content", lambda path: (_ for _ in ()).throw(FileNotFoundError(2, "gone")))
    with pytest.raises(DataError, match=r"^pets/a/img2\.png cannot be read \(gone\)"):
        load(pets)


@pytest.mark.skipif(sys.platform == "win32", reason="needs files with holes")
def test_more_pixels_than_memory_can_be_mapped(data):
    shape = (3, 224, 224)
    count = int(1.5 * psutil.virtual_memory().total) // (3 * 224 * 224)
    place = data / ".decoded/large-0-train"
    place.mkdir(parents=True)
    np.save(place / "labels.npy", np.zeros(count, np.int64))
    np.lib.format.open_memmap(place / "pixels.npy", "w+", np.uint8, shape=(count, *shape))
    images = decoded.load("large", "0", "train", shape, None)
    assert images.pixels.shape == (count, *shape) and not images.pixels[count // 2].any()


# ------------------------------------------------------------------------------------------------- real data


@pytest.mark.slow
def test_cifar10_as_an_archive_of_jpegs(shared, data):
    """Every hundredth image against a read of its own."""
    path = shared / "data/cifar10-jpeg.tar.xz"
    entry = from_path(path)
    assert entry.shape == (3, 32, 32) and len(entry.classes) == 10 and entry.classes[3] == "cat"
    for split, count in (("train", 50_000), ("test", 10_000)):
        images = entry.load(split)
        assert images.labels.tolist() == list(range(10)) * (count // 10)
        with tarfile.open(path) as file:
            for number, info in enumerate(info for info in file if info.name.startswith(split) and info.isreg()):
                if number % 100 == 0:
                    _split, name, image = info.name.split("/")
                    row = int(image.split(".")[0]) * 10 + entry.classes.index(name)
                    expected = np.asarray(Image.open(file.extractfile(info)).convert("RGB"))
                    np.testing.assert_array_equal(images.pixels[row].numpy(), planes(expected))


def test_discover_passes_by_what_is_neither_folder_nor_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    (tmp_path / "gone.zip").symlink_to(tmp_path / "nothing")
    assert discover(tmp_path) == []


def test_without_a_users_cache_the_data_folder_alone_is_used(tmp_path, monkeypatch):
    """Where only the engine's core is installed."""
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    assert decoded.roots(tmp_path) == (tmp_path / ".decoded",)
