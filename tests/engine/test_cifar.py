"""CIFAR-10 and CIFAR-100: files in the official byte layout, written here, in every form; damaged and hostile ones."""

import copyreg
import gzip
import io
import os
import pickle
import struct
import tarfile
import time
import tracemalloc
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.datasets import DataError, cifar
from engine.datasets.base import _loaded
from engine.datasets.cifar import CIFAR10, CIFAR100
from engine.datasets.cifar_pickle import read_batch

BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
COUNT = 3  # images in each file
NAMES = {CIFAR10: [*BATCHES, "test_batch"], CIFAR100: ["train", "test"]}
STEM = {CIFAR10: "cifar-10", CIFAR100: "cifar-100"}
PYTHON = {CIFAR10: "cifar-10-batches-py", CIFAR100: "cifar-100-python"}
BINARY = {CIFAR10: "cifar-10-batches-bin", CIFAR100: "cifar-100-binary"}


@pytest.fixture
def data(tmp_path, monkeypatch):
    """An empty data folder."""
    monkeypatch.setenv("BNTT_DATA", str(tmp_path))
    _loaded.cache_clear()
    yield tmp_path
    _loaded.cache_clear()


def batch(entry, name, count=COUNT):
    """(pixels [count, 3072], labels) of one file: random, the same for a name every time."""
    random = np.random.default_rng(list(name.encode()))
    return random.integers(0, 256, (count, 3072), np.uint8), random.integers(0, len(entry.classes), count).tolist()


def table(entry, name, kind=str):
    """What a file of the python version holds, keys and texts as str or as Python 2's bytes."""
    pixels, labels = batch(entry, name)
    texts = {"batch_label": f"batch {name}", "filenames": [f"{name}_{i}.png" for i in range(COUNT)]}
    named = {"labels": labels} if entry is CIFAR10 else {"coarse_labels": [1] * COUNT, "fine_labels": labels}
    found = {"batch_label": texts["batch_label"], **named, "data": pixels, "filenames": texts["filenames"]}
    if kind is str:
        return found
    found["batch_label"] = found["batch_label"].encode()
    found["filenames"] = [text.encode() for text in found["filenames"]]
    return {key.encode(): value for key, value in found.items()}


class Python2:
    """Writes the few things that batch files hold as Python 2's cPickle does: protocol 2, or 0 in text."""

    def __init__(self, protocol):
        self.text = protocol == 0
        self.puts = 0

    def dumps(self, value):
        return (b"" if self.text else b"\x80\x02") + self.write(value) + b"."

    def put(self):
        self.puts += 1
        if self.text:
            return b"p%d\n" % self.puts
        return b"q" + bytes([self.puts]) if self.puts < 256 else b"r" + struct.pack("<I", self.puts)

    def write(self, value):
        return getattr(self, type(value).__name__)(value)

    def int(self, value):
        if self.text:
            return b"I%d\n" % value
        return b"K" + bytes([value]) if 0 <= value < 256 else b"J" + struct.pack("<i", value)

    def bool(self, value):
        if self.text:
            return b"I01\n" if value else b"I00\n"
        return b"\x88" if value else b"\x89"

    def NoneType(self, _value):
        return b"N"

    def bytes(self, value):
        if self.text:
            return b"S" + repr(value)[1:].encode() + b"\n" + self.put()
        if len(value) < 256:
            return b"U" + bytes([len(value)]) + value + self.put()
        return b"T" + struct.pack("<i", len(value)) + value + self.put()

    def list(self, values):
        if self.text:
            return b"(l" + self.put() + b"".join(self.write(value) + b"a" for value in values)
        return b"]" + self.put() + b"(" + b"".join(map(self.write, values)) + b"e"

    def dict(self, values):
        if self.text:
            pairs = (self.write(key) + self.write(value) + b"s" for key, value in values.items())
            return b"(d" + self.put() + b"".join(pairs)
        start = b"}" + self.put() + b"("
        return start + b"".join(self.write(key) + self.write(value) for key, value in values.items()) + b"u"

    def tuple(self, values):
        ends = {1: b"\x85", 2: b"\x86", 3: b"\x87"}
        body = b"".join(map(self.write, values))
        if self.text or len(values) not in ends:
            return b"(" + body + b"t" + self.put()
        return body + ends[len(values)] + self.put()

    def name(self, module, name):
        return b"c%s\n%s\n" % (module, name) + self.put()

    def ndarray(self, array):
        made = self.name(b"numpy.core.multiarray", b"_reconstruct")
        made += b"(" + self.name(b"numpy", b"ndarray") + self.tuple((0,)) + self.bytes(b"b") + b"t" + self.put() + b"R"
        made += self.put() + b"(" + self.int(1) + self.tuple(array.shape)
        made += self.name(b"numpy", b"dtype") + self.tuple((b"u1", 0, 1)) + b"R" + self.put()
        made += self.tuple((3, b"|", None, None, None, -1, -1, 0)) + b"b"
        made += self.bool(array.flags.f_contiguous and not array.flags.c_contiguous)
        return made + self.bytes(array.tobytes("A")) + b"t" + self.put() + b"b"


