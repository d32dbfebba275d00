"""Which device the engine computes on: decided once, for the whole process."""

from functools import cache

import torch


@cache
def device() -> torch.device:
    """The GPU when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
