"""What the tensors of a file are: a published network, or at least BNTT stacks."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..snn import LAYOUTS, ModelConfig
from .errors import Refusal, shape_text, shown

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # DataParallel, torch.compile, Lightning
PARTS = ("weight", "running_mean", "running_var")
_NORM_PARTS = {*PARTS, "bias", "num_batches_tracked"}
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_PUBLISHED = ("vgg9", "vgg11", "vgg-small")
_ARCHITECTURES = {sum(token[0] == "C" for token in LAYOUTS[arch].split()): arch for arch in _PUBLISHED}


class Stack(NamedTuple):
    """One BNTT layer: γ, μ and σ² as float32 [T, C]."""

    gamma: np.ndarray
    running_mean: np.ndarray
    running_var: np.ndarray


@dataclass(frozen=True)
class Network:
    """The part of a ModelConfig that the tensors of a published layout tell.

    sides: smallest and largest image side that give fc1 its inputs; None when any side does.
    """

    arch: str
    layout: str | None
    steps: int
    classes: int
    channels: int
    sides: tuple[int, int] | None


def find_tensors(root: Any) -> tuple[dict[str, Tensor], dict, str]:
    """The state_dict in what a file holds, the plain values beside it, and what was stripped from its names."""
    if not isinstance(root, dict):
        raise Refusal("it holds no table of named tensors; save model.state_dict() instead")
    inside = [root[key] for key in WRAPPERS if isinstance(root.get(key), dict)]
    inside += [root, *(value for value in root.values() if isinstance(value, dict))]
    tables = [{key: value for key, value in table.items() if _is_named_tensor(key, value)} for table in inside]
    tensors = max(tables, key=len)  # the first of the largest: a copy under another name changes nothing
    metadata = _plain_values({key: value for key, value in root.items() if key not in tensors})
    if not tensors:
        raise Refusal("it holds no table of named tensors; save model.state_dict() instead")
    stripped = ""
    while prefix := next((prefix for prefix in PREFIXES if all(key.startswith(prefix) for key in tensors)), ""):
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
        stripped += prefix
    return tensors, metadata, stripped


def _is_named_tensor(key: Any, value: Any) -> bool:
    named = isinstance(key, str) and re.fullmatch(r"[\w.\-]{1,300}", key) and key.count(".") <= 20
    return isinstance(value, Tensor) and bool(named)


def _plain_values(root: dict) -> dict:
    """Numbers and short strings beside the tensors: epoch, accuracy, …"""
    found = {}
    for key, value in root.items():
        if isinstance(value, (Tensor, np.generic)) and math.prod(value.shape) == 1:
            value = value.item()
        plain = isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) < math.inf)
        if isinstance(key, str) and plain and len(str(value)) <= 1000:
            found[shown(key)] = value
    return found


def as_float32(name: str, tensor: Tensor) -> Tensor:
    """A dense float32 copy of its own memory. Raises Refusal for other kinds and for NaN or infinity."""
    if tensor.dtype not in _FLOATS or tensor.layout is not torch.strided:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise Refusal(f"{shown(name)} holds {kind} numbers where floating-point ones are needed; save it as float32")
    tensor = tensor.detach().to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not bool(torch.isfinite(tensor).all()):
        raise Refusal(f"{shown(name)} holds NaN or infinite values, as a training that diverges leaves; choose another")
    return tensor


def read_stacks(tensors: dict[str, Tensor], *, ordered: bool = True) -> dict[str, Stack]:
    """All BNTT stacks: runs of `<prefix>.<t>.weight|running_mean|running_var` with t = 0 … T−1.

    ordered: keep the order of the file; else sort by name, numbers by value. Raises Refusal when there is none, when a
    timestep is missing and when a value cannot be.
    """
    found = {}
    for prefix, steps in _numbered_children(tensors).items():
        if _is_stack(prefix, steps):
            _check_steps(prefix, steps)
            found[prefix] = Stack(*(_table(prefix, part, steps) for part in PARTS))
    if not found:
        raise Refusal(
            "it holds no BNTT layers (T = 0), which are tensors named like bntt1.0.weight, bntt1.0.running_mean and "
            "bntt1.0.running_var; choose a checkpoint of a network trained with BNTT"
        )
    for prefix, stack in found.items():
        if (stack.running_var < 0).any():
            step = int((stack.running_var < 0).any(1).argmax())
            raise Refusal(f"{prefix}.{step}.running_var holds a negative variance; copy or download the file again")
    return found if ordered else dict(sorted(found.items(), key=lambda item: _by_number(item[0])))


def _by_number(prefix: str) -> list[tuple[int, str]]:
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"([0-9]+)", prefix)]


def _numbered_children(tensors: dict[str, Tensor]) -> dict[str, dict[int, dict[str, Tensor]]]:
    """prefix → number → what follows → tensor, for every number in every name."""
    children: dict[str, dict[int, dict[str, Tensor]]] = defaultdict(lambda: defaultdict(dict))
    for name, tensor in tensors.items():
        for match in re.finditer(r"(?<=\.)(0|[1-9][0-9]{0,5})\.", name):
            children[name[: match.start() - 1]][int(match[1])][name[match.end() :]] = tensor
    return children


def _named_bntt(prefix: str) -> bool:
    return "bntt" in prefix.rpartition(".")[2].lower()


def _is_stack(prefix: str, steps: dict[int, dict[str, Tensor]]) -> bool:
    """Whether every numbered child is a BatchNorm of one width, and not by chance.

    In an nn.Sequential other children hold other tensors. A single BatchNorm, or ones of different widths, are taken
    for timesteps only when the name says so.
    """
    if not all(set(parts) <= _NORM_PARTS for parts in steps.values()):
        return False
    if _named_bntt(prefix):
        return any("running_var" in parts for parts in steps.values())
    whole = all(set(PARTS) <= set(parts) for parts in steps.values())
    return whole and len(steps) > 1 and len({parts[part].shape for parts in steps.values() for part in PARTS}) == 1


def _check_steps(prefix: str, steps: dict[int, dict[str, Tensor]]) -> None:
    gaps = sorted(set(range(max(steps) + 1)) - set(steps))
    if gaps:
        verb = "is" if len(gaps) == 1 else "are"
        raise Refusal(
            f"{prefix} has timesteps {_runs(sorted(steps))}; {_runs(gaps)} {verb} missing; copy the file again or "
            "save the whole network"
        )
    for step, parts in sorted(steps.items()):
        for part in PARTS:
            if part not in parts:
                raise Refusal(f"{prefix}.{step}.{part} is missing; save the whole state_dict()")
    width = steps[0]["weight"].shape[:1]
    for step, parts in sorted(steps.items()):
        for part in PARTS:
            if parts[part].shape != width or not parts[part].numel():
                raise Refusal(
                    f"{prefix}.{step}.{part} has shape {shape_text(parts[part].shape)} where one value for each of "
                    f"{shape_text(width)} channels was expected; save the network again"
                )


def _runs(numbers: list[int]) -> str:
    """[0, 1, 2, 3, 5] → "0–3 and 5", the longest lists cut."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(first) if first == last else f"{first}–{last}" for first, last in runs]
    if len(words) > 6:
        words = [*words[:5], "more"]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _table(prefix: str, part: str, steps: dict[int, dict[str, Tensor]]) -> np.ndarray:
    return torch.stack([as_float32(f"{prefix}.{t}.{part}", steps[t][part]) for t in range(len(steps))]).numpy()


