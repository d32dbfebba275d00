"""The spiking network: built from a configuration, run over all timesteps at once."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import LayerSpec, ModelConfig
from .encoding import direct, poisson, sequence
from .neuron import TRAINED, lif
from .norm import build_norm

PRECISIONS = ("float32", "tf32", "bfloat16")
Observer = Callable[[int, Tensor, Tensor], None]


class SpikingNetwork(nn.Module):
    """A network of one configuration. With BNTT its state_dict has the names and shapes of a published checkpoint.

    precision: what convolutions and matrix products are computed in. "float32" is exact; "bfloat16" and "tf32"
    (CUDA only) are faster and change a few spikes; norm, membrane and spikes always stay float32.
    surrogate: ∂s/∂u of the backward pass. straight_through: whether the rate code passes the gradient of its
    expectation, or the literal zero. Neither changes what the network computes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.precision = "float32"
        self.surrogate = TRAINED
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
    ) -> Tensor:
        """Class scores of every exit step from one pass, [T, B, K]; row t−1 = (1/t)·Σ_{τ≤t} W s_τ.

        x: normalised images [B, C, H, W], encoded here, or input spikes [T, B, …] with at most config.steps rows of
        config.step_shape, used as they are. An ANN has T = 1.
        seed: of the rate code's random numbers; None draws one from torch's generator (torch.manual_seed governs it).
        samples: int64 [B], which sample each image is; None derives it from the pixels. Same seed and sample, same
        spikes.
        steps: stop after so many timesteps; None = all.
        observe(layer, spikes, membrane): called for the input (layer −1, membrane = its spikes) and for each hidden
        layer with spikes [T, B, …] before pooling and membrane u_t before its reset (an ANN: its activations, twice).
        """
        self._check_input(x)
        if x.is_cuda:  # torch's own default lets convolutions use TF32 silently; the backward pass reads these too
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = self.precision == "tf32"
        if x.dim() == 4:
            steps = self.config.steps if steps is None else steps
            x = self._encode(x, steps, seed, samples)
        else:
            x = x[:steps]
            steps = x.shape[0]
        if observe is not None:
            observe(-1, x.expand(steps, *x.shape[1:]), x.expand(steps, *x.shape[1:]))
        for index, spec in enumerate(self.config.hidden_layers()):
            current = self._normalise(spec, self._weigh(spec, x), steps)
            spikes, membrane = self._fire(current)
            del current
            if observe is not None:
                observe(index, spikes, membrane)
            del membrane
            x = _pool(spikes, spec.pool)
        scores = self._weigh(self.config.layers()[-1], x)
        elapsed = torch.arange(1, steps + 1, device=scores.device, dtype=scores.dtype)
        return scores.cumsum(0) / elapsed[:, None, None]

    def _encode(self, images: Tensor, steps: int, seed: int | None, samples: Tensor | None) -> Tensor:
        if self.config.encoding == "direct":
            return direct(images)
        if self.config.encoding in ("rows", "pixels"):
            return sequence(images, self.config.encoding)[:steps]
        if seed is None:
            seed = int(torch.randint(2**31, ()))
        return poisson(images, steps, seed, samples, straight_through=self.straight_through)

    def _weigh(self, spec: LayerSpec, x: Tensor) -> Tensor:
        """One convolution or matrix product over [T·B, …], not T of them; float32 out."""
        layer = self.get_submodule(spec.name)
        rows = x.flatten(0, 1) if spec.kind == "conv" else x.flatten(2).flatten(0, 1)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"):
            out = layer(rows)
        return out.float().unflatten(0, x.shape[:2])

    def _normalise(self, spec: LayerSpec, x: Tensor, steps: int) -> Tensor:
        """[steps, B, …] whatever the norm."""
        norm = self.get_submodule(spec.norm_name)
        return norm(x, steps, self.config.threshold) if self.config.norm == "tdbn" else norm(x, steps)

    def _fire(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """Spikes and membrane; for an ANN its activations as both."""
        if self.config.kind == "ann":
            activation = F.relu(current)
            return activation, activation
        return lif(current, self.config.leak, self.config.threshold, self.surrogate)

    def _check_input(self, x: Tensor):
        image, step = self.config.in_shape, self.config.step_shape
        images = x.dim() == 4 and self.config.encoding != "events" and tuple(x.shape[1:]) == image
        if not images and not (x.dim() == 5 and tuple(x.shape[2:]) == step):
            either = "" if self.config.encoding == "events" else f"images [B, {', '.join(map(str, image))}] or "
            raise ValueError(f"expected {either}spikes [T, B, {', '.join(map(str, step))}], not {list(x.shape)}")
        if x.dim() == 5 and not 1 <= x.shape[0] <= self.config.steps:
            raise ValueError(f"the network has {self.config.steps} timesteps, the input spikes {x.shape[0]}")


def _pool(spikes: Tensor, kind: str) -> Tensor:
    if not kind:
        return spikes
    if kind == "G":
        return spikes.mean((-2, -1), keepdim=True)
    return F.avg_pool2d(spikes.flatten(0, 1), 2).unflatten(0, spikes.shape[:2])


def build_model(config: ModelConfig) -> SpikingNetwork:
    """A network with fresh weights (Xavier-uniform, gain 2; γ = 1) for this configuration."""
    return SpikingNetwork(config)


@torch.no_grad()
def spike_counts(model: SpikingNetwork, x: Tensor, *, seed: int | None = None, samples: Tensor | None = None) -> Tensor:
    """How many spikes each hidden layer fired for each sample at each timestep: int64 [T, layers, B]; an ANN fires none.

    x, seed, samples: as SpikingNetwork.forward_steps.
    """
    counts: list[Tensor] = []

    def count(layer: int, spikes: Tensor, _membrane: Tensor):
        if layer >= 0:
            fired = spikes.flatten(2).count_nonzero(2)
            counts.append(torch.zeros_like(fired) if model.config.kind == "ann" else fired)

    model.forward_steps(x, seed=seed, samples=samples, observe=count)
    return torch.stack(counts, 1)
