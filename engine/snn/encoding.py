"""Images → input of the network at every timestep.

Random numbers are a function of (seed, sample, timestep, pixel) alone, made by integer arithmetic that is the same on
every device.  A sample therefore gets the same spikes whatever batch, order or machine it is encoded in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import kernels
from .kernels import plain

_MASK = 0xFFFFFFFF
_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: spreads consecutive counters over the whole range
CONSTANTS = _GOLDEN, 0x7FEB352D, 0x846CA68B


def _mix(x: Tensor, key: Tensor | int = 0) -> Tensor:
    """Scramble 32-bit integers held in int64.

    The multiply-xorshift finaliser with the "lowbias32" constants of C. Wellons, "Prospecting for Hash Functions"
    (2018); `key` enters between its two rounds, so that two keys of 32 bits select the stream.
    """
    x = x ^ (x >> 16)
    x.mul_(CONSTANTS[1]).add_(key).bitwise_and_(_MASK)
    x.bitwise_xor_(x >> 15)
    x.mul_(CONSTANTS[2]).bitwise_and_(_MASK)
    return x.bitwise_xor_(x >> 16)


def sample_keys(images: Tensor) -> Tensor:
    """A number for each image that depends on its pixels alone: int64 [B], 0 … 2^32 − 1.

    Used when the caller does not say which sample an image is.
    """
    bits = images.detach().float().contiguous().flatten(1).view(torch.int32).to(torch.int64) & _MASK
    place = torch.arange(1, bits.shape[1] + 1, device=bits.device, dtype=torch.int64)
    return _mix(_mix(bits, (place * _GOLDEN) & _MASK).sum(1) & _MASK)


def keys(seed: int, samples: Tensor) -> tuple[Tensor, Tensor]:
    """The two keys, of 32 bits in int64 [B] each, of the random numbers of each sample; seed: any integer."""
    seed_low, seed_high = seed & _MASK, (seed >> 32) & _MASK
    samples = samples.to(torch.int64)
    low = _mix((samples & _MASK) ^ seed_low, seed_high)
    return low, _mix((samples >> 32 & _MASK) ^ low, seed_low ^ _GOLDEN)


def uniform(seed: int, samples: Tensor, steps: int, pixels: int, start: int = 0) -> Tensor:
    """Uniform random numbers in [0, 1) on a grid of 2^-24: float32 [steps, B, pixels], of timesteps start + 1, ….

    seed: any integer. samples: int64 [B], which sample each row is.
    """
    low, high = (key[:, None] for key in keys(seed, samples))
    counter = torch.arange(start * pixels, (start + steps) * pixels, device=samples.device, dtype=torch.int64)
    bits = _mix((counter.mul_(_GOLDEN).bitwise_and_(_MASK)).view(steps, 1, pixels) ^ low, high)
    return (bits >> 8).to(torch.float32) * 2.0**-24


def poisson(
    images: Tensor,
    steps: int,
    seed: int,
    samples: Tensor | None = None,
    *,
    straight_through: bool = True,
    start: int = 0,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Signed rate code: spikes in {−1, 0, 1}, [steps, B, …], with E[s] = sign(x)·min(|x|/2, 1).

    images: normalised, [B, …]. At each timestep and pixel draw r in [0, 1); s = sign(x) where 2r ≤ |x|, else 0.
    Taken literally that has no gradient, so the gradient of the expectation, ½ where |x| ≤ 2 and 0 beyond, is passed
    straight through: one spike's gradient with respect to its pixel is ∂E[s]/∂x. straight_through=False passes the
    literal one, zero everywhere. dtype: of the spikes, where no gradient is asked for; None for that of the images.
    Source: Kim & Panda 2021 for the code; Bengio et al., arXiv 1308.3432, for straight-through estimation.
    """
    samples = sample_keys(images) if samples is None else samples
    still = images.detach()
    dtype = images.dtype if dtype is None or images.requires_grad else dtype
    if (form := kernels.of(images, dtype)) is not plain and images.dtype == torch.float32:
        spikes = form.rate_code(still, *keys(seed, samples), steps, start, CONSTANTS, dtype)
    else:
        draw = uniform(seed, samples, steps, images[0].numel(), start).view(steps, *images.shape)
        spikes = ((draw.mul_(2.0) <= still.abs()) * still.sign()).to(dtype)
    if not images.requires_grad:
        return spikes
    expected = images.clamp(-2.0, 2.0) / 2.0 if straight_through else 0.0 * images
    return spikes + (expected - expected.detach())


def direct(images: Tensor) -> Tensor:
    """Direct code: the image itself is the input current at every timestep, [1, B, …].

    One row stands for all timesteps, so that the first convolution is computed once.
    """
    return images[None]


def sequence(images: Tensor, encoding: str) -> Tensor:
    """An image shown piece by piece as current: "rows" gives [H, B, C, 1, W], "pixels" [H·W, B, C, 1, 1], row by row.

    images: [B, C, H, W]. The order in which sequential MNIST is read (Le, Jaitly & Hinton, arXiv 1504.00941).
    """
    rows = images.permute(2, 0, 1, 3)
    if encoding == "rows":
        return rows.unsqueeze(3)
    return images.flatten(2).permute(2, 0, 1)[..., None, None]