def recognise(tensors: dict[str, Tensor], stacks: dict[str, Stack]) -> Network | str:
    """The published network that these tensors make, or in words why they make none. Raises Refusal on wrong shapes."""
    convs = len([name for name in tensors if re.fullmatch(r"conv[1-9][0-9]*\.weight", name)])
    arch = _ARCHITECTURES.get(convs)
    if arch is None:
        return f"{convs or 'no'} layers named conv1.weight, conv2.weight …, which is none of {', '.join(_PUBLISHED)}"
    weights = [*(f"conv{i}.weight" for i in range(1, convs + 1)), "fc1.weight", "fc2.weight"]
    norms = [*(f"bntt{i}" for i in range(1, convs + 1)), "bntt_fc"]
    missing = [name for name in weights if name not in tensors] + [name for name in norms if name not in stacks]
    if missing:
        return f"{missing[0]} is missing"
    known = re.compile("|".join(map(re.escape, weights)) + rf"|({'|'.join(norms)})\.\d+\.(?!bias)\w+")
    extra = next((name for name in tensors if not known.fullmatch(name)), None)
    if extra is not None:
        return f"{shown(extra)} belongs to no layer of {arch}"
    steps = {norm: len(stacks[norm].gamma) for norm in norms}
    if len(set(steps.values())) > 1:
        other = next(norm for norm in norms if steps[norm] != steps["bntt1"])
        raise Refusal(
            f"bntt1 has {steps['bntt1']} timesteps and {other} has {steps[other]}; save the whole network again"
        )
    return _measure(arch, weights, tensors, steps["bntt1"])


