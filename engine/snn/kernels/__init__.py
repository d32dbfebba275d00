"""The arithmetic of a layer between its convolution and its spikes, in a form for each device.

`plain` is PyTorch and runs everywhere. `fused` is Triton's, for CUDA devices: all timesteps in one kernel, membrane
potentials in registers. `compiled` is Numba's, for a CPU: potentials in the cache, for bfloat16 and for whatever learns;
without gradients `plain` is as fast in float32, fires the same spikes, and loads nothing. All have the functions
moments, fire and gradients, with the same arguments and results; the latter two also rate_code.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from types import ModuleType

import torch
from torch import Tensor

from . import plain


def of(x: Tensor, dtype: torch.dtype | None = None, *, learning: bool = False) -> ModuleType:
    """The form for this tensor's device and precision.

    dtype: of what is made of it, where that is another. learning: whether it is for gradients, or statistics of a batch.
    """
    if x.is_cuda:
        return _form("fused")
    fits = (dtype or x.dtype) == torch.bfloat16 or learning and x.dtype == torch.float32
    return _form("compiled") if x.device.type == "cpu" and fits else plain


@cache
def _form(name: str) -> ModuleType:
    """`plain` where a build of torch comes without Triton, or a machine without a Numba that works."""
    try:
        return import_module(f".{name}", __package__)
    except (ImportError, OSError):  # the latter of a library that does not load
        return plain
