"""A checkpoint opened: the network, what is known about it, and where each value comes from."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..snn import ModelConfig, SpikingNetwork
from .errors import CheckpointError, Refusal, shown
from .formats import Contents, read_contents
from .guess import Facts, Note, Settings, check_overrides, settle
from .layout import Network, Stack, checked_state, find_tensors, read_stacks, recognise
from .source import display_name, read_source


@dataclass(eq=False)
class Checkpoint:
    """What a file holds.

    name: its file name. source: "bntt-reference" (published layout), "engine" (ours) or "gamma-only" (BNTT stacks
    without a network that can be run; then model and config are None and `missing` says why in one sentence).
    model: in evaluation mode, float32, on the CPU. stacks: layer → γ, μ, σ² as float32 [T, C], in network order;
    layers are named conv1 …, fc1, or as in the file when there is no network; empty for a network without BNTT.
    dataset: its name, or None. mean, std: of each input channel, pixels in [0, 1]. notes: where values come from, what
    was guessed and why. metadata: plain values that the file holds. digest: SHA-256 of the file.
    """

    name: str
    source: str
    model: SpikingNetwork | None = field(repr=False)
    config: ModelConfig | None
    stacks: dict[str, Stack] = field(repr=False)
    dataset: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: list[Note]
    metadata: dict[str, Any]
    digest: str
    missing: str = ""
    _facts: Facts | None = field(repr=False, default=None)
    _found: list[Note] = field(repr=False, default_factory=list)
    _overrides: dict[str, Any] = field(repr=False, default_factory=dict)
    _made: dict[str, Any] = field(repr=False, default_factory=dict)  # of the weights, once for all that share them

    @property
    def gamma(self) -> pd.DataFrame:
        """One row a layer × step (1 … T) × channel (0 …): layer, step, channel, gamma, running_mean, running_var."""
        if "gamma" not in self._made:
            self._made["gamma"] = self._gamma_table()
        return self._made["gamma"]

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the network's tensors, whatever else the file holds; `digest` where there is no network."""
        if self.model is None:
            return self.digest
        if "weights_digest" not in self._made:
            self._made["weights_digest"] = _digest(self.model.state_dict())
        return self._made["weights_digest"]

    def _gamma_table(self) -> pd.DataFrame:
        if not self.stacks:
            return pd.DataFrame(columns=["layer", "step", "channel", *Stack._fields])
        shapes = [stack.gamma.shape for stack in self.stacks.values()]
        layers = np.repeat(np.arange(len(shapes)), [steps * channels for steps, channels in shapes])
        values = zip(*self.stacks.values())  # all layers' γ, then all layers' μ, then σ²
        return pd.DataFrame(
            {
                "layer": pd.Categorical.from_codes(layers, list(self.stacks), ordered=True),
                "step": np.concatenate([np.repeat(np.arange(1, steps + 1), channels) for steps, channels in shapes]),
                "channel": np.concatenate([np.tile(np.arange(channels), steps) for steps, channels in shapes]),
            }
            | {part: np.concatenate([table.ravel() for table in tables]) for part, tables in zip(Stack._fields, values)}
        )

    def replace(self, **overrides) -> Checkpoint:
        """The same checkpoint and weights with other settings, as load_checkpoint takes them; None undoes one.

        Nothing is read again. The two models share parameters and training mode; only their configurations differ.
        Raises CheckpointError.
        """
        try:
            given = check_overrides({**self._overrides, **overrides})
            settings = settle(self._facts, given)
            config = None if self.config is None else _configure(self.config, settings)
        except Refusal as error:
            raise CheckpointError(f"{self.name}: {error}") from error
        model = copy.copy(self.model)
        if model is not None:
            model.config = config
        return dataclasses.replace(
            self, model=model, config=config, **_described(settings, self._found), _overrides=given
        )


def load_checkpoint(source: str | Path | BinaryIO, *, name: str | None = None, **overrides) -> Checkpoint:
    """Open a checkpoint; nothing in it is ever executed.

    source: a path, or a binary file object, which is read from its beginning. name: the file name when `source` has
    none. overrides: leak (λ), threshold (θ), dataset, image_size (pixels), encoding, mean, std (one number a channel);
    None counts as not given. Raises CheckpointError with one sentence that names the file and what is wrong.
    """
    label = display_name(source, name)
    try:
        overrides = check_overrides(overrides)
        data = read_source(source)
        digest = hashlib.sha256(data).hexdigest()
        contents = read_contents(data)
        if contents.config is not None:
            return _open_ours(label, contents, digest, overrides)
        return _open_foreign(label, contents, digest, overrides)
    except Refusal as error:
        raise CheckpointError(f"{label}: {error}") from error
    except (MemoryError, RecursionError) as error:
        raise CheckpointError(f"{label}: it is too large or too deeply nested to open; choose another file") from error


