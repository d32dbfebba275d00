"""A network → our own file: safetensors with the published tensor names and the configuration in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..files import replacing
from ..snn import SpikingNetwork
from .errors import CheckpointError, shown
from .formats import FORMAT


def save_checkpoint(
    path: str | Path, model: SpikingNetwork, /, *, dtype: torch.dtype | None = None, **metadata
) -> None:
    """Write a network so that load_checkpoint gives it back; the file appears whole or not at all.

    metadata: anything JSON can hold, such as dataset, mean, std, accuracy, command, seed. dtype: torch.float16 halves
    the file and rounds the weights; loading always gives float32. Raises CheckpointError.
    """
    path = Path(path)
    if dtype not in (None, torch.float32, torch.float16):
        raise CheckpointError(f"{path.name}: weights are saved as torch.float32 or torch.float16, not {shown(dtype)}")
    tensors = {}
    for name, tensor in model.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if dtype is not None and tensor.is_floating_point():
            rounded = tensor.to(dtype)
            if not torch.equal(rounded.isfinite(), tensor.isfinite()):
                raise CheckpointError(f"{path.name}: {name} has values too large for {dtype}; save it as float32")
            tensor = rounded
        tensors[name] = tensor
    try:
        header = {
            "format": FORMAT,
            "config": json.dumps(model.config.to_dict()),
            "metadata": json.dumps(metadata, default=_plain, allow_nan=False),
        }
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{path.name}: its metadata cannot be written as JSON ({shown(error)})") from error
    try:
        with replacing(path) as file:
            file.write(safetensors.torch.save(tensors, header))
    except OSError as error:
        raise CheckpointError(f"{path}: it cannot be written ({shown(error.strerror)})") from error


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):  # a NumPy or torch number
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")
