"""The commands of `python -m engine`: arguments in, one table or one JSON object out."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import asdict

import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from .analysis import early_exit, energy, gamma
from .analysis import robustness as attacks
from .analysis.evaluation import Evaluation
from .attacks import Attack, Attacker, check
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint
from .datasets import DataError, DataSet, fit, get
from .device import device
from .measuring import evaluated, swept
from .snn import NORMS, PRECISIONS, Surrogate


class UserError(Exception):
    """What was asked cannot be done; one sentence that names the file or the value."""


def inspect(arguments: Namespace) -> None:
    """What a checkpoint holds."""
    checkpoint = _open(arguments)
    config = checkpoint.config
    layers = [
        {
            "layer": spec.name,
            "kind": spec.kind,
            "shape": list(spec.out_shape),
            "weights": torch.Size(spec.weight_shape).numel(),
        }
        for spec in (config.layers() if config else ())
    ]
    means = gamma.layer_means(checkpoint)
    report = {
        "file": arguments.file,
        "source": checkpoint.source,
        "config": config.to_dict() if config else None,
        "dataset": checkpoint.dataset,
        "layers": layers,
        "gamma_layers": {name: list(stack.gamma.shape) for name, stack in checkpoint.stacks.items()},
        "mean_gamma": {name: rows["value"].tolist() for name, rows in means.groupby("layer", sort=False)},
        "exit_step_at_gamma_0.1": gamma.exit_rule(checkpoint),
        "notes": [vars(note) for note in checkpoint.notes],
        "metadata": checkpoint.metadata,
        "missing": checkpoint.missing or None,
    }
    if arguments.json:
        return print_json(report)
    print(f"{arguments.file}: {checkpoint.source}")
    if config:
        height, width = config.in_shape[1:]
        print(
            f"{config.arch} ({config.kind}, norm {config.norm}), T = {config.steps}, λ = {config.leak:g}, "
            f"θ = {config.threshold:g}, {config.classes} classes, {config.in_shape[0]}×{height}×{width}, "
            f"{config.encoding} coding, data set {checkpoint.dataset}"
        )
        print(pd.DataFrame(layers).to_string(index=False))
    else:
        print(checkpoint.missing)
    if checkpoint.stacks:
        _print_gamma(checkpoint, report["exit_step_at_gamma_0.1"])
    else:
        print(f"γ does not depend on time here ({NORMS[config.norm]})")
    for note in checkpoint.notes:
        print(f"{'guessed' if note.guessed else 'read'}: {note.field} = {note.value} ({note.reason})")


def _print_gamma(checkpoint: Checkpoint, rule: int | None) -> None:
    peaks = gamma.peaks(checkpoint).rename(columns={"step": "γ peaks at t", "value": "mean γ there"})
    print(peaks.to_string(index=False, float_format="%.3f"))
    print(
        f"mean γ is first below 0.1 in every layer at t = {rule}"
        if rule
        else "mean γ is never below 0.1 in every layer"
    )


def require_gpu_for(precision: str | None) -> None:
    """Raises UserError where this machine does not have what the precision needs."""
    if precision == "tf32" and device().type != "cuda":
        raise UserError("--precision tf32 needs a CUDA device")


def evaluate(arguments: Namespace) -> None:
    """Accuracy, spikes and energy for every exit step."""
    checkpoint = open_network(arguments)
    require_gpu_for(arguments.precision)
    if arguments.precision not in PRECISIONS:
        raise UserError(f"--precision must be one of {', '.join(PRECISIONS)}, not {arguments.precision!r}")
    asked = (checkpoint, arguments.dataset, arguments.samples, arguments.seed)
    result = measured(*asked, arguments.precision, keep=arguments.keep)
    table = early_exit.exit_table(checkpoint.config, result)
    rule = gamma.exit_rule(checkpoint)
    if arguments.precision != "float32":
        exact = measured(*asked, "float32", keep=arguments.keep)
        table["accuracy_float32"] = exact.accuracy()["accuracy"]
    if arguments.json:
        return print_json(
            {
                "file": arguments.file,
                "dataset": arguments.dataset or checkpoint.dataset,
                "samples": result.samples,
                "seed": arguments.seed,
                "precision": arguments.precision,
                "accuracy": float(table["accuracy"].iloc[-1]),
                "exit_rule_step": rule,
                "ann_energy_nj": energy.ann_energy_nj(checkpoint.config),
                "steps": table.to_dict("records"),
            }
        )
    print(table.to_string(index=False, float_format="%.4g"))
    if checkpoint.stacks:
        print(f"the γ rule leaves at t = {rule}" if rule else "the γ rule never leaves early (mean γ stays above 0.1)")


def robustness(arguments: Namespace) -> None:
    """Accuracy under one kind of noise or attack, at each strength."""
    checkpoint = open_network(arguments)
    data, pixels, labels = test_images(checkpoint, arguments.dataset, arguments.samples)
    try:
        encodings = attacks.encodings_shown(checkpoint.config, arguments.encodings)
        chosen = _attacks(arguments)
        for attack in chosen:
            check(attack, checkpoint.model, events=data.events)
    except ValueError as error:
        raise UserError(error) from None
    settings = {"seed": arguments.seed, "encodings": encodings, "keep": arguments.keep, "progress": _bar}
    try:
        found = swept(checkpoint, data, pixels, labels, chosen, **settings)
    except DataError as error:  # its files have just been taken away
        raise UserError(error) from None
    table = attacks.sweep_table(found, encodings).drop(columns=[] if encodings > 1 else "spread")
    final = table[table["step"] == checkpoint.config.steps].drop(columns="step")
    if arguments.json:
        return print_json(
            {
                "file": arguments.file,
                "dataset": arguments.dataset or checkpoint.dataset,
                "attack": arguments.attack,
                "samples": len(labels),
                "encodings": encodings,
                "seed": arguments.seed,
                "attacker": asdict(chosen[0].attacker),
                "results": final.rename(columns={"strength": "eps"}).to_dict("records"),
                "steps": table.rename(columns={"strength": "eps"}).to_dict("records"),
            }
        )
    print(final.drop(columns="kind").to_string(index=False, float_format="%.4g"))


def _attacks(arguments: Namespace) -> list[Attack]:
    """Raises ValueError with one sentence."""
    surrogate = Surrogate(arguments.surrogate, arguments.width, arguments.adaptive)
    target = int(arguments.target) if arguments.target.isdecimal() else arguments.target
    attacker = Attacker(surrogate, not arguments.literal, arguments.draws, target)
    how = (arguments.attack_steps, arguments.step_size, attacker)
    return [Attack(arguments.attack, eps, *how) for eps in arguments.eps]


def _open(arguments: Namespace) -> Checkpoint:
    given = {name: getattr(arguments, name, None) for name in ("leak", "threshold", "image_size")}
    if getattr(arguments, "dataset", None):
        given["dataset"] = data_set(arguments.dataset, paths=True).name
    try:
        return load_checkpoint(arguments.file, **{name: value for name, value in given.items() if value is not None})
    except CheckpointError as error:
        raise UserError(error) from None


def open_network(arguments: Namespace) -> Checkpoint:
    """The checkpoint of arguments.file, with a network in it. Raises UserError."""
    checkpoint = _open(arguments)
    if checkpoint.model is None:
        raise UserError(f"{arguments.file}: {checkpoint.missing}")
    return checkpoint


def data_set(name: str | None, paths: bool = False) -> DataSet:
    """The registry's entry, or with `paths` that of a folder or archive. Raises UserError."""
    try:
        data = get(name or "", paths=paths)
    except (ValueError, DataError) as error:
        raise UserError(error) from None
    if not data.classes:  # an archive in the data folder that cannot be read
        raise UserError(data.missing())
    return data


