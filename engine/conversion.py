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
from .snn import SpikingNetwork, build_model

PERCENTILE = 99.9


@torch.no_grad()
def convert(
    model: SpikingNetwork, images: Tensor, *, steps: int, encoding: str = "direct", percentile: float = PERCENTILE
) -> SpikingNetwork:
    """A spiking network of integrate-and-fire neurons (λ = 1, θ = 1) that computes what the ANN `model` computes.

    images: normalised, [N, C, H, W]: training images from which each layer's `percentile`-th activation is taken; some
    hundred will do. encoding: "direct" (the image as current) or "poisson" (values beyond ±2 are cut, as that code does).
    The mean of the output over time approaches the ANN's class scores as steps grows. In evaluation mode.
    Raises ValueError for a model that is no ANN and for values that make no network.
    """
    if model.config.kind != "ann":
        raise ValueError(f"only a network of kind ann can be converted, not one of kind {model.config.kind}")
    if not 50 <= percentile <= 100:
        raise ValueError(f"percentile must lie between 50 and 100, not {percentile!r}")
    config = replace(
        model.config, kind="converted", norm="folded", steps=steps, encoding=encoding, leak=1.0, threshold=1.0
    )
    largest = activation_scales(model, images, percentile)
    converted = build_model(config)
    before = 2.0 if encoding == "poisson" else 1.0  # what one spike of the input stands for: E[s] = x/2
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


@torch.no_grad()
def activation_scales(model: SpikingNetwork, images: Tensor, percentile: float = PERCENTILE) -> list[float]:
    """The `percentile`-th activation of each hidden layer of an ANN over all its units and all images, in order.

    A layer that never answers gets 1, so that nothing is divided by zero.
    """
    model = model.to(device()).eval()
    seen: list[list[np.ndarray]] = [[] for _ in model.config.hidden_layers()]

    def keep(layer: int, activations: Tensor, _same: Tensor):
        if layer >= 0:
            seen[layer].append(activations.flatten().cpu().numpy())

    for part in images.split(chunk_size(model.config)):
        model.forward_steps(part.to(device()), observe=keep)
    found = [float(np.percentile(np.concatenate(values), percentile)) for values in seen]
    return [value if value > 0 else 1.0 for value in found]


def _affine(norm, channels: int) -> tuple[Tensor, Tensor]:
    """scale and bias that a BatchNorm in evaluation mode amounts to; 1 and 0 where there is none."""
    if not hasattr(norm, "running_var"):
        return torch.ones(channels), torch.zeros(channels)
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale.cpu(), (norm.bias - norm.running_mean * scale).cpu()
