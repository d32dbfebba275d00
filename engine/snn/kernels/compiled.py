"""Norm, membrane, spike and reset of one layer in bfloat16 on a CPU, compiled by Numba: every timestep in one pass.

What each computes stands in `plain`, whose functions these equal; the spikes are the same. A few rows at a time go
through all timesteps while their membrane potentials lie in the processor's own cache, so that a current is read once
and a spike written once. The backward pass is given the current alone and makes the potentials again, for the sums over
rows and then for what depends on these: reading two bytes again costs less than writing and reading four.

Rows as in `plain`, [T, R, C], but flat, which the compiler turns into vector instructions, and as 16-bit numbers where they
are bfloat16. Places in them are unsigned, as Numba looks for negative ones otherwise. Fused multiply-adds are written
out, since that is how torch's own addcmul and add round. Sums do not depend on the number of threads.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload
from torch import Tensor

from ..neuron import SURROGATE_GAIN, Surrogate
from . import plain

KEEPS_MEMBRANE = False  # for the backward pass
BLOCK_BYTES = 2**18  # of potentials that a thread has at hand
SHARES = 16  # that rows are handed out in, at most
MOMENT_ROWS = 512  # of which mean and variance are known before they are joined

_place = np.uint64
_one, _two = _place(1), _place(2)


def _compiled(function: Callable) -> Callable:
    """By Numba, without Python's lock; kept on disk where that can be written."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True)(function)
    except RuntimeError:  # no folder for it
        return njit(nogil=True, error_model="numpy")(function)


@intrinsic
def _fma(_typing, a, b, c):
    """a·b + c, rounded once."""
    return types.float32(*[types.float32] * 3), lambda _, builder, __, given: builder.fma(*given)


@intrinsic
def _float_of(_typing, bits):
    return types.float32(types.uint32), lambda _, builder, __, given: builder.bitcast(given[0], ir.FloatType())


@intrinsic
def _bits_of(_typing, value):
    return types.uint32(types.float32), lambda _, builder, __, given: builder.bitcast(given[0], ir.IntType(32))


def _wide(value):
    """The float32 that an element is."""


@overload(_wide)
def _(value):
    if value == types.uint16:
        return lambda value: _float_of(np.uint32(value) << np.uint32(16))
    return lambda value: value


def _narrow(value, like):
    """The element that a float32 is in an array of elements like `like`: for bfloat16 rounded to the nearest, or even."""


@overload(_narrow)
def _(value, like):
    if like != types.uint16:
        return lambda value, like: value

    def rounded(value, like):
        bits = _bits_of(value)
        even = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
        return np.uint16(even if value == value else np.uint32(0x7FC0))

    return rounded


@_compiled
def _moments(x, means, squares, steps, rows, channels, begin, end, size):
    """Mean and Σ(x − mean)² of parts of `size` rows; begin, end: of the first and after the last part."""
    for part in range(begin, end):
        first = part * size
        last = min(first + size, rows)
        for t in range(steps):
            at, out = t * rows * channels, (part * steps + t) * channels
            for c in range(channels):
                means[out + c] = 0
                squares[out + c] = 0
            for r in range(first, last):
                for c in range(channels):
                    means[out + c] += _wide(x[at + r * channels + c])
            for c in range(channels):
                means[out + c] /= np.float32(last - first)
            for r in range(first, last):
                for c in range(channels):
                    away = _wide(x[at + r * channels + c]) - means[out + c]
                    squares[out + c] = _fma(away, away, squares[out + c])


@_compiled
def _fire(
    x, scale, shift, spikes, after, membrane, keep, still, leak, threshold, steps, rows, channels, begin, end, block
):  # fmt: skip
    count = rows * channels
    for first in range(begin, end, block):
        for t in range(steps):
            of_t = t * channels
            for r in range(first, min(first + block, end)):
                at = r * channels
                now = t * count + at
                given = at if still else now
                for c in range(channels):
                    u = _fma(after[at + c], leak, _fma(_wide(x[given + c]), scale[of_t + c], shift[of_t + c]))
                    fired = np.float32(1.0) if u > threshold else np.float32(0.0)
                    after[at + c] = u - threshold * fired
                    spikes[now + c] = _narrow(fired, spikes[now + c])
                    if keep:
                        membrane[now + c] = u


@_compiled
def _potentials(x, scale, shift, held, potential, leak, threshold, steps, count, channels, base, rows, size):
    """u_t of some rows, from u'_0 in `held`."""
    for t in range(steps):
        of_t = t * channels
        for r in range(rows):
            at = r * channels
            given, now = t * count + base + at, t * size + at
            for c in range(channels):
                u = _fma(held[at + c], leak, _fma(_wide(x[given + c]), scale[of_t + c], shift[of_t + c]))
                potential[now + c] = u
                held[at + c] = u - (threshold if u > threshold else np.float32(0.0))


