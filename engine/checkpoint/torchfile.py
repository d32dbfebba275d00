"""Files that torch.save wrote, in its ZIP form (since torch 1.6) and in its older one."""

from __future__ import annotations

import struct
import threading
import zipfile
from io import BytesIO
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

from .errors import Refusal, shown
from .machine import NUMPY_NUMBERS, Scan
from .pickles import DAMAGED, MAX_PICKLE, check_total, scan

LEGACY_START = (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", b"\x80\x03\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
_MAX_ENTRIES = 300_000
_CUT_SHORT = "it ends too early or is damaged; copy or download it again"
# safe_globals changes a list that the whole process shares.
_LOADING = threading.Lock()


def read_zip(data: bytes) -> Any:
    """What torch.save put into a ZIP archive. Raises Refusal."""
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:  # zipfile would make an object of each before it can be asked
        raise Refusal("it has more entries than any checkpoint; choose another file")
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            folder = _folder(archive.namelist())
            entries = _checked_entries(archive, folder, len(data))
            contents = scan(BytesIO(archive.read(entries[f"{folder}data.pkl"])))
            check_total(contents, len(data))
            return _torch_load(_rewritten(archive, entries, folder, contents))
    except Refusal:
        raise
    except Exception as error:  # zipfile answers a crafted archive with a dozen kinds of exceptions
        raise Refusal(_CUT_SHORT) from error


def _folder(names: list[str]) -> str:
    """What stands in front of data.pkl in the archive's names."""
    pickles = [name for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if any(name.endswith("constants.pkl") for name in names):
        raise Refusal("it is a TorchScript program, which would have to be run; save the model's state_dict() instead")
    if any(name.endswith(".npy") for name in names):
        raise Refusal("it is a NumPy archive, not a checkpoint; choose a .pth, .pt, .tar or .safetensors file")
    if len(pickles) != 1:
        raise Refusal("it is a ZIP archive but no torch.save file; unpack it and choose the checkpoint inside")
    return pickles[0].removesuffix("data.pkl")


def _checked_entries(archive: zipfile.ZipFile, folder: str, size: int) -> dict[str, zipfile.ZipInfo]:
    infos = archive.infolist()
    if any(info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 for info in infos):
        raise Refusal("its entries are compressed or encrypted; save it again with torch.save, which does neither")
    if any(info.file_size != info.compress_size for info in infos) or sum(info.file_size for info in infos) > size:
        raise Refusal("its entries claim more bytes than the file has; it is damaged or made to exhaust memory")
    entries = {info.filename: info for info in infos}
    if len(entries) != len(infos):
        raise Refusal("it holds two entries of one name; save it again with torch.save")
    if entries[f"{folder}data.pkl"].file_size > MAX_PICKLE:
        raise Refusal("its list of contents is too long for a checkpoint of this kind; choose another file")
    return entries


def _rewritten(archive: zipfile.ZipFile, entries: dict, folder: str, contents: Scan) -> BytesIO:
    """A fresh archive of exactly what was checked: two readers can disagree about a crafted one."""
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as fresh:
        fresh.writestr("archive/data.pkl", archive.read(entries[f"{folder}data.pkl"]))
        order = entries.get(f"{folder}byteorder")
        if order is not None and order.file_size <= 8:
            fresh.writestr("archive/byteorder", archive.read(order))
        for claim in contents.storages.values():
            entry = entries.get(f"{folder}data/{claim.key}")
            if entry is None or entry.file_size != claim.nbytes:
                held = "is missing" if entry is None else f"has {entry.file_size} bytes"
                raise Refusal(
                    f"storage {shown(claim.key, 20)} claims {shown(claim.nbytes)} bytes and {held}; "
                    "copy or download the file again"
                )
            fresh.writestr(f"archive/data/{claim.key}", archive.read(entry))
        fresh.writestr("archive/version", b"3\n")
    buffer.seek(0)
    return buffer


def read_legacy(data: bytes) -> Any:
    """What torch.save wrote before torch 1.6: five pickles, then every storage with its length. Raises Refusal."""
    stream = BytesIO(data)
    _magic, protocol, _system = (scan(stream).root for _ in range(3))
    if protocol != 1001:
        raise Refusal("it was written by a torch of another age; save it again with a newer one")
    contents = scan(stream)
    check_total(contents, len(data))
    keys = scan(stream).root
    if type(keys) is not list or {type(key) for key in keys} - {str} or sorted(keys) != sorted(contents.storages):
        raise Refusal(DAMAGED)
    position = stream.tell()
    for key in keys:
        claim = contents.storages[key]
        if position + 8 + claim.nbytes > len(data):
            raise Refusal(_CUT_SHORT)
        if struct.unpack_from("<q", data, position)[0] != claim.numel:
            raise Refusal(DAMAGED)
        position += 8 + claim.nbytes
    stream.seek(0)
    return _torch_load(stream)


def _torch_load(file: BytesIO) -> Any:
    # The published script stores its accuracy as a NumPy number, which torch.load does not take by itself. The scan
    # has seen to it that such a number is one of the plain kinds and as long as its kind.
    scalar = np.float64().__reduce__()[0]
    allowed = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    allowed += [np.dtype, *{type(np.dtype(code)) for code in NUMPY_NUMBERS}]
    try:
        with _LOADING, safe_globals(allowed):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that a stranger wrote may fail anywhere inside torch
        raise Refusal(DAMAGED) from error
