"""Norm, membrane, spike and reset of one layer on a CPU, compiled by Numba: every timestep in one pass.

What each computes stands in `plain`, whose functions these equal; the spikes are the same. A few rows at a time go
through all timesteps while their membrane potentials lie in the processor's own cache, so that a current is read once
and a spike written once. The backward pass is given the current alone and makes the potentials again, for the sums over
rows and then for what depends on these: reading a current again costs less than writing and reading a potential.

Rows as in `plain`, [T, R, C]. Sums do not depend on the number of threads: each is of the same shares, in one order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

from ..neuron import SURROGATE_GAIN, Surrogate
from . import loops, plain
from .loops import place

KEEPS_MEMBRANE = False  # for the backward pass
BLOCK_BYTES = 2**18  # of potentials that a thread has at hand
MOST_SHARES, SHARE_BYTES = 64, 2**20  # that rows are handed out in, and of how many currents each is at least
MOST_STEPS = 32  # that a block of rows is cut down for; each block reads scale and shift of all timesteps again
SUMMED_ROWS = 16  # of a share at least, where it has sums
MOMENT_ROWS = 512  # of which mean and variance are known before they are joined


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """As plain.moments, in one reading of x: parts are joined by the law of total variance."""
    steps, rows, channels = x.shape
    if not rows:
        return plain.moments(x)
    parts = -(-rows // MOMENT_ROWS)
    means, squares = (torch.empty(steps, parts, channels) for _ in range(2))
    given = _flat(x), _flat(means), _flat(squares), *map(place, (rows, channels, parts))
    shares = _shares(steps * parts, 1, 2 * channels * min(rows, MOMENT_ROWS))
    _shared_out(lambda begin, end: loops.moments(*given, begin, end, place(MOMENT_ROWS)), *shares)
    return plain.joined(means, squares, rows, MOMENT_ROWS)


def fire(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    carried: Tensor | None,
    leak: float,
    threshold: float,
    dtype: torch.dtype,
    keep_membrane: bool,
    over: bool = False,
    pool_width: int = 0,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As plain.fire; potentials of spikes that are pooled are not kept."""
    steps, (rows, channels) = len(scale), x.shape[1:]
    spikes = plain.spikes_of(x, steps, dtype, over and not keep_membrane, pool_width)
    after = torch.zeros(rows, channels)
    if carried is not None:
        after.copy_(carried)
    membrane = torch.empty(spikes.shape) if keep_membrane and not pool_width else None
    block = _block(min(steps, MOST_STEPS), channels, 2 * pool_width)
    scale, shift, numbers = scale.float(), shift.float(), (np.float32(leak), np.float32(threshold))
    sizes = (*map(place, (steps, rows, channels)),)
    if pool_width:
        given = *map(_flat, (x, scale, shift, spikes, after)), len(x) == 1, place(pool_width), *numbers, *sizes
        loop = loops.fire_pooled
    elif spikes is x:
        loop, given = loops.fire_over, (*map(_flat, (x, scale, shift, after)), *numbers, *sizes)
    else:
        kept = after if membrane is None else membrane
        given = *map(_flat, (x, scale, shift, spikes, after, kept)), membrane is not None, len(x) == 1, *numbers, *sizes
        loop = loops.fire
    shares = _shares(rows, block, 2 * steps * channels)
    _shared_out(lambda begin, end: loop(*given, begin, end, place(block)), *shares)
    return spikes, after, membrane


