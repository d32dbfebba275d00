"""Every kind of bad file gets one sentence that names it; nothing in it runs and no claimed size is believed."""

import builtins
import contextlib
import gzip
import io
import os
import pickle
import resource
import struct
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from engine.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from engine.checkpoint import source as source_module
from engine.snn import ModelConfig, build_model
from tests.engine.checkpoint_files import legacy_bytes, norm_stack, published_state, torch_bytes

NAME = "some file.pth"


def refusal(data, name=NAME):
    """The one sentence, after checking that it is one line and names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(io.BytesIO(data) if isinstance(data, bytes) else data, name=name)
    sentence = str(caught.value)
    assert sentence.startswith(f"{name}: ") and sentence.isprintable() and len(sentence) < 500
    return sentence


def changed(**tensors):
    """A published state_dict with some tensors replaced; None takes one away."""
    state = published_state() | {key.replace("__", "."): value for key, value in tensors.items()}
    return {key: value for key, value in state.items() if value is not None}


def ours() -> bytes:
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch="vgg-small", layout="C1 P F2", steps=2, classes=2, in_shape=(1, 4, 4)))
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(Path(folder) / "a", model, seed=1)
        return (Path(folder) / "a").read_bytes()


class Norms(nn.Module):
    """A network with one list of layers."""

    def __init__(self, layers):
        super().__init__()
        self.norms = layers


# What is no checkpoint at all


def tar_bytes():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.pth"))
    return buffer.getvalue()


def zip_bytes(entries, compression=zipfile.ZIP_STORED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return buffer.getvalue()


def numpy_bytes(save):
    buffer = io.BytesIO()
    save(buffer, np.zeros(3))
    return buffer.getvalue()


def script_bytes():
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(1, 1), torch.ones(1)), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "the file is empty"),
        (b"epoch,loss\n1,0.5\n", "plain text"),
        ("Größe: γ\n".encode() * 800, "plain text"),
        (b"\n<!DOCTYPE html><html>Log in</html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "Git LFS pointer"),
        (gzip.compress(b"x", mtime=0), "gzip"),
        (tar_bytes(), "tar archive"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (numpy_bytes(np.save), "NumPy array"),
        (numpy_bytes(np.savez), "NumPy archive"),
        (zip_bytes([("word/document.xml", b"<x/>")]), "no torch.save file"),
        (zip_bytes([]), "empty ZIP archive"),
        (script_bytes(), "TorchScript"),
        (pickle.dumps({"a": 1}), "Python pickle but no torch.save file"),
        (pickle.dumps({"a": 1}, 2), "Python pickle but no torch.save file"),
        (bytes(range(256)) * 4, "of no kind known here"),
        (torch_bytes([torch.ones(2)]), "no table of named tensors"),
        (torch_bytes(torch.ones(2)), "no table of named tensors"),
        (torch_bytes({"epoch": 3}), "no table of named tensors"),
        (torch_bytes({}), "no table of named tensors"),
    ],
)
def test_what_is_no_checkpoint_is_named(data, words):
    assert words in refusal(data)


def test_paths_that_lead_nowhere(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, words in [
        (tmp_path / "nothing.pth", "there is no such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "pipe", "it is a pipe or a device"),
        (Path("/dev/zero"), "it is a pipe or a device"),
        ("a\0b", "it cannot be opened"),
        ("x" * 5000, "it cannot be opened"),
    ]:
        with pytest.raises(CheckpointError, match=words):
            load_checkpoint(path)


def test_unreadable_file(tmp_path, monkeypatch):
    path = tmp_path / "secret.pth"
    path.write_bytes(b"x")

    def forbid(*_, **__):  # permissions stop nobody who is root
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(builtins, "open", forbid)
    with pytest.raises(CheckpointError, match="secret.pth: it may not be read"):
        load_checkpoint(path)


def test_larger_than_four_gigabytes_is_refused_unread(tmp_path):
    path = tmp_path / "large.pth"
    with open(path, "wb") as file:
        file.truncate(source_module.MAX_BYTES + 1)  # takes no room on the disk
    start = time.perf_counter()
    with pytest.raises(CheckpointError, match="large.pth: it is larger than 4 GiB"):
        load_checkpoint(path)
    with open(path, "rb") as file, pytest.raises(CheckpointError, match="it is larger than 4 GiB"):
        load_checkpoint(file)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize("thing", [io.StringIO("text"), None, 7, b"bytes", object()])
def test_what_is_no_binary_file(thing):
    with pytest.raises(CheckpointError, match="^the uploaded file: it "):
        load_checkpoint(thing)


def test_file_names_are_made_printable():
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(io.BytesIO(b""), name="a\n\x1b[31mb.pth")
    assert str(caught.value).startswith("a??[31mb.pth: ")


# What is damaged, or not what a network holds


@pytest.mark.parametrize("form", [torch_bytes, legacy_bytes, safetensors.torch.save])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.7, 0.99, 0.9999])
def test_truncated(form, part):
    data = form(published_state())
    sentence = refusal(data[: int(part * len(data))])
    assert any(words in sentence for words in ("again", "choose a .pth"))


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (changed(conv3__weight=torch.ones(3, 5, 3, 3)), "conv3.weight has shape 3×5×3×3; 3×2×3×3 was"),
        (changed(conv3__weight=torch.ones(3, 2, 5, 5)), "conv3.weight has shape 3×2×5×5; 3×2×3×3 was"),
        (changed(conv3__weight=torch.ones(3)), "conv3.weight has shape 3 where"),
        (changed(conv3__weight=torch.ones(0, 2, 3, 3)), "conv3.weight has shape 0×2×3×3 where"),
        (changed(fc1__weight=torch.ones(4, 50)), "fc1.weight takes 50 inputs, which is no square of 3 channels"),
        (changed(fc2__weight=torch.ones(10, 5)), "fc2.weight has shape 10×5; 10×4 was expected"),
        (changed(fc2__weight=torch.ones(1, 4)), "classes must be 2 or more"),
        (changed(fc2__weight=torch.tensor(1.0)), "fc2.weight has shape a single number where"),
        (changed(bntt3__1__running_var=torch.ones(4)), "bntt3.1.running_var has shape 4 where one value for each of 3"),
        (changed(bntt3__1__weight=torch.ones(3, 1)), "bntt3.1.weight has shape 3×1 where one value"),
        (changed(bntt3__1__num_batches_tracked=torch.ones(4)), "bntt3.1.num_batches_tracked has shape 4; a single"),
        (changed(bntt3__1__running_mean=None), "bntt3.1.running_mean is missing"),
        (changed(conv2__weight=torch.full((2, 2, 3, 3), torch.nan)), "conv2.weight holds NaN or infinite"),
        (changed(bntt2__1__weight=torch.tensor([1.0, torch.inf])), "bntt2.1.weight holds NaN or infinite"),
        (changed(fc1__weight=torch.full((4, 48), 1e300, dtype=torch.float64)), "fc1.weight holds NaN or infinite"),
        (changed(bntt2__1__running_var=torch.tensor([0.5, -0.1])), "bntt2.1.running_var holds a negative variance"),
        (changed(bntt2__1__weight=torch.tensor([1, 2])), "bntt2.1.weight holds int64 numbers"),
        (changed(fc1__weight=torch.ones(4, 48, dtype=torch.complex64)), "fc1.weight holds complex64 numbers"),
        ({k: v for k, v in published_state().items() if "bntt" not in k}, "no BNTT layers (T = 0)"),
        (Norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.BatchNorm2d(2))), "no BNTT layers"),
        (Norms(nn.Sequential(nn.BatchNorm1d(2), nn.ReLU())), "no BNTT layers"),
        (Norms(nn.ModuleList([nn.BatchNorm1d(2), nn.BatchNorm1d(3)])), "no BNTT layers"),
        (Norms(nn.ModuleList([nn.LayerNorm(2), nn.LayerNorm(2)])), "no BNTT layers"),
    ],
)
@pytest.mark.parametrize("form", [torch_bytes, safetensors.torch.save])
def test_tensors_that_make_no_network(state, words, form):
    state = state.state_dict() if isinstance(state, nn.Module) else state
    assert words in refusal(form(dict(state)))


@pytest.mark.parametrize(
    ("stacks", "words"),
    [
        ({"bntt2": [0, 1, 2, 3, 5]}, "bntt2 has timesteps 0–3 and 5; 4 is missing"),
        ({"bntt1": [0, 1], "net.bn.list": [0, 2, 3]}, "net.bn.list has timesteps 0 and 2–3; 1 is missing"),
        ({"bntt": [1, 2, 3]}, "bntt has timesteps 1–3; 0 is missing"),
        ({"bntt": [0, 3, 4, 7, 9]}, "bntt has timesteps 0, 3–4, 7 and 9; 1–2, 5–6 and 8 are missing"),
        ({"bntt": range(0, 40, 2)}, "bntt has timesteps 0, 2, 4, 6, 8 and more; 1, 3, 5, 7, 9 and more are missing"),
    ],
)
def test_gap_in_the_timesteps(stacks, words):
    gen = torch.Generator().manual_seed(0)
    state = {}
    for prefix, kept in stacks.items():
        stack = norm_stack(prefix, max(kept) + 1, 2, gen)
        state |= {key: value for key, value in stack.items() if int(key.split(".")[-2]) in kept}
    assert words in refusal(torch_bytes(state))


def test_stacks_of_different_length_in_a_published_layout():
    short = {key: value for key, value in published_state().items() if not key.startswith("bntt3.2.")}
    assert "bntt1 has 3 timesteps and bntt3 has 2" in refusal(torch_bytes(short))


def test_sparse_and_quantised_and_unusual_tensors():
    sparse = changed(fc1__weight=torch.ones(4, 48).to_sparse())
    assert "sparse tensor" in refusal(torch_bytes(sparse))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = changed(fc1__weight=torch.quantize_per_tensor(torch.ones(4, 48), 0.1, 0, torch.qint8))
        assert "quantised tensor" in refusal(torch_bytes(quantised))
    unusual = changed(fc1__weight=torch.ones(4, 48).to(torch.float8_e4m3fn))
    assert "unusual number format" in refusal(torch_bytes(unusual))


# What would run, if it could


class Exploit:
    """Unpickling this makes a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


