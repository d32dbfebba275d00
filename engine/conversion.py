"""An ordinary network made into a spiking one: the baseline that BNTT's few timesteps are measured against.

A ReLU unit's activation becomes the firing rate of an integrate-and-fire neuron.  A rate cannot exceed one spike a
timestep, so each layer is scaled by (nearly) its largest activation.  Source: Rueckauer et al., "Conversion of
Continuous-Valued Deep Networks to Efficient Event-Driven Networks", Front. Neurosci. 11:682 (2017), sections 2.2.1 to
2.2.3, after Diehl et al. 2015; reset by subtraction; BatchNorm folded in.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .analysis.evaluation import chunk_size
from .device import device
from .snn import ModelConfig, SpikingNetwork, build_model

PERCENTILE = 99.9
MOST_VALUES = 2**22  # of one layer, to find a percentile of


@torch.no_grad()
def convert(
    model: SpikingNetwork, images: Tensor, *, steps: int, encoding: str = "direct", percentile: float = PERCENTILE
) -> SpikingNetwork:
    """A spiking network of integrate-and-fire neurons (λ = 1, θ = 1) that computes what the ANN `model` computes.

    images: normalised, [N, C, H, W] (of an ANN for events, all events in one frame: [1, N, 2, H, W]): training samples
    from which each layer's `percentile`-th activation is taken; some hundred will do. encoding: as converted_config.
    The mean of the output over time approaches the ANN's class scores as steps grows. In evaluation mode.
    Raises ValueError for a model that is no ANN and for values that make no network.
    """
    config = converted_config(model.config, steps, encoding)
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must lie between 50 and 100, not {percentile!r}")
    largest = activation_scales(model, images, percentile)
    converted = build_model(config)
    # What one spike of the input stands for: E[s] = x/2, and the ANN got the events of all frames at once.
    before = {"poisson": 2.0, "events": float(steps)}.get(encoding, 1.0)
    for spec, now in zip(model.config.hidden_layers(), largest):
        scale, bias = _affine(model.get_submodule(spec.norm_name), spec.out_shape[0])
        converted.get_submodule(spec.name).weight.copy_(model.get_submodule(spec.name).weight)
        folded = converted.get_submodule(spec.norm_name)
        folded.weight.copy_(scale * (before / now))
        folded.bias.copy_(bias / now)
        before = now
    readout = model.config.layers()[-1].name
    converted.get_submodule(readout).weight.copy_(model.get_submodule(readout).weight * before)
    return converted.eval()


def converted_config(config: ModelConfig, steps: int, encoding: str) -> ModelConfig:
    """The configuration of an ANN's conversion: integrate-and-fire (λ = 1, θ = 1).

    encoding: "direct" (the image as current) or "poisson" (values beyond ±2 are cut, as that code does) for an ANN on
    images; "events" for one on events. Raises ValueError.
    """
    if config.kind != "ann":
        raise ValueError(f"only a network of kind ann can be converted, not one of kind {config.kind}")
    allowed = ("events",) if config.encoding == "events" else ("direct", "poisson")
    if encoding not in allowed:
        raise ValueError(f"the encoding of this conversion must be {' or '.join(allowed)}, not {encoding}")
    return replace(config, kind="converted", norm="folded", steps=steps, encoding=encoding, leak=1.0, threshold=1.0)


@torch.no_grad()
def activation_scales(model: SpikingNetwork, images: Tensor, percentile: float = PERCENTILE) -> list[float]:
    """The `percentile`-th activation of each hidden layer of an ANN over its units and all images, in order.

    Of a large layer activations at equal distances are taken, so that some millions suffice. A layer that never answers
    gets 1, so that nothing is divided by zero.
    """
    model = model.to(device()).eval()
    batch = 1 if images.dim() == 5 else 0
    seen: list[list[np.ndarray]] = [[] for _ in model.config.hidden_layers()]
    strides = [-(-spec.neurons * images.shape[batch] // MOST_VALUES) for spec in model.config.hidden_layers()]

    def keep(layer: int, activations: Tensor, _same: Tensor):
        if layer >= 0:
            seen[layer].append(activations.flatten()[:: strides[layer]].cpu().numpy())

    for part in images.split(chunk_size(model.config), batch):
        model.forward_steps(part.to(device()), observe=keep)
    found = [float(np.percentile(np.concatenate(values), percentile)) for values in seen]
    return [value if value > 0 else 1.0 for value in found]


def _affine(norm, channels: int) -> tuple[Tensor, Tensor]:
    """scale and bias that a BatchNorm in evaluation mode amounts to; 1 and 0 where there is none."""
    if not hasattr(norm, "running_var"):
        return torch.ones(channels), torch.zeros(channels)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale.cpu(), (norm.bias - norm.running_mean * scale).cpu()
