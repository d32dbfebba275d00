"""The contest of tests.benchmarks.network: who takes part, in which turns, and what is told of it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType

import torch
from torch import Tensor

from engine.device import device
from engine.snn import ModelConfig, kernels

from .contestant import BARE, ENGINE, FLOOR, GRAPHED, JELLY, LOOP, OWN, SEARCHED, contestants, names
from .limits import limit

LOOP32 = "loop in float32"  # takes its turn in other precisions too: a machine's speed changes within minutes
UNWEIGHED = {LOOP32, BARE, FLOOR, SEARCHED, GRAPHED}  # whose memory is not told


class Contestant:
    """A process of tests.benchmarks.contestant, which waits while the others have their turn.

    OpenMP's threads look for work as long as the engine wants it for the engine, as long as usual for its peers.
    """

    def __init__(self, name: str, options: Namespace):
        asked = {"serve": name, "arch": options.arch, "steps": options.steps, "threads": options.threads}
        spin = {} if name in OWN else {"GOMP_SPINCOUNT": "300000"}  # the engine's own is set by importing it
        self.name, self.errors = name, []
        self._process = _process(asked, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | spin)

    def __enter__(self) -> Contestant:
        if self._process.stdout.readline() != "ready\n":
            sys.exit(f"{self.name} could not be started.")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()

    def asked(self, do: str, task: str, precision: str, batch: int) -> float | None:
        """Its answer; None where it has none, and why among `errors`."""
        line = json.dumps({"do": do, "task": task, "precision": precision, "batch": batch})
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError):  # it is there no more
            answer = {"error": f"its process ended with {self._process.poll()}"}
        if isinstance(answer, dict):
            self.errors.append(f"{self.name}, {task}, {precision}, batch {batch}: {answer['error']}")
            return None
        return answer


def _process(asked: dict, **streams) -> subprocess.Popen:
    command = [sys.executable, "-m", "tests.benchmarks.network", "--only", json.dumps(asked)]
    return subprocess.Popen(command, text=True, **streams)


def held(options: Namespace, kept: Callable[[dict], None]) -> dict:
    """Every figure: what was measured on, the share of spikes that differ, a row for each contestant and setting, and what
    could not be measured. kept: is given them after each setting, too."""
    if options.threads:
        torch.set_num_threads(options.threads)
    cuda = device().type == "cuda"
    found = {"device": _device_name(), "kind": device().type, "threads": torch.get_num_threads()}
    found |= {"torch": torch.__version__, "arch": options.arch, "steps": options.steps, "rounds": options.rounds}
    forms = (
        kernels.of(torch.empty(0, dtype=one, device=device()), learning=True) for one in (torch.float32, torch.bfloat16)
    )
    found["kernels"] = [form.__name__.rpartition(".")[2] for form in forms]  # plain where others cannot be loaded
    found |= {"different_spikes": different_spikes(options), "rows": [], "errors": []}
    with ExitStack() as started:
        each = [Contestant(name, options) for name in names()]  # all begin before the first is waited for
        everyone = {one.name: started.enter_context(one) for one in each}
        for batch in options.batch or ([64, 256] if cuda else [8, 32]):
            for precision in options.precision or ["float32", "tf32", "bfloat16"][:: 1 if cuda else 2]:
                for task in options.task:
                    print(f"{task}, {precision}, batch {batch} …", file=sys.stderr, flush=True)
                    found["rows"] += _rows(everyone, options, task, precision, batch)
                    found["errors"] = [said for one in each for said in one.errors]
                    kept(found)
    return found


@torch.no_grad()
def different_spikes(options: Namespace) -> dict[str, float]:
    """Share of all spikes of the hidden layers that a peer fires differently, given the same input spikes, in float32.

    Rounding differs with the order of sums, and a flipped spike flips others behind it; more than one in a thousand would
    be another network, and ends the benchmark.
    """
    networks = contestants(options, *(name for name in (ENGINE, LOOP, JELLY) if name in names()))
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
    for turn in range(options.rounds):
        order = list(times)
        for name in order[turn % len(order) :] + order[: turn % len(order)]:  # none is always behind the same one
            one, its = turns[name]
            if (taken := one.asked("turn", task, its, batch)) is None:
                del times[name]
            else:
                times[name].append(taken)
    at_most = limit(ModelConfig(arch=options.arch, steps=options.steps), task, precision, batch)
    found = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else taken * 3
        row = {"task": task, "precision": precision, "batch": batch, "name": name, "seconds": median}
        row |= {"quartiles": [low, high], "share_of_limit": at_most["limit_seconds"] / median} | at_most
        row["peak_bytes"] = None
        if device().type == "cuda" and name not in UNWEIGHED:
            row["peak_bytes"] = everyone[name].asked("peak", task, precision, batch)
        found.append(row)
    for one in everyone.values():
        one.asked("rest", task, precision, batch)
    if device().type != "cuda":
        for row in found:
            if row["name"] not in UNWEIGHED:
                row["peak_bytes"] = _peak(everyone[row["name"]], options, task, precision, batch)
    return found


def _peak(one: Contestant, options: Namespace, task: str, precision: str, batch: int) -> int | None:
    """Bytes at most in use while it works, on a CPU: of a process that does nothing before."""
    asked = {"name": one.name, "task": task, "precision": precision, "batch": batch, "arch": options.arch}
    asked |= {"steps": options.steps, "threads": options.threads}
    with _process(asked, stdout=subprocess.PIPE) as process:
        said = process.stdout.read()
    if process.returncode:
        one.errors.append(f"{one.name}, {task}, {precision}, batch {batch}: its memory could not be measured")
        return None
    return int(said)


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