class Shell(Exploit):
    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("kind", [Exploit, Shell])
@pytest.mark.parametrize(
    "form",
    [
        torch_bytes,
        legacy_bytes,
        lambda content: torch_bytes(content, pickle_protocol=4),
        lambda content: legacy_bytes([content, 1]),
        *(lambda content, protocol=protocol: pickle.dumps(content, protocol) for protocol in (0, 1, 2, 3, 4, 5)),
    ],
)
@pytest.mark.parametrize("place", ["alone", "beside", "inside"])
def test_nothing_in_a_file_is_run(kind, form, place, tmp_path):
    mark = tmp_path / "executed"
    content = {
        "alone": kind(mark),
        "beside": {"state_dict": published_state(), "args": kind(mark)},
        "inside": {**published_state(), "fc1.weight": kind(mark)},
    }[place]
    data = form(content)
    sentence = refusal(data)
    assert not mark.exists()
    if place == "alone":
        assert f"asks to run os.{'mkdir' if kind is Exploit else 'system'}; nothing in it was run" in sentence
        # and the file is a real exploit: unpickling it does make the mark, even where torch then finds no torch file
        with contextlib.suppress(RuntimeError, TypeError):
            torch.load(io.BytesIO(data), weights_only=False)
        assert mark.exists()


@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Path("x"), "pathlib"),
        (Fraction(1, 2), "fractions.Fraction"),
        (Counter("ab"), "collections.Counter"),
        (nn.Linear(1, 1), "torch.nn.modules.linear.Linear"),
        (np.zeros(3), "multiarray._reconstruct"),
        ({1, 2}, "builtins.set"),
        (bytearray(b"x"), "builtins.bytearray"),
    ],
)
def test_objects_are_refused_by_name(thing, named):
    sentence = refusal(torch_bytes({"state_dict": published_state(), "more": thing}))
    assert "asks to run" in sentence and named in sentence and "nothing in it was run" in sentence


