"""The stack of a pickle reader over inert stand-ins: what such readers share, whatever files they are for.

Nothing is unpickled: a subclass decides which instructions it knows and what a name or a call stands for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function that a pickle names, "module name"; never looked up."""

    name: str


class PickleStack:
    """Stack, marks and memo as Python's own reader keeps them, and the instructions that only move plain values.

    KEYS: the types a table may have as keys. Tuples are never among them: hashing nested ones can take for ever. What
    does not fit raises ValueError or LookupError.
    """

    KEYS: tuple[type, ...] = (str,)

    def __init__(self):
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def _call(self, name: str, arguments: tuple) -> Any:
        raise ValueError(f"{name} is not a function")

    def _do_mark(self):
        self.outer.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _do_tuple(self):
        items = self._since_mark()
        self.stack.append(tuple(items))

    def _do_append(self):
        self._extend([self.stack.pop()])

    def _do_appends(self):
        self._extend(self._since_mark())

    def _extend(self, items: list[Any]):
        require(type(self.stack[-1]) is list)
        self.stack[-1].extend(items)

    def _do_setitem(self):
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _do_setitems(self):
        self._set(self._since_mark())

    def _set(self, items: list[Any]):
        table = self.stack[-1]
        require(isinstance(table, dict))
        for key, value in zip(items[::2], items[1::2], strict=True):
            require(type(key) in self.KEYS)
            table[key] = value

    def _do_reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        require(isinstance(function, Global) and type(arguments) is tuple)
        self.stack.append(self._call(function.name, arguments))


def require(holds: bool) -> None:
    """Raise ValueError unless it holds."""
    if not holds:
        raise ValueError("not what a file of this kind holds")
