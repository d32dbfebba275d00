"""One who takes part in the contest of tests.benchmarks.network, in a process of its own.

A person runs one of them at a time: in one process with the others, each would compute among their memory, which on a
CPU costs the engine a fifth. `serve` answers lines of JSON, one after another, as tests.benchmarks.contest sends them.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.attacks.attack import Attacker
from engine.attacks.victim import Victim
from engine.device import device, keep_freed_memory
from engine.snn import ModelConfig, SpikingNetwork, build_model

from .peers import Bare, Jelly, PlainLoop

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
ENGINE, LOOP, JELLY = "engine", "loop", "SpikingJelly"
BARE, FLOOR = "bare layers", "bare layers and one pass"
SEARCHED, GRAPHED = "engine, cudnn.benchmark", "engine in a CUDA graph"  # whether these would pay
OWN = ENGINE, SEARCHED, GRAPHED
PGD_STEPS, EPS = 10, 8 / 255
_optimizers: WeakKeyDictionary[nn.Module, torch.optim.Optimizer] = WeakKeyDictionary()


def _network(options: Namespace) -> SpikingNetwork:
    """Fresh weights, with running statistics as after some batches, so that every layer fires in evaluation too."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch=options.arch, steps=options.steps)).to(device()).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, 3, 32, 32, device=device()))
    return model


def names() -> list[str]:
    """Of all who take part here."""
    jelly = [JELLY] if importlib.util.find_spec("spikingjelly") else []
    return [ENGINE, LOOP, *jelly, BARE, FLOOR, *(OWN[1:] if device().type == "cuda" else ())]


def contestants(options: Namespace, *asked: str) -> dict[str, nn.Module]:
    """Name → network, all with the same weights and statistics."""
    model = _network(options)
    made = {
        LOOP: lambda: PlainLoop(model),
        JELLY: lambda: Jelly(model).to(memory_format=torch.channels_last),  # faster so
        BARE: lambda: Bare(model),
        FLOOR: lambda: Bare(model, one_pass=True),
    } | dict.fromkeys(OWN, lambda: model)
    return {name: made[name]().to(device()) for name in asked}


def serve(name: str, options: Namespace) -> None:
    """For each line {"do": …, "task": …, "precision": …, "batch": …} of standard input, one line: a number, or {"error": …}.

    do: "turn" for the seconds of one run, after one that is not counted; "peak" for the bytes at most in use, on a GPU;
    "rest" to give back the memory that the last setting needed, as the others wait for it.
    """
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    network, works = contestants(options, name)[name], {}
    torch.backends.cudnn.benchmark = name == SEARCHED
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        setting = asked["task"], asked["precision"], asked["batch"]
        try:
            if asked["do"] == "rest":
                works, found = {}, 0
                _give_back()
            else:
                if setting not in works:
                    works[setting] = _prepared(name, work(network, *setting))
                run = works[setting]
                found = _peak(run) if asked["do"] == "peak" else _turn(run, asked["task"])
        except Exception as error:  # noqa: BLE001 the others go on; why is told, in the table too
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
        print(json.dumps(found), flush=True)


def _give_back() -> None:
    gc.collect()
    if device().type == "cuda":
        torch.cuda.empty_cache()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _prepared(name: str, run: Callable[[], None]) -> Callable[[], None]:
    """Run once; for GRAPHED then recorded, to be played again."""
    run()
    if name != GRAPHED:
        return run
    torch.cuda.synchronize()
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return partial(_replay, graph, run)


def _replay(graph: torch.cuda.CUDAGraph, _run: Callable[[], None]) -> None:
    """_run: holds the tensors that the graph reads."""
    graph.replay()


def _turn(run: Callable[[], None], task: str) -> float:
    """Seconds, once its data and its memory are at hand; on a CPU an attack's first step does that, which is a tenth."""
    if task != "pgd" or device().type == "cuda":
        run()
    return seconds(run)


def _peak(run: Callable[[], None]) -> int:
    """Bytes at most in use on a GPU while it runs, beside what was there before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def work(
    network: nn.Module, task: str, precision: str, batch: int, attack_steps: int = PGD_STEPS
) -> Callable[[], None]:
    """What is timed, in a form that may be called again and again."""
    if isinstance(network, Bare):
        return _allowing(precision, network.work(task, precision, batch, attack_steps))
    images = torch.rand(batch, 3, 32, 32, device=device())
    labels = torch.randint(10, (batch,), device=device())
    if own := isinstance(network, SpikingNetwork):
        network.precision = precision
    cast = torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16" and not own)
    mean, std = (torch.tensor(one, device=device()).view(3, 1, 1) for one in (MEAN, STD))
    optimizer = _optimizer(network)

    def answer(x: Tensor) -> Tensor:
        with cast:
            return network((x - mean) / std)

    def evaluation():
        network.eval()
        with torch.no_grad():
            answer(images)

    def training():
        network.train()
        loss = F.cross_entropy(answer(images).float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def pgd():
        import torchattacks

        victim = Victim(network, MEAN, STD, Attacker(draws=1), seed=0) if own else _Wrapped(answer, network)
        torchattacks.PGD(victim.eval(), eps=EPS, alpha=EPS / 4, steps=attack_steps)(images, labels)

    return _allowing(precision, {"evaluation": evaluation, "training": training, "pgd": pgd}[task])


def _optimizer(network: nn.Module) -> torch.optim.Optimizer:
    """One for each network: its momentum is there after a first step."""
    if network not in _optimizers:
        _optimizers[network] = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    return _optimizers[network]


def _allowing(precision: str, work: Callable[[], None]) -> Callable[[], None]:
    """`work` with TF32 where that is the precision, and not where it is not."""

    def allowed():
        allow_tf32(precision)
        work()

    return allowed


class _Wrapped(nn.Module):
    """A peer as torchattacks wants it: images in [0, 1] in, scores out."""

    def __init__(self, answer: Callable[[Tensor], Tensor], network: nn.Module):
        super().__init__()
        self.network, self._answer = network, answer

    def forward(self, images: Tensor) -> Tensor:
        return self._answer(images).float()


def allow_tf32(precision: str) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def seconds(run: Callable[[], None]) -> float:
    started = _now()
    run()
    return _now() - started


def _now() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def memory_of_one(asked: dict) -> int:
    """Growth of this process's resident memory to its peak by one contestant's work, in bytes; 0 where Linux is not.

    Memory that was given back is returned to the operating system here, and an attack has one step: the others use the
    same memory again.
    """
    options = Namespace(**asked)
    if options.threads:
        torch.set_num_threads(options.threads)
    network = contestants(options, options.name)[options.name]
    work(network, options.task, options.precision, 2, 1)()  # what libraries load, the optimiser's state
    run = work(network, options.task, options.precision, options.batch, 1)
    _give_back()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    except OSError:
        return 0
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])