def test_torch_never_reads_a_pickle_with_more_rights(monkeypatch):
    real, calls = torch.load, []
    monkeypatch.setattr(torch, "load", lambda *args, **options: calls.append(options) or real(*args, **options))
    for form in (torch_bytes, legacy_bytes):
        load_checkpoint(io.BytesIO(form(published_state())))
    assert len(calls) == 2 and all(options["weights_only"] is True for options in calls)


# What claims more than it has


class Claim:
    def __init__(self, numel=4, offset=0, size=(4,), stride=(1,), key="0", kind=torch.FloatStorage, legacy=False):
        self.storage = ("storage", kind, key, "cpu", numel, *([None] if legacy else []))
        self.view = (offset, size, stride)


class ClaimPickler(pickle.Pickler):
    """Writes tensors as torch.save does, with whatever sizes it is told."""

    def persistent_id(self, thing):
        return thing if isinstance(thing, tuple) and thing[:1] == ("storage",) else None

    def reducer_override(self, thing):
        if isinstance(thing, Claim):
            return torch._utils._rebuild_tensor_v2, (thing.storage, *thing.view, False, OrderedDict())
        return NotImplemented


def claiming(content, storages=(("0", 16),)):
    pickled = io.BytesIO()
    ClaimPickler(pickled, protocol=2).dump(content)
    entries = [("archive/data.pkl", pickled.getvalue()), ("archive/version", b"3\n")]
    return zip_bytes([*entries, *((f"archive/data/{key}", bytes(size)) for key, size in storages)])


