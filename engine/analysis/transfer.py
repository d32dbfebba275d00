"""Images made to fool one network, shown to others.

What carries over is a weakness that the networks share; an attack of another network that beats the direct one says that
the direct one was led astray.  Source: Papernot et al., arXiv 1605.07277; Athalye et al., arXiv 1802.00420.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..attacks import Attack, perturb
from ..snn import SpikingNetwork
from .evaluation import wilson
from .robustness import shown_to


@dataclass(frozen=True)
class Target:
    """A network that the images are shown to, each in so many random encodings."""

    model: SpikingNetwork
    mean: tuple[float, ...]
    std: tuple[float, ...]
    encodings: int


def transfer_rows(
    attack: Attack, start: int, stop: int, *, model, pixels, labels, mean, std, seed, targets: Sequence[Target]
) -> pd.DataFrame:
    """Attack rows start … stop − 1 of a data set with the gradient of `model`, then show what came out to every target.

    Returns target (its place), sample, encoding, right (bool): a row for each answer at T. The same seed gives the
    images and the answers that robustness.attack_rows gives. Raises ValueError where a target takes other images.
    """
    for target in targets:
        if not same_images(model, target.model):
            raise ValueError("images made on one network can be shown only to those that take the same images")
    rows = torch.arange(start, stop)
    images = perturb(model, pixels[rows], labels[rows], rows, mean, std, attack, seed=seed)
    tables = []
    for place, target in enumerate(targets):
        found = shown_to(target.model, images, labels[rows], rows, target.mean, target.std, seed, target.encodings)
        tables.append(
            pd.DataFrame(
                {
                    "target": place,
                    "sample": rows.repeat_interleave(target.encodings).numpy(),
                    "encoding": np.tile(np.arange(target.encodings), len(rows)),
                    "right": found.predictions[-1] == found.labels,
                }
            )
        )
    return pd.concat(tables, ignore_index=True)


def same_images(one: SpikingNetwork, other: SpikingNetwork) -> bool:
    """Whether both take the same images; of events, frames of as many timesteps."""
    mine, its = one.config, other.config
    events = mine.encoding == "events"
    frames = not events or mine.steps == its.steps
    return mine.in_shape == its.in_shape and events == (its.encoding == "events") and frames


def answers(table: pd.DataFrame, target: int) -> np.ndarray:
    """In which share of its encodings each sample is answered rightly by this target, by its number: float64 [N]."""
    return table[table["target"] == target].groupby("sample")["right"].mean().to_numpy()


def accuracies(table: pd.DataFrame) -> pd.DataFrame:
    """From transfer_rows' answers of all parts: target, accuracy (0 … 1), low, high, samples, spread.

    low, high: 95 % Wilson interval over samples. spread: standard deviation between encodings, NaN where there is one.
    """
    rows = []
    for target, part in table.groupby("target", sort=True):
        by_encoding = part.groupby("encoding")["right"].mean()
        samples, share = part["sample"].nunique(), float(part["right"].mean())
        low, high = wilson(share * samples, samples)
        rows.append((target, share, low, high, samples, by_encoding.std(ddof=1)))
    return pd.DataFrame(rows, columns=["target", "accuracy", "low", "high", "samples", "spread"])


def matrix(found: Mapping[str, pd.DataFrame], clean: Mapping[str, float], targets: Sequence[str]) -> pd.DataFrame:
    """made_on, tried_on, accuracy, low, high, samples, spread, clean: a row for each pair.

    found: answers by the network whose gradient made the images. clean: accuracy without any attack, by name. targets:
    names in the order of the answers' places.
    """
    tables = [accuracies(answers).assign(made_on=name) for name, answers in found.items()]
    if not tables:
        return pd.DataFrame(columns=["made_on", "tried_on", "accuracy", "low", "high", "samples", "spread", "clean"])
    table = pd.concat(tables, ignore_index=True)
    table["tried_on"] = [targets[place] for place in table["target"]]
    table["clean"] = [clean.get(name, np.nan) for name in table["tried_on"]]
    return table[["made_on", "tried_on", "accuracy", "low", "high", "samples", "spread", "clean"]]