def _open_ours(name: str, contents: Contents, digest: str, overrides: dict) -> Checkpoint:
    tensors, _, _ = find_tensors(contents.root)
    config = _header_config(contents.config)
    stacks = read_stacks(tensors) if config.norm == "bntt" else {}
    facts = Facts(
        name=name,
        arch=config.arch,
        steps=config.steps,
        classes=config.classes,
        channels=config.in_shape[0],
        stated={
            "leak": config.leak,
            "threshold": config.threshold,
            "encoding": config.encoding,
            "image_size": config.in_shape[1:] if len(set(config.in_shape[1:])) == 2 else config.in_shape[1],
            **check_overrides({name: contents.metadata.get(name) for name in ("dataset", "mean", "std")}),
        },
    )
    model = _build(config, tensors)
    settings = settle(facts, overrides)
    model.config = _configure(config, settings)
    return Checkpoint(
        name=name,
        source="engine",
        model=model,
        config=model.config,
        stacks={spec.name: stacks[spec.norm_name] for spec in config.hidden_layers() if stacks},
        metadata=contents.metadata,
        digest=digest,
        **_described(settings, []),
        _facts=facts,
        _overrides=overrides,
    )


def _header_config(values: dict) -> ModelConfig:
    layout = values.get("layout")
    if layout is not None and not (isinstance(layout, str) and len(layout) <= 1000):  # a layer is made of each token
        raise Refusal("its header has a layout that is no text of at most 1000 letters; save the network again")
    try:
        return ModelConfig.from_dict(values)
    except (ValueError, OverflowError) as error:
        raise Refusal(f"its header gives no network: {shown(error, 300)}; save it again") from error


def _open_foreign(name: str, contents: Contents, digest: str, overrides: dict) -> Checkpoint:
    tensors, metadata, stripped = find_tensors(contents.root)
    found = _conversions(tensors, stripped)
    stacks = read_stacks(tensors, ordered=contents.ordered)
    network = recognise(tensors, stacks)
    if isinstance(network, str):
        facts, model, config = Facts(name), None, None
        missing = (
            f"This file holds BNTT layers but no network that can be run here ({network}): γ can be looked at, but "
            "spikes, early exit and robustness need all layers in the published layout."
        )
    else:
        facts = Facts(name, network.arch, network.steps, network.classes, network.channels, network.sides)
        config, missing = _published_config(network), ""
        model = _build(config, tensors)
        stacks = {spec.name: stacks[spec.norm_name] for spec in config.hidden_layers()}
    settings = settle(facts, overrides)
    if model is not None:
        model.config = config = _configure(config, settings)
    return Checkpoint(
        name=name,
        source="gamma-only" if model is None else "bntt-reference",
        model=model,
        config=config,
        stacks=stacks,
        metadata=metadata,
        digest=digest,
        missing=missing,
        **_described(settings, found),
        _facts=facts,
        _found=found,
        _overrides=overrides,
    )


def _conversions(tensors: dict[str, Tensor], stripped: str) -> list[Note]:
    notes = []
    if stripped:
        notes.append(Note("names", stripped, "in front of every tensor's name, left out", False))
    kinds = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors.values() if tensor.is_floating_point()}
    if kinds - {"float32"}:
        notes.append(Note("precision", "float32", f"converted from {', '.join(sorted(kinds - {'float32'}))}", False))
    return notes


def _published_config(network: Network) -> ModelConfig:
    side = network.sides[0] if network.sides else 32
    try:
        return ModelConfig(
            arch=network.arch,
            layout=network.layout,
            steps=network.steps,
            classes=network.classes,
            in_shape=(network.channels, side, side),
        )
    except ValueError as error:
        raise Refusal(f"its tensors make no network: {shown(error, 300)}; choose another file") from error


def _configure(config: ModelConfig, settings: Settings) -> ModelConfig:
    """The configuration with these settings. Raises Refusal when the weights would not fit it."""
    values = settings.values
    side = values["image_size"]
    in_shape = (config.in_shape[0], *(side if isinstance(side, tuple) else (side, side)))
    try:
        changed = dataclasses.replace(
            config, in_shape=in_shape, **{name: values[name] for name in ("leak", "threshold", "encoding")}
        )
    except ValueError as error:
        raise Refusal(f"{shown(error, 300)}; choose another value") from error
    for old, new in zip(config.layers(), changed.layers()):
        if old.weight_shape != new.weight_shape:
            raise Refusal(
                f"image_size {side} does not fit: {old.name}.weight takes {old.weight_shape[1]} inputs and images of "
                f"that side give {new.weight_shape[1]}; leave it out"
            )
    return changed


def _described(settings: Settings, found: list[Note]) -> dict[str, Any]:
    return {**{name: settings.values[name] for name in ("dataset", "mean", "std")}, "notes": [*found, *settings.notes]}


def _digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of names, data types, shapes and values, in whatever order they come."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _build(config: ModelConfig, tensors: dict[str, Tensor]) -> SpikingNetwork:
    """The network with these weights. Made without memory or random numbers of its own: it takes over the tensors."""
    state = checked_state(tensors, config)
    with torch.device("meta"):
        model = SpikingNetwork(config)
    model.load_state_dict(state, assign=True)
    return model.to(memory_format=torch.channels_last).eval()
