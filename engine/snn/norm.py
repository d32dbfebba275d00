"""Batch Normalization Through Time, and the other ways of normalising that it is compared with.

Each takes x: [T, B, C, …], or [1, B, C, …] standing for the same input at every timestep, and returns [steps, B, C, …].

Statistics are synchronised: where several processes train together (an initialised process group of torch.distributed
of more than one, each with a batch of the same size), every mean and variance of a batch is that of the batches of all
processes, timestep by timestep, as one process with the whole batch has it; so are the running estimates.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-4
MOMENTUM = 0.1


class _Sum(torch.autograd.Function):
    """Σ over all processes. Each process's x enters every process's loss, so the gradients are summed alike."""

    @staticmethod
    def forward(_ctx, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx, gradient: Tensor) -> Tensor:
        return _Sum.apply(gradient)


def _processes() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _moments(x: Tensor, over: tuple[int, ...]) -> tuple[Tensor, Tensor, int]:
    """Variance and mean over the axes `over`, as rows [steps, C] or [1, C], and how many values each is of.

    Of all processes together, with σ² = mean of (σ²_p + (μ_p − μ)²): the law of total variance, which unlike
    E[x²] − μ² loses no digits where the mean is large.
    """
    var, mean = torch.var_mean(x, over, correction=0)
    count = x.numel() // mean.numel()
    if (processes := _processes()) > 1:
        local = mean
        mean = _Sum.apply(local) / processes
        var = _Sum.apply(var + (local - mean) ** 2) / processes
        count *= processes
    return var.view(-1, x.shape[2]), mean.view(-1, x.shape[2]), count


class _Step(nn.Module):
    """γ and running statistics of one timestep. There is no β."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0, dtype=torch.long))


class BNTT(nn.ModuleList):
    """y_t = γ_t · (x_t − μ_t) / √(σ²_t + ε), t = 1…T, each timestep with statistics of its own (ε = 1e-4).

    Child t − 1 holds the tensors of timestep t, so a state_dict has the published keys `<t-1>.weight` and so on.
    While training, μ and σ² are those of the batch (over batch and space) and the running estimates follow with
    momentum 0.1 and the unbiased variance, as in torch.nn.BatchNorm2d.  Source: Kim & Panda 2021, eq. 5.
    """

    def __init__(self, steps: int, channels: int):
        super().__init__(_Step(channels) for _ in range(steps))

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Normalise each timestep by itself (shapes: see the module)."""
        if self.training:
            mean, inverse = self._batch_statistics(x, steps)
        else:
            mean = self._stack("running_mean", steps)
            inverse = (self._stack("running_var", steps) + EPS).rsqrt()
        scale = self._stack("weight", steps) * inverse
        shape = (steps, 1, -1) + (1,) * (x.dim() - 3)
        return torch.addcmul((-mean * scale).view(shape), x, scale.view(shape))

    def gamma(self) -> Tensor:
        """γ as one tensor [T, C]."""
        return self._stack("weight", len(self))

    def running_mean(self) -> Tensor:
        """Running mean μ as one tensor [T, C]."""
        return self._stack("running_mean", len(self))

    def running_var(self) -> Tensor:
        """Running variance σ² as one tensor [T, C]."""
        return self._stack("running_var", len(self))

    def _stack(self, name: str, steps: int) -> Tensor:
        return torch.stack([getattr(self[t], name) for t in range(steps)])

    def _batch_statistics(self, x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
        var, mean, count = _moments(x, (1, *range(3, x.dim())))
        if count < 2:
            raise ValueError("training needs more than one value per channel: use a batch of at least 2 images")
        with torch.no_grad():
            unbiased = var * (count / (count - 1))
            for t in range(steps):
                row = t if x.shape[0] > 1 else 0
                self[t].running_mean.lerp_(mean[row], MOMENTUM)
                self[t].running_var.lerp_(unbiased[row], MOMENTUM)
                self[t].num_batches_tracked += 1
        return mean.expand(steps, -1), (var + EPS).rsqrt().expand(steps, -1)


def _normalised(norm: nn.BatchNorm1d, x: Tensor, over: tuple[int, ...], updates: int, weight: Tensor) -> Tensor:
    """What torch's batch normalisation does while training, but over the batches of all processes.

    over: the axes that share a mean. updates: how often the running estimates move: at each timestep, or once.
    """
    var, mean, count = _moments(x, over)
    with torch.no_grad():
        for t in range(updates):
            row = t if len(mean) > 1 else 0
            norm.running_mean.lerp_(mean[row], norm.momentum)
            norm.running_var.lerp_(var[row] * (count / (count - 1)), norm.momentum)
        norm.num_batches_tracked += updates
    shape = (-1, 1, x.shape[2]) + (1,) * (x.dim() - 3)
    scale = weight * (var + norm.eps).rsqrt()
    return torch.addcmul(norm.bias.view(shape), x - mean.view(shape), scale.view(shape))


class SharedNorm(nn.BatchNorm1d):
    """One BatchNorm for all timesteps, applied at each: y_t = γ·(x_t − μ)/√(σ² + ε) + β, torch's ε and momentum.

    While training, μ and σ² are those of the batch at timestep t, and the one running estimate follows all timesteps in
    turn: what a torch.nn.BatchNorm2d inside a loop over time does.  This is the usual BatchNorm that Kim & Panda 2021
    compare BNTT with.
    """

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Normalise each timestep with the one γ and β."""
        if not self.training:
            return super().forward(x.flatten(0, 1)).unflatten(0, x.shape[:2]).expand(steps, *x.shape[1:])
        if _processes() > 1:
            return _normalised(self, x, (1, *range(3, x.dim())), steps, self.weight).expand(steps, *x.shape[1:])
        return torch.stack([super(SharedNorm, self).forward(x[t if len(x) > 1 else 0]) for t in range(steps)])

    def _check_input_dim(self, x: Tensor):
        """Any number of dimensions will do."""