def legacy_claiming(content, keys=("0",), storages=b""):
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, dict(protocol_version=1001, little_endian=True, type_sizes={})):
        pickle.dump(value, stream, protocol=2)
    ClaimPickler(stream, protocol=2).dump(content)
    pickle.dump(list(keys), stream, protocol=2)
    return stream.getvalue() + storages


def pickled(*parts: bytes) -> bytes:
    """A torch file whose pickle is given instruction by instruction."""
    return zip_bytes([("archive/data.pkl", b"\x80\x02" + b"".join(parts) + b"."), ("archive/version", b"3\n")])


def safetensors_bytes(header: bytes, content=b"", length=None):
    return struct.pack("<Q", len(header) if length is None else length) + header + content


HUGE = 2**40
OLD = Claim(legacy=True)
CLAIMS = {
    "more elements than the storage": claiming({"a": Claim(size=(HUGE,))}),
    "storage larger than its entry": claiming({"a": Claim(numel=HUGE, size=(HUGE,))}),
    "storage smaller than its entry": claiming({"a": Claim(numel=2, size=(2,))}),
    "storage that is not there": claiming({"a": Claim(key="7")}),
    "storage of another place": claiming({"a": Claim(key="../data.pkl")}),
    "one storage of two sizes": claiming({"a": Claim(), "b": Claim(numel=2, size=(2,), kind=torch.DoubleStorage)}),
    "stride 0": claiming({"a": Claim(size=(HUGE,), stride=(0,))}),
    "stride 0 in two dimensions": claiming({"a": Claim(size=(2, HUGE), stride=(1, 0))}),
    "negative stride": claiming({"a": Claim(stride=(-1,), offset=3)}),
    "negative offset": claiming({"a": Claim(offset=-1)}),
    "negative size": claiming({"a": Claim(size=(-4,))}),
    "size beyond 64 bits": claiming({"a": Claim(size=(2**32, 2**32), stride=(2**32, 1))}),
    "size of nothing beyond 64 bits": claiming({"bntt.0.weight": Claim(size=(0, 2**62, 2**62), stride=(1, 1, 1))}),
    "offset of nothing": claiming({"a": Claim(size=(0,), offset=HUGE)}),
    "more dimensions than strides": claiming({"a": Claim(size=(2, 2))}),
    "floats for sizes": claiming({"a": Claim(size=(4.0,))}),
    "very many dimensions": claiming({"a": Claim(size=(1,) * 100, stride=(1,) * 100)}),
    "very many views of one storage": claiming(
        {str(i): Claim(2**16, size=(2**16,)) for i in range(100)}, [("0", 2**18)]
    ),
    "another persistent thing": claiming({"a": Claim(kind=torch.nn.Linear)}),
    "legacy storage larger than the file": legacy_claiming(Claim(HUGE, legacy=True), storages=struct.pack("<q", HUGE)),
    "legacy storage of another length": legacy_claiming(OLD, storages=struct.pack("<q", HUGE) + bytes(64)),
    "legacy without its storage": legacy_claiming(OLD, keys=(), storages=struct.pack("<q", 4) + bytes(16)),
    "legacy storage twice": legacy_claiming(OLD, keys=("0", "0"), storages=struct.pack("<q", 4) * 20),
    "legacy keys of another kind": legacy_claiming(OLD, keys=((),), storages=bytes(64)),
    "huge memo index": pickled(b"}", b"r\xff\xff\xff\xff"),
    "huge memo index read": pickled(b"j\xff\xff\xff\xff"),
    "huge frame": pickled(b"\x95" + struct.pack("<Q", 2**60)),
    "huge bytes": pickled(b"\x8e" + struct.pack("<Q", 2**60)),
    "huge text": pickled(b"X\xff\xff\xff\xff"),
    "millions of objects": pickled(b"}" * 2_100_000),
    "tuples nested by the hundred thousand": pickled(b")", b"\x85" * 300_000),
    "tuples that take for ever to hash": pickled(b"})", b"q\x00h\x00\x86" * 60, b"Ns"),
    "marks without end": pickled(b"(" * 300_000),
    "nothing on the stack": pickled(b"\x87"),
    "a name without a call": pickled(b"ctorch\nFloatStorage\n"),
    "dictionary with a list for a key": pickled(b"}]Ns"),
    "compressed entries": zip_bytes([("archive/data.pkl", bytes(10**7))], zipfile.ZIP_DEFLATED),
    "pickle beyond any list of contents": zip_bytes([("archive/data.pkl", bytes(65 * 2**20))]),
    "two pickles": zip_bytes([("a/data.pkl", b"."), ("b/data.pkl", b".")]),
    "more entries than any checkpoint": b"PK\x03\x04" + b"PK\x01\x02" * 400_000,
    "safetensors header beyond the file": safetensors_bytes(b"{}", length=2**60),
    "safetensors header beyond any": safetensors_bytes(b"{" + b" " * 2**25),
    "safetensors tensor beyond the file": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}', bytes(64)
    ),
    "safetensors shape beyond its bytes": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,64]}}', bytes(64)
    ),
    "safetensors shape of nothing": safetensors_bytes(
        b'{"a":{"dtype":"F32","shape":[0,9223372036854775807,9223372036854775807],"data_offsets":[0,0]}}'
    ),
    "safetensors of an unknown kind of number": safetensors_bytes(
        b'{"a":{"dtype":"F4","shape":[8],"data_offsets":[0,4]}}', bytes(4)
    ),
    "safetensors header nested without end": safetensors_bytes(b'{"a":' + b"[" * 10**6),
    "safetensors header that is no JSON": safetensors_bytes(b"{hello}"),
}