def gradients(
    x: Tensor,
    membrane: None,
    carried: Tensor | None,
    spikes: Tensor | None,
    after: Tensor | None,
    scaling,
    leak: float,
    threshold: float,
    surrogate: Surrogate,
    batch: int,
    shape: tuple,
    dtype: torch.dtype,
    wanted: tuple[bool, bool, bool],
    pool_width: int = 0,
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """As plain.gradients, which does what is not worth a kernel: an image at every timestep, any surrogate but a triangle."""
    scale, shift = scaling.affine()
    still = len(x) == 1 and len(scale) > 1
    if still or surrogate.adaptive or surrogate.shape != "triangle":
        _, _, membrane = fire(x, scale, shift, carried, leak, threshold, x.dtype, True)
        rest = leak, threshold, surrogate, batch, shape, dtype, wanted, pool_width
        return plain.gradients(x, membrane, carried, spikes, after, scaling, *rest)
    back = _Back(x, scale, shift, scaling.mean, carried, spikes, after, leak, threshold, surrogate, pool_width)
    sums = back.sums() if scaling.count or any(wanted[1:]) else None
    slope, constant = plain.through_statistics(scaling, sums) if scaling.count else [torch.zeros_like(scale)] * 2
    dx, first = back.written(scale, slope, constant, dtype)
    found = dx, None if sums is None else scaling.inverse * sums[1], None if sums is None else sums[0]
    return *(one if asked else None for one, asked in zip(found, wanted)), first


def rate_code(
    images: Tensor,
    low: Tensor,
    high: Tensor,
    steps: int,
    start: int,
    constants: tuple[int, int, int],
    dtype: torch.dtype,
) -> Tensor:
    """As fused.rate_code."""
    batch, channels, *area = images.shape
    spikes = torch.empty(steps, batch, *area, channels, dtype=dtype)
    pixels = math.prod(area)
    given = *map(_flat, (images, low, high, spikes)), *map(place, (steps, batch, channels, pixels))
    numbers = *map(np.uint32, constants), np.uint32(start * channels * pixels & 0xFFFFFFFF)
    shares = _shares(batch, 1, 16 * steps * channels * pixels)  # 16: as much work as so many bytes of currents
    _shared_out(lambda begin, end: loops.rate_code(*given, *numbers, begin, end), *shares)
    return spikes.movedim(-1, 2)


class _Back:
    """The backward pass of one layer, which goes through time once for sums and once for what depends on them."""

    def __init__(self, x, scale, shift, mean, carried, spikes, after, leak, threshold, surrogate, pool_width):
        self._x, self._sizes = x, (len(x), *x.shape[1:])
        self._block = _block(len(x), x.shape[2])
        block = max(self._block, SUMMED_ROWS)  # each share has sums of its own, of eight times a current's bytes
        self._shares = _shares(x.shape[1], block, 2 * len(x) * x.shape[2])
        self._there = [one is not None for one in (carried, spikes, after)]
        carried, after = (scale if one is None else one for one in (carried, after))  # any numbers in its place
        scale, shift, mean, carried, after = (one.float() for one in (scale, shift, mean, carried, after))
        self._given = [_flat(one) for one in (x, scale, shift, mean, carried, x if spikes is None else spikes, after)]
        reach = surrogate.width * threshold
        self._width = place(pool_width)
        self._numbers = [np.float32(one) for one in (leak, threshold, reach, SURROGATE_GAIN / reach)]

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σg and Σg·(x − μ), [T, C]."""
        steps, _, channels = self._sizes
        found = torch.zeros(self._shares[0], steps, 2, channels, dtype=torch.float64)
        none = _flat(torch.empty(0))
        self._through([none] * 3 + [_flat(self._x), none], found, True, False)
        return found.sum(0).float().unbind(1)

    def written(self, of_g: Tensor, of_x: Tensor, constant: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """∂x_t = of_g·g_t + of_x·(x_t − μ_t) + constant, [T, R, C] of `dtype`, and ∂u'_0."""
        dx, first = torch.empty(self._sizes, dtype=dtype), torch.empty(self._sizes[1:])
        self._through([_flat(one) for one in (of_g.float(), of_x, constant, dx, first)], None, False, True)
        return dx, first

    def _through(self, out: list, sums: Tensor | None, summing: bool, writing: bool) -> None:
        places, (_, size, _), none = [place(one) for one in self._sizes], self._shares, np.empty(0)

        def work(begin, end):
            own = none if sums is None else _flat(sums[int(begin) // size])
            given = *self._given, *out, own, *self._there, summing, writing, self._width, *self._numbers, *places
            loops.back(*given, begin, end, place(self._block))

        _shared_out(work, *self._shares)


def _flat(x: Tensor) -> np.ndarray:
    """Its memory, one-dimensional; bfloat16 as 16-bit numbers. A copy where it is not contiguous."""
    x = x.detach().contiguous().view(-1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _block(steps: int, channels: int, whole: int = 0) -> int:
    """Rows that go through all timesteps together; a multiple of `whole`, where that is not 0."""
    most = BLOCK_BYTES // (4 * steps * channels)
    return max(1, most // whole) * whole if whole else max(1, most)


def _shares(rows: int, block: int, row_bytes: int) -> tuple[int, int, int]:
    """How many shares rows are handed out in, of how many rows each is, and all rows; whatever the number of threads."""
    number = max(1, min(MOST_SHARES, rows * row_bytes // SHARE_BYTES))
    size = max(1, -(-rows // (number * block))) * block
    return -(-rows // size), size, rows


def _shared_out(work: Callable[[np.uint64, np.uint64], None], number: int, size: int, rows: int) -> None:
    """work(begin, end) for each share, by as many threads as torch has, this one among them."""
    waiting = iter(range(0, rows, size))

    def take():
        for begin in waiting:  # threads take from one iterator
            work(place(begin), place(min(begin + size, rows)))

    others = min(torch.get_num_threads(), number) - 1
    helping = [_threads(torch.get_num_threads()).submit(take) for _ in range(others)]
    take()
    for one in helping:
        one.cancel() or one.result()


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, number - 1), thread_name_prefix="kernels")
