"""The contest of tests.benchmarks.network: who takes part, in which turns, and what is told of it."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Callable
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
LOOP32 = "loop in float32"  # takes its turn in other precisions too: a machine's speed changes within minutes
BARE, FLOOR = "bare layers", "bare layers and one pass"
UNWEIGHED = {LOOP32, BARE, FLOOR}  # whose memory is not told
PGD_STEPS, EPS = 10, 8 / 255
COPY_BYTES = 2**28
_optimizers: WeakKeyDictionary[nn.Module, torch.optim.Optimizer] = WeakKeyDictionary()


def held(options: Namespace) -> dict:
    """Every figure: what was measured on, the share of spikes that differ, and a row for each contestant and setting."""
    _prepare(options)
    different = different_spikes(options)
    cuda = device().type == "cuda"
    precisions = options.precision or ["float32", "tf32", "bfloat16"][:: 1 if cuda else 2]
    rows = []
    for batch in options.batch or ([64, 256] if cuda else [8, 32]):
        for precision in precisions:
            for task in options.task:
                print(f"{task}, {precision}, batch {batch} …", file=sys.stderr, flush=True)
                rows += _rows(options, task, precision, batch)
    about = {"device": _device_name(), "kind": device().type}
    about |= {"threads": torch.get_num_threads(), "torch": torch.__version__}
    network = {"arch": options.arch, "steps": options.steps, "rounds": options.rounds}
    return about | network | {"different_spikes": different, "rows": rows}


def _prepare(options: Namespace) -> None:
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)


def _network(options: Namespace) -> SpikingNetwork:
    """Fresh weights, with running statistics as after some batches, so that every layer fires in evaluation too."""
    torch.manual_seed(0)
    model = build_model(ModelConfig(arch=options.arch, steps=options.steps)).to(device()).train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(4, 3, 32, 32, device=device()))
    return model


def contestants(options: Namespace) -> dict[str, nn.Module]:
    """Name → network, all with the same weights and statistics."""
    model = _network(options)
    found = {ENGINE: model, LOOP: PlainLoop(model)}
    if importlib.util.find_spec("spikingjelly"):
        found[JELLY] = Jelly(model).to(memory_format=torch.channels_last)  # faster so
    found |= {BARE: Bare(model), FLOOR: Bare(model, one_pass=True)}
    return {name: one.to(device()) for name, one in found.items()}


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


def _rows(options: Namespace, task: str, precision: str, batch: int) -> list[dict]:
    """A row for each contestant: seconds as median and quartiles, peak memory and share of the limit."""
    if task == "pgd" and importlib.util.find_spec("torchattacks") is None:
        print("torchattacks is not installed: no attack is measured", file=sys.stderr)
        return []
    networks = contestants(options)
    work = {name: _work(name, network, task, precision, batch) for name, network in networks.items()}
    if precision != "float32":
        work[LOOP32] = _work(LOOP, networks[LOOP], task, "float32", batch)
    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(options.rounds + 1):
        for name, run in work.items():
            if task != "pgd":  # its first step is a tenth
                run()  # the others leave their data in the processor's cache; its own batches follow each other in life
            seconds = _seconds(run)
            if turn:
                times[name].append(seconds)
    config = networks[ENGINE].config
    rates = {"operations_a_second": _operations_a_second(precision), "bytes_a_second": 2 * COPY_BYTES / _copy_seconds()}
    limit = max(
        _operations(config, task, batch) / rates["operations_a_second"],
        _least_bytes(config, task, precision, batch) / rates["bytes_a_second"],
    )
    found = []
    for name, taken in times.items():
        low, median, high = statistics.quantiles(taken, n=4) if len(taken) > 1 else taken * 3
        row = {
            "task": task,
            "precision": precision,
            "batch": batch,
            "name": name,
            "seconds": median,
            "quartiles": [low, high],
        }
        row |= {"share_of_limit": limit / median, "limit_seconds": limit} | rates
        row["peak_bytes"] = None if name in UNWEIGHED else _peak(options, name, task, precision, batch, work[name])
        found.append(row)
    return found


def _work(
    name: str, network: nn.Module, task: str, precision: str, batch: int, attack_steps: int = PGD_STEPS
) -> Callable[[], None]:
    """What is timed, in a form that may be called again and again."""
    if isinstance(network, Bare):
        return _allowing(precision, network.work(task, precision, batch, attack_steps))
    images = torch.rand(batch, 3, 32, 32, device=device())
    labels = torch.randint(10, (batch,), device=device())
    if name == ENGINE:
        network.precision = precision
    cast = torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16" and name != ENGINE)
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

        victim = Victim(network, MEAN, STD, Attacker(draws=1), seed=0) if name == ENGINE else _Wrapped(answer, network)
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
        _allow_tf32(precision)
        work()

    return allowed


class _Wrapped(nn.Module):
    """A peer as torchattacks wants it: images in [0, 1] in, scores out."""

    def __init__(self, answer: Callable[[Tensor], Tensor], network: nn.Module):
        super().__init__()
        self.network, self._answer = network, answer

    def forward(self, images: Tensor) -> Tensor:
        return self._answer(images).float()


def _allow_tf32(precision: str) -> None:
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"


def _seconds(run: Callable[[], None]) -> float:
    started = _now()
    run()
    return _now() - started


def _now() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def _copy_seconds() -> float:
    """Best of five copies of COPY_BYTES, which reads and writes them."""
    source = torch.ones(COPY_BYTES // 4, device=device())
    target = torch.empty_like(source)
    return min(_seconds(lambda: target.copy_(source)) for _ in range(5))


def _least_bytes(config: ModelConfig, task: str, precision: str, batch: int) -> int:
    """What must move through memory however it is computed: each current and each spike written and read once; with a
    backward pass their gradients too, and the current once more."""
    wide = 2 if precision == "bfloat16" else 4
    values = config.steps * batch * sum(spec.neurons for spec in config.hidden_layers())
    times = {"evaluation": 4, "training": 9, "pgd": 9 * PGD_STEPS}[task]
    return values * wide * times


def _operations(config: ModelConfig, task: str, batch: int) -> int:
    """Additions and multiplications of all convolutions and matrix products: forwards, and backwards to inputs and to
    weights; in training not to the images, in an attack not to weights."""
    first, *rest = [2 * config.steps * batch * spec.macs for spec in config.layers()]
    times = {"evaluation": (1, 1), "training": (2, 3), "pgd": (2 * PGD_STEPS, 2 * PGD_STEPS)}[task]
    return times[0] * first + times[1] * sum(rest)


@torch.no_grad()
def _operations_a_second(precision: str) -> float:
    """The best that a large matrix product and a large convolution reach."""
    _allow_tf32(precision)
    large = 8192 if device().type == "cuda" else 2048
    like = {"dtype": torch.bfloat16 if precision == "bfloat16" else torch.float32, "device": device()}
    sizes = (large, large), (large // 8, 256, 8, 8), (256, 256, 3, 3)
    matrix, images, weight = (torch.rand(*size, **like) for size in sizes)
    images, weight = (one.contiguous(memory_format=torch.channels_last) for one in (images, weight))
    product = 2 * large**3 / min(_seconds(lambda: matrix @ matrix) for _ in range(5))
    convolution = lambda: F.conv2d(images, weight, padding=1)  # noqa: E731
    return max(product, 2 * 9 * weight.shape[0] * images.numel() / min(_seconds(convolution) for _ in range(5)))


def _peak(options: Namespace, name: str, task: str, precision: str, batch: int, run: Callable[[], None]) -> int:
    """Bytes at most in use while it ran, beside what was there before."""
    if device().type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    asked = {"name": name, "task": task, "precision": precision, "batch": batch, "arch": options.arch}
    asked |= {"steps": options.steps, "threads": options.threads}
    command = [sys.executable, "-m", "tests.benchmarks.network", "--only", json.dumps(asked)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def memory_of_one(asked: dict) -> int:
    """Growth of this process's resident memory to its peak by one contestant's work, in bytes; 0 where Linux is not.

    Memory that was given back is returned to the operating system here, and an attack has one step: the others use the
    same memory again.
    """
    options = Namespace(**asked)
    if options.threads:
        torch.set_num_threads(options.threads)
    network = contestants(options)[options.name]
    _work(options.name, network, options.task, options.precision, 2, 1)()  # what libraries load, the optimiser's state
    run = _work(options.name, network, options.task, options.precision, options.batch, 1)
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak
    except (OSError, AttributeError):
        return 0
    before = _status("VmRSS")
    run()
    return _status("VmHWM") - before


def _status(name: str) -> int:
    """A size that Linux tells of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(name)).split()[1])


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
