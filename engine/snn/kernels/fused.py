"""Norm, membrane, spike and reset of one layer as Triton kernels: every timestep in one launch.

What each computes stands in `plain`, whose functions these equal; in float32 the spikes are the same. A membrane
potential lives in a register from the first timestep to the last. The backward pass is given the current alone and makes
the potentials again: reading a current once more costs less than writing and reading a potential, and half the memory.

Rows as in `plain`: [T, R, C], R = batch × height × width. Fused multiply-adds are written out, since that is how torch's
own addcmul and add round on a GPU.
"""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..neuron import SIGMOID_SHARPNESS, SURROGATE_GAIN, Surrogate
from . import plain

KEEPS_MEMBRANE = False  # for the backward pass
BLOCK = 1024  # neurons of a program
ROWS, CHANNELS = 32, 32  # of a program that sums over rows
MOMENT_ROWS = 512  # of which a program knows mean and variance


@triton.jit
def _step(x, held, a, b, inside, leak, threshold):
    """u_t = λ·u'_{t−1} + a·x_t + b; whether it fires, 0.0 or 1.0; and u'_t."""
    u = tl.fma(held, leak, tl.fma(tl.load(x, inside, 0.0).to(tl.float32), a, b))
    fired = (u > threshold).to(tl.float32)
    return u, fired, tl.fma(fired, -threshold, u)


