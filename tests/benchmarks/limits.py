"""What the device itself could do: the rates of large products and copies, and what a network needs of each."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from engine.device import device
from engine.snn import ModelConfig

from .contestant import PGD_STEPS, allow_tf32, seconds

COPY_BYTES = 2**28


def limit(config: ModelConfig, task: str, precision: str, batch: int) -> dict:
    """limit_seconds: that the operations take at the rate of a large product, or the bytes at that of a large copy,
    whichever is longer; and the two rates."""
    rates = {"operations_a_second": _operations_a_second(precision), "bytes_a_second": 2 * COPY_BYTES / _copy_seconds()}
    longest = max(
        _operations(config, task, batch) / rates["operations_a_second"],
        _least_bytes(config, task, precision, batch) / rates["bytes_a_second"],
    )
    return rates | {"limit_seconds": longest}


def _copy_seconds() -> float:
    """Best of five copies of COPY_BYTES, which reads and writes them."""
    source = torch.ones(COPY_BYTES // 4, device=device())
    target = torch.empty_like(source)
    return min(seconds(lambda: target.copy_(source)) for _ in range(5))


def _least_bytes(config: ModelConfig, task: str, precision: str, batch: int) -> int:
    """What must move through memory however it is computed: each current and each spike, or average of four, written and
    read once; with a backward pass their gradients too, and the current once more."""
    wide = 2 if precision == "bfloat16" else 4
    layers = config.hidden_layers()
    currents, spikes = sum(one.neurons for one in layers), sum(one.neurons // (4 if one.pool else 1) for one in layers)
    once = 2 * currents + 2 * spikes if task == "evaluation" else 5 * currents + 4 * spikes
    return config.steps * batch * wide * once * (PGD_STEPS if task == "pgd" else 1)


def _operations(config: ModelConfig, task: str, batch: int) -> int:
    """Additions and multiplications of all convolutions and matrix products: forwards, and backwards to inputs and to
    weights; in training not to the images, in an attack not to weights."""
    first, *rest = [2 * config.steps * batch * spec.macs for spec in config.layers()]
    times = {"evaluation": (1, 1), "training": (2, 3), "pgd": (2 * PGD_STEPS, 2 * PGD_STEPS)}[task]
    return times[0] * first + times[1] * sum(rest)


@torch.no_grad()
def _operations_a_second(precision: str) -> float:
    """The best that a large matrix product and a large convolution reach."""
    allow_tf32(precision)
    large = 8192 if device().type == "cuda" else 2048
    like = {"dtype": torch.bfloat16 if precision == "bfloat16" else torch.float32, "device": device()}
    sizes = (large, large), (large // 8, 256, 8, 8), (256, 256, 3, 3)
    matrix, images, weight = (torch.rand(*size, **like) for size in sizes)
    images, weight = (one.contiguous(memory_format=torch.channels_last) for one in (images, weight))
    product = 2 * large**3 / min(seconds(lambda: matrix @ matrix) for _ in range(5))
    convolution = lambda: F.conv2d(images, weight, padding=1)  # noqa: E731
    return max(product, 2 * 9 * weight.shape[0] * images.numel() / min(seconds(convolution) for _ in range(5)))