@_compiled
def _pulled(potential, pull, g, now, given, size, threshold, reach, gain, fade):
    """g = fade·g + s'(u)·∂loss/∂s, with the triangle for s'."""
    for i in range(size):
        slope = max(reach - abs(potential[now + i] - threshold), np.float32(0.0)) * gain
        g[i] = _fma(slope, _wide(pull[given + i]), fade * g[i])


@_compiled
def _summed(x, mean, g, total, product, given, of_t, rows, channels):
    """Σg and Σg·(x − μ) over rows."""
    for c in range(channels):
        total[c] = 0
        product[c] = 0
    for r in range(rows):
        at = r * channels
        for c in range(channels):
            total[c] += g[at + c]
            product[c] = _fma(g[at + c], _wide(x[given + at + c]) - mean[of_t + c], product[c])


@_compiled
def _written(x, mean, g, of_g, of_x, constant, dx, given, of_t, rows, channels):
    """∂x = of_g·g + of_x·(x − μ) + constant."""
    for r in range(rows):
        at = r * channels
        now = given + at
        for c in range(channels):
            found = _fma(_wide(x[now + c]) - mean[of_t + c], of_x[of_t + c], constant[of_t + c])
            dx[now + c] = _narrow(_fma(g[at + c], of_g[of_t + c], found), dx[now + c])


