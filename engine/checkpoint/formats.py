"""Which kind of file it is, told by its content, and what it holds."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import safetensors.torch

from .errors import Refusal, shown
from .pickles import refuse_globals
from .torchfile import LEGACY_START, read_legacy, read_zip

FORMAT = "bntt-engine"
_MAX_HEADER = 16 * 2**20
_WANTED = "choose a .pth, .pt, .tar or .safetensors checkpoint"
_OTHERS = (
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"Rar!", "a RAR archive"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    (b"PK\x05\x06", "an empty ZIP archive"),
    (b"\x89HDF", "an HDF5 file, as Keras writes"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"GGUF", "a GGUF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
)


@dataclass
class Contents:
    """root: what the file holds, tensors included. config, metadata: of our own header, None in any other file."""

    root: Any
    config: dict | None = None
    metadata: dict | None = None
    ordered: bool = True  # False: the tensors do not stand in the order of the network


def read_contents(data: bytes) -> Contents:
    """Recognise a file and read it, whatever its name is. Raises Refusal."""
    if not data:
        raise Refusal("the file is empty; copy or download it again")
    if data.startswith(b"PK\x03\x04"):
        return Contents(read_zip(data))
    if data.startswith(LEGACY_START):
        return Contents(read_legacy(data))
    if data[8:9] == b"{":
        return _read_safetensors(data)
    _refuse_pickle(data)
    for start, kind in _OTHERS:
        if data.startswith(start):
            raise Refusal(f"it is {kind}, not a checkpoint; {_WANTED}")
    if data[257:262] == b"ustar":
        raise Refusal("it is a tar archive; unpack it and choose the checkpoint inside")
    _refuse_text(data)
    raise Refusal(f"it is of no kind known here (it starts with {data[:4].hex(' ')}); {_WANTED}")


def _refuse_pickle(data: bytes) -> None:
    if re.match(rb"\x80[\x00-\x05]|\(?c[\w.]+\n[\w.]+\n", data):
        refuse_globals(BytesIO(data))
        raise Refusal("it is a Python pickle but no torch.save file, or cut short; save it again with torch.save")


def _refuse_text(data: bytes) -> None:
    text = data[:4096].decode("utf-8", "ignore")
    start = text.lstrip("\ufeff \r\n\t").lower()
    if len(text.encode()) < len(data[:4096]) - 3 or re.search(r"[\x00-\x08\x0e-\x1f\x7f]", text):
        return
    if start.startswith(("<!doctype html", "<html")):
        raise Refusal("it is a web page, perhaps a log-in or an error; download the checkpoint itself")
    if start.startswith("version https://git-lfs"):
        raise Refusal("it is a Git LFS pointer, not the checkpoint; fetch it with git lfs pull")
    raise Refusal(f"it is plain text, not a checkpoint; {_WANTED}")


def _read_safetensors(data: bytes) -> Contents:
    (length,) = struct.unpack_from("<Q", data)
    if length > min(_MAX_HEADER, len(data) - 8):
        raise Refusal(f"it claims a header of {length} bytes and has {len(data)} in all; copy or download it again")
    try:
        root = safetensors.torch.load(data)
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except Exception as error:  # the library raises its own kind, and torch's and Python's for odd shapes and types
        raise Refusal(f"it is no whole safetensors file ({shown(error)}); copy or download it again") from error
    if header.get("format") != FORMAT:
        return Contents(root, ordered=False)
    return Contents(root, _header_json(header, "config"), _header_json(header, "metadata"))


def _header_json(header: dict[str, str], name: str) -> dict:
    try:
        value = json.loads(header.get(name, "{}"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:
        raise Refusal(f"its header entry {name!r} is not JSON; save the network again") from error
    if not isinstance(value, dict):
        raise Refusal(f"its header entry {name!r} is not a table of names and values; save the network again")
    return value