@triton.jit
def _fire(
    x, scale, shift, carried, spikes, after, membrane,
    count, channels, steps, x_stride, leak, threshold,
    CARRIED: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    channel = place % channels
    held = tl.zeros((BLOCK,), tl.float32)
    if CARRIED:
        held = tl.load(carried + place, inside, 0.0)
    for _ in range(steps):
        a, b = tl.load(scale + channel), tl.load(shift + channel)
        u, fired, held = _step(x + place, held, a, b, inside, leak, threshold)
        tl.store(spikes + place, fired.to(spikes.dtype.element_ty), inside)
        if KEEP:
            tl.store(membrane + place, u, inside)
            membrane += count
        x += x_stride
        spikes += count
        scale += channels
        shift += channels
    tl.store(after + place, held, inside)


@triton.jit
def _fire_pooled(
    x, scale, shift, carried, averages, after,
    count, channels, pool_width, steps, x_stride, leak, threshold,
    CARRIED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program has the four neurons behind each of its averages; count: of averages of a timestep."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    channel, pixel = place % channels, place // channels
    first = 2 * (pixel // (pool_width // 2) * pool_width + pixel % (pool_width // 2)) * channels + channel
    second, third, fourth = first + channels, first + pool_width * channels, first + (pool_width + 1) * channels
    one = tl.zeros((BLOCK,), tl.float32)
    two, three, four = one, one, one
    if CARRIED:
        one, two = tl.load(carried + first, inside, 0.0), tl.load(carried + second, inside, 0.0)
        three, four = tl.load(carried + third, inside, 0.0), tl.load(carried + fourth, inside, 0.0)
    for _ in range(steps):
        a, b = tl.load(scale + channel), tl.load(shift + channel)
        _, fired, one = _step(x + first, one, a, b, inside, leak, threshold)
        total = fired
        _, fired, two = _step(x + second, two, a, b, inside, leak, threshold)
        total += fired
        _, fired, three = _step(x + third, three, a, b, inside, leak, threshold)
        total += fired
        _, fired, four = _step(x + fourth, four, a, b, inside, leak, threshold)
        total += fired
        tl.store(averages + place, (0.25 * total).to(averages.dtype.element_ty), inside)
        x += x_stride
        averages += count
        scale += channels
        shift += channels
    tl.store(after + first, one, inside)
    tl.store(after + second, two, inside)
    tl.store(after + third, three, inside)
    tl.store(after + fourth, four, inside)


@triton.jit
def _derivative(u, threshold, width, SHAPE: tl.constexpr, GAIN: tl.constexpr, SHARPNESS: tl.constexpr):
    distance = tl.abs(u / threshold - 1.0) / width
    if SHAPE == "triangle":
        return GAIN * tl.maximum(1.0 - distance, 0.0)
    elif SHAPE == "arctangent":
        return GAIN / (1.0 + 4.0 * distance * distance)
    else:
        rising = 1.0 / (1.0 + tl.exp(-SHARPNESS * distance))
        return 4.0 * GAIN * rising * (1.0 - rising)


@triton.jit
def _back(
    x, scale, shift, mean, carried, spikes, after, g, dx, first, sums,
    rows, channels, steps, pool_width, leak, threshold, width,
    CARRIED: tl.constexpr, SPIKES: tl.constexpr, POOLED: tl.constexpr, AFTER: tl.constexpr, SUMS: tl.constexpr, STRAIGHT: tl.constexpr,
    SHAPE: tl.constexpr, GAIN: tl.constexpr, SHARPNESS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Potentials once more, forwards, leaving s'(u_t) in g; then g_t = s'(u_t)·∂s_t + λ·g_{t+1} backwards over it."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    inside = (row < rows)[:, None] & known[None, :]
    place = row[:, None] * channels + channel[None, :]
    stride = tl.full((), 1, tl.int64) * rows * channels
    from_spikes, spikes_stride = place, stride
    if POOLED:
        average = row // pool_width // 2 * (pool_width // 2) + row % pool_width // 2
        from_spikes, spikes_stride = average[:, None] * channels + channel[None, :], stride // 4
    held = tl.zeros((ROWS, CHANNELS), tl.float32)
    if CARRIED:
        held = tl.load(carried + place, inside, 0.0)
    for t in range(steps):
        a = tl.load(scale + t * channels + channel, known, 0.0)[None, :]
        b = tl.load(shift + t * channels + channel, known, 0.0)[None, :]
        u = tl.fma(held, leak, tl.fma(tl.load(x + t * stride + place, inside, 0.0).to(tl.float32), a, b))
        held = tl.fma((u > threshold).to(tl.float32), -threshold, u)
        tl.store(g + t * stride + place, _derivative(u, threshold, width, SHAPE, GAIN, SHARPNESS), inside)
    tl.debug_barrier()
    now = tl.zeros((ROWS, CHANNELS), tl.float32)
    if AFTER:
        now = tl.load(after + place, inside, 0.0).to(tl.float32)
    for back in range(steps):
        t = steps - 1 - back
        if SPIKES:
            own = tl.load(g + t * stride + place, inside, 0.0)
            pull = tl.load(spikes + t * spikes_stride + from_spikes, inside, 0.0).to(tl.float32)
            if POOLED:
                pull *= 0.25
            now = tl.fma(own, pull, now)
        if SUMS:
            centred = tl.load(x + t * stride + place, inside, 0.0).to(tl.float32)
            centred -= tl.load(mean + t * channels + channel, known, 0.0)[None, :]
            part = sums + 2 * (tl.program_id(0) * steps + t).to(tl.int64) * channels + channel
            tl.store(part, tl.sum(now, 0), known)
            tl.store(part + channels, tl.sum(now * centred, 0), known)
        if STRAIGHT:
            a = tl.load(scale + t * channels + channel, known, 0.0)[None, :]
            tl.store(dx + t * stride + place, (now * a).to(dx.dtype.element_ty), inside)
        else:
            tl.store(g + t * stride + place, now, inside)
        now *= leak
    tl.store(first + place, now, inside)


@triton.jit
def _through_statistics(x, g, mean, of_g, of_x, constant, dx, count, channels, BLOCK: tl.constexpr):
    """∂x_t = of_g·g + of_x·(x − μ) + constant, each [T, C]."""
    t = tl.program_id(1)
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    channel = t * channels + place % channels
    place += t.to(tl.int64) * count
    centred = tl.load(x + place, inside, 0.0).to(tl.float32) - tl.load(mean + channel)
    found = tl.fma(centred, tl.load(of_x + channel), tl.load(constant + channel))
    found = tl.fma(tl.load(g + place, inside, 0.0), tl.load(of_g + channel), found)
    tl.store(dx + place, found.to(dx.dtype.element_ty), inside)


@triton.jit
def _part_moments(
    x, means, squares, rows, channels, MOMENT_ROWS: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Mean and Σ(x − mean)² of up to MOMENT_ROWS rows of a timestep, for some channels."""
    part, t = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    known = channel < channels
    begin = part * MOMENT_ROWS
    base = x + t.to(tl.int64) * rows * channels
    total = tl.zeros((CHANNELS,), tl.float32)
    for offset in range(0, MOMENT_ROWS, ROWS):
        row = (begin + offset + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & known[None, :]
        total += tl.sum(tl.load(base + row[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32), 0)
    mean = total / tl.minimum(rows - begin, MOMENT_ROWS)
    square = tl.zeros((CHANNELS,), tl.float32)
    for offset in range(0, MOMENT_ROWS, ROWS):
        row = (begin + offset + tl.arange(0, ROWS)).to(tl.int64)
        inside = (row < rows)[:, None] & known[None, :]
        away = tl.load(base + row[:, None] * channels + channel[None, :], inside, 0.0).to(tl.float32) - mean[None, :]
        square += tl.sum(tl.where(inside, away * away, 0.0), 0)
    at = (t * tl.num_programs(0) + part).to(tl.int64) * channels + channel
    tl.store(means + at, mean, known)
    tl.store(squares + at, square, known)


@triton.jit
def _rate_code(
    images, low, high, spikes, batch, channels, area, steps, start,
    GOLDEN: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """engine.snn.encoding.poisson in 32-bit arithmetic, channels last."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    pixels = channels * area
    inside = place < batch * pixels
    sample, channel, pixel = place // pixels, place % channels, place % pixels // channels
    own = channel * area + pixel  # the number that encoding counts by: channel by channel
    value = tl.load(images + sample * pixels + own, inside, 0.0)
    sign = (value > 0).to(tl.float32) - (value < 0).to(tl.float32)
    key, second = tl.load(low + sample, inside, 0).to(tl.uint32), tl.load(high + sample, inside, 0).to(tl.uint32)
    for t in range(steps):
        bits = ((start + t) * pixels + own).to(tl.uint32) * tl.full((), GOLDEN, tl.uint32)
        bits = bits ^ key
        bits = bits ^ (bits >> 16)
        bits = bits * tl.full((), FIRST, tl.uint32) + second
        bits = bits ^ (bits >> 15)
        bits = bits * tl.full((), SECOND, tl.uint32)
        bits = bits ^ (bits >> 16)
        draw = (bits >> 8).to(tl.float32) * (2.0 * 2.0**-24)
        tl.store(spikes + place, tl.where(draw <= tl.abs(value), sign, 0.0).to(spikes.dtype.element_ty), inside)
        spikes += batch * pixels


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """As plain.moments, in one reading of x: parts are joined by the law of total variance."""
    if plain.precise(x) != torch.float32:
        return plain.moments(x)
    steps, rows, channels = x.shape
    parts = triton.cdiv(rows, MOMENT_ROWS)
    means, squares = (torch.empty(steps, parts, channels, device=x.device) for _ in range(2))
    grid = (parts, steps, triton.cdiv(channels, CHANNELS))
    _part_moments[grid](x, means, squares, rows, channels, MOMENT_ROWS, ROWS, CHANNELS)
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
    if plain.precise(x) != torch.float32:
        return plain.fire(x, scale, shift, carried, leak, threshold, dtype, keep_membrane, over, pool_width)
    steps, count = len(scale), x[0].numel()
    spikes = plain.spikes_of(x, steps, dtype, over, pool_width)
    after = torch.empty(x.shape[1:], device=x.device)
    if pool_width:
        _fire_pooled[(triton.cdiv(count // 4, BLOCK),)](
            x, scale.contiguous(), shift.contiguous(), carried if carried is not None else x, spikes, after, count // 4,
            x.shape[2], pool_width, steps, count if len(x) > 1 else 0, leak, threshold, carried is not None, BLOCK,
        )  # fmt: skip
        return spikes, after, None
    membrane = torch.empty(spikes.shape, device=x.device) if keep_membrane else None
    _fire[(triton.cdiv(count, BLOCK),)](
        x, scale.contiguous(), shift.contiguous(), carried if carried is not None else x, spikes, after,
        membrane if keep_membrane else after, count, x.shape[2], steps, count if len(x) > 1 else 0, leak, threshold,
        carried is not None, keep_membrane, BLOCK,
    )  # fmt: skip
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
    """As plain.gradients, which does what is not worth a kernel: an image at every timestep, widths that adapt, float64."""
    scale, shift = scaling.affine()
    still = len(x) == 1 and len(scale) > 1
    if still or surrogate.adaptive or plain.precise(x) != torch.float32:
        _, _, membrane = fire(x, scale, shift, carried, leak, threshold, x.dtype, True)
        rest = leak, threshold, surrogate, batch, shape, dtype, wanted, pool_width
        return plain.gradients(x, membrane, carried, spikes, after, scaling, *rest)
    steps, rows, channels = x.shape
    summing, straight = bool(scaling.count) or any(wanted[1:]), not scaling.count
    parts = triton.cdiv(rows, ROWS)
    g = torch.empty(x.shape, device=x.device)
    dx = g if dtype == g.dtype else torch.empty(shape, dtype=dtype, device=x.device)
    first = torch.empty(rows, channels, device=x.device)
    sums = torch.empty(parts if summing else 1, steps, 2, channels, device=x.device)
    scale, shift, mean = (one.contiguous() for one in (scale, shift, scaling.mean))
    _back[(parts, triton.cdiv(channels, CHANNELS))](
        x, scale, shift, mean, x if carried is None else carried, x if spikes is None else spikes.contiguous(),
        x if after is None else after.contiguous(), g, dx, first, sums, rows, channels, steps, pool_width, leak,
        threshold, surrogate.width, carried is not None, spikes is not None, pool_width > 0, after is not None,
        summing, straight,
        surrogate.shape, SURROGATE_GAIN, SIGMOID_SHARPNESS, ROWS, CHANNELS,
    )  # fmt: skip
    total = sums.sum(0).unbind(1)
    if scaling.count and wanted[0]:
        _through(x, g, dx, mean, scale, scaling, total)
    found = dx, scaling.inverse * total[1], total[0]
    return *(one if asked else None for one, asked in zip(found, wanted)), first


def _through(
    x: Tensor, g: Tensor, dx: Tensor, mean: Tensor, scale: Tensor, scaling, sums: tuple[Tensor, Tensor]
) -> None:
    """∂x into dx, from ∂y in g, through γ and through the statistics of the batch, of all processes."""
    slope, constant = plain.through_statistics(scaling, sums)
    count = x[0].numel()
    grid = (triton.cdiv(count, BLOCK), len(x))
    _through_statistics[grid](x, g, mean, scale, slope, constant, dx, count, x.shape[2], BLOCK)


def rate_code(
    images: Tensor,
    low: Tensor,
    high: Tensor,
    steps: int,
    start: int,
    constants: tuple[int, int, int],
    dtype: torch.dtype,
) -> Tensor:
    """Signed spikes of `dtype` [steps, B, C, H, W], channels last in memory, of timesteps start + 1, …

    low, high: int64 [B], the two keys of each sample. constants: of engine.snn.encoding's arithmetic.
    """
    batch, channels, *sides = images.shape
    area = math.prod(sides)
    spikes = torch.empty(steps, batch, *sides, channels, dtype=dtype, device=images.device)
    _rate_code[(triton.cdiv(images.numel(), BLOCK),)](
        images.contiguous(), low, high, spikes, batch, channels, area, steps, start, *constants, BLOCK
    )
    return spikes.movedim(-1, 2)