def python2(protocol):
    return lambda entry, name: Python2(protocol).dumps(table(entry, name, bytes))


def python3(protocol, kind=str):
    return lambda entry, name: pickle.dumps(table(entry, name, kind), protocol=protocol)


def old_numpy(entry, name):
    """NumPy 1 under Python 3."""
    return python3(3)(entry, name).replace(b"numpy._core.", b"numpy.core.")


def columns_first(entry, name):
    """The array in Fortran order."""
    held = table(entry, name)
    return pickle.dumps(held | {"data": np.asfortranarray(held["data"])}, protocol=4)


WRITERS = {
    "Python 2, protocol 2": python2(2),
    "Python 2, protocol 0": python2(0),
    **{f"Python 3, protocol {protocol}": python3(protocol) for protocol in range(6)},
    **{f"Python 3 from bytes, protocol {protocol}": python3(protocol, bytes) for protocol in range(6)},
    "NumPy 1": old_numpy,
    "Fortran order": columns_first,
}


def records(entry, name):
    """A file of the binary version."""
    pixels, labels = batch(entry, name)
    coarse = b"\x07" if entry is CIFAR100 else b""
    return b"".join(coarse + bytes([label]) + image.tobytes() for label, image in zip(labels, pixels))


def python_files(entry, write=WRITERS["Python 2, protocol 2"]):
    """Path in the archive → content."""
    return {f"{PYTHON[entry]}/{name}": write(entry, name) for name in NAMES[entry]}


def binary_files(entry):
    return {f"{BINARY[entry]}/{name}.bin": records(entry, name) for name in NAMES[entry]}


