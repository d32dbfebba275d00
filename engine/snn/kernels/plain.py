"""Norm, membrane, spike and reset of one layer in plain PyTorch: what every faster form must equal.

Everything is seen as rows: x [T, R, C] with R = batch × height × width, so that per-channel numbers are those of the last
axis. Each function goes through time once and works in place, on what the processor's cache still holds: on a CPU that
takes a tenth of the time of whole-tensor operations, most of which goes into fresh memory.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import processes
from ..neuron import Surrogate

KEEPS_MEMBRANE = True  # for the backward pass


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and (biased) variance over the rows of each timestep of x: [T, C] each.

    In two passes, as E[x²] − μ² would lose digits where the mean is large.
    """
    mean, var = (torch.empty(len(x), x.shape[2], dtype=precise(x), device=x.device) for _ in range(2))
    buffer = torch.empty_like(x[0], dtype=precise(x))
    for t, row in enumerate(x):
        row = row if row.dtype == buffer.dtype else buffer.copy_(row)
        torch.mean(row, 0, out=mean[t])
        torch.mean(torch.sub(row, mean[t], out=buffer).square_(), 0, out=var[t])
    return mean, var


def joined(means: Tensor, squares: Tensor, rows: int, size: int) -> tuple[Tensor, Tensor]:
    """Mean and variance [T, C] from the mean and Σ(x − mean)² of parts [T, parts, C], all of `size` rows but the last.

    By the law of total variance, which unlike E[x²] − μ² loses no digits where the mean is large.
    """
    held = torch.full((means.shape[1], 1), float(size), device=means.device)
    held[-1] = rows - (means.shape[1] - 1) * size
    mean = (means * held).sum(1) / rows
    return mean, (squares.sum(1) + ((means - mean[:, None]).square_() * held).sum(1)) / rows