def absent(data: DataSet, error: DataError) -> str:
    """What is missing, and the command that fetches it where there is one."""
    return (
        f"{error}; `python -m engine data get {data.name}` fetches it" if data.remote and data.missing() else str(error)
    )


def test_images(checkpoint: Checkpoint, dataset: str | None, count: int | None) -> tuple[DataSet, Tensor, Tensor]:
    """The data set and its first `count` test samples as the network takes them: pixels, labels. Raises UserError."""
    data, config = data_set(dataset or checkpoint.dataset, paths=bool(dataset)), checkpoint.config
    if count is not None and count < 1:
        raise UserError(f"--samples must be 1 or more, not {count}")
    if len(data.classes) != config.classes:
        raise UserError(
            f"{checkpoint.name} tells {config.classes} classes apart and {data.title} has {len(data.classes)}: "
            "choose the data set it was trained on with --dataset"
        )
    if not data.suits(config.encoding):
        kinds = ("events", "images") if data.events else ("images", "events")
        raise UserError(f"{data.title} holds {kinds[0]} and {checkpoint.name} takes {kinds[1]}")
    try:
        pixels, labels = data.load("test", steps=config.steps, side=config.in_shape[1])
    except DataError as error:
        raise UserError(absent(data, error)) from None
    return data, fit(pixels[:count], config.in_shape), labels[:count]


def measured(
    checkpoint: Checkpoint,
    dataset: str | None,
    count: int | None,
    seed: int,
    precision: str,
    report: Callable[[int, int], None] = lambda done, samples: None,
    *,
    keep: bool = True,
) -> Evaluation:
    """Evaluation of the first `count` test samples, with a progress bar.

    report(samples done, of how many) is called after each part that is computed. keep: as engine.store.answered. Raises
    UserError.
    """
    test = test_images(checkpoint, dataset, count)

    def progress(parts: list) -> Iterator:
        for start, stop in _bar(parts):
            yield start, stop
            report(stop, len(test[1]))

    try:
        return evaluated(checkpoint, *test, seed=seed, precision=precision, keep=keep, progress=progress)
    except DataError as error:  # its files have just been taken away
        raise UserError(error) from None


def _bar(parts: list) -> tqdm:
    return tqdm(parts, unit="part", file=sys.stderr, disable=None)


def print_json(value: dict) -> None:
    """One JSON object on standard output."""
    print(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value):
    """The same for JSON, which has no infinity and no NaN (a file's metadata may hold them): those become null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
