"""What stands for the derivative of a spike in the backward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

SURROGATE_GAIN = 0.3
SHAPES = ("triangle", "arctangent", "sigmoid")
SIGMOID_SHARPNESS = 4.0 * math.acosh(math.sqrt(2.0))  # a sigmoid's derivative is then half its peak at |v| = 1/2
_LEAST_WIDTH = 1e-6


@dataclass(frozen=True)
class Surrogate:
    """What stands for ∂s/∂u in the backward pass, where the true derivative is zero almost everywhere.

    With v = (u/θ − 1)/w it is 0.3 at the threshold and half of that at |v| = 1/2, in every shape:
    triangle 0.3·max(0, 1 − |v|), exactly 0 from |v| = 1; arctangent 0.3/(1 + 4v²); sigmoid 1.2·σ(kv)·(1 − σ(kv)),
    k = 4·arcosh √2. w is `width`, in units of θ; if `adaptive`, `width` times the mean |u/θ − 1| over the neurons of a
    layer, for each sample and timestep apart, so that neurons pass a gradient wherever their potentials lie.
    The triangle of width 1 is what networks are trained with here.
    Source: triangle, Kim & Panda 2021 (after Bellec et al. 2018); arctangent, Fang et al., arXiv 2007.05785; sigmoid,
    Zenke & Ganguli, arXiv 1705.11146; that a fixed width hides gradients from an
    attacker, Wang et al., arXiv 2512.22522.
    Raises ValueError with one sentence for an unknown shape or a width outside (0, 1000].
    """

    shape: str = "triangle"
    width: float = 1.0
    adaptive: bool = False

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise ValueError(f"surrogate {self.shape!r} is not one of {', '.join(SHAPES)}")
        if not 0 < self.width <= 1000:
            raise ValueError(
                f"surrogate width {self.width!r} must be above 0 and at most 1000, in units of the threshold"
            )

    def derivative(self, membrane: Tensor, threshold: float) -> Tensor:
        """∂s/∂u for membrane potentials u, [T, B, …], as a new tensor of that shape with values 0 … 0.3."""
        distance = (membrane / threshold - 1.0).abs_()
        if self.adaptive:
            mean = distance.flatten(2).mean(2).clamp_(min=_LEAST_WIDTH)
            distance.div_(self.width * mean.view(*mean.shape, *[1] * (distance.dim() - 2)))
        elif self.width != 1.0:
            distance.div_(self.width)
        if self.shape == "triangle":
            return (1.0 - distance).clamp_(min=0.0).mul_(SURROGATE_GAIN)
        if self.shape == "arctangent":
            return distance.mul_(2.0).square_().add_(1.0).reciprocal_().mul_(SURROGATE_GAIN)
        rising = torch.sigmoid(distance.mul_(SIGMOID_SHARPNESS))
        return (1.0 - rising).mul_(rising).mul_(4.0 * SURROGATE_GAIN)

    def pull(self, g: Tensor, membrane: Tensor, spikes: Tensor, threshold: float, batch: int, buffer: Tensor) -> None:
        """g += ∂s/∂u · ∂loss/∂s of one timestep, in place; all [R, C], R rows of `batch` samples. buffer: to work in."""
        if self.shape != "triangle" or self.adaptive:
            own = self.derivative(membrane.view(1, batch, -1), threshold).view_as(g)
            g.add_(own.mul_(spikes))
            return
        reach = self.width * threshold
        torch.sub(membrane, threshold, out=buffer).abs_().sub_(reach).clamp_(max=0.0)  # the triangle upside down
        g.addcmul_(buffer, spikes, value=-SURROGATE_GAIN / reach)


TRAINED = Surrogate()
