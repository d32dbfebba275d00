"""What a pickle asks for, found out without unpickling it.

torch.load(weights_only=True) executes nothing, but it believes sizes: a tensor may claim more elements than its storage
has, a storage more than the file. This scan runs the same few instructions over inert stand-ins and refuses everything
else, so that a file reaches torch.load only when all it asks for is known and fits.
"""

from __future__ import annotations

import pickletools
from collections.abc import Iterator
from io import BytesIO
from itertools import islice

from .errors import Refusal
from .machine import TOO_MUCH, Machine, Scan, require_inert

MAX_PICKLE = 64 * 2**20
# An instruction of one byte can make an object of 64: this bounds what a scan may take, to some 200 MB and two seconds.
# VGG11 with T = 50 needs 53,000.
MAX_OPERATIONS = 2_000_000
DAMAGED = "its list of contents is damaged; copy or download the file again"


def scan(stream: BytesIO) -> Scan:
    """Read one pickle from where the stream stands. Raises Refusal for whatever is not tensors and plain values."""
    start = stream.tell()
    machine = Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count >= MAX_OPERATIONS:
                raise Refusal("its list of contents is too long for a checkpoint of this kind; choose another file")
            if not machine.step(opcode.name, argument):
                stream.seek(start)
                refuse_globals(stream)
                raise Refusal(
                    f"it was pickled in a way that is not read here ({opcode.name}); "
                    "save it again with torch.save and its usual settings"
                )
        machine.scan.root = machine.stack.pop()
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise Refusal(DAMAGED) from error
    return machine.scan


def check_total(scan: Scan, size: int) -> None:
    """Refuse tensors that together have more elements than the file has bytes.

    Each may lie within its storage: many views of one storage do, and a stride of 0 reaches nowhere.
    """
    if scan.elements > size or sum(claim.nbytes for claim in scan.storages.values()) > size:
        raise Refusal(TOO_MUCH)


def refuse_globals(stream: BytesIO) -> None:
    """Raise Refusal for the first class or function that a pickle names and that is not one of the inert ones."""
    for name in _globals(stream):
        require_inert(name)


def _globals(stream: BytesIO) -> Iterator[str]:
    strings: list[str] = []
    try:
        for opcode, argument, _ in islice(pickletools.genops(stream), MAX_OPERATIONS):
            if opcode.name in ("GLOBAL", "INST"):
                yield argument
            elif opcode.name == "STACK_GLOBAL" and len(strings) >= 2:
                yield " ".join(strings[-2:])
            elif isinstance(argument, str):
                strings = [*strings[-1:], argument]
    except (ValueError, MemoryError):
        return  # only to name what is in a file that is refused anyway
