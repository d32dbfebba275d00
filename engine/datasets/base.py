"""What a data set is, where it lies, and how its images are made to fit a network."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 1024  # images made to fit at once


class Images(NamedTuple):
    """pixels: uint8 [N, C, H, W], or for event data the number of events [N, T, 2, H, W] (255 where there are more).
    labels: int64 [N]. A sample's number is its row. pixels may be mapped from a file: never write into it.
    """

    pixels: Tensor
    labels: Tensor


class DataError(Exception):
    """A data set is not there, or a file of it is damaged; one sentence that names the file."""


class Remote(NamedTuple):
    """A file that can be had: its place under the data folder, its address, its checksum ("md5:…", "sha256:…") and
    its size in bytes."""

    path: str
    url: str
    checksum: str
    size: int


@dataclass(frozen=True)
class DataSet:
    """One entry of the registry.

    shape: (C, H, W). mean, std: per channel, of pixels in [0, 1]; (0, 0) and (1, 1) for event data, whose counts are
    used as they are. arch, steps, leak, encoding: the usual network, T, λ and input coding for it. pad, flip: training
    augmentation (random crop after padding by `pad` pixels; horizontal flip).
    look(data folder) → where it lies, something hashable that `read` takes; raises DataError, in one sentence, with
    what is missing and where it was looked for. read(place, split, steps, side) → Images; raises DataError for damaged
    files; steps and side matter to event data alone. remote: the files a download fetches; empty where none can.
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
    look: Callable[[Path], Hashable]
    read: Callable[[Hashable, str, int, int], Images]
    about: str
    arch: str = "vgg9"
    encoding: str = "poisson"
    remote: tuple[Remote, ...] = ()

    @property
    def events(self) -> bool:
        """Whether its samples are events of a camera instead of images."""
        return self.encoding == "events"

    def suits(self, encoding: str) -> bool:
        """Whether a network of this input coding can be shown it at all: events for events, images for images."""
        return self.events == (encoding == "events")

    def missing(self) -> str:
        """What is missing, in one sentence; "" when it is there."""
        try:
            self.look(folder())
        except DataError as error:
            return str(error)
        return ""

    def load(self, split: str, *, steps: int | None = None, side: int | None = None) -> Images:
        """The samples of "train" or "test"; read once a process. Raises DataError, and ValueError for another split.

        steps, side: into how many frames of which side events are collected; None = the usual. Images ignore both.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', not {split!r}")
        chosen = (steps or self.steps, side or self.shape[1]) if self.events else (0, 0)
        return _loaded(self.read, self.look(folder()), split, *chosen)

    def moments(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation for a network of so many input channels (see `fit`)."""
        if channels == len(self.mean):
            return self.mean, self.std
        return (sum(self.mean) / len(self.mean),) * channels, (sum(self.std) / len(self.std),) * channels


@lru_cache(maxsize=6)
def _loaded(read: Callable, place: Hashable, split: str, steps: int, side: int) -> Images:
    return read(place, split, steps, side)


def folder() -> Path:
    """Where data sets are looked for: $BNTT_DATA, or .data beside the engine."""
    return Path(os.environ.get("BNTT_DATA") or Path(__file__).resolve().parents[2] / ".data")


def to_unit(pixels: Tensor) -> Tensor:
    """uint8 0 … 255 → float32 0 … 1."""
    return pixels.to(torch.float32) / 255.0


def fit(pixels: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Images [N, C, H, W] (uint8) as a network of input `shape` needs them, uint8; events come back as they are.

    Side: bilinear, antialiased. Channels: grey is repeated, several are averaged to one; any other pair of counts
    repeats the average. What fits already is not copied.
    """
    if pixels.dim() == 5 or tuple(pixels.shape[1:]) == tuple(shape):
        return pixels
    fitted = torch.empty(len(pixels), *shape, dtype=torch.uint8, device=pixels.device)
    for start in range(0, len(pixels), CHUNK):  # as float32 a whole data set may not fit in memory
        x = pixels[start : start + CHUNK].to(torch.float32)
        if tuple(x.shape[-2:]) != tuple(shape[1:]):
            x = F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True, align_corners=False)
        if x.shape[1] != shape[0]:
            x = x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)
        fitted[start : start + CHUNK] = x.round().clamp(0, 255).to(torch.uint8)
    return fitted
