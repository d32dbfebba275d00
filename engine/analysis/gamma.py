"""What γ tells, from the weights alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..checkpoint import Checkpoint
from ..snn.norm import EPS

# Everything that can be looked at per layer, timestep and channel, in words.
QUANTITIES = {
    "gamma": "γ",
    "gain": "effective gain γ/√(σ²+ε)",
    "running_mean": "running mean μ",
    "running_var": "running variance σ²",
}


def values(checkpoint: Checkpoint, layer: str, quantity: str) -> np.ndarray:
    """One of QUANTITIES of one layer: float32 [T, C]."""
    stack = checkpoint.stacks[layer]
    if quantity == "gain":
        return stack.gamma / np.sqrt(stack.running_var + np.float32(EPS))
    return getattr(stack, quantity)


def layer_means(checkpoint: Checkpoint, quantity: str = "gamma") -> pd.DataFrame:
    """Channel mean: layer, step (1 … T), value; layers in network order. No rows for a network without BNTT."""
    means = {name: values(checkpoint, name, quantity).mean(1, dtype=np.float64) for name in checkpoint.stacks}
    rows = [(layer, step, value) for layer, mean in means.items() for step, value in enumerate(mean, 1)]
    return pd.DataFrame(rows, columns=["layer", "step", "value"])


def quantiles(table: np.ndarray) -> pd.DataFrame:
    """How the channels are spread at each timestep. table: [T, C] → step, min, p05, p25, median, p75, p95, max, mean."""
    levels = np.quantile(table.astype(np.float64), [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], axis=1).T
    frame = pd.DataFrame(levels, columns=["min", "p05", "p25", "median", "p75", "p95", "max"])
    frame.insert(0, "step", np.arange(1, len(table) + 1))
    return frame.assign(mean=table.mean(1, dtype=np.float64))


def exit_rule(checkpoint: Checkpoint, threshold: float = 0.1) -> int | None:
    """The paper's temporal early exit: the first t (from 1) at which the channel mean of γ is below `threshold` in
    every layer, or None when there is no such t. Layers with fewer timesteps count for the timesteps they have.

    Source: Kim & Panda 2021, section "Early exit".
    """
    stacks = [stack.gamma for stack in checkpoint.stacks.values()]
    largest = np.full(max(map(len, stacks), default=0), np.nan)
    for gamma in stacks:
        np.fmax(largest[: len(gamma)], gamma.mean(1, dtype=np.float64), out=largest[: len(gamma)])
    below = np.flatnonzero(largest < threshold)
    return int(below[0]) + 1 if len(below) else None


def peaks(checkpoint: Checkpoint) -> pd.DataFrame:
    """When each layer's mean γ is largest: layer, step, value."""
    means = layer_means(checkpoint)
    if means.empty:
        return means
    return means.loc[means.groupby("layer", sort=False)["value"].idxmax()].reset_index(drop=True)
