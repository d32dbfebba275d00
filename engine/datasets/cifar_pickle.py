"""One batch file of CIFAR's python version, read without unpickling it.

The files are pickles, and pickle's own reader is not safe on a stranger's file even when it may look up nothing: it
makes room for whatever memo number the file names, and hashing a key of nested tuples can take for ever. The few
instructions that such files hold, in protocols 0 to 5 of Python 2 and 3, are run here over inert stand-ins.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import numpy as np

from ..pickle_stack import Global, PickleStack, require
from .base import DataError

PIXELS = 3 * 32 * 32  # of one image: red, green and blue planes, row by row

# What a file may name; all of it is stood in for by the classes below.
_NAMES = {
    "numpy ndarray",
    "numpy dtype",
    "_codecs encode",
    *(f"numpy.{core}.multiarray _reconstruct" for core in ("core", "_core")),
    *(f"numpy.{core}.numeric _frombuffer" for core in ("core", "_core")),
}
_TAKEN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MADE = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT = {"PUT", "BINPUT", "LONG_BINPUT"}
_GET = {"GET", "BINGET", "LONG_BINGET"}


class _Foreign(Exception):
    """A name or an instruction that no batch file holds."""


class _ByteType:
    """Stands in for numpy.dtype("u1")."""

    __slots__ = ()


class _Array:
    """Stands in for a NumPy array of bytes, whose claims `_pixels` checks."""

    __slots__ = ("fortran", "raw", "shape")

    def fill(self, shape: Any, kind: Any, fortran: Any, raw: Any) -> _Array:
        require(isinstance(kind, _ByteType))
        self.shape, self.fortran, self.raw = shape, fortran, raw
        return self


def read_batch(name: str, content: bytes, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch file → pixels uint8 [N, 3072] (not to be written into) and labels int64 [N], each below `classes`.

    name: what the file is called in errors. Raises DataError for whatever is not such a file; nothing in it is run.
    """
    try:
        table = _Machine(len(content)).run(content)
        require(type(table) is dict)
        table = {key if type(key) is str else key.decode("latin1"): value for key, value in table.items()}
        pixels = _pixels(table.get("data"))
    except _Foreign:
        raise DataError(
            f"{name} holds instructions that no CIFAR batch has; none of them was run; download it again"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(f"{name} is damaged or no CIFAR batch; download it again") from error
    labels = table.get("fine_labels", table.get("labels"))
    if type(labels) is not list or not all(type(label) is int and 0 <= label < classes for label in labels):
        raise DataError(f"{name} holds no list of labels from 0 to {classes - 1}; download it again")
    if len(labels) != len(pixels):
        raise DataError(f"{name} holds {len(pixels)} images and {len(labels)} labels; download it again")
    return pixels, np.array(labels, dtype=np.int64)


def _pixels(array: Any) -> np.ndarray:
    """The array that a stand-in describes, once its claims are found to agree."""
    require(isinstance(array, _Array) and type(array.shape) is tuple and array.fortran in (False, True))
    count, width = array.shape
    raw = array.raw.encode("latin1") if type(array.raw) is str else array.raw
    require(type(raw) in (bytes, bytearray) and type(count) is int and type(width) is int)
    require(width == PIXELS and count > 0 and len(raw) == count * width)
    return np.frombuffer(raw, dtype=np.uint8).reshape(count, width, order="F" if array.fortran else "C")


class _Machine(PickleStack):
    """The instructions of a batch file `size` bytes long. `run` raises _Foreign, and what Python does, for others."""

    KEYS = (str, bytes)

    def __init__(self, size: int):
        super().__init__()
        # An image's 3072 bytes come with a dozen instructions at most: what one byte of them makes takes up to 64.
        self.instructions_left = 1000 + size // 256
        # Encoding the same text again and again would make much of little; once, it makes no more than the file has.
        self.encoded_left = size

    def run(self, content: bytes) -> Any:
        """What the pickle describes."""
        for name, argument in _instructions(content):
            self.instructions_left -= 1
            require(self.instructions_left >= 0)
            if name == "STOP":
                break
            self._step(name, argument)
        return self.stack.pop()

    def _step(self, name: str, argument: Any) -> None:
        if name in _TAKEN:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self.stack.pop() for _ in range(_TUPLES[name])])))
        elif name in _PUT:
            self.memo[argument] = self.stack[-1]
        elif name in _GET:
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            self._name(argument)
        elif name not in ("PROTO", "FRAME"):
            act = getattr(self, f"_do_{name.lower()}", None)
            if act is None:
                raise _Foreign
            act()

    def _do_memoize(self):
        self.memo[len(self.memo)] = self.stack[-1]

    def _do_stack_global(self):
        name, module = self.stack.pop(), self.stack.pop()
        require(type(name) is str and type(module) is str)
        self._name(f"{module} {name}")

    def _name(self, name: str) -> None:
        if name not in _NAMES:
            raise _Foreign
        self.stack.append(Global(name))

    def _do_list(self):
        items = self._since_mark()
        self.stack.append(items)

    def _do_dict(self):
        items = self._since_mark()
        self.stack.append({})
        self._set(items)

    def _do_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        require(type(state) is tuple)
        if isinstance(target, _Array):
            _version, *claims = state
            target.fill(*claims)
        else:  # a dtype's state says nothing more about single bytes
            require(isinstance(target, _ByteType))

    def _call(self, name: str, arguments: tuple) -> Any:
        if name.endswith(" _reconstruct"):
            require(isinstance(arguments[0], Global) and arguments[0].name == "numpy ndarray")
            return _Array()
        if name.endswith(" _frombuffer"):
            raw, kind, shape, order = arguments
            require(order in ("C", "F"))
            return _Array().fill(shape, kind, order == "F", raw)
        if name == "numpy dtype":
            require(arguments[0] == "u1")
            return _ByteType()
        if name == "_codecs encode":
            text, codec = arguments
            require(type(text) is str and codec == "latin1")
            self.encoded_left -= len(text)
            require(self.encoded_left >= 0)
            return text.encode(codec)
        return super()._call(name, arguments)


def _quoted(stream: BytesIO) -> str:
    """Python 2's repr of a str; pickletools reads only those of ASCII."""
    line = stream.readline()
    require(line[-1:] == b"\n" and len(line) > 2 and line[0] == line[-2] and line[:1] in (b"'", b'"'))
    return codecs.escape_decode(line[1:-2])[0].decode("latin1")


_READERS = {
    code.code.encode("latin1"): (code.name, code.arg.reader if code.arg else None) for code in pickletools.opcodes
} | {b"S": ("STRING", _quoted)}


def _instructions(content: bytes) -> Iterator[tuple[str, Any]]:
    """Name and argument of each instruction; KeyError at the end or at a byte that is none."""
    stream = BytesIO(content)
    while True:
        name, reader = _READERS[stream.read(1)]
        yield name, reader(stream) if reader else None
