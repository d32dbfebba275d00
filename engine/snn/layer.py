"""From the output of a convolution to spikes: norm, membrane, spike and reset of a layer over all its timesteps.

Two functions with gradients of their own, so that a backward pass keeps two tensors a layer and goes through time once.
Source of the gradient through batch statistics: Ioffe & Szegedy, arXiv 1502.03167, section 3.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import kernels
from .kernels import plain
from .neuron import TRAINED, Surrogate


class Scaling(NamedTuple):
    """y_t = γ_t·(x_t − μ_t)·r_t + β_t, each [T, C]; β None for 0.

    count: how many values of x each μ and r were computed from, of all processes, and then gradients flow through them
    too; 0 where they are fixed. over_time: whether those are the values of all timesteps together. Neither γ nor β may
    then differ between timesteps.
    """

    gamma: Tensor
    mean: Tensor
    inverse: Tensor
    beta: Tensor | None = None
    count: int = 0
    over_time: bool = False

    def affine(self) -> tuple[Tensor, Tensor]:
        """scale and shift with y = scale·x + shift."""
        scale = self.gamma * self.inverse
        shift = -self.mean * scale
        return scale, shift if self.beta is None else shift + self.beta

    def parts(self) -> tuple[tuple, tuple]:
        """Its tensors, for autograd to see whether they were changed before the backward pass, and the rest."""
        return self[:4], self[4:]

    def piece(self, start: int, stop: int) -> Scaling:
        """Of timesteps start + 1 … stop."""
        beta = None if self.beta is None else self.beta[start:stop]
        cut = (one[start:stop] for one in (self.gamma, self.mean, self.inverse))
        return Scaling(*cut, beta, self.count, self.over_time)


class Affine(NamedTuple):
    """y_t = scale_t·x_t + shift_t, each [T, C]: a Scaling that no gradient is asked of."""

    scale: Tensor
    shift: Tensor

    def affine(self) -> Affine:
        """Itself."""
        return self

    def piece(self, start: int, stop: int) -> Affine:
        """Of timesteps start + 1 … stop."""
        return Affine(self.scale[start:stop], self.shift[start:stop])


class Fired(NamedTuple):
    """spikes: [T, B, C, …], 0 or 1, or their averages. carried: u'_T after its reset, [B, C, …]. membrane: u_t before it,
    where it was kept."""

    spikes: Tensor
    carried: Tensor
    membrane: Tensor | None


def fire(
    x: Tensor,
    scaling: Scaling | Affine,
    leak: float,
    threshold: float,
    surrogate: Surrogate = TRAINED,
    *,
    carried: Tensor | None = None,
    dtype: torch.dtype | None = None,
    keep_membrane: bool = False,
    over: bool = False,
    pooled: bool = False,
) -> Fired:
    """Leaky integrate-and-fire neurons behind a norm: u_t = λ·u'_{t−1} + y_t; s_t = 1[u_t > θ]; u'_t = u_t − θ·s_t.

    x: [T, B, C, …], or [1, B, C, …] standing for every timestep of `scaling`. carried: u'_0, None for 0. dtype: of the
    spikes; None for float32, or float64 where x is. over: whether x is needed no more and its memory may hold the spikes;
    not where a gradient may be asked for. pooled: whether spikes are averaged over 2×2 neighbours, of images whose
    sides are even, without a membrane that is kept; else a ValueError. The gradient flows through the surrogate and the
    leak; none through the reset.
    """
    if pooled and (keep_membrane or x.dim() != 5 or any(side % 2 for side in x.shape[3:])):
        raise ValueError(f"spikes cannot be pooled with their membrane, or of shape {list(x.shape)}")
    dtype = plain.precise(x) if dtype is None else dtype
    flat, held, shape = rows(x), None if carried is None else rows(carried[None])[0], x.shape[1:]
    neuron, pool_width = (leak, threshold), shape[-1] if pooled else 0
    outward = torch.Size([*shape[:2], *(side // 2 for side in shape[2:])]) if pooled else shape
    if torch.is_grad_enabled():
        found = _Fire.apply(
            flat, scaling.gamma, scaling.beta, held, scaling, neuron, surrogate, x.shape[1], dtype, keep_membrane, pool_width
        )  # fmt: skip
    else:
        found = kernels.of(x).fire(flat, *scaling.affine(), held, *neuron, dtype, keep_membrane, over, pool_width)
    spikes, after, membrane = found
    membrane = None if membrane is None else _shaped(membrane, shape)
    return Fired(_shaped(spikes, outward), _shaped(after[None], shape)[0], membrane)


def normalise(x: Tensor, scaling: Scaling | Affine) -> Tensor:
    """y [T, B, C, …] alone, for layers without neurons that spike."""
    if isinstance(scaling, Affine):
        return _shaped(plain.scaled(rows(x), *scaling), x.shape[1:])
    return _shaped(_Normalise.apply(rows(x), scaling.gamma, scaling.beta, scaling), x.shape[1:])


def pool(spikes: Tensor, kind: str) -> Tensor:
    """Averages [T, B, C, …] over 2×2 neighbours ("P"), over a whole channel ("G"), or not at all ("")."""
    if kind == "G":
        return spikes.mean((-2, -1), keepdim=True)
    return _Pool.apply(spikes.flatten(0, 1)).unflatten(0, spikes.shape[:2]) if kind else spikes


def rows(x: Tensor) -> Tensor:
    """[T, B, C, …] as [T, R, C], R = B × height × width; no copy where the channels come last in memory."""
    return x.movedim(2, -1).flatten(1, -2).contiguous()


def _shaped(flat: Tensor, shape: torch.Size) -> Tensor:
    """Inverse of rows; shape: (B, C, …)."""
    return flat.view(len(flat), shape[0], *shape[2:], shape[1]).movedim(-1, 2)


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, scaling):
        tensors, ctx.of = scaling.parts()
        ctx.save_for_backward(x, *tensors)
        return plain.scaled(x, *scaling.affine())

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        x, *tensors = ctx.saved_tensors
        through = plain.ThroughNorm(x, x.shape, x.dtype, Scaling(*tensors, *ctx.of), ctx.needs_input_grad[:3])
        for t, g in enumerate(gradient):
            through.visit(t, g)
        return *through.finished(), None


class _Pool(torch.autograd.Function):
    """torch's own keeps its whole input, of which the backward pass needs nothing but the shape."""

    @staticmethod
    def forward(ctx, x):
        ctx.shape = x.shape
        return F.avg_pool2d(x, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        even = F.interpolate(0.25 * gradient, scale_factor=2)
        missing = [ours - theirs for ours, theirs in zip(ctx.shape[2:], even.shape[2:])]  # a last odd row or column
        return F.pad(even, (0, missing[1], 0, missing[0])) if any(missing) else even


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, carried, scaling, neuron, surrogate, batch, dtype, keep_membrane, pool_width):
        learning = any(ctx.needs_input_grad)
        form = kernels.of(x, learning=learning)
        keep = keep_membrane or learning and form.KEEPS_MEMBRANE
        spikes, after, membrane = form.fire(x, *scaling.affine(), carried, *neuron, dtype, keep, pool_width=pool_width)
        if learning:
            ctx.set_materialize_grads(False)
            uses_x = scaling.count or any(ctx.needs_input_grad[1:3]) or not form.KEEPS_MEMBRANE
            kept = membrane if form.KEEPS_MEMBRANE else None
            tensors, ctx.of = scaling.parts()
            ctx.save_for_backward(x if uses_x else None, kept, carried, *tensors)
            ctx.form, ctx.rest, ctx.pool_width = form, (*neuron, surrogate, batch, x.shape, x.dtype), pool_width
        if not keep_membrane:
            return spikes, after, None
        ctx.mark_non_differentiable(membrane)
        return spikes, after, membrane

    @staticmethod
    @once_differentiable
    def backward(ctx, spikes, carried, _membrane):
        wanted = ctx.needs_input_grad
        x, membrane, before, *tensors = ctx.saved_tensors
        scaling = Scaling(*tensors, *ctx.of)
        rest = *ctx.rest, wanted[:3], ctx.pool_width
        *found, first = ctx.form.gradients(x, membrane, before, spikes, carried, scaling, *rest)
        return *found, first if wanted[3] else None, *[None] * 7
