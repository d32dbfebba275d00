"""The processes that train one network together, as far as norms must know of them."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def count() -> int:
    """How many processes train together; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def summed(x: Tensor) -> Tensor:
    """Σ of x over all processes, in place; x must be contiguous."""
    if count() > 1:
        dist.all_reduce(x)
    return x
