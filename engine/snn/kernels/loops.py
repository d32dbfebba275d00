"""The loops of `compiled`, in Numba: flat arrays in, flat arrays out, some rows of a layer at a time.

Arrays are flat, which the compiler turns into vector instructions, and of 16-bit numbers where they are bfloat16. Places
in them are unsigned, as Numba looks for negative ones otherwise. Fused multiply-adds are written out, since that is how
torch's own addcmul and add round. steps, rows, channels: of the whole layer; begin, end: the rows that are meant.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic, overload

place = np.uint64
_one, _two = place(1), place(2)


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
def moments(x, means, squares, rows, channels, parts, begin, end, size):
    """Mean and Σ(x − mean)², [T, parts, C], of parts of `size` rows of each timestep; begin, end: of the T·parts pairs."""
    for pair in range(begin, end):
        t, first = pair // parts, pair % parts * size
        last = min(first + size, rows)
        at, out = t * rows * channels, pair * channels
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
def fire(
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
def fire_over(x, scale, shift, after, leak, threshold, steps, rows, channels, begin, end, block):
    """The same with spikes written over x: in one array, so that the compiler sees that none is read after it is written."""
    for first in range(begin, end, block):
        for t in range(steps):
            of_t = t * channels
            for r in range(first, min(first + block, end)):
                at = r * channels
                now = t * rows * channels + at
                for c in range(channels):
                    u = _fma(after[at + c], leak, _fma(_wide(x[now + c]), scale[of_t + c], shift[of_t + c]))
                    fired = np.float32(1.0) if u > threshold else np.float32(0.0)
                    after[at + c] = u - threshold * fired
                    x[now + c] = _narrow(fired, x[now + c])


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
def back(
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
            fade = leak if back > place(0) else np.float32(1.0)
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
