"""Batch Normalization Through Time, and the other ways of normalising that it is compared with.

A norm says what each timestep is normalised with (`scaling`), and engine.snn.layer computes with that, together with
the neurons that follow. Called directly, a norm takes x: [T, B, C, …], or [1, B, C, …] standing for the same input at
every timestep, and returns [steps, B, C, …].

Statistics are synchronised: where several processes train together (an initialised process group of torch.distributed
of more than one, each with a batch of the same size), every mean and variance of a batch is that of the batches of all
processes, timestep by timestep, as one process with the whole batch has it; so are the running estimates.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from . import kernels, processes
from .kernels import plain
from .layer import Scaling, normalise, rows

EPS = 1e-4
MOMENTUM = 0.1


class Norm(nn.Module):
    """What all norms share."""

    def forward(self, x: Tensor, steps: int, threshold: float = 1.0) -> Tensor:
        """Normalise each timestep (shapes: see the module); threshold: θ of the neurons that follow."""
        return normalise(x, self.scaling(x, 0, steps, threshold))

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """What x, the input of timesteps start + 1 … start + steps, is normalised with.

        While training, running estimates move, unless `update` is False: for timesteps that are computed again.
        """
        raise NotImplementedError


def _moments(x: Tensor, *, over_time: bool = False) -> tuple[Tensor, Tensor, int]:
    """Mean and variance [T, C] of each timestep, or [1, C] of all together, and how many values each is of.

    Of all processes together, with σ² = mean of (σ²_p + (μ_p − μ)²): the law of total variance, which unlike
    E[x²] − μ² loses no digits where the mean is large.
    """
    flat = rows(x.detach())
    mean, var = kernels.of(x, learning=True).moments(flat.flatten(0, 1)[None] if over_time else flat)
    count = x.numel() // mean.numel()
    if (several := processes.count()) > 1:
        local = mean
        mean = processes.summed(local.clone()) / several
        var = processes.summed(var + (local - mean) ** 2) / several
        count *= several
    if count < 2:
        raise ValueError("training needs more than one value per channel: use a batch of at least 2 images")
    return mean, var, count


class _Step(nn.Module):
    """γ and running statistics of one timestep. There is no β."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))


class BNTT(Norm, nn.ModuleList):
    """y_t = γ_t · (x_t − μ_t) / √(σ²_t + ε), t = 1…T, each timestep with statistics of its own (ε = 1e-4).

    Child t − 1 holds the tensors of timestep t, so a state_dict has the published keys `<t-1>.weight` and so on.
    While training, μ and σ² are those of the batch (over batch and space) and the running estimates follow with
    momentum 0.1 and the unbiased variance, as in torch.nn.BatchNorm2d.  Source: Kim & Panda 2021, eq. 5.
    """

    def __init__(self, steps: int, channels: int):
        super().__init__(_Step(channels) for _ in range(steps))

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """γ of each timestep, with the batch's statistics while training and the running ones otherwise."""
        span = slice(start, start + steps)
        gamma = self._stack("weight", span)
        if not self.training:
            return Scaling(gamma, self._stack("running_mean", span), (self._stack("running_var", span) + EPS).rsqrt())
        mean, var, count = _moments(x)
        if update:
            self._follow(span, mean.expand_as(gamma), (var * (count / (count - 1))).expand_as(gamma))
        return Scaling(gamma, mean.expand_as(gamma), (var + EPS).rsqrt().expand_as(gamma), count=count)

    def gamma(self) -> Tensor:
        """γ as one tensor [T, C]."""
        return self._stack("weight")

    def running_mean(self) -> Tensor:
        """Running mean μ as one tensor [T, C]."""
        return self._stack("running_mean")

    def running_var(self) -> Tensor:
        """Running variance σ² as one tensor [T, C]."""
        return self._stack("running_var")

    def _stack(self, name: str, span: slice = slice(None)) -> Tensor:
        return torch.stack(self._of_steps(name, span))

    def _of_steps(self, name: str, span: slice) -> list[Tensor]:
        return [getattr(step, name) for step in list(self)[span]]

    @torch.no_grad()
    def _follow(self, span: slice, mean: Tensor, unbiased: Tensor):
        """All timesteps in one call: on a GPU, hundreds of small ones would take longer than the layer itself."""
        for name, batch in (("running_mean", mean), ("running_var", unbiased)):
            held = self._of_steps(name, span)
            torch._foreach_lerp_(held, list(batch.to(held[0].dtype).unbind()), MOMENTUM)
        torch._foreach_add_(self._of_steps("num_batches_tracked", span), 1)


