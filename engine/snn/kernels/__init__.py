"""The arithmetic of a layer between its convolution and its spikes, in a form for each device.

`plain` is PyTorch and runs everywhere. `fused` is Triton's, for CUDA devices: all timesteps in one kernel, membrane
potentials in registers. Both have the functions moments, fire and gradients, with the same arguments and results.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

from torch import Tensor

from . import plain


def of(x: Tensor) -> ModuleType:
    """The form for this tensor's device."""
    return _fused() or plain if x.is_cuda else plain


@cache
def _fused() -> ModuleType | None:
    try:
        from . import fused
    except ImportError:  # a build of torch without Triton
        return None
    return fused
