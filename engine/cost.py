"""What a training will cost, measured on its first steps: on random samples, so that no data set need be there."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .analysis.evaluation import normalised
from .datasets import get
from .device import device, machine_memory
from .recipe import Recipe
from .snn import ModelConfig, SpikingNetwork, build_model
from .snn.passing import Pass
from .training import build_optimizer, descend, training_limit

BUDGET_SECONDS = 2.0
# Training samples as published, or as the registry splits them: known without the files.
SAMPLES = {
    "digits": 1398,
    "mnist": 60_000,
    "fashion-mnist": 60_000,
    "sequential-mnist": 60_000,
    "sequential-mnist-pixels": 60_000,
    "cifar10": 50_000,
    "cifar100": 50_000,
    "cifar10-dvs": 9_000,
    "cifar10-dvs-duration": 9_000,
    "tiny-imagenet": 100_000,
}


@dataclass(frozen=True)
class Cost:
    """seconds_epoch, seconds: of an epoch and of all, as if none were left out by patience, without the final test.
    memory: bytes of weights, gradients, the optimiser's state and what autograd keeps of one batch; what comes and goes
    within a step, and the data set, come on top. batch_measured, steps_measured: what the times were taken from.
    machine: bytes of memory there, where it was measured; None where that is not told.
    """

    seconds_epoch: float
    seconds: float
    memory: int
    batch_measured: int
    steps_measured: int
    machine: int | None = None


def training_samples(dataset: str) -> int:
    """How many training samples a data set has; one that is no part of the registry is read. Raises as `get`."""
    return SAMPLES[dataset] if dataset in SAMPLES else len(get(dataset, paths=True).load("train").labels)


def measure(
    config: ModelConfig, recipe: Recipe, samples: int, *, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """The cost of training on a data set of so many training samples: some steps are trained, for about two seconds.

    Small batches are tried first, twice as many samples each time while that is quick. torch's random numbers are left
    as they were. Raises ValueError where even two samples cannot fit into the memory.
    """
    machine, least = machine_memory(), _least_bytes(config)
    if machine is not None and least > machine:
        raise ValueError(
            f"weights and two samples alone need {least / 1e9:,.0f} GB, and there are {machine / 1e9:,.0f} GB: choose a "
            "smaller network, image or T"
        )
    held_out = round(recipe.validation * samples)
    batch = min(recipe.batch, samples - held_out)
    with torch.random.fork_rng():
        model = build_model(config).to(device()).train()
        model.precision = recipe.precision
        model.memory_limit = training_limit()
        memory = round(_autograd_bytes(model, batch) * Pass(model, batch, config.steps).kept_share())
        optimizer = build_optimizer(model, recipe)
        _warm_up(config, recipe.precision)
        tried, step = _measured_step(model, optimizer, recipe, batch, clock)
        judged = _seconds(lambda: _judge(model, tried), clock) / tried if held_out else 0.0
    memory += sum(2 * p.nbytes for p in model.parameters()) + sum(b.nbytes for b in model.buffers())
    memory += sum(v.nbytes for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor))
    epoch = (samples - held_out) // batch * batch * step / tried + held_out * judged
    return Cost(epoch, epoch * recipe.epochs, memory, tried, 2, machine)


def _least_bytes(config: ModelConfig) -> int:
    """Less than a training step of two samples takes, without trying: weights and gradients, and one value for each
    neuron and timestep."""
    layers = config.layers()
    weights = sum(math.prod(spec.weight_shape) for spec in layers)
    return 4 * (2 * weights + 2 * config.steps * sum(spec.neurons for spec in layers))


def _warm_up(config: ModelConfig, precision: str) -> None:
    """A tiny network is trained and judged: what takes its time once in a process, such as compiling, is no part of a
    later step."""
    encoding = "direct" if config.encoding == "direct" else "poisson"
    tiny = build_model(ModelConfig("vgg-small", 2, 2, (1, 4, 4), encoding=encoding, layout="C2 P F2")).to(device())
    tiny.precision = precision
    images = torch.rand(2, 1, 4, 4, device=device())
    tiny.train().forward_steps(images, seed=0).sum().backward()
    with torch.no_grad():
        tiny.eval().forward_steps(images, seed=0)


def _measured_step(model: SpikingNetwork, optimizer, recipe: Recipe, batch: int, clock) -> tuple[int, float]:
    """(samples of a step, its seconds): the better of two steps, of as many samples as the budget allows.

    Their share of the memory is that of their share of the batch, so that timesteps are computed again as in a whole one.
    """
    limit = model.memory_limit

    def step():
        model.memory_limit = limit and limit * tried // batch
        descend(model, optimizer, recipe, *_forward(model, tried))

    tried, spent = 2, 0.0
    while True:
        first = _seconds(step, clock)
        spent += first
        if tried >= batch or spent + 4 * first > BUDGET_SECONDS:  # twice the samples, twice
            return tried, min(first, _seconds(step, clock))
        tried = min(2 * tried, batch)


def _forward(model: SpikingNetwork, count: int) -> tuple[Tensor, Tensor]:
    """Scores [T, B, K] of random samples, and random labels."""
    config = model.config
    shape = (count, config.steps, *config.in_shape) if config.encoding == "events" else (count, *config.in_shape)
    pixels = torch.randint(256 if len(shape) == 4 else 3, shape, dtype=torch.uint8)
    channels = config.in_shape[0]
    labels = torch.randint(config.classes, (count,)).to(device())
    return model.forward_steps(normalised(pixels, (0.5,) * channels, (0.25,) * channels), seed=0), labels


@torch.no_grad()
def _judge(model: SpikingNetwork, count: int) -> None:
    """Answer random samples."""
    model.eval()
    _forward(model, count)


def _seconds(work: Callable[[], None], clock: Callable[[], float]) -> float:
    began = clock()
    work()
    if device().type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _autograd_bytes(model: SpikingNetwork, batch: int) -> int:
    """Bytes that autograd keeps of one batch for the backward pass, without the weights.

    They are a part that does not depend on the batch and one for each sample, so two small batches tell of any other.
    """
    two, three = _kept(model, 2), _kept(model, 3)
    return two + (three - two) * (batch - 2)


def _kept(model: SpikingNetwork, count: int) -> int:
    own = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}  # by address: a storage may be kept several times and counts once

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores, labels = _forward(model, count)
        loss = torch.nn.functional.cross_entropy(scores[-1], labels)
    del loss  # kept until here, so that no address was used twice
    return sum(found.values())