def place(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def tar_bytes(files, prefix="", form=tarfile.GNU_FORMAT):
    """A .tar with a folder, the files in reverse order and one that nobody asked for."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        top = tarfile.TarInfo(prefix + next(iter(files)).partition("/")[0])
        top.type = tarfile.DIRTYPE
        archive.addfile(top)
        for name, content in reversed([*files.items(), ("readme.html", b"<html>" * 1000)]):
            member = tarfile.TarInfo(prefix + name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def pack(path, files, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(tar_bytes(files, **options), 1))


def check(entry):
    """Both splits against what the files were made of."""
    assert entry.missing() == ""
    _loaded.cache_clear()
    for split, names in (("train", NAMES[entry][:-1]), ("test", NAMES[entry][-1:])):
        found = entry.load(split)
        pixels, labels = zip(*(batch(entry, name) for name in names))
        assert found.pixels.dtype == torch.uint8 and found.labels.dtype == torch.int64
        assert found.pixels.is_contiguous() and found.pixels.shape == (COUNT * len(names), 3, 32, 32)
        np.testing.assert_array_equal(found.pixels.numpy(), np.concatenate(pixels).reshape(-1, 3, 32, 32))
        assert found.labels.tolist() == [label for part in labels for label in part]


def sentence(call) -> str:
    """The one line of a DataError."""
    with pytest.raises(DataError) as caught:
        call()
    line = str(caught.value)
    assert line.isprintable() and len(line) < 500 and not line.endswith(".") and "; " in line
    return line


def refused(content, classes=10) -> str:
    """What is said of a batch file, after its name."""
    return sentence(lambda: read_batch("test_batch", content, classes)).removeprefix("test_batch ")


@contextmanager
def within(seconds, megabytes):
    """The block takes no longer and never holds more."""
    start = time.process_time()
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes << 20
    finally:
        tracemalloc.stop()
    assert time.process_time() - start < seconds


BOTH = pytest.mark.parametrize("entry", [CIFAR10, CIFAR100], ids=lambda entry: entry.name)


# --- every form it is published in


@BOTH
@pytest.mark.parametrize("write", WRITERS)
def test_python_version(entry, write, data):
    place(data, python_files(entry, WRITERS[write]))
    check(entry)


@pytest.mark.parametrize("protocol", [0, 2])
def test_what_stands_for_python_2_is_read_by_pickle_too(protocol):
    """Python's own reader and NumPy find in it what it was made of."""
    for entry in (CIFAR10, CIFAR100):
        found = pickle.loads(python2(protocol)(entry, "train"), encoding="latin1")
        expected = table(entry, "train")
        np.testing.assert_array_equal(found.pop("data"), expected.pop("data"))
        assert found == expected


@BOTH
def test_binary_version(entry, data):
    place(data, binary_files(entry))
    check(entry)


FORMS = {"python": python_files, "binary": binary_files}


@BOTH
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "long name", "short name"])
def test_places(entry, form, packed, folder, data):
    folder = data / {"": "", "long name": STEM[entry], "short name": entry.name}[folder]
    if packed:
        pack(folder / f"{STEM[entry]}-{form}.tar.gz", FORMS[form](entry))
    else:
        place(folder, FORMS[form](entry))
    check(entry)


@pytest.mark.parametrize("options", [{"prefix": "./"}, {"form": tarfile.PAX_FORMAT}, {"form": tarfile.USTAR_FORMAT}])
def test_archives_that_others_packed(options, data):
    pack(data / "cifar-100-python.tar.gz", python_files(CIFAR100), **options)
    check(CIFAR100)


def test_preference(data):
    """Unpacked before packed, python before binary; whatever is worse is not even opened."""
    pack(data / "cifar-10-binary.tar.gz", binary_files(CIFAR10))
    check(CIFAR10)
    (data / "cifar-10-binary.tar.gz").write_bytes(b"")
    pack(data / "cifar10" / "cifar-10-python.tar.gz", python_files(CIFAR10))
    check(CIFAR10)
    (data / "cifar10" / "cifar-10-python.tar.gz").write_bytes(b"")
    place(data / "cifar-10", binary_files(CIFAR10))
    check(CIFAR10)
    place(data / "cifar-10", dict.fromkeys(binary_files(CIFAR10), b""))
    place(data, python_files(CIFAR10))
    check(CIFAR10)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", ["size", "time"])
def test_replaced_files_are_read_again(packed, change, data):
    """By the same process, too; what has not changed is read once."""
    files = binary_files(CIFAR100)
    path = data / ("cifar-100-binary.tar.gz" if packed else next(name for name in files if "test" in name))
    pack(path, files) if packed else place(data, files)
    before, status = CIFAR100.load("test"), path.stat()
    assert CIFAR100.load("test") is before and hash(CIFAR100.look(data)) == hash(CIFAR100.look(data))
    name = next(name for name in files if "test" in name)
    files[name] = files[name][: COUNT * 3074 if change == "time" else 3074][:-1] + b"\0"
    pack(path, files) if packed else place(data, files)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + (change == "time")))
    after = CIFAR100.load("test")
    assert len(after.labels) == (COUNT if change == "time" else 1) and after.pixels[-1, -1, -1, -1] == 0
    assert before.pixels[len(after.labels) - 1, -1, -1, -1] != 0


def test_a_data_folder_that_cannot_be_looked_into_is_told(monkeypatch):
    monkeypatch.setenv("BNTT_DATA", "/tmp/" + "x" * 300)
    assert CIFAR10.missing().startswith("/tmp/xxx")


