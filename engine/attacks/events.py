"""Noise of an event camera: events lost, added, or displaced in time. Counts in, counts out."""

from __future__ import annotations

import torch
from torch import Tensor


def delete(counts: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Lose each event with probability `share`, independently. counts: int64 [T, 2, H, W]; so is the result."""
    kept = torch.binomial(
        counts.to(torch.float64), torch.full(counts.shape, 1.0 - share, dtype=torch.float64), generator=draw
    )
    return kept.to(torch.int64)


def insert(counts: Tensor, share: float, draw: torch.Generator) -> Tensor:
    """Add round(share · events) events, each in a frame, polarity and pixel drawn uniformly. Shapes as `delete`."""
    number = round(share * int(counts.sum()))
    places = torch.randint(counts.numel(), (number,), generator=draw)
    return counts + torch.bincount(places, minlength=counts.numel()).view(counts.shape)


def jitter(counts: Tensor, deviation: float, draw: torch.Generator) -> Tensor:
    """Move each event in time by a normal amount of this standard deviation, in frames, rounded to whole frames; what
    would leave the recording stays in its first or last frame. Shapes as `delete`; no event is lost.
    """
    steps, cells = counts.shape[0], counts[0].numel()
    places = torch.repeat_interleave(torch.arange(counts.numel()), counts.flatten())
    moved = (deviation * torch.randn(len(places), generator=draw)).round().to(torch.int64)
    frames = (places // cells + moved).clamp(0, steps - 1)
    return torch.bincount(frames * cells + places % cells, minlength=counts.numel()).view(counts.shape)
