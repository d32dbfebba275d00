"""One sample seen closely: every spike and every membrane potential."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..device import device
from ..snn import ModelConfig, SpikingNetwork
from .evaluation import normalised


@dataclass(frozen=True)
class Activity:
    """One sample on its way through the network.

    inputs: float32 [T, C, H, W], as the first layer gets them. spikes: layer → bool [T, N]. membrane: layer → float32
    [T, N], u_t before its reset. scores: float32 [T, K], class scores when leaving after t = 1 … T.
    """

    config: ModelConfig
    inputs: np.ndarray
    spikes: dict[str, np.ndarray]
    membrane: dict[str, np.ndarray]
    scores: np.ndarray

    def firing_rates(self) -> pd.DataFrame:
        """layer, step, rate: spikes per neuron at that timestep (0 … 1)."""
        return pd.concat(
            [
                pd.DataFrame({"layer": layer, "step": np.arange(1, len(fired) + 1), "rate": fired.mean(1)})
                for layer, fired in self.spikes.items()
            ],
            ignore_index=True,
        )

    def channel_rates(self, layer: str) -> np.ndarray:
        """Share of each channel's neurons that fire at each timestep: float64 [T, C]."""
        shape = next(spec.out_shape for spec in self.config.hidden_layers() if spec.name == layer)
        return self.spikes[layer].reshape(len(self.scores), shape[0], -1).mean(2)

    def trace(self, layer: str, neuron: int) -> pd.DataFrame:
        """One neuron: step, before (u_t), spike, after (u_t minus θ if it fired)."""
        before, spike = self.membrane[layer][:, neuron], self.spikes[layer][:, neuron]
        after = before - self.config.threshold * spike
        return pd.DataFrame({"step": np.arange(1, len(before) + 1), "before": before, "after": after, "spike": spike})

    def probabilities(self) -> np.ndarray:
        """Softmax of the class scores at every exit step: float64 [T, K]."""
        scores = self.scores.astype(np.float64)
        raised = np.exp(scores - scores.max(1, keepdims=True))
        return raised / raised.sum(1, keepdims=True)


@torch.no_grad()
def record(model: SpikingNetwork, pixels: Tensor, sample: int, mean, std, *, seed: int) -> Activity:
    """Run one image [C, H, W] (uint8, or float in [0, 1]) and keep everything."""
    model = model.to(device()).eval()
    names = [spec.name for spec in model.config.hidden_layers()]
    inputs, spikes, membrane = [], {}, {}

    def keep(layer: int, fired: Tensor, potential: Tensor):
        if layer < 0:
            inputs.append(fired[:, 0].float().cpu().numpy())
        else:
            spikes[names[layer]] = fired.bool().flatten(1).cpu().numpy()
            membrane[names[layer]] = potential.flatten(1).cpu().numpy()

    scores = model.forward_steps(
        normalised(pixels[None], mean, std),
        seed=seed,
        samples=torch.tensor([sample], device=device()),
        observe=keep,
    )
    return Activity(model.config, inputs[0], spikes, membrane, scores[:, 0].cpu().numpy())


def choose_neurons(fired: np.ndarray, how: str, limit: int) -> np.ndarray:
    """Which neurons of a layer a raster can show: sorted indices, at most `limit`.

    fired: bool [T, N]. how: "even" takes them at equal distances, "active" those that fire most.
    """
    count = fired.shape[1]
    if count <= limit:
        return np.arange(count)
    if how == "active":
        return np.sort(np.argsort(-fired.sum(0), kind="stable")[:limit])
    return np.linspace(0, count - 1, limit).round().astype(int)
