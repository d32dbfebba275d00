"""Accuracy under Gaussian noise and gradient attacks.

Every attack acts on the image in [0, 1], before normalisation and encoding; σ, ε and step size are in those units.
On event data it acts on the frames, of which a pixel counts n/255 for n events: ε = 1/255 is one event at each pixel.
Attacks are torchattacks'. The gradient passes straight through the rate code (see engine.snn.encoding.poisson) and each
gradient step meets a fresh encoding, so the attacker does not know the random numbers of the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..datasets import to_unit
from ..device import device
from ..snn import ModelConfig, SpikingNetwork
from .evaluation import Evaluation, evaluate, normalised, part_size

ATTACKS = {"gaussian": "Gaussian noise", "fgsm": "FGSM", "pgd": "PGD"}


@dataclass(frozen=True)
class Attack:
    """What is done to an image.

    kind: one of ATTACKS. strength: σ of Gaussian noise, or ε (largest change of a pixel), in units of [0, 1]; 0 leaves
    the image alone. steps, step_size: of PGD; step_size None = 2.5·ε/steps (Madry et al., arXiv 1706.06083).
    Raises ValueError with one sentence for values that make no attack.
    """

    kind: str
    strength: float
    steps: int = 10
    step_size: float | None = None

    def __post_init__(self):
        if self.kind not in ATTACKS:
            raise ValueError(f"attack {self.kind!r} is not one of {', '.join(ATTACKS)}")
        if not 0 <= self.strength <= 10:
            raise ValueError(f"strength {self.strength!r} must lie between 0 and 10, in units of [0, 1] pixels")
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"PGD steps must be 1 to 1000, not {self.steps!r}")
        if self.step_size is not None and not 0 < self.step_size <= 1:
            raise ValueError(f"PGD step size {self.step_size!r} must be above 0 and at most 1")

    @property
    def passes(self) -> int:
        """Forward passes it costs, a backward pass counted as two."""
        return 1 + 3 * {"gaussian": 0, "fgsm": 1, "pgd": self.steps}[self.kind] * (self.strength > 0)

    @property
    def label(self) -> str:
        """For tables and legends: "FGSM ε = 8/255"."""
        if self.strength == 0:
            return "clean"
        if self.kind == "gaussian":
            return f"Gaussian σ = {self.strength:g}"
        return f"{ATTACKS[self.kind]} ε = {self.strength * 255:.3g}/255"


def perturb(
    model: SpikingNetwork, pixels: Tensor, labels: Tensor, samples: Tensor, mean, std, attack: Attack, *, seed: int
) -> Tensor:
    """Attacked images, float32 [N, C, H, W] in [0, 1]; of event data frames [N, T, 2, H, W].

    pixels: uint8 or float in [0, 1]. samples: int64 [N], each image's number in its data set. The same arguments give
    the same images, whatever others are attacked with them.
    """
    unit = to_unit(pixels) if pixels.dtype == torch.uint8 else pixels
    unit, labels = unit.to(device()), labels.to(device())
    if attack.strength == 0:
        return unit
    if attack.kind == "gaussian":
        draws = (_generator(seed, int(sample)) for sample in samples)
        noise = torch.stack([torch.randn(unit.shape[1:], generator=draw) for draw in draws])
        return (unit + attack.strength * noise.to(unit.device)).clamp(0.0, 1.0)
    import torchattacks

    # .eval() on the whole: torchattacks puts a model back into the mode it found it in
    victim = _PixelClassifier(model.to(device()), mean, std, seed, samples.to(device())).eval()
    if attack.kind == "fgsm":
        attacker = torchattacks.FGSM(victim, eps=attack.strength)
    else:
        step_size = attack.step_size or 2.5 * attack.strength / attack.steps
        attacker = torchattacks.PGD(victim, eps=attack.strength, alpha=step_size, steps=attack.steps, random_start=True)
    with _DrawsBySample(seed, samples), torch.enable_grad():
        return attacker(unit, labels).detach()


def attack_rows(attack: Attack, start: int, stop: int, *, model, pixels, labels, mean, std, seed) -> Evaluation:
    """Attack rows start … stop − 1 of a data set, then evaluate what came out: one part of a sweep."""
    rows = torch.arange(start, stop)
    images = perturb(model, pixels[rows], labels[rows], rows, mean, std, attack, seed=seed)
    return evaluate(model, images, labels[rows], rows, mean, std, seed=seed)


@dataclass(frozen=True)
class Closeup:
    """One sample seen closely. clean, attacked: float32 [C, H, W] (events [T, 2, H, W]) in [0, 1], each with its
    Evaluation (N = 1)."""

    clean: np.ndarray
    attacked: np.ndarray
    clean_result: Evaluation
    attacked_result: Evaluation


def closeup(attack: Attack, sample: int, *, model, pixels, labels, mean, std, seed) -> Closeup:
    """One row of a data set, clean and attacked, met by the same random numbers of the rate code."""
    rows = torch.tensor([sample])
    images = perturb(model, pixels[rows], labels[rows], rows, mean, std, attack, seed=seed)
    clean = to_unit(pixels[rows])
    results = (evaluate(model, x, labels[rows], rows, mean, std, seed=seed) for x in (clean, images))
    return Closeup(clean[0].numpy(), images[0].cpu().numpy(), *results)


def sweep_parts(config: ModelConfig, attacks: Sequence[Attack], count: int) -> list[tuple[Attack, int, int]]:
    """Cut a sweep over `count` samples into (attack, first row, row after the last) of about a second each."""
    parts = []
    for attack in attacks:
        size = math.ceil(count / math.ceil(count / part_size(config, attack.passes)))
        parts += [(attack, start, min(start + size, count)) for start in range(0, count, size)]
    return parts


def sweep_table(results: Sequence[tuple[Attack, Evaluation]]) -> pd.DataFrame:
    """attack, strength, step, correct, samples, accuracy, low, high, spikes: a row per attack and exit step.

    spikes: mean number a sample fires in the hidden layers up to and including that step.
    """
    tables = [
        evaluation.accuracy().assign(
            attack=ATTACKS[attack.kind],
            strength=attack.strength,
            spikes=evaluation.mean_spikes()[:, 1:].sum(1).cumsum(),
        )
        for attack, evaluation in results
    ]
    columns = ["attack", "strength", "step", "correct", "samples", "accuracy", "low", "high", "spikes"]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def spikes_by_layer(config: ModelConfig, conditions: dict[str, Evaluation]) -> pd.DataFrame:
    """layer, condition, spikes: how many spikes each layer fires for a sample over all timesteps (mean over samples).

    The input has a row where it is spikes.
    """
    names = ["input", *(spec.name for spec in config.hidden_layers())]
    return pd.DataFrame(
        [
            {"layer": layer, "condition": condition, "spikes": float(total)}
            for condition, evaluation in conditions.items()
            for layer, total in zip(names, evaluation.mean_spikes().sum(0))
            if layer != "input" or not config.analog_input
        ]
    )


class _PixelClassifier(nn.Module):
    """The network as torchattacks wants it: images in [0, 1] → class scores, a fresh encoding at every call."""

    def __init__(self, model: SpikingNetwork, mean, std, seed: int, samples: Tensor):
        super().__init__()
        self.model, self.mean, self.std, self.samples = model, mean, std, samples
        self.next_seed = (seed + 1) << 20  # far from the seeds of evaluation

    def forward(self, images: Tensor) -> Tensor:
        self.next_seed += 1
        return self.model(normalised(images, self.mean, self.std), seed=self.next_seed, samples=self.samples)


class _DrawsBySample(TorchFunctionMode):
    """Gives each image of a batch uniform random numbers that depend on the seed and its sample alone.

    torchattacks' PGD draws its random start from torch's global generator, for the whole batch at once: where an attack
    began would depend on which samples share a batch.
    """

    def __init__(self, seed: int, samples: Tensor):
        super().__init__()
        self.generators = [_generator(seed, int(sample)) for sample in samples]

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.uniform_:
            function = self._uniform
        return function(*args, **(kwargs or {}))

    def _uniform(self, target: Tensor, low: float, high: float) -> Tensor:
        shape = target.shape[1:]
        rows = [torch.empty(shape).uniform_(low, high, generator=generator) for generator in self.generators]
        return target.copy_(torch.stack(rows))


def _generator(seed: int, sample: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + sample) % 2**63)
