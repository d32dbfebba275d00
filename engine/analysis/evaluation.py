"""One pass over many samples: the answer at every exit step and every spike on the way."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..datasets import to_unit
from ..device import device
from ..snn import ModelConfig, SpikingNetwork

CHUNK_BYTES = 128 * 2**20
_MINUTE_MACS = {"cpu": 3e12, "cuda": 3e14}
_PART_MACS = {"cpu": 2e10, "cuda": 2e12}  # about a second of work
_CALL_MACS = {"cpu": 3e6, "cuda": 3e8}  # what calling one layer at one timestep costs, however few samples it gets


@dataclass(frozen=True)
class Evaluation:
    """Results for N samples, put together with `join` when they were computed in parts.

    predictions: int32 [T, N], the class chosen when leaving after t = 1 … T. labels: int64 [N].
    spikes: int64 [T, layers + 1, N], spikes fired at timestep t; row 0 is the input: spikes of either sign for the
    rate code, events for event data, values other than zero for an image as current. An ANN fires none: its hidden
    layers' rows are 0.
    confidence, margin, entropy: float32 [T, N], how certain the answer at exit t is, as `certainty` says it.
    """

    predictions: np.ndarray
    labels: np.ndarray
    spikes: np.ndarray
    confidence: np.ndarray
    margin: np.ndarray
    entropy: np.ndarray

    @property
    def samples(self) -> int:
        return len(self.labels)

    def accuracy(self) -> pd.DataFrame:
        """step, correct, samples, accuracy, low, high: share of right answers with its 95 % Wilson interval."""
        correct = (self.predictions == self.labels).sum(1)
        low, high = wilson(correct, self.samples)
        return pd.DataFrame(
            {
                "step": np.arange(1, len(correct) + 1),
                "correct": correct,
                "samples": self.samples,
                "accuracy": correct / self.samples,
                "low": low,
                "high": high,
            }
        )

    def select(self, rows: np.ndarray) -> Evaluation:
        """These samples alone, in the order of `rows`: int64 positions from 0."""
        by_step = ("predictions", "confidence", "margin", "entropy")
        values = {name: getattr(self, name)[:, rows] for name in by_step}
        return Evaluation(labels=self.labels[rows], spikes=self.spikes[:, :, rows], **values)

    def mean_spikes(self) -> np.ndarray:
        """Mean spikes of a sample at timestep t: float64 [T, layers + 1], the input first."""
        return self.spikes.mean(2)


def certainty(scores: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How certain class scores [..., K], K ≥ 1, are of their answer: (confidence, margin, entropy), each float32 [...].

    With p = softmax(scores): confidence = largest p, 1/K … 1; margin = largest less second largest p, 0 … 1, and 1 where
    there is one class; entropy = −Σ p ln p in nats, 0 … ln K.
    """
    logs = scores.to(torch.float32).log_softmax(-1)
    shares = logs.exp()
    top = shares.topk(min(2, shares.shape[-1]), -1).values
    margin = top[..., 0] - top[..., 1] if top.shape[-1] > 1 else torch.ones_like(top[..., 0])
    return top[..., 0], margin, -(shares * logs).sum(-1).clamp(max=0.0)


def wilson(correct, samples, z: float = 1.959963984540054):
    """95 % interval of a share, as (low, high); arrays or scalars. Source: Wilson 1927, JASA 22:209."""
    share = np.asarray(correct) / samples
    centre = share + z * z / (2 * samples)
    spread = z * np.sqrt(share * (1 - share) / samples + z * z / (4 * samples * samples))
    return (centre - spread) / (1 + z * z / samples), (centre + spread) / (1 + z * z / samples)