def _measure(arch: str, weights: list[str], tensors: dict[str, Tensor], steps: int) -> Network:
    for name in weights:
        shape = tuple(tensors[name].shape)
        if len(shape) != (4 if name.startswith("conv") else 2) or 0 in shape:
            kind = "outputs × inputs × 3 × 3" if name.startswith("conv") else "outputs × inputs"
            raise Refusal(f"{name} has shape {shape_text(shape)} where {kind} was expected; save the network again")
    widths = iter([tensors[name].shape[0] for name in weights])
    tokens = [token if token in "PG" else f"{token[0]}{next(widths)}" for token in LAYOUTS[arch].split()]
    layout = " ".join(tokens)
    return Network(
        arch=arch,
        layout=None if layout == LAYOUTS[arch] else layout,
        steps=steps,
        classes=tensors["fc2.weight"].shape[0],
        channels=tensors["conv1.weight"].shape[1],
        sides=None if "G" in tokens else _sides(weights[-3], tensors, tokens.count("P")),
    )


def _sides(last_conv: str, tensors: dict[str, Tensor], pools: int) -> tuple[int, int]:
    """Images of this side, and up to the next multiple of what the pools divide by, give fc1 its inputs."""
    inputs, channels = tensors["fc1.weight"].shape[1], tensors[last_conv].shape[0]
    side = math.isqrt(inputs // channels)
    if side * side * channels != inputs or not side:
        raise Refusal(
            f"fc1.weight takes {inputs} inputs, which is no square of {channels} channels ({last_conv}); "
            "save the network again"
        )
    return side * 2**pools, (side + 1) * 2**pools - 1


def checked_state(tensors: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors as the network of `config` takes them, float32. Raises Refusal naming the first that does not fit."""
    needed = config.steps * len(config.hidden_layers()) * len(PARTS) if config.norm == "bntt" else 0
    if needed > len(tensors):  # before a long list of names is made from a claim
        raise Refusal(f"its header speaks of {needed} BNTT tensors and it holds {len(tensors)} in all; save it again")
    state = {}
    for name, shape in config.tensor_shapes().items():
        counter = name.endswith("num_batches_tracked")  # files from before torch 0.4.1 have none
        if name not in tensors and not counter:
            raise Refusal(f"{name} is missing; save the whole state_dict()")
        tensor = tensors.get(name, torch.tensor(0))
        if tuple(tensor.shape) != shape:
            raise Refusal(
                f"{name} has shape {shape_text(tensor.shape)}; {shape_text(shape)} was expected; save the network again"
            )
        state[name] = tensor.detach().to(torch.int64, copy=True) if counter else as_float32(name, tensor)
        if name.endswith("running_var") and (state[name] < 0).any():
            raise Refusal(f"{name} holds a negative variance; copy or download the file again")
    extra = next((name for name in tensors if name not in state), None)
    if extra is not None:
        raise Refusal(f"{shown(extra)} belongs to no layer of {config.arch}; save the network again")
    return state
