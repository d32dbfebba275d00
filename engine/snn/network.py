"""The spiking network: built from a configuration, run over all timesteps at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .config import ModelConfig
from .encoding import direct, poisson, sample_keys, sequence
from .neuron import TRAINED
from .norm import build_norm
from .passing import Observer, Pass, Shown

PRECISIONS = ("float32", "tf32", "bfloat16")


class SpikingNetwork(nn.Module):
    """A network of one configuration. With BNTT its state_dict has the names and shapes of a published checkpoint.

    precision: what convolutions and matrix products are computed in. "float32" is exact; "bfloat16" and "tf32"
    (CUDA only) are faster and change a few spikes; norm and membrane always stay float32.
    surrogate: ∂s/∂u of the backward pass. straight_through: whether the rate code passes the gradient of its
    expectation, or the literal zero. Neither changes what the network computes.
    memory_limit: how many bytes a backward pass may keep of all neurons and timesteps; None = any number. Where they
    need more, timesteps are computed again in the backward pass, some at a time, which takes a third longer; where even
    that cannot keep so little, as little as can be is kept. tdBN needs all timesteps at once and takes what it takes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.precision = "float32"
        self.surrogate = TRAINED
        self.memory_limit: int | None = None
        self.straight_through = True
        for spec in config.layers():
            layer = (
                nn.Conv2d(spec.in_shape[0], spec.out_shape[0], 3, padding=1, bias=False)
                if spec.kind == "conv"
                else nn.Linear(*reversed(spec.weight_shape), bias=False)
            )
            nn.init.xavier_uniform_(layer.weight, gain=2.0)
            self.add_module(spec.name, layer)
            if spec.spiking:
                self.add_module(spec.norm_name, build_norm(config.norm, config.steps, spec.out_shape[0]))
        self.to(memory_format=torch.channels_last)  # as convolutions use them, so that none is rearranged at every call

    def forward(self, x: Tensor, *, seed: int | None = None, samples: Tensor | None = None) -> Tensor:
        """Class scores after all timesteps, [B, K]. Arguments as forward_steps."""
        return self.forward_steps(x, seed=seed, samples=samples)[-1]

    def forward_steps(
        self,
        x: Tensor,
        *,
        seed: int | None = None,
        samples: Tensor | None = None,
        steps: int | None = None,
        observe: Observer | None = None,
        counts: list[Tensor] | None = None,
    ) -> Tensor:
        """Class scores of every exit step from one pass, [T, B, K]; row t−1 = (1/t)·Σ_{τ≤t} W s_τ.

        x: normalised images [B, C, H, W], encoded here, or input spikes [T, B, …] with at most config.steps rows of
        config.step_shape, used as they are. An ANN has T = 1.
        seed: of the rate code's random numbers; None draws one from torch's generator (torch.manual_seed governs it).
        samples: int64 [B], which sample each image is; None derives it from the pixels. Same seed and sample, same
        spikes.
        steps: stop after so many timesteps; None = all.
        observe(layer, spikes, membrane): called for the input (layer −1, membrane = its spikes) and for each hidden
        layer with spikes [T, B, …] before pooling and membrane u_t before its reset (an ANN: its activations, twice). In
        bfloat16 spikes are bfloat16, membranes float32.
        counts: a list that gets, for the input and for each hidden layer, how many values other than zero each sample has
        at each timestep: int64 [T, B]. An ANN's hidden layers fire no spikes: 0.
        """
        self._check_input(x)
        if x.is_cuda:  # torch's own default lets convolutions use TF32 silently; the backward pass reads these too
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        steps = min(self.config.steps if steps is None else steps, self.config.steps if x.dim() == 4 else len(x))
        shown = self._shown(x, seed, samples)
        learns = torch.is_grad_enabled() and (x.requires_grad or any(p.requires_grad for p in self.parameters()))
        with torch.set_grad_enabled(learns):
            passing = Pass(self, x.shape[x.dim() - 4], steps, observe, counts)
            scores = passing.learning(shown) if learns else passing.answering(shown)
        elapsed = torch.arange(1, steps + 1, device=scores.device, dtype=scores.dtype)
        return scores.cumsum(0) / elapsed[:, None, None]

    def _shown(self, x: Tensor, seed: int | None, samples: Tensor | None) -> Shown:
        """What the first layer gets at timesteps start + 1 … stop: a function of (start, stop)."""
        if x.dim() == 5:
            return lambda start, stop: x[start:stop]
        if self.config.encoding == "direct":
            still = direct(x)
            return lambda start, stop: still
        if self.config.encoding in ("rows", "pixels"):
            pieces = sequence(x, self.config.encoding)
            return lambda start, stop: pieces[start:stop]
        seed = int(torch.randint(2**31, ())) if seed is None else seed
        keys = sample_keys(x) if samples is None else samples
        dtype = torch.bfloat16 if self.precision == "bfloat16" else None
        settings = {"straight_through": self.straight_through, "dtype": dtype}
        return lambda start, stop: poisson(x, stop - start, seed, keys, start=start, **settings)

    def _check_input(self, x: Tensor):
        image, step = self.config.in_shape, self.config.step_shape
        images = x.dim() == 4 and self.config.encoding != "events" and tuple(x.shape[1:]) == image
        if not images and not (x.dim() == 5 and tuple(x.shape[2:]) == step):
            either = "" if self.config.encoding == "events" else f"images [B, {', '.join(map(str, image))}] or "
            raise ValueError(f"expected {either}spikes [T, B, {', '.join(map(str, step))}], not {list(x.shape)}")
        if x.dim() == 5 and not 1 <= x.shape[0] <= self.config.steps:
            raise ValueError(f"the network has {self.config.steps} timesteps, the input spikes {x.shape[0]}")


def build_model(config: ModelConfig) -> SpikingNetwork:
    """A network with fresh weights (Xavier-uniform, gain 2; γ = 1) for this configuration."""
    return SpikingNetwork(config)


@torch.no_grad()
def spike_counts(model: SpikingNetwork, x: Tensor, *, seed: int | None = None, samples: Tensor | None = None) -> Tensor:
    """How many spikes each hidden layer fired for each sample at each timestep: int64 [T, layers, B]; an ANN fires none.

    x, seed, samples: as SpikingNetwork.forward_steps.
    """
    counts: list[Tensor] = []
    model.forward_steps(x, seed=seed, samples=samples, counts=counts)
    return torch.stack(counts[1:], 1)
