"""The contest of tests.benchmarks.network: who takes part, in which turns, and what is told of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor

from engine.device import device
from engine.snn import ModelConfig

from .contestant import BARE, ENGINE, FLOOR, GRAPHED, JELLY, LOOP, SEARCHED, contestants
from .limits import limit

LOOP32 = "loop in float32"  # takes its turn in other precisions too: a machine's speed changes within minutes
UNWEIGHED = {LOOP32, BARE, FLOOR, SEARCHED, GRAPHED}  # whose memory is not told


class Contestant:
    """A process of tests.benchmarks.contestant, which waits while the others have their turn.

    The peers have OpenMP's own time of waiting for work, which the engine makes shorter for itself.
    """

    def __init__(self, name: str, options: Namespace):
        asked = {"serve": name, "arch": options.arch, "steps": options.steps, "threads": options.threads}
        environment = os.environ if name == ENGINE else os.environ | {"GOMP_SPINCOUNT": "300000"}
        self.name, self._process = name, _process(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)

    def __enter__(self) -> Contestant:
        if self._process.stdout.readline() != "ready\n":
            sys.exit(f"{self.name} could not be started.")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        self._process.wait()

    def asked(self, do: str, task: str, precision: str, batch: int) -> float | None:
        """Its answer; None, and why on standard error, where it has none."""
        line = json.dumps({"do": do, "task": task, "precision": precision, "batch": batch})
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '{"error": "it ended"}')
        if isinstance(answer, dict):
            print(f"{self.name}, {task}, {precision}, batch {batch}: {answer['error']}", file=sys.stderr, flush=True)
            return None
        return answer


def _process(asked: dict, **streams) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.benchmarks.network", "--only", json.dumps(asked)]
    return subprocess.Popen(command, text=True, **streams)


def held(options: Namespace) -> dict:
    """Every figure: what was measured on, the share of spikes that differ, and a row for each contestant and setting."""
    if options.threads:
        torch.set_num_threads(options.threads)
    cuda, rows = device().type == "cuda", []
    different, names = different_spikes(options), list(contestants(options))
    with ExitStack() as started:
        each = [Contestant(name, options) for name in names]  # all begin before the first is waited for
        everyone = {one.name: started.enter_context(one) for one in each}
        for batch in options.batch or ([64, 256] if cuda else [8, 32]):
            for precision in options.precision or ["float32", "tf32", "bfloat16"][:: 1 if cuda else 2]:
                for task in options.task:
                    print(f"{task}, {precision}, batch {batch} …", file=sys.stderr, flush=True)
                    rows += _rows(everyone, options, task, precision, batch)
    about = {"device": _device_name(), "kind": device().type}
    about |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    network = {"arch": options.arch, "steps": options.steps, "rounds": options.rounds}
    return about | network | {"different_spikes": different, "rows": rows}


@torch.no_grad()
def different_spikes(options: Namespace) -> dict[str, float]:
    """Share of all spikes of the hidden layers that a peer fires differently, given the same input spikes, in float32.

    Rounding differs with the order of sums, and a flipped spike flips others behind it; more than one in a thousand would
    be another network, and ends the benchmark.
    """
    networks = contestants(options)
    x = torch.randint(-1, 2, (options.steps, 4, 3, 32, 32), device=device()).float()
    own: list[Tensor] = []
    networks[ENGINE].eval().forward_steps(x, observe=lambda layer, s, _: own.append(s) if layer >= 0 else None)
    shares = {}
    for name in (LOOP, JELLY):
        if name in networks:
            seen: list[Tensor] = []
            networks[name].eval()(x, seen)
            if name == LOOP:  # layer after layer within each timestep
                seen = [torch.stack(seen[layer :: len(own)]) for layer in range(len(own))]
            differing = sum(int((ours != theirs).sum()) for ours, theirs in zip(own, seen))
            shares[name] = differing / sum(spikes.numel() for spikes in own)
            if shares[name] > 1e-3:
                sys.exit(f"{name} computes another network: {shares[name]:.2%} of the spikes differ.")
    return shares


def _rows(everyone: dict[str, Contestant], options: Namespace, task: str, precision: str, batch: int) -> list[dict]:
    """A row for each contestant: seconds as median and quartiles, peak memory and share of the limit."""
    turns = {name: (one, precision) for name, one in everyone.items() if name != GRAPHED or task != "pgd"}
    if precision != "float32":
        turns[LOOP32] = everyone[LOOP], "float32"
    times: dict[str, list[float]] = {name: [] for name in turns}
    for _ in range(options.rounds):
        for name, (one, its) in list(turns.items()):
            if (taken := one.asked("turn", task, its, batch)) is None:
                del turns[name], times[name]
            else:
                times[name].append(taken)
    at_most = limit(ModelConfig(arch=options.arch, steps=options.steps), task, precision, batch)
    found = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
        row = {"task": task, "precision": precision, "batch": batch, "name": name, "seconds": median}
        row |= {"quartiles": [low, high], "share_of_limit": at_most["limit_seconds"] / median} | at_most
        row["peak_bytes"] = None if name in UNWEIGHED else _peak(everyone[name], options, task, precision, batch)
        found.append(row)
    return found


def _peak(one: Contestant, options: Namespace, task: str, precision: str, batch: int) -> int | None:
    """Bytes at most in use while it works; on a CPU of a process that does nothing before."""
    if device().type == "cuda":
        return one.asked("peak", task, precision, batch)
    asked = {"name": one.name, "task": task, "precision": precision, "batch": batch, "arch": options.arch}
    asked |= {"steps": options.steps, "threads": options.threads}
    with _process(asked, stdout=subprocess.PIPE) as process:
        return int(process.stdout.read())


def _device_name() -> str:
    if device().type == "cuda":
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as lines:
            known = dict(map(str.strip, line.split(":", 1)) for line in lines if ":" in line)
    except OSError:
        known = {}
    bfloat16 = {"avx512_bf16", "amx_bf16", "bf16"} & set(f"{known.get('flags')} {known.get('Features')}".split())
    return f"{known.get('model name', 'CPU')} with{'' if bfloat16 else 'out'} bfloat16 instructions"
