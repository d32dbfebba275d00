"""Which device the engine computes on: decided once, for the whole process."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch

POLL_SECONDS = 0.1


@cache
def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_count() -> int:
    """Number of GPUs that this process sees."""
    return torch.cuda.device_count()


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