class _BatchNorm(nn.BatchNorm1d):
    """Parameters and running statistics of one BatchNorm, with torch's names, ε and momentum, for any dimensions."""

    forward = Norm.forward

    def _fixed(self, steps: int, scale: float = 1.0) -> Scaling:
        inverse = (self.running_var + self.eps).rsqrt()
        return self._of(steps, self.running_mean[None], inverse[None], scale)

    def _of(self, steps: int, mean: Tensor, inverse: Tensor, scale: float = 1.0, **batch) -> Scaling:
        gamma, beta = (one.expand(steps, -1) for one in (self.weight * scale, self.bias))
        return Scaling(gamma, mean.expand_as(gamma), inverse.expand_as(gamma), beta, **batch)

    @torch.no_grad()
    def _follow(self, updates: int, mean: Tensor, var: Tensor, count: int):
        unbiased = var * (count / (count - 1))
        for t in range(updates):
            row = t if len(mean) > 1 else 0
            self.running_mean.lerp_(mean[row].to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased[row].to(self.running_var.dtype), self.momentum)
        self.num_batches_tracked += updates


class SharedNorm(_BatchNorm):
    """One BatchNorm for all timesteps, applied at each: y_t = γ·(x_t − μ)/√(σ² + ε) + β, torch's ε and momentum.

    While training, μ and σ² are those of the batch at timestep t, and the one running estimate follows all timesteps in
    turn: what a torch.nn.BatchNorm2d inside a loop over time does.  This is the usual BatchNorm that Kim & Panda 2021
    compare BNTT with.
    """

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """The one γ and β for each timestep."""
        if not self.training:
            return self._fixed(steps)
        mean, var, count = _moments(x)
        if update:
            self._follow(steps, mean, var, count)
        return self._of(steps, mean, (var + self.eps).rsqrt(), count=count)


class TDNorm(_BatchNorm):
    """tdBN: y = γ·θ·(x − μ)/√(σ² + ε) + β with μ and σ² over batch, space and time together (α = 1: no residual paths).

    Source: Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021.
    """

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """γ·θ and β for all timesteps; while training x must hold all of them."""
        if not self.training:
            return self._fixed(steps, threshold)
        mean, var, count = _moments(x, over_time=True)
        if update:
            self._follow(1, mean, var, count)
        return self._of(steps, mean, (var + self.eps).rsqrt(), threshold, count=count, over_time=True)


class Folded(Norm):
    """y = scale·x + bias per channel: what is left of a BatchNorm after conversion (see engine.conversion)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """Scale and bias, the same at each timestep."""
        none, one = torch.zeros_like(self.weight), torch.ones_like(self.weight)
        return Scaling(*(part.expand(steps, -1) for part in (self.weight, none, one, self.bias)))


class NoNorm(Norm):
    """y = x."""

    def __init__(self, channels: int):
        super().__init__()
        self._channels = channels

    def scaling(self, x: Tensor, start: int, steps: int, threshold: float, update: bool = True) -> Scaling:
        """1 and 0."""
        one = torch.ones(steps, self._channels, dtype=plain.precise(x), device=x.device)
        return Scaling(one, torch.zeros_like(one), one)


def build_norm(kind: str, steps: int, channels: int) -> nn.Module:
    """The norm of one layer; kind: one of engine.snn.NORMS."""
    if kind == "bntt":
        return BNTT(steps, channels)
    return {"bn": SharedNorm, "tdbn": TDNorm, "folded": Folded, "none": NoNorm}[kind](channels)
