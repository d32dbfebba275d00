"""Which device the engine computes on: decided once, for the whole process."""

from __future__ import annotations

import ctypes
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

POLL_SECONDS = 0.1
KEPT_BYTES = 2**30
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of malloc.h
_OLD_MMAP_LIMIT = 32 * 2**20  # glibc before 2.35 refuses more


@cache
def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_count() -> int:
    """Number of GPUs that this process sees."""
    return torch.cuda.device_count()


def machine_memory() -> int | None:
    """Bytes of memory that work here can have: the GPU's, or else the machine's; None where that is not told."""
    if device().type == "cuda":
        return torch.cuda.mem_get_info()[1]
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()  # of a container; "max" where there is none
    except (AttributeError, ValueError):
        return None
    except OSError:
        return found
    return min(found, int(limit)) if limit.isdecimal() else found


def keep_freed_memory() -> None:
    """Let this process use memory again that its tensors gave back, instead of returning it to the operating system.

    What a layer needs comes and goes at every timestep, and fresh pages cost more than what is computed in them: without
    this, evaluation takes up to twice as long. Of the GNU C library; nothing happens with others. To be called before
    other threads compute: one that has begun with a heap of its own stays with it, and such heaps keep nothing large.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        if not mallopt(_MMAP_THRESHOLD, KEPT_BYTES):
            mallopt(_MMAP_THRESHOLD, _OLD_MMAP_LIMIT)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(_TOP_PAD, 64 * 2**20)
        mallopt(_ARENA_MAX, 1)


@contextmanager
def exclusive(waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Have one GPU to oneself for the length of the block, waiting for one to be free; on a CPU nothing.

    waiting: called again and again meanwhile; what it raises ends the wait. All of this project's processes on a
    machine keep to it, the app's workers and the command line: a lock on a file stands for each GPU, and the operating
    system lets go of it when the process dies. Under torchrun each process takes the GPU of its rank.
    """
    if device().type != "cuda":
        yield
        return
    from filelock import FileLock, Timeout

    own = os.environ.get("LOCAL_RANK")
    numbers = range(gpu_count()) if own is None else [int(own)]
    locks = {number: FileLock(_lock_file(number), mode=0o666) for number in numbers}
    while True:
        for number, lock in locks.items():
            try:
                lock.acquire(timeout=0)
            except Timeout:
                continue
            try:
                torch.cuda.set_device(number)
                yield
            finally:
                lock.release()
            return
        waiting()
        time.sleep(POLL_SECONDS)


def _lock_file(number: int) -> Path:
    """Named by the GPU itself: CUDA_VISIBLE_DEVICES may number it differently elsewhere."""
    return Path(tempfile.gettempdir()) / f"bntt-gpu-{torch.cuda.get_device_properties(number).uuid}.lock"