def chunk_size(config: ModelConfig, budget: int = CHUNK_BYTES) -> int:
    """How many samples to run at once so that the widest layer's current stays within `budget` bytes."""
    widest = max(np.prod(config.in_shape), *(spec.neurons for spec in config.layers()))
    return int(max(1, min(256, budget // (4 * config.steps * int(widest)))))


def part_size(config: ModelConfig, passes: int) -> int:
    """How many samples make about a second of work at so many forward passes each.

    More where a second of many passes holds too few: at least so many that calling the layers is not most of the work.
    """
    layers, kind = config.layers(), device().type
    macs = sum(spec.macs for spec in layers)
    worthwhile = math.ceil(_CALL_MACS[kind] * len(layers) / macs)
    return max(1, min(chunk_size(config), max(worthwhile, int(_PART_MACS[kind] / (config.steps * macs * passes)))))


def evaluation_parts(config: ModelConfig, count: int) -> list[tuple[int, int]]:
    """Cut `count` samples into (first row, row after the last) for `evaluate_rows`: at most about a second, and at
    most a tenth, each, so that progress is seen."""
    size = max(1, min(part_size(config, 1), -(-count // 10)))
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def affordable(config: ModelConfig) -> int:
    """How many samples a page may run unasked: about a minute's work on two CPU cores; in hundreds, at least 100."""
    macs = config.steps * sum(spec.macs for spec in config.layers())
    return max(100, int(_MINUTE_MACS[device().type] / macs) // 100 * 100)


def normalised(pixels: Tensor, mean, std) -> Tensor:
    """uint8 or [0, 1] float images [N, C, H, W] → normalised float32 on the engine's device.

    Event counts [N, T, C, H, W] become the [T, N, C, H, W] a network takes, as they are; as floats they are counts/255.
    """
    if pixels.dim() == 5:
        counts = pixels.to(device()) if pixels.dtype == torch.uint8 else 255.0 * pixels.to(device())
        return counts.to(torch.float32).transpose(0, 1)
    unit = to_unit(pixels) if pixels.dtype == torch.uint8 else pixels
    unit = unit.to(device())
    mean, std = (torch.tensor(v, dtype=torch.float32, device=unit.device).view(-1, 1, 1) for v in (mean, std))
    return (unit - mean) / std


@torch.no_grad()
def evaluate(
    model: SpikingNetwork,
    pixels: Tensor,
    labels: Tensor,
    samples: Tensor,
    mean,
    std,
    *,
    seed: int,
    precision: str = "float32",
) -> Evaluation:
    """Run images once through the network.

    pixels: uint8 (or float in [0, 1]) [N, C, H, W], as the network takes them. samples: int64 [N], each image's number
    in its data set, which with `seed` fixes its input spikes. Works in chunks, so N may be large.
    """
    model = copy.copy(model.to(device()).eval())  # shares the weights; the caller's precision stays as it is
    model.precision = precision
    parts = []
    size = chunk_size(model.config)
    for start in range(0, len(pixels), size):
        rows = slice(start, start + size)
        counts: list[Tensor] = []
        scores = model.forward_steps(
            normalised(pixels[rows], mean, std),
            seed=seed,
            samples=samples[rows].to(device()),
            counts=counts,
        )
        confidence, margin, entropy = (measure.cpu().numpy() for measure in certainty(scores))
        parts.append(
            Evaluation(
                scores.argmax(2).to("cpu", torch.int32).numpy(),
                labels[rows].cpu().numpy(),
                torch.stack(counts, 1).cpu().numpy(),
                confidence,
                margin,
                entropy,
            )
        )
    return join(parts)


def evaluate_rows(start: int, stop: int, *, model, pixels, labels, mean, std, seed, precision="float32") -> Evaluation:
    """`evaluate` for rows start … stop − 1 of a data set, each row's number being its sample: one part of a job."""
    rows = torch.arange(start, stop)
    return evaluate(model, pixels[rows], labels[rows], rows, mean, std, seed=seed, precision=precision)


def join(parts: list[Evaluation]) -> Evaluation:
    """Several parts as one, in order."""
    return Evaluation(
        np.concatenate([p.predictions for p in parts], 1),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.spikes for p in parts], 2),
        *(np.concatenate([getattr(p, name) for p in parts], 1) for name in ("confidence", "margin", "entropy")),
    )
