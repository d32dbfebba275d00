"""What a data set is, and how its images are made to fit a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Images(NamedTuple):
    """pixels: uint8 [N, C, H, W]; labels: int64 [N]. A sample's number is its row."""

    pixels: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataSet:
    """One entry of the registry.

    shape: (C, H, W). mean, std: per channel, of pixels in [0, 1]. steps, leak: the usual T and λ for it.
    pad, flip: training augmentation (random crop after padding by `pad` pixels; horizontal flip).
    """

    name: str
    title: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    steps: int
    leak: float
    pad: int
    flip: bool
    read: Callable[[str], Images]
    about: str

    def load(self, split: str) -> Images:
        """The images of "train" or "test"; read once a process. Raises ValueError for another split."""
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', not {split!r}")
        return self.read(split)

    def moments(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for a network of so many input channels (see `fit`)."""
        if channels == len(self.mean):
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),) * channels, (sum(self.std) / len(self.std),) * channels


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 0 … 1."""
    return pixels.to(torch.float32) / 255.0


def fit(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images [N, C, H, W] (uint8) as a network of input `shape` needs them, uint8.

    Side: bilinear, antialiased. Channels: grey is repeated, several are averaged to one; any other pair of counts
    repeats the average.
    """
    if tuple(pixels.shape[1:]) == tuple(shape):
        return pixels
    x = pixels.to(torch.float32)
    if tuple(x.shape[-2:]) != tuple(shape[1:]):
        x = F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True, align_corners=False)
    if x.shape[1] != shape[0]:
        x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
    return x.round().clamp(0, 255).to(torch.uint8)