HARMLESS = {
    "tuples nested by the hundred thousand",
    "size of nothing beyond 64 bits",
    "huge memo index",
    "a name without a call",
}


@pytest.mark.parametrize("kind", CLAIMS)
def test_no_claim_is_believed(kind, monkeypatch):
    """Refused before torch.load sees it (but for what cannot harm it), at once, in little memory."""
    if kind not in HARMLESS:
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch.load was called"))
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    refusal(CLAIMS[kind])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 400_000 and time.perf_counter() - start < 30, grown  # kilobytes, seconds


@pytest.mark.parametrize("kind", ["safetensors header beyond the file", "safetensors header beyond any"])
def test_long_headers_are_not_parsed(kind, monkeypatch):
    monkeypatch.setattr(safetensors.torch, "load", lambda *_: pytest.fail("safetensors was called"))
    assert "it claims a header of" in refusal(CLAIMS[kind])


def test_the_claim_builder_builds_real_files():
    """What the refused claims differ from: the same file with honest ones opens."""
    names = [f"bntt.{t}.{part}" for t in range(2) for part in ("weight", "running_mean", "running_var")]
    content = claiming({name: Claim() for name in names})
    assert load_checkpoint(io.BytesIO(content)).stacks["bntt"].gamma.shape == (2, 4)
    storage = struct.pack("<q4f", 4, 1, 2, 3, 4)
    legacy = legacy_claiming({name: Claim(legacy=True) for name in names}, storages=storage)
    assert load_checkpoint(io.BytesIO(legacy)).stacks["bntt"].gamma.tolist() == [[1, 2, 3, 4]] * 2


