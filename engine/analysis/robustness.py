"""Accuracy under noise and attacks: sweeps, cut into parts, and one sample seen closely.

Every disturbance acts on the image in [0, 1], before normalisation and encoding; see engine.attacks. On event data noise
and attacks act on the frames, of which a pixel counts n/255 for n events: ε = 1/255 is one event at each pixel. Each look
of an attacker meets a fresh encoding, so it does not know the random numbers of the evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..attacks import Attack, perturb
from ..datasets import to_unit
from ..snn import ModelConfig
from .evaluation import Evaluation, evaluate, part_size, wilson

_STREAM = 1 << 32  # between the numbers of a sample's encodings; below it, the sample's own number


def attack_rows(
    attack: Attack, start: int, stop: int, *, model, pixels, labels, mean, std, seed, encodings: int = 1
) -> Evaluation:
    """Attack rows start … stop − 1 of a data set, then evaluate what came out: one part of a sweep.

    encodings: how many random encodings of its own each image is shown in; the Evaluation then has so many columns for
    each sample, side by side. The first is the one that `evaluate` uses.
    """
    rows = torch.arange(start, stop)
    images = perturb(model, pixels[rows], labels[rows], rows, mean, std, attack, seed=seed)
    return shown_to(model, images, labels[rows], rows, mean, std, seed, encodings)


def shown_to(
    model, images: Tensor, labels: Tensor, samples: Tensor, mean, std, seed: int, encodings: int
) -> Evaluation:
    """Images [N, …] in [0, 1] through a network, each in so many random encodings, which then are columns side by side."""
    places = torch.arange(len(samples)).repeat_interleave(encodings)
    streams = _STREAM * torch.arange(encodings).repeat(len(samples))
    return evaluate(model, images[places], labels[places], samples[places] + streams, mean, std, seed=seed)


def answers(evaluation: Evaluation, encodings: int = 1) -> np.ndarray:
    """In which share of its encodings each sample is answered rightly at T: float64 [N]. evaluation: as attack_rows'."""
    right = evaluation.predictions[-1] == evaluation.labels
    return right.reshape(-1, encodings).mean(1)


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


def encodings_shown(config: ModelConfig, asked: int) -> int:
    """How many random encodings are of use: one where the input is not random. Raises ValueError outside 1 to 100."""
    if not 1 <= asked <= 100:
        raise ValueError(f"encodings must be 1 to 100, not {asked!r}")
    return asked if config.random_input else 1


def sweep_parts(
    config: ModelConfig, attacks: Sequence[Attack], count: int, encodings: int = 1
) -> list[tuple[Attack, int, int]]:
    """Cut a sweep over `count` samples into (attack, first row, row after the last) of about a second each."""
    parts = []
    for attack in attacks:
        size = math.ceil(
            count / math.ceil(count / part_size(config, attack.passes(config.random_input) - 1 + encodings))
        )
        parts += [(attack, start, min(start + size, count)) for start in range(0, count, size)]
    return parts


SWEEP_COLUMNS = [
    *("kind", "attack", "strength", "step", "correct", "samples", "accuracy", "low", "high", "spread", "spikes")
]


def sweep_table(results: Sequence[tuple[Attack, Evaluation]], encodings: int = 1) -> pd.DataFrame:
    """SWEEP_COLUMNS: a row per attack and exit step.

    accuracy: share of right answers over samples and encodings. correct: accuracy · samples, the mean over encodings.
    low, high: 95 % Wilson interval over samples. spread: standard deviation of the accuracy between encodings (n − 1 in
    the denominator), NaN where there is one encoding. spikes: mean number a sample fires in the hidden layers up to and
    including that step.
    """
    tables = [_of_attack(attack, evaluation, encodings) for attack, evaluation in results]
    return pd.concat(tables, ignore_index=True)[SWEEP_COLUMNS] if tables else pd.DataFrame(columns=SWEEP_COLUMNS)


def _of_attack(attack: Attack, evaluation: Evaluation, encodings: int) -> pd.DataFrame:
    right = (evaluation.predictions == evaluation.labels).reshape(len(evaluation.predictions), -1, encodings)
    steps, samples, _ = right.shape
    correct = right.sum((1, 2)) / encodings if encodings > 1 else right.sum((1, 2))
    low, high = wilson(correct, samples)
    return pd.DataFrame(
        {
            "kind": attack.kind,
            "attack": attack.does.label,
            "strength": attack.strength,
            "step": np.arange(1, steps + 1),
            "correct": correct,
            "samples": samples,
            "accuracy": correct / samples,
            "low": low,
            "high": high,
            "spread": right.mean(1).std(1, ddof=1) if encodings > 1 else np.nan,
            "spikes": evaluation.mean_spikes()[:, 1:].sum(1).cumsum(),
        }
    )


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