def scaled(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale_t·x_t + shift_t, [T, R, C]; x may be [1, R, C], standing for every timestep."""
    return torch.addcmul(shift[:, None], x.to(precise(x)), scale[:, None])


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
    """u_t = λ·u'_{t−1} + scale_t·x_t + shift_t;  s_t = 1[u_t > θ];  u'_t = u_t − θ·s_t.

    x: [T, R, C], or [1, R, C] standing for every timestep. scale, shift: [T, C]. carried: u'_0 [R, C]; None for 0.
    over: whether spikes are written over x, where they have its shape and `dtype`: memory that is at hand takes less time.
    pool_width: of images whose lines the rows are, of an even number each, to average spikes over 2×2 neighbours; 0: not.
    Returns spikes [T, R, C] of `dtype`, or their averages [T, R/4, C], u'_T [R, C], and every u_t [T, R, C] where they
    are to be kept.
    """
    steps, still = len(scale), len(x) == 1
    spikes = spikes_of(x, steps, dtype, over, pool_width)
    membrane = x.new_empty(steps, *x.shape[1:], dtype=precise(x)) if keep_membrane else None
    potential, after = (torch.empty_like(x[0], dtype=precise(x)) for _ in range(2))
    spike = None if dtype == potential.dtype and not pool_width else torch.empty_like(potential)
    if carried is not None:
        after.copy_(carried)
    for t in range(steps):
        u = potential if membrane is None else membrane[t]
        row = x[0 if still else t]
        torch.addcmul(shift[t], row if row.dtype == u.dtype else u.copy_(row), scale[t], out=u)
        if t or carried is not None:
            u.add_(after, alpha=leak)
        fired = torch.gt(u, threshold, out=spikes[t] if spike is None else spike)
        torch.sub(u, fired, alpha=threshold, out=after)
        if spike is not None:
            spikes[t].copy_(pooled(spike, pool_width) if pool_width else spike)
    return spikes, after, membrane


def spikes_of(x: Tensor, steps: int, dtype: torch.dtype, over: bool, pool_width: int = 0) -> Tensor:
    """Memory for spikes [T, R, C], or [T, R/4, C] of pooled ones: that of x, if it is given away and fits."""
    shape = steps, x.shape[1] // (4 if pool_width else 1), x.shape[2]
    fits = x.shape == shape and x.dtype == dtype and x.is_contiguous()
    return x if over and fits else torch.empty(shape, dtype=dtype, device=x.device)


def pooled(row: Tensor, width: int) -> Tensor:
    """Averages over 2×2 neighbours, [R/4, C], of the pixels [R, C] of images of an even number of lines of this width."""
    lines = row.view(-1, 2, width, row.shape[1]).movedim(-1, 1)
    return F.avg_pool2d(lines, 2).movedim(1, -1).reshape(-1, row.shape[1])


def spread(row: Tensor, width: int, out: Tensor) -> Tensor:
    """∂loss/∂pixels, [R, C] in `out`, from that of their averages, [R/4, C]: a quarter to each."""
    quarter = (0.25 * row).view(-1, 1, width // 2, 1, row.shape[1])
    out.view(-1, 2, width // 2, 2, row.shape[1]).copy_(quarter)
    return out


def currents(
    membrane: Tensor,
    spikes: Tensor | None,
    carried: Tensor | None,
    leak: float,
    threshold: float,
    surrogate: Surrogate,
    batch: int,
    visit: Callable[[int, Tensor], None],
    pool_width: int = 0,
) -> Tensor:
    """∂loss/∂y_t, t = T … 1, of the normalised current y: g_t = s'(u_t)·∂loss/∂s_t + λ·g_{t+1}.

    spikes, carried: ∂loss/∂s [T, R, C], or of the averages [T, R/4, C], and ∂loss/∂u'_T [R, C]; None for 0. No gradient
    flows through the reset. visit(t, g_t) is called for each; g_t is valid until it returns. Returns ∂loss/∂u'_0.
    """
    g = torch.zeros_like(membrane[0]) if carried is None else carried.clone()
    buffer = torch.empty_like(g)
    given = None if spikes is None or spikes.dtype == g.dtype and not pool_width else torch.empty_like(g)
    for t in range(len(membrane) - 1, -1, -1):
        if spikes is not None:
            own = spikes[t]
            if given is not None:
                own = spread(own, pool_width, given) if pool_width else given.copy_(own)
            surrogate.pull(g, membrane[t], own, threshold, batch, buffer)
        visit(t, g)
        g.mul_(leak)
    return g


def gradients(
    x: Tensor | None,
    membrane: Tensor,
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
    """∂loss/∂x, ∂γ, ∂β (None where not wanted) and ∂u'_0 of what `fire` did, from ∂loss/∂s and ∂loss/∂u'_T, None for 0.

    x: None where fixed statistics and no other gradient make it needless; shape, dtype: of x. membrane: as kept by
    fire. scaling: an engine.snn.layer.Scaling. batch: how many samples the rows are of. carried: u'_0, for the other form.
    """
    through = ThroughNorm(x, shape, dtype, scaling, wanted)
    first = currents(membrane, spikes, after, leak, threshold, surrogate, batch, through.visit, pool_width)
    return *through.finished(), first


def through_statistics(scaling, sums: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """a and b, [T, C], of ∂x = γ·r·g + a·(x − μ) + b, from Σg and Σg·(x − μ) of this process: see ThroughNorm."""
    of_y, of_x = processes.summed(torch.stack(sums))
    if scaling.over_time:
        of_y, of_x = (one.sum(0, keepdim=True).expand_as(one) for one in (of_y, of_x))
    share = scaling.gamma * scaling.inverse / scaling.count
    return -share * scaling.inverse.square() * of_x, -share * of_y


class ThroughNorm:
    """∂loss/∂x, ∂loss/∂γ and ∂loss/∂β of y_t = γ_t·(x_t − μ_t)·r_t + β_t, from ∂loss/∂y_t one timestep after another.

    With statistics of the batch, n values each:  ∂x = γ·r·(g − (Σg + x̂·Σg·x̂)/n),  x̂ = (x − μ)·r. Where these are of
    all timesteps or of several processes, Σ is known only at the end, and every g is kept until then.
    x: [T, R, C], or [1, R, C] standing for every timestep; None where neither batch statistics nor γ need it. shape,
    dtype: of x. wanted: whether ∂x, ∂γ, ∂β are.
    """

    def __init__(self, x: Tensor | None, shape: tuple, dtype: torch.dtype, scaling, wanted: tuple[bool, bool, bool]):
        gamma, steps = scaling.gamma, len(scaling.gamma)
        self._x, self._scaling, self._wanted = x, scaling, wanted
        self._still = shape[0] == 1 and steps > 1
        self._scale = gamma * scaling.inverse
        self._sums = torch.empty(2, *gamma.shape, dtype=gamma.dtype, device=gamma.device)
        self._summing = bool(scaling.count) or any(wanted[1:])
        self._late = scaling.count and (processes.count() > 1 or scaling.over_time and not self._still)
        like = dict(dtype=gamma.dtype, device=gamma.device)
        self._centred, self._buffer = (torch.empty(*shape[1:], **like) for _ in range(2))
        self._kept = torch.empty(steps, *shape[1:], **like) if self._late and wanted[0] else None
        self._result = (
            torch.zeros(shape, **like) if self._still else torch.empty(shape, dtype=dtype, device=gamma.device)
        )
        self._dtype = dtype

    def visit(self, t: int, g: Tensor) -> None:
        """∂loss/∂y_t, [R, C]; each t once, in any order."""
        if self._summing:
            self._centre(t)
            torch.sum(g, 0, out=self._sums[0, t])
            torch.sum(torch.mul(self._centred, g, out=self._buffer), 0, out=self._sums[1, t])
        if self._kept is not None:
            self._kept[t] = g
        elif self._wanted[0]:
            self._write(t, g, self._sums[:, t])

    def finished(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """∂x, ∂γ, ∂β; None for what is not wanted."""
        if self._kept is not None:
            total = processes.summed(self._sums.clone())
            if self._scaling.over_time and not self._still:
                total = total.sum(1, keepdim=True).expand_as(total)
            for t, g in enumerate(self._kept):
                self._centre(t)
                self._write(t, g, total[:, t])
        found = (self._result.to(self._dtype), self._scaling.inverse * self._sums[1], self._sums[0])
        return tuple(one if wanted else None for one, wanted in zip(found, self._wanted))

    def _centre(self, t: int):
        row = self._x[0 if self._still else t]
        row = row if row.dtype == self._centred.dtype else self._centred.copy_(row)
        torch.sub(row, self._scaling.mean[t], out=self._centred)

    def _write(self, t: int, g: Tensor, total: Tensor):
        scale, inverse, count = self._scale[t], self._scaling.inverse[t], self._scaling.count
        row = self._result[0 if self._still else t]
        straight = not self._still and row.dtype == g.dtype
        out = row if straight else self._buffer
        if count:
            share = -scale / count
            torch.addcmul(share * total[0], self._centred, share * inverse.square() * total[1], out=out)
            out.addcmul_(g, scale)
        else:
            torch.mul(g, scale, out=out)
        if self._still:
            row.add_(out)
        elif not straight:
            row.copy_(out)


def precise(x: Tensor) -> torch.dtype:
    """What norm and membrane are computed in: float32, or float64 where the input is."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