class TDNorm(nn.BatchNorm1d):
    """tdBN: y = γ·θ·(x − μ)/√(σ² + ε) + β with μ and σ² over batch, space and time together (α = 1: no residual paths).

    Source: Zheng et al., "Going Deeper With Directly-Trained Larger Spiking Neural Networks", AAAI 2021.
    """

    def forward(self, x: Tensor, steps: int, threshold: float) -> Tensor:
        """Normalise all timesteps together, to the scale of the threshold θ."""
        if self.training and _processes() > 1:
            y = _normalised(self, x, (0, 1, *range(3, x.dim())), 1, self.weight * threshold)
            return y.expand(steps, *x.shape[1:])
        rows = x.flatten(0, 1)
        if self.training:
            self.num_batches_tracked += 1
        y = F.batch_norm(
            rows,
            self.running_mean,
            self.running_var,
            self.weight * threshold,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return y.unflatten(0, x.shape[:2]).expand(steps, *x.shape[1:])


class Folded(nn.Module):
    """y = scale·x + bias per channel: what is left of a BatchNorm after conversion (see engine.conversion)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Scale and shift each timestep alike."""
        shape = (1, 1, -1) + (1,) * (x.dim() - 3)
        y = torch.addcmul(self.bias.view(shape), x, self.weight.view(shape))
        return y.expand(steps, *x.shape[1:])


class NoNorm(nn.Module):
    """y = x."""

    def forward(self, x: Tensor, steps: int) -> Tensor:
        """Nothing but the shape."""
        return x.expand(steps, *x.shape[1:])


def build_norm(kind: str, steps: int, channels: int) -> nn.Module:
    """The norm of one layer; kind: one of engine.snn.NORMS."""
    if kind == "bntt":
        return BNTT(steps, channels)
    return NoNorm() if kind == "none" else {"bn": SharedNorm, "tdbn": TDNorm, "folded": Folded}[kind](channels)