@_compiled
def _back(
    x, scale, shift, mean, carried, pull, after, of_g, of_x, constant, dx, first_g, sums,
    are_carried, are_pulled, are_after, summing, writing,
    leak, threshold, reach, gain, steps, rows, channels, begin, end, block,
):  # fmt: skip
    """g_t = s'(u_t)·∂s_t + λ·g_{t+1} of some rows, for their sums [T, 2, C] or for ∂x and ∂u'_0."""
    count, size = rows * channels, block * channels
    potential = np.empty(steps * size, np.float32)
    held, g = np.empty(size, np.float32), np.empty(size, np.float32)
    total, product = np.empty(channels, np.float32), np.empty(channels, np.float32)
    for first in range(begin, end, block):
        own = min(first + block, end) - first
        base, length = first * channels, own * channels
        for i in range(length):
            held[i] = carried[base + i] if are_carried else np.float32(0.0)
            g[i] = after[base + i] if are_after else np.float32(0.0)
        _potentials(x, scale, shift, held, potential, leak, threshold, steps, count, channels, base, own, size)
        for back in range(steps):
            t = steps - _one - back
            of_t, given = t * channels, t * count + base
            fade = leak if back > _place(0) else np.float32(1.0)
            if are_pulled:
                _pulled(potential, pull, g, t * size, given, length, threshold, reach, gain, fade)
            else:
                for i in range(length):
                    g[i] *= fade
            if summing:
                _summed(x, mean, g, total, product, given, of_t, own, channels)
                for c in range(channels):
                    sums[_two * of_t + c] += total[c]
                    sums[_two * of_t + channels + c] += product[c]
            if writing:
                _written(x, mean, g, of_g, of_x, constant, dx, given, of_t, own, channels)
        if writing:
            for i in range(length):
                first_g[base + i] = leak * g[i]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """As plain.moments, in one reading of x: parts are joined by the law of total variance."""
    steps, rows, channels = x.shape
    parts = -(-rows // MOMENT_ROWS)
    means, squares = (torch.empty(parts, steps, channels) for _ in range(2))
    given = _flat(x), _flat(means), _flat(squares), *map(_place, (steps, rows, channels))
    _shared_out(lambda begin, end: _moments(*given, begin, end, _place(MOMENT_ROWS)), parts, 1)
    return plain.joined(means.movedim(0, 1), squares.movedim(0, 1), rows, MOMENT_ROWS)


def fire(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    carried: Tensor | None,
    leak: float,
    threshold: float,
    dtype: torch.dtype,
    keep_membrane: bool,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As plain.fire."""
    steps, (rows, channels) = len(scale), x.shape[1:]
    spikes = torch.empty(steps, rows, channels, dtype=dtype)
    after = torch.zeros(rows, channels) if carried is None else carried.clone()
    membrane = torch.empty(spikes.shape) if keep_membrane else None
    block = _block(steps, channels)
    given = *map(_flat, (x, scale, shift, spikes, after, after if membrane is None else membrane)), keep_membrane
    given += len(x) == 1, np.float32(leak), np.float32(threshold), *map(_place, (steps, rows, channels))
    _shared_out(lambda begin, end: _fire(*given, begin, end, _place(block)), rows, block)
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
) -> tuple[Tensor | None, Tensor | None, Tensor | None, Tensor]:
    """As plain.gradients, which does what is not worth a kernel: an image at every timestep, any surrogate but a triangle."""
    scale, shift = scaling.affine()
    still = len(x) == 1 and len(scale) > 1
    if still or surrogate.adaptive or surrogate.shape != "triangle":
        _, _, membrane = fire(x, scale, shift, carried, leak, threshold, torch.float32, True)
        rest = leak, threshold, surrogate, batch, shape, dtype, wanted
        return plain.gradients(x, membrane, carried, spikes, after, scaling, *rest)
    back = _Back(x, scale, shift, scaling.mean, carried, spikes, after, leak, threshold, surrogate)
    sums = back.sums() if scaling.count or any(wanted[1:]) else None
    slope, constant = plain.through_statistics(scaling, sums) if scaling.count else [torch.zeros_like(scale)] * 2
    dx, first = back.written(scale, slope, constant, dtype)
    found = dx, None if sums is None else scaling.inverse * sums[1], None if sums is None else sums[0]
    return *(one if asked else None for one, asked in zip(found, wanted)), first


class _Back:
    """The backward pass of one layer, which goes through time once for sums and once for what depends on them."""

    def __init__(self, x, scale, shift, mean, carried, spikes, after, leak, threshold, surrogate):
        self._x, self._sizes = x, (len(x), *x.shape[1:])
        self._block = _block(len(x), x.shape[2])
        there = [one is not None for one in (carried, spikes, after)]
        carried, after = (scale if one is None else one.float() for one in (carried, after))  # any float32 in its place
        self._given = [_flat(one) for one in (x, scale, shift, mean, carried, x if spikes is None else spikes, after)]
        self._there, reach = there, surrogate.width * threshold
        self._numbers = [np.float32(one) for one in (leak, threshold, reach, SURROGATE_GAIN / reach)]

    def sums(self) -> tuple[Tensor, Tensor]:
        """Σg and Σg·(x − μ), [T, C]."""
        steps, rows, channels = self._sizes
        found = torch.zeros(_shares(rows, self._block)[0], steps, 2, channels, dtype=torch.float64)
        none = _flat(torch.empty(0))
        self._through([none] * 3 + [_flat(self._x), none], found, True, False)
        return found.sum(0).float().unbind(1)

    def written(self, of_g: Tensor, of_x: Tensor, constant: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """∂x_t = of_g·g_t + of_x·(x_t − μ_t) + constant, [T, R, C] of `dtype`, and ∂u'_0."""
        dx, first = torch.empty(self._sizes, dtype=dtype), torch.empty(self._sizes[1:])
        self._through([_flat(one) for one in (of_g, of_x, constant, dx, first)], None, False, True)
        return dx, first

    def _through(self, out: list, sums: Tensor | None, summing: bool, writing: bool) -> None:
        rows, places = self._sizes[1], [_place(size) for size in self._sizes]
        size, none = _shares(rows, self._block)[1], np.empty(0)

        def work(begin, end):
            own = none if sums is None else _flat(sums[int(begin) // size])
            given = *self._given, *out, own, *self._there, summing, writing, *self._numbers, *places
            _back(*given, begin, end, _place(self._block))

        _shared_out(work, rows, self._block)


def _flat(x: Tensor) -> np.ndarray:
    """Its memory, one-dimensional; bfloat16 as 16-bit numbers. Copied where it is not contiguous."""
    x = x.detach().contiguous().view(-1)
    return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()


def _block(steps: int, channels: int) -> int:
    """Rows that go through all timesteps together."""
    return max(1, BLOCK_BYTES // (4 * steps * channels))


def _shares(rows: int, block: int) -> tuple[int, int]:
    """How many shares rows are handed out in, and of how many rows each is, whatever the number of threads."""
    size = -(-rows // (SHARES * block)) * block
    return -(-rows // size), size


def _shared_out(work: Callable[[np.uint64, np.uint64], None], rows: int, block: int) -> None:
    """work(begin, end) for each share, by as many threads as torch has, this one among them."""
    number, size = _shares(rows, block)
    waiting = iter(range(0, rows, size))

    def take():
        for begin in waiting:  # threads take from one iterator
            work(_place(begin), _place(min(begin + size, rows)))

    others = min(torch.get_num_threads(), number) - 1
    helping = [_threads(torch.get_num_threads()).submit(take) for _ in range(others)]
    take()
    for one in helping:
        one.cancel() or one.result()


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, number - 1), thread_name_prefix="kernels")


os.register_at_fork(after_in_child=_threads.cache_clear)  # threads do not outlive a fork