def test_a_half_unpacked_archive_is_read_packed(data):
    place(data, dict(list(python_files(CIFAR10).items())[:3]))
    pack(data / "cifar-10-python.tar.gz", python_files(CIFAR10))
    check(CIFAR10)


@BOTH
def test_entries(entry):
    """Class names as the published meta files list them: both lists are alphabetical."""
    assert len(entry.classes) == len(set(entry.classes)) == (10 if entry is CIFAR10 else 100)
    assert list(entry.classes) == sorted(entry.classes)
    assert entry.shape == (3, 32, 32) and entry.mean == CIFAR10.mean and entry.std == CIFAR10.std
    (remote,) = entry.remote
    assert remote.url.endswith(f"/{remote.path}") and remote.path == f"{STEM[entry]}-python.tar.gz"
    assert CIFAR100.classes[41] == "lawn_mower" and CIFAR10.classes[9] == "truck"


# --- what is missing


@BOTH
def test_nothing_there(entry, data):
    line = sentence(partial(entry.load, "train"))
    assert line == entry.missing() and line.startswith(str(data)) and f"{STEM[entry]}-python.tar.gz" in line


def test_a_partly_unpacked_folder(data):
    """The fullest one is named, with what it lacks; a folder is no file."""
    place(data, dict([*python_files(CIFAR10).items()][:1]))
    place(data / "cifar10", binary_files(CIFAR10))
    for name in ("data_batch_2.bin", "test_batch.bin"):
        (data / "cifar10" / "cifar-10-batches-bin" / name).unlink()
    (data / "cifar10" / "cifar-10-batches-bin" / "test_batch.bin").mkdir()
    place(data / "cifar-10", dict([*binary_files(CIFAR10).items()][:1]))
    line = sentence(partial(CIFAR10.load, "test"))
    assert line.startswith(f"{data / 'cifar10' / 'cifar-10-batches-bin'} lacks data_batch_2.bin and test_batch.bin; ")
    assert "cifar-10-binary.tar.gz" in line


