"""The few instructions of a torch.save pickle, run over inert stand-ins."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..pickle_stack import Global, PickleStack, require
from .errors import Refusal, shown

# Bytes of one element of each kind of storage that torch.save writes for dense tensors.
ITEM_BYTES = {
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "FloatStorage": 4,
    "DoubleStorage": 8,
    "ComplexFloatStorage": 8,
    "ComplexDoubleStorage": 16,
    "BoolStorage": 1,
    "ByteStorage": 1,
    "CharStorage": 1,
    "ShortStorage": 2,
    "IntStorage": 4,
    "LongStorage": 8,
}
# The same of each kind of NumPy number.
NUMPY_NUMBERS = {"b1": 1, "f2": 2, "f4": 4, "f8": 8} | {f"{kind}{size}": size for kind in "iu" for size in (1, 2, 4, 8)}
_DTYPES = ("float16", "bfloat16", "float32", "float64", "uint8", "int8", "int16", "int32", "int64", "bool")
_NUMPY_SCALARS = ("numpy.core.multiarray scalar", "numpy._core.multiarray scalar")
_INERT = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    "torch Size",
    "torch device",
    "numpy dtype",
    "_codecs encode",
    *_NUMPY_SCALARS,
    *(f"torch {name}" for name in (*ITEM_BYTES, *_DTYPES)),
}
_UNUSABLE = {
    "torch._utils _rebuild_sparse_tensor": "it holds a sparse tensor; save it again with dense ones (.to_dense())",
    "torch._utils _rebuild_qtensor": "it holds a quantised tensor; save it again with ordinary ones (.dequantize())",
    "torch._utils _rebuild_tensor_v3": "it holds a tensor of an unusual number format; save it again as float32",
}
TOO_MUCH = "it claims more numbers than the file can hold; it is damaged or made to exhaust memory"


@dataclass(frozen=True)
class StorageClaim:
    """A run of numbers that the file says it holds elsewhere."""

    key: str
    kind: str
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * ITEM_BYTES[self.kind]


@dataclass
class Scan:
    """What a pickle asks for. elements: of all its tensors together."""

    root: Any = None
    storages: dict[str, StorageClaim] = field(default_factory=dict)
    elements: int = 0


@dataclass(frozen=True)
class _NumpyType:
    """Stands in for numpy.dtype(code)."""

    code: str


class _Tensor:
    """Stands in for a tensor whose claim has been checked."""


class _Table(dict):
    """Stands in for a collections.OrderedDict."""


def require_inert(name: str) -> None:
    """Raise Refusal for a class or function, "module name", that has no stand-in."""
    if name in _UNUSABLE:
        raise Refusal(_UNUSABLE[name])
    if name not in _INERT:
        module, _, rest = name.partition(" ")
        module = {"posix": "os", "nt": "os", "__builtin__": "builtins"}.get(module, module)
        raise Refusal(
            f"it asks to run {shown(f'{module}.{rest}')}; nothing in it was run. Only open checkpoints that hold "
            "tensors, as torch.save(model.state_dict(), …) writes them"
        )


class Machine(PickleStack):
    """The instructions that torch.save writes; `scan` collects what is asked for."""

    KEYS = (str, int, float, bool, type(None))

    _TAKEN = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE"}
    _MADE = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
    _CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
    _TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

    def __init__(self):
        super().__init__()
        self.scan = Scan()

    def step(self, name: str, argument: Any) -> bool:
        """Do one instruction; False when it is none of those that torch.save writes."""
        if name in self._TAKEN:
            self.stack.append(argument)
        elif name in self._MADE:
            self.stack.append(self._MADE[name]())
        elif name in self._CONSTANTS:
            self.stack.append(self._CONSTANTS[name])
        elif name in self._TUPLES:
            items = [self.stack.pop() for _ in range(self._TUPLES[name])]
            self.stack.append(tuple(reversed(items)))
        elif name in ("BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self.stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "GLOBAL":
            require_inert(argument)
            self.stack.append(Global(argument))
        elif name in ("PROTO", "STOP"):
            pass
        elif hasattr(self, f"_do_{name.lower()}"):
            getattr(self, f"_do_{name.lower()}")()
        else:
            return False
        return True

    def _do_binpersid(self):
        parts = self.stack.pop()
        require(type(parts) is tuple and len(parts) in (5, 6) and parts[0] == "storage" and parts[5:] in ((), (None,)))
        _, kind, key, location, numel = parts[:5]
        require(isinstance(kind, Global) and kind.name.removeprefix("torch ") in ITEM_BYTES)
        require(type(key) is str and type(location) is str and _count(numel))
        claim = StorageClaim(key, kind.name.removeprefix("torch "), numel)
        # torch.load keeps the first storage of a key and would lay a later claim over it unseen.
        require(self.scan.storages.setdefault(key, claim) == claim)
        self.stack.append(claim)

    def _do_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _NumpyType):
            require(type(state) is tuple and state[1:] and state[1] in ("<", ">", "|"))
            require(state == (3, state[1], None, None, None, -1, -1, 0))
        else:  # state_dict() carries its version numbers as an attribute
            require(isinstance(target, _Table) and isinstance(state, dict) and set(state) == {"_metadata"})

    def _call(self, name: str, arguments: tuple) -> Any:
        if name == "torch._utils _rebuild_tensor_v2":
            return self._tensor(*arguments)
        if name == "torch._utils _rebuild_parameter":
            tensor, requires_grad, hooks = arguments
            require(isinstance(tensor, _Tensor) and type(requires_grad) is bool and _empty(hooks))
            return tensor
        if name == "collections OrderedDict":
            require(not arguments)
            return _Table()
        if name == "torch Size":
            require(len(arguments) == 1 and _counts(arguments[0]))
            return arguments[0]
        if name == "torch device":
            require(all(type(part) in (str, int) for part in arguments))
            return name
        if name == "numpy dtype":
            code, align, copy = arguments
            require(type(code) is str and code in NUMPY_NUMBERS and (align, copy) == (False, True))
            return _NumpyType(code)
        if name == "_codecs encode":
            text, codec = arguments
            require(type(text) is str and codec == "latin1")
            return text.encode(codec)
        if name in _NUMPY_SCALARS:
            kind, content = arguments
            require(isinstance(kind, _NumpyType) and type(content) is bytes)
            require(len(content) == NUMPY_NUMBERS[kind.code])
            return content
        return super()._call(name, arguments)

    def _tensor(self, storage, offset, size, stride, requires_grad, hooks) -> _Tensor:
        require(isinstance(storage, StorageClaim) and type(requires_grad) is bool and _empty(hooks))
        require(_count(offset) and _counts(size) and _counts(stride) and len(size) == len(stride) <= 64)
        elements = 1
        for length in size:
            elements *= length
        reach = offset + (sum((length - 1) * step for length, step in zip(size, stride)) + 1 if elements else 0)
        if reach > storage.numel:
            raise Refusal(TOO_MUCH)
        self.scan.elements += elements
        return _Tensor()


def _count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _counts(values: Any) -> bool:
    return type(values) is tuple and all(map(_count, values))


def _empty(hooks: Any) -> bool:
    return isinstance(hooks, _Table) and not hooks
