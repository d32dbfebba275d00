"""Leaky integrate-and-fire with soft reset, over all timesteps at once."""

from __future__ import annotations

import torch
from torch import Tensor

SURROGATE_GAIN = 0.3


def surrogate(membrane: Tensor, threshold: float) -> Tensor:
    """∂s/∂u in the backward pass: 0.3 · max(0, 1 − |u/θ − 1|), a triangle around the threshold.

    Source: Kim & Panda 2021 (after Bellec et al. 2018).
    """
    return (1.0 - (membrane / threshold - 1.0).abs_()).clamp_(min=0.0).mul_(SURROGATE_GAIN)


class _LIF(torch.autograd.Function):
    """u_t = λ·u'_{t−1} + y_t;  s_t = 1[u_t > θ];  u'_t = u_t − θ·s_t, the reset detached from the gradient."""

    @staticmethod
    def forward(ctx, current: Tensor, leak: float, threshold: float):
        spikes = torch.empty_like(current)
        membrane = torch.empty_like(current)
        carried = None
        for t in range(current.shape[0]):
            u = membrane[t]
            if carried is None:
                u.copy_(current[t])
            else:
                torch.add(current[t], carried, alpha=leak, out=u)
            torch.gt(u, threshold, out=spikes[t])
            carried = torch.sub(u, spikes[t], alpha=threshold)
        ctx.save_for_backward(membrane)
        ctx.leak, ctx.threshold = leak, threshold
        ctx.mark_non_differentiable(membrane)
        return spikes, membrane

    @staticmethod
    def backward(ctx, grad_spikes: Tensor, _):
        (membrane,) = ctx.saved_tensors
        grad = surrogate(membrane, ctx.threshold).mul_(grad_spikes)
        for t in range(grad.shape[0] - 2, -1, -1):
            grad[t].add_(grad[t + 1], alpha=ctx.leak)
        return grad, None, None


def lif(current: Tensor, leak: float, threshold: float) -> tuple[Tensor, Tensor]:
    """Spikes {0, 1} and membrane potential u_t (before the reset) of LIF neurons, both shaped like `current`.

    current: y, [T, …]. The first row meets u_0 = 0. Threshold strict: a neuron fires when u > θ.
    The gradient flows through the surrogate and through the leak; none flows through the reset.
    """
    return _LIF.apply(current, leak, threshold)