def test_a_file_that_may_not_be_read(data, monkeypatch):
    place(data, python_files(CIFAR100))
    pack(data / "cifar-10-python.tar.gz", python_files(CIFAR10))
    monkeypatch.setattr("builtins.open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    assert sentence(partial(CIFAR100.load, "test")).startswith("test cannot be read (Permission denied)")
    assert sentence(partial(CIFAR10.load, "test")).startswith("cifar-10-python.tar.gz cannot be read (Permission")


# --- damaged files


@BOTH
@pytest.mark.parametrize(
    "change, rest",
    [
        (lambda content: b"", "is empty; "),
        (lambda content: content[:-1], "is cut off or damaged: its "),
        (lambda content: content + b"\0", "is cut off or damaged: its "),
        (
            lambda content: b"<!DOCTYPE html>",
            "is cut off or damaged: its 15 bytes are no whole number of records of 307",
        ),
        (lambda content: b"\xc8" * len(content), "holds the label 200, and there are only 0 to "),
    ],
    ids=["empty", "cut off", "longer", "text", "labels"],
)
def test_damaged_binary_files(entry, change, rest, data):
    files = binary_files(entry)
    name = next(iter(files))
    place(data, files | {name: change(files[name])})
    assert sentence(partial(entry.load, "train")).startswith(f"{name.rpartition('/')[2]} {rest}")
    entry.load("test")


def dumped(**changes):
    """A batch file with some of its entries changed; None takes one away."""
    held = table(CIFAR10, "test_batch") | changes
    return pickle.dumps({key: value for key, value in held.items() if value is not None}, protocol=2)


PIXELS = batch(CIFAR10, "test_batch")[0]
GOOD = python2(2)(CIFAR10, "test_batch")
DAMAGED = "is damaged or no CIFAR batch; "
LABELS = "holds no list of labels from 0 to 9; "
BAD = {
    "empty": (b"", DAMAGED),
    "text": (b"<!DOCTYPE html><title>404 Not Found</title>", DAMAGED),
    "cut off": (GOOD[:-100], DAMAGED),
    "without its end": (GOOD[:-1], DAMAGED),
    "a list": (pickle.dumps([1, 2], protocol=2), DAMAGED),
    "no images": (dumped(data=None), DAMAGED),
    "images as bytes": (dumped(data=PIXELS.tobytes()), DAMAGED),
    "no labels": (dumped(labels=None), LABELS),
    "labels as a text": (dumped(labels="abc"), LABELS),
    "labels as texts": (dumped(labels=["1", "2", "3"]), LABELS),
    "labels as truth values": (dumped(labels=[True, False, True]), LABELS),
    "a label too many": (dumped(labels=[1, 2, 3, 4]), "holds 3 images and 4 labels; "),
    "too large a label": (dumped(labels=[1, 2, 10]), LABELS),
    "negative label": (dumped(labels=[1, 2, -1]), LABELS),
    "very large label": (dumped(labels=[1, 2, 1 << 200]), LABELS),
    "other width": (dumped(data=PIXELS[:, :3071].copy()), DAMAGED),
    "other shape": (dumped(data=PIXELS.reshape(3, 32, 32, 3)), DAMAGED),
    "flat": (dumped(data=PIXELS[0], labels=[1]), DAMAGED),
    "none at all": (pickle.dumps({"data": PIXELS[:0], "labels": []}), DAMAGED),
    "floats": (dumped(data=PIXELS.astype(np.float32)), DAMAGED),
    "signed bytes": (dumped(data=PIXELS.astype(np.int8)), DAMAGED),
    "objects": (dumped(data=PIXELS.astype(object)), DAMAGED),
    "more than there is": (GOOD.replace(b"K\x03J\x00\x0c\0\0", b"K\x04J\x00\x0c\0\0"), DAMAGED),
    "less than there is": (GOOD.replace(b"K\x03J\x00\x0c\0\0", b"K\x02J\x00\x0c\0\0"), DAMAGED),
    "negative shape": (GOOD.replace(b"K\x03J\x00\x0c\0\0", b"J\xff\xff\xff\xffJ\x00\xf4\xff\xff"), DAMAGED),
}


@pytest.mark.parametrize("case", BAD)
def test_damaged_python_files(case, data):
    content, rest = BAD[case]
    assert content != GOOD and refused(content).startswith(rest)
    place(data, python_files(CIFAR10) | {"cifar-10-batches-py/test_batch": content})
    assert sentence(partial(CIFAR10.load, "test")).startswith(f"test_batch {rest}")
    CIFAR10.load("train")


def test_too_large_a_file(data, monkeypatch):
    monkeypatch.setattr(cifar, "MAX_BYTES", 9000)
    place(data, python_files(CIFAR10))
    assert sentence(partial(CIFAR10.load, "test")).startswith("test_batch is larger than any file")
    pack(data / "cifar-100-python.tar.gz", python_files(CIFAR100))
    assert sentence(partial(CIFAR100.load, "test")).startswith("cifar-100-python.tar.gz holds a file larger than any")


def test_too_many_images(data, monkeypatch):
    monkeypatch.setattr(cifar, "MAX_COUNT", 14)
    place(data, binary_files(CIFAR10))
    assert "holds more than the 14 images" in sentence(partial(CIFAR10.load, "train"))


# --- hostile pickles


class Call:
    """Pickled, it asks for a call."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def marker(tmp_path):
    """A file that must not appear."""
    path = tmp_path / "ran"
    yield path
    assert not path.exists(), "something was run"


HARMLESS = "holds instructions that no CIFAR batch has; none of them was run; "


@pytest.mark.parametrize("protocol", range(6))
def test_functions_are_not_called(protocol, marker):
    shell, code = f"touch {marker}", f"open({str(marker)!r}, 'w')"
    calls = [
        Call(os.system, shell),
        Call(eval, code),
        Call(exec, code),
        Call(np.fromfile, str(marker)),
        Call(np.zeros, 9),
    ]
    for call in calls:
        for held in (call, {"data": call}, table(CIFAR10, "test_batch") | {"data": call}, {"labels": [call]}):
            assert refused(pickle.dumps(held, protocol=protocol)).startswith(HARMLESS)


def short(text):
    return b"\x8c" + bytes([len(text)]) + text


ARRAY = b"cnumpy\nndarray\n"
EMPTY = b"cnumpy._core.multiarray\n_reconstruct\n" + ARRAY + b"K\0\x85U\x01b\x87R"
FOREIGN = {
    "global": b"cos\nsystem\n(S'touch {}'\ntR.",
    "stack global": b"\x80\x04" + short(b"os") + short(b"system") + b"\x93" + short(b"touch {}") + b"\x85R.",
    "inst": b"(S'touch {}'\nios\nsystem\n.",
    "obj": b"(cnumpy\nndarray\nK\x01o.",
    "new object": ARRAY + b"K\x01\x85\x81.",
    "new object with names": ARRAY + b"K\x01\x85}\x92.",
    "persistent number in text": b"P1\n.",
    "persistent number": b"K\x01Q.",
    "extension 1": b"\x82\x01)R.",
    "extension 2": b"\x83\x01\0)R.",
    "extension 4": b"\x84\x01\0\0\0)R.",
    "buffer from elsewhere": b"\x80\x05\x97.",
    "builtins": b"cbuiltins\ngetattr\n.",
    "part of a name": b"\x80\x04" + short(b"numpy") + short(b"core.multiarray._reconstruct") + b"\x93.",
    "sets": b"\x80\x04\x8f.",
}
MALFORMED = {
    "array called": ARRAY + b"K\xff\x85R.",
    "array of another class": b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\ndtype\nK\0\x85U\x01b\x87R.",
    "dtype of objects": b"cnumpy\ndtype\nU\x01OK\0K\x01\x87R.",
    "text called": b"U\x01aK\x01\x85R.",
    "attributes of a table": b"}}U\x09__class__K\x01sb.",
    "attributes of an array": EMPTY + b"}U\x09__class__K\x01sb.",
    "two states": EMPTY + b"}}\x86b.",
    "attributes of a dtype": b"cnumpy\ndtype\nU\x02u1K\0K\x01\x87R}U\x06__class__K\x01sb.",
    "array of no kind": b"}U\x04data"
    + EMPTY
    + b"(K\x01K\x01M\0\x0c\x86N\x89T\0\x0c\0\0"
    + bytes(3072)
    + b"tbsU\x06labels]K\x01as.",
    "array never filled": b"}U\x04data" + EMPTY + b"s.",
    "another codec": b"c_codecs\nencode\nX\x01\0\0\0aU\x05rot13\x86R.",
    "codec of no text": b"c_codecs\nencode\nK\x01U\x06latin1\x86R.",
    "beyond latin1": b"c_codecs\nencode\nX\x03\0\0\0\xe2\x82\xacU\x06latin1\x86R.",
    "no name": b"K\x01K\x02\x93.",
    "key that cannot be hashed": b"}]K\x01s.",
    "key without value": b"(K\x01d.",
    "append to a number": b"K\x01K\x02a.",
    "item of a list": b"]U\x01aK\x02s.",
    "nothing there": b"\x80\x02.",
    "no mark": b"t.",
    "nothing remembered": b"h\x07.",
    "nothing to remember": b"\x94.",
    "quote left open": b"S'abc\n.",
    "no quotes": b"Sabc\n.",
    "no number": b"Iabc\n.",
    "very long number": b"L" + b"9" * 5000 + b"L\n.",
    "number of negative length": b"\x8b\xff\xff\xff\xff.",
    "text of negative length": b"T\xff\xff\xff\xffa.",
    "bytes that are not there": b"\x8e" + struct.pack("<Q", 1 << 60) + b"a.",
    "more bytes than any": b"\x96" + b"\xff" * 8 + b"a.",
    "frame that is not there": b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"N.",
}


@pytest.mark.parametrize("case", FOREIGN)
def test_foreign_instructions(case, marker):
    assert refused(FOREIGN[case].replace(b"{}", str(marker).encode())).startswith(HARMLESS)


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_instructions(case):
    assert refused(MALFORMED[case]).startswith(DAMAGED)


def test_extensions_of_this_process_are_not_called(marker):
    """pickle looks them up in a cache of its own, past find_class."""
    copyreg.add_extension("os", "system", 77)
    copyreg._extension_cache[77] = os.system
    try:
        assert refused(b"\x82\x4d(S'touch %s'\ntR." % str(marker).encode()).startswith(HARMLESS)
    finally:
        copyreg.remove_extension("os", "system", 77)


def text(content):
    return b"X" + struct.pack("<I", len(content)) + content


BOMBS = {
    "memo number": b"\x80\x02Nr\xff\xff\xff\x7f.",
    "memo number in text": b"Np999999999999\n.",
    "keys of nested tuples": b"}N\x85" + b"q\0h\0\x86" * 60 + b"Ns.",
    "keys of wide nested tuples": b"}N\x85" + b"q\0((" + b"h\0" * 100 + b"tl" * 50 + b"Ns.",
    "nested lists": b"]q\0" * 1 + b"(h\0h\0lq\0" * 200 + b".",
    "deep lists": b"]" * 2_000_000 + b"a" * 1_999_999 + b".",
    "many lists": b"(" + b"]" * 4_000_000 + b"l.",
    "many marks": b"(" * 4_000_000 + b".",
    "encoding again and again": text(bytes(1 << 20)) + b"q\0" + b"c_codecs\nencode\nh\0U\x06latin1\x86R" * 400 + b".",
}


@pytest.mark.parametrize("case", BOMBS)
def test_bombs_take_neither_time_nor_memory(case):
    with within(seconds=2, megabytes=64):
        assert refused(BOMBS[case]).startswith(DAMAGED)


SMALL = [write(CIFAR10, "test_batch") for write in WRITERS.values()]
FRAGMENTS = [
    b"(",
    b"t",
    b"R",
    b"b",
    b"s",
    b"u",
    b"}",
    b"]",
    b"0",
    b".",
    b"h\1",
    b"q\1",
    b"\x94",
    b"\x93",
    b"N",
    b"K\x05",
    EMPTY,
]


@settings(max_examples=600, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_change_is_loaded_or_told(draw):
    """Bytes of a small file changed, put in, taken out, its end cut off: the right shapes, or one sentence."""
    content = bytearray(draw.draw(st.sampled_from(SMALL)))
    quiet = [i for i in range(len(content)) if i < 300 or i > len(content) - 200]  # the rest is pixels
    for _ in range(draw.draw(st.integers(1, 4))):
        at = min(draw.draw(st.sampled_from(quiet)), len(content))
        width = draw.draw(st.integers(0, 3))
        content[at : at + width] = draw.draw(st.binary(max_size=4) | st.sampled_from(FRAGMENTS))
    try:
        pixels, labels = read_batch("test_batch", bytes(content), 10)
    except DataError as error:
        assert str(error).startswith("test_batch ") and str(error).isprintable()
    else:
        assert pixels.dtype == np.uint8 and pixels.ndim == 2 and pixels.shape == (len(labels), 3072) and len(labels)
        assert labels.dtype == np.int64 and labels.min() >= 0 and labels.max() < 10


# --- damaged and hostile archives

ARCHIVE = "cifar-100-python.tar.gz"
PACKED = gzip.compress(tar_bytes(python_files(CIFAR100)), 1)


def member(name, content=b"", size=None, kind=tarfile.REGTYPE, link=""):
    """One member by hand: a header with a size of its own choosing, and what follows."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(content) if size is None else size, kind, link
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


TRAIN, TEST = python_files(CIFAR100).items()
END = bytes(1024)
CUT = "is cut off or damaged; "
ARCHIVES = {
    "empty": (b"", CUT),
    "text": (b"<!DOCTYPE html>", CUT),
    "cut off": (PACKED[: len(PACKED) // 2], CUT),
    "without its checksum": (PACKED[:-8], CUT),
    "wrong checksum": (PACKED[:-6] + b"\0\0" + PACKED[-4:], CUT),
    "no archive within": (gzip.compress(b"<!DOCTYPE html>" * 100), CUT),
    "nothing within": (gzip.compress(b""), CUT),
    "not packed": (tar_bytes(python_files(CIFAR100)), CUT),
    "a file less": (gzip.compress(tar_bytes(dict([TRAIN]))), "lacks test; "),
    "another set": (gzip.compress(tar_bytes(python_files(CIFAR10))), "lacks test; "),
    "a link": (gzip.compress(member(TEST[0], kind=tarfile.SYMTYPE, link="/etc/passwd") + END), "lacks test; "),
    "a hard link": (
        gzip.compress(member(*TRAIN) + member(TEST[0], kind=tarfile.LNKTYPE, link=TRAIN[0]) + END),
        "lacks test; ",
    ),
    "a device": (gzip.compress(member(TEST[0], kind=tarfile.CHRTYPE) + END), "lacks test; "),
    "a path upwards": (gzip.compress(member("../" + TEST[0], TEST[1]) + END), "lacks test; "),
    "an absolute path": (gzip.compress(member("/" + TEST[0], TEST[1]) + END), "lacks test; "),
    "huge file": (
        gzip.compress(member(TEST[0], size=1 << 40) + END),
        "holds a file larger than any of this data set; ",
    ),
    "huge other file": (
        gzip.compress(member("x", size=1 << 40) + END),
        "holds a file larger than any of this data set; ",
    ),
    "more than is there": (gzip.compress(member(TEST[0], TEST[1], size=1 << 20)), CUT),
    "many files": (gzip.compress(member("x") * 5000 + member(*TEST) + END), CUT),
    "long name": (gzip.compress(member("x", bytes(1 << 26), kind=tarfile.GNUTYPE_LONGNAME) + END, 1), CUT),
    "claimed long name": (gzip.compress(member("x", size=1 << 40, kind=tarfile.GNUTYPE_LONGNAME) + END), CUT),
    "long notes": (gzip.compress(member("x", b"1" * (1 << 26), kind=tarfile.XHDTYPE) + END, 1), CUT),
    "notes slow to search": (gzip.compress(member("x", b"1" * 20_000, kind=tarfile.XGLTYPE) + END), CUT),
    "notes on notes": (gzip.compress(member("x", b"9 a=bcde\n", kind=tarfile.XHDTYPE) * 5000 + END), CUT),
    "zeros without end": (PACKED + gzip.compress(bytes(1 << 26), 1), CUT),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_bad_archives(case, data):
    content, rest = ARCHIVES[case]
    (data / ARCHIVE).write_bytes(content)
    with within(seconds=2, megabytes=8):
        assert sentence(partial(CIFAR100.load, "test")).startswith(f"{ARCHIVE} {rest}")
    assert os.listdir(data) == [ARCHIVE], "nothing is unpacked to the disk"


def test_a_bad_file_in_an_archive(data):
    """It is named, and the archive with it."""
    pack(data / ARCHIVE, dict([TRAIN, (TEST[0], TEST[1][:-1])]))
    assert sentence(partial(CIFAR100.load, "test")).startswith(f"test in {ARCHIVE} is damaged or no CIFAR batch; ")
    assert len(CIFAR100.load("train").labels) == COUNT


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_change_of_an_archive_is_loaded_or_told(data, draw):
    """Headers of its members changed at random, checksums set right so that they are believed."""
    content = bytearray(
        tar_bytes(python_files(CIFAR100), form=draw.draw(st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])))
    )
    header = 512 * draw.draw(st.sampled_from([0, 1, 20, 21, 22, 23, 43, 44, 45]))
    for _ in range(draw.draw(st.integers(1, 3))):
        at = header + draw.draw(st.integers(0, 511) | st.sampled_from([*range(124, 137), 156]))
        content[at] = draw.draw(st.integers(0, 255) | st.sampled_from(list(b"0123456789xgLKS\x80\xff")))
    content[header + 148 : header + 156] = b" " * 8
    content[header + 148 : header + 155] = b"%06o\0" % sum(content[header : header + 512])
    (data / ARCHIVE).write_bytes(gzip.compress(bytes(content), 1))
    _loaded.cache_clear()
    try:
        found = CIFAR100.load("test")
    except DataError as error:
        assert ARCHIVE in str(error) and str(error).isprintable()
    else:
        assert found.pixels.shape == (len(found.labels), 3, 32, 32) and found.labels.max() < 100