# Whatever else

TINY_STACK = norm_stack("bntt", 2, 2, torch.Generator().manual_seed(0))
TINY = {"state_dict": TINY_STACK, "accuracy": np.float64(1.5), "epoch": 3}
STARTS = [b"", b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", bytes(8) + b"{"]
SEEDS = {
    "zip": torch_bytes(TINY),
    "legacy": legacy_bytes(TINY),
    "safetensors": safetensors.torch.save(TINY_STACK),
    "ours": ours(),
}
FUZZ = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def opens_finite_or_is_refused(data: bytes):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of odd protocols
            checkpoint = load_checkpoint(io.BytesIO(data), name=NAME)
    except CheckpointError as error:
        assert str(error).startswith(f"{NAME}: ") and str(error).isprintable()
        return
    assert all(np.isfinite(table).all() for stack in checkpoint.stacks.values() for table in stack)
    if checkpoint.model is not None:
        assert all(tensor.isfinite().all() for tensor in checkpoint.model.state_dict().values())


@FUZZ
@given(st.binary(max_size=400), st.sampled_from(STARTS))
def test_any_bytes(data, start):
    opens_finite_or_is_refused(start + data)


@pytest.mark.parametrize("form", SEEDS)
@FUZZ
@given(data=st.data())
def test_any_truncation(form, data):
    whole = SEEDS[form]
    opens_finite_or_is_refused(whole[: data.draw(st.integers(0, len(whole)))])


@pytest.mark.parametrize("form", SEEDS)
@FUZZ
@given(data=st.data())
def test_any_flipped_bytes(form, data):
    damaged = bytearray(SEEDS[form])
    places = st.integers(0, len(damaged) - 1)
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), min_size=1, max_size=4)):
        damaged[place] = value
    opens_finite_or_is_refused(bytes(damaged))


@FUZZ
@given(data=st.data())
def test_any_flipped_bytes_that_the_checksums_do_not_see(data):
    """The entries of a ZIP form under right checksums, so that the damage reaches the pickle and the storages."""
    with zipfile.ZipFile(io.BytesIO(SEEDS["zip"])) as archive:
        entries = [[info.filename, bytearray(archive.read(info))] for info in archive.infolist()]
    for _ in range(data.draw(st.integers(1, 3))):
        _, content = data.draw(st.sampled_from([entries[0], *entries]))
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    opens_finite_or_is_refused(zip_bytes([(name, bytes(content)) for name, content in entries]))
