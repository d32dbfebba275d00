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


def _spike(fires, like):
    """1 or 0 as an element like `like`."""


@overload(_spike)
def _(fires, like):
    if like == types.uint16:
        return lambda fires, like: np.uint16(0x3F80 if fires else 0)
    return lambda fires, like: np.float32(1.0 if fires else 0.0)


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
def _charged(held, x, scale, shift, leak):
    """u_t = λ·u'_{t−1} + scale·x + shift."""
    return _fma(held, leak, _fma(_wide(x), scale, shift))


@_compiled
def _reset(u, threshold):
    """u'_t = u_t − θ·s_t."""
    return u - (threshold if u > threshold else np.float32(0.0))


@_compiled
def fire(
    x, scale, shift, spikes, after, membrane, keep, still, leak, threshold, steps, rows, channels, begin, end, block
):  # fmt: skip
    """Spikes and, if they are kept, potentials [T, R, C] from currents x, [T, R, C] or `still` [1, R, C]; scale, shift:
    [T, C]; after [R, C]: u'_0, and then u'_T."""
    count = rows * channels
    for first in range(begin, end, block):
        for t in range(steps):
            of_t = t * channels
            for r in range(first, min(first + block, end)):
                at = r * channels
                now = t * count + at
                given = at if still else now
                for c in range(channels):
                    u = _charged(after[at + c], x[given + c], scale[of_t + c], shift[of_t + c], leak)
                    after[at + c] = _reset(u, threshold)
                    spikes[now + c] = _spike(u > threshold, spikes[now + c])
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
                    u = _charged(after[at + c], x[now + c], scale[of_t + c], shift[of_t + c], leak)
                    after[at + c] = _reset(u, threshold)
                    x[now + c] = _spike(u > threshold, x[now + c])


@_compiled
def fire_pooled(
    x, scale, shift, spikes, after, still, width, leak, threshold, steps, rows, channels, begin, end, block
):
    """The same with spikes averaged over 2×2 neighbours; begin, end and block are multiples of two lines."""
    total = np.empty(channels, np.float32)
    half = width // _two
    for first in range(begin, end, block):
        for t in range(steps):
            of_t, now = t * channels, place(0) if still else t * rows * channels
            for pixel in range(first // place(4), min(first + block, end) // place(4)):
                corner = _two * (pixel // half * width + pixel % half)
                for c in range(channels):
                    total[c] = 0
                for one in range(4):
                    at = (corner + place(one // 2) * width + place(one % 2)) * channels
                    for c in range(channels):
                        u = _charged(after[at + c], x[now + at + c], scale[of_t + c], shift[of_t + c], leak)
                        after[at + c] = _reset(u, threshold)
                        total[c] += np.float32(0.25) if u > threshold else np.float32(0.0)
                out = (t * rows // place(4) + pixel) * channels
                for c in range(channels):
                    spikes[out + c] = _narrow(total[c], spikes[out + c])


@_compiled
def _potentials(x, scale, shift, held, potential, leak, threshold, steps, count, channels, base, rows, size):
    """u_t of some rows, from u'_0 in `held`."""
    for t in range(steps):
        of_t = t * channels
        for r in range(rows):
            at = r * channels
            given, now = t * count + base + at, t * size + at
            for c in range(channels):
                u = _charged(held[at + c], x[given + c], scale[of_t + c], shift[of_t + c], leak)
                potential[now + c] = u
                held[at + c] = _reset(u, threshold)


@_compiled
def _pulled(potential, pull, g, now, given, size, threshold, reach, gain, fade):
    """g = fade·g + s'(u)·∂loss/∂s, with the triangle for s'."""
    for i in range(size):
        slope = max(reach - abs(potential[now + i] - threshold), np.float32(0.0)) * gain
        g[i] = _fma(slope, _wide(pull[given + i]), fade * g[i])


@_compiled
def _pulled_apart(
    potential, pull, g, now, given, first, width, rows, channels, threshold, reach, gain, fade
):  # fmt: skip
    """The same from ∂loss/∂ averages over 2×2 neighbours; first: the number of the first row."""
    for r in range(rows):
        line, column = (first + r) // width, (first + r) % width
        own = given + (line // _two * (width // _two) + column // _two) * channels
        at = r * channels
        for c in range(channels):
            slope = max(reach - abs(potential[now + at + c] - threshold), np.float32(0.0)) * gain
            g[at + c] = _fma(slope, np.float32(0.25) * _wide(pull[own + c]), fade * g[at + c])


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
    are_carried, are_pulled, are_after, summing, writing, pool_width,
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
            if are_pulled and pool_width:
                of_pull = t * count // place(4)
                sizes = first, pool_width, own, channels
                _pulled_apart(potential, pull, g, t * size, of_pull, *sizes, threshold, reach, gain, fade)
            elif are_pulled:
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


@_compiled
def rate_code(
    images, low, high, spikes, steps, batch, channels, area, golden, second, third, counted, begin, end
):  # fmt: skip
    """engine.snn.encoding.poisson of some samples in 32-bit arithmetic, channels last; counted: pixels before these."""
    pixels = channels * area
    own = np.empty(pixels, np.float32)
    for sample in range(begin, end):
        key, other = np.uint32(low[sample]), np.uint32(high[sample])
        for t in range(steps):
            before = np.uint32(counted + t * pixels)
            for i in range(pixels):
                bits = np.uint32(np.uint32(np.uint32(before + i) * golden) ^ key)
                bits ^= bits >> np.uint32(16)
                bits = np.uint32(np.uint32(bits * second) + other)
                bits ^= bits >> np.uint32(15)
                bits = np.uint32(bits * third)
                bits ^= bits >> np.uint32(16)
                value = images[sample * pixels + i]
                drawn = np.float32(bits >> np.uint32(8)) * np.float32(2.0**-23) <= abs(value)
                own[i] = np.float32(drawn and value > 0) - np.float32(drawn and value < 0)
            out = (t * batch + sample) * pixels
            for channel in range(channels):
                for i in range(area):
                    to = out + i * channels + channel
                    spikes[to] = _narrow(own[channel * area + i], spikes[to])
