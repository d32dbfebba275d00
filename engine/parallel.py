"""Several processes that train one network together: torchrun starts them, torch.distributed connects them.

Each works on its rows of every batch. Without torchrun there is one process, which is then the main one, and nothing
here has an effect.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from inspect import signature
from typing import NoReturn

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .device import device
from .runs import TrainingError
from .torchrun import several

PATIENCE = timedelta(hours=2)  # with another process that decodes the data, or writes to a slow disk
TELL_SECONDS = 5
_store: dist.Store | None = None


class PeerError(TrainingError):
    """Another process of this training cannot go on; its sentence."""


def start() -> None:
    """Join the other processes that torchrun started, blocking until all are there.

    They talk over gloo; CUDA tensors travel over NCCL, and each process takes the GPU of its LOCAL_RANK. On CPUs the
    cores are shared out, unless OMP_NUM_THREADS says how many threads to use. Raises TrainingError.
    """
    global _store
    if not several():
        return
    cuda = device().type == "cuda"
    try:
        _store, number, processes = next(dist.rendezvous("env://"))
        backend, store = "cpu:gloo,cuda:nccl" if cuda else "gloo", dist.PrefixStore("group", _store)
        dist.init_process_group(backend, store=store, rank=number, world_size=processes, timeout=PATIENCE)
    except dist.DistError as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        raise TrainingError(f"the other processes do not answer at {address}") from error
    place, gpus = int(os.environ.get("LOCAL_RANK", number)), torch.cuda.device_count()
    with together():
        if cuda and place >= gpus:
            raise TrainingError(f"{place + 1} processes on a machine need as many GPUs, and there are {gpus}")
    if cuda:
        torch.cuda.set_device(place)
    elif "OMP_NUM_THREADS" not in os.environ:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        torch.set_num_threads(max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", processes))))


def stop() -> None:
    """Leave the others. May be called without start()."""
    global _store
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
    _store = None


def end_with(work: Callable[[], int]) -> NoReturn:
    """Do the work and end this process with the status it returns, at once.

    torch's threads may still be putting tensors away when Python is half gone; under load that aborted one process in
    twenty that had done its work, and torchrun then ends the others too.
    """
    try:
        status = work()
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def world() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Which of them this one is, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_main() -> bool:
    """Whether this is the process that writes files and speaks: rank 0."""
    return rank() == 0


def broadcast(value):
    """The main process's value, in every process. Plain values, and tensors on the CPU."""
    if world() == 1:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=0, device=torch.device("cpu"))
    return held[0]


def mean(value: float) -> float:
    """The mean over the processes, the same in each."""
    if world() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    dist.all_reduce(total)
    return float(total) / world()


def total(counts: Tensor) -> Tensor:
    """The sum over the processes."""
    if world() > 1:
        counts = counts.cpu()
        dist.all_reduce(counts)
    return counts


def gathered(value) -> list:
    """What each process gave, in the order of their ranks."""
    values = [value] * world()
    if world() > 1:
        dist.all_gather_object(values, value)
    return values


def share(batch: Tensor) -> Tensor:
    """This process's rows of the batch that all work on together; its length must be a multiple of world()."""
    size = len(batch) // world()
    if size * world() != len(batch):
        raise ValueError(f"{len(batch)} samples cannot be shared out equally among {world()} processes")
    return batch[rank() * size : (rank() + 1) * size]


class _EveryStep(nn.Module):
    """A network that is called for the scores of every exit step."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, *arguments, **options) -> Tensor:
        return self.network.forward_steps(*arguments, **options)


def forward_steps(network: nn.Module) -> Callable[..., Tensor]:
    """Its forward_steps, to be asked for once a training: backward() leaves the mean of all processes' gradients.

    Running statistics need no exchange of their own: engine.snn.norm keeps them equal.
    """
    if world() == 1:
        return network.forward_steps
    wrapper = nn.parallel.DistributedDataParallel
    renamed = "forward_sync_buffers" in signature(wrapper).parameters  # in torch 2.13
    return wrapper(_EveryStep(network), **{"forward_sync_buffers" if renamed else "broadcast_buffers": False})


@contextmanager
def together() -> Iterator[None]:
    """What fails in this block on one process fails on all: the others wait for its end and raise PeerError."""
    failure = None
    try:
        yield
    except Exception as error:  # raised again below, when the others know
        failure = error
    sentences = gathered("" if failure is None else str(failure) or type(failure).__name__)
    if failure is not None:
        raise failure
    if any(sentences):
        raise PeerError(next(filter(None, sentences)))


@contextmanager
def watched() -> Iterator[None]:
    """Where the others are waited for in this block, and one has ended without a word, PeerError."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise PeerError("another process of this training has ended") from error
        raise


def tell(sentence: str) -> None:
    """Write to standard error why this process ends, once and not once a process.

    The main one speaks. The others wait until it has, since torchrun ends all processes as soon as one ends; one of
    them speaks where the main one cannot, because it waits for what will never come.
    """
    if _store is None:
        print(sentence, file=sys.stderr)
    elif _speaks():
        print(sentence, file=sys.stderr, flush=True)
        with suppress(RuntimeError):
            _store.set("told", "")


def _speaks() -> bool:
    with suppress(RuntimeError):  # it took too long, or the store has gone with the process that kept it
        if not is_main():
            _store.wait(["told"], timedelta(seconds=TELL_SECONDS))
            return False
    with suppress(RuntimeError):
        return _store.add("speakers", 1) == 1
    return True
