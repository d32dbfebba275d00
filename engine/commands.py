"""The commands of `python -m engine`: arguments in, one table or one JSON object out."""

from __future__ import annotations

import json
import math
import shlex
import sys
from argparse import Namespace

import pandas as pd
import torch
from tqdm import tqdm

from . import training
from .analysis import early_exit, evaluation, gamma, robustness as attacks
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from .datasets import fit, get
from .device import device
from .snn import PRECISIONS, ModelConfig


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
        return _print_json(report)
    print(f"{arguments.file}: {checkpoint.source}")
    if config:
        height, width = config.in_shape[1:]
        print(
            f"{config.arch}, T = {config.steps}, λ = {config.leak:g}, θ = {config.threshold:g}, {config.classes} classes, "
            f"{config.in_shape[0]}×{height}×{width}, {config.encoding} coding, data set {checkpoint.dataset}"
        )
        print(pd.DataFrame(layers).to_string(index=False))
    else:
        print(checkpoint.missing)
    peaks = gamma.peaks(checkpoint).rename(columns={"step": "γ peaks at t", "value": "mean γ there"})
    print(peaks.to_string(index=False, float_format="%.3f"))
    rule = report["exit_step_at_gamma_0.1"]
    print(
        f"mean γ is first below 0.1 in every layer at t = {rule}"
        if rule
        else "mean γ is never below 0.1 in every layer"
    )
    for note in checkpoint.notes:
        print(f"{'guessed' if note.guessed else 'read'}: {note.field} = {note.value} ({note.reason})")


def train(arguments: Namespace) -> None:
    """Train into a folder, then measure on the test split once."""
    try:
        data = get(arguments.dataset)
        config = ModelConfig(
            arch=arguments.arch,
            steps=data.steps if arguments.steps is None else arguments.steps,
            classes=len(data.classes),
            in_shape=data.shape,
            leak=data.leak if arguments.leak is None else arguments.leak,
            threshold=arguments.threshold,
            encoding=arguments.encoding,
            layout=arguments.layout,
        )
        names = ("epochs", "batch", "lr", "momentum", "weight_decay", "gamma_decay", "augment", "seed", "precision")
        recipe = training.Recipe(dataset=data.name, **{name: getattr(arguments, name) for name in names})
    except ValueError as error:
        raise UserError(error) from None

    command = "python -m engine " + shlex.join(sys.argv[1:]).replace(" --resume", "")
    with tqdm(total=recipe.epochs, unit="epoch", file=sys.stderr, disable=None) as bar:

        def on_epoch(row: dict):
            bar.n = row["epoch"]
            bar.set_postfix(loss=f"{row['loss']:.3f}", train=f"{row['train_accuracy']:.1%}")

        def on_batch(_epoch: int, _step: int, loss: float):
            bar.set_postfix_str(f"loss {loss:.3f}")

        try:
            model = training.train(
                config,
                recipe,
                arguments.out,
                resume=arguments.resume,
                on_batch=on_batch,
                on_epoch=on_epoch,
                command=command,
            )
        except (training.TrainingError, CheckpointError) as error:
            raise UserError(error) from None
        except OSError as error:
            raise UserError(f"{arguments.out} cannot be written: {error.strerror}") from None

    checkpoint = load_checkpoint(f"{arguments.out}/model.safetensors")
    result = _evaluate(checkpoint, data.name, None, 0, "float32")
    final = result.accuracy().iloc[-1]
    summary = {
        "out": arguments.out,
        "test_accuracy": float(final["accuracy"]),
        "test_correct": int(final["correct"]),
        "test_samples": int(final["samples"]),
        "evaluation_seed": 0,
    }
    if recipe.precision != "float32":
        rough = _evaluate(checkpoint, data.name, None, 0, recipe.precision).accuracy().iloc[-1]
        summary[f"test_accuracy_{recipe.precision}"] = float(rough["accuracy"])
    save_checkpoint(f"{arguments.out}/model.safetensors", model.cpu(), **{**checkpoint.metadata, **summary})
    if arguments.json:
        return _print_json(summary)
    if recipe.precision != "float32":
        print(f"test accuracy computed in {recipe.precision}: {rough['accuracy']:.2%}; in float32:")
    print(
        f"test accuracy at T = {config.steps}: {final['accuracy']:.2%} ({int(final['correct'])} of {int(final['samples'])})"
    )


def evaluate(arguments: Namespace) -> None:
    """Accuracy, spikes and energy for every exit step."""
    checkpoint = _open_network(arguments)
    if arguments.precision == "tf32" and device().type != "cuda":
        raise UserError("--precision tf32 needs a CUDA device")
    if arguments.precision not in PRECISIONS:
        raise UserError(f"--precision must be one of {', '.join(PRECISIONS)}, not {arguments.precision!r}")
    result = _evaluate(checkpoint, arguments.dataset, arguments.samples, arguments.seed, arguments.precision)
    table = early_exit.exit_table(checkpoint.config, result)
    rule = gamma.exit_rule(checkpoint)
    if arguments.precision != "float32":
        exact = _evaluate(checkpoint, arguments.dataset, arguments.samples, arguments.seed, "float32")
        table["accuracy_float32"] = exact.accuracy()["accuracy"]
    if arguments.json:
        return _print_json(
            {
                "file": arguments.file,
                "dataset": arguments.dataset or checkpoint.dataset,
                "samples": result.samples,
                "seed": arguments.seed,
                "precision": arguments.precision,
                "accuracy": float(table["accuracy"].iloc[-1]),
                "exit_rule_step": rule,
                "ann_energy_nj": early_exit.ann_energy_nj(checkpoint.config),
                "steps": table.to_dict("records"),
            }
        )
    print(table.to_string(index=False, float_format="%.4g"))
    print(f"the γ rule leaves at t = {rule}" if rule else "the γ rule never leaves early (mean γ stays above 0.1)")


def robustness(arguments: Namespace) -> None:
    """Accuracy under one kind of noise or attack, at each strength."""
    checkpoint = _open_network(arguments)
    try:
        chosen = [
            attacks.Attack(arguments.attack, eps, arguments.attack_steps, arguments.step_size) for eps in arguments.eps
        ]
    except ValueError as error:
        raise UserError(error) from None
    pixels, labels = _test_images(checkpoint, arguments.dataset, arguments.samples)
    found: dict[attacks.Attack, list] = {attack: [] for attack in chosen}
    parts = attacks.sweep_parts(checkpoint.config, list(found), len(pixels))
    for attack, start, stop in tqdm(parts, unit="part", file=sys.stderr, disable=None):
        found[attack].append(
            attacks.attack_rows(
                attack,
                start,
                stop,
                model=checkpoint.model,
                pixels=pixels,
                labels=labels,
                mean=checkpoint.mean,
                std=checkpoint.std,
                seed=arguments.seed,
            )
        )
    table = attacks.sweep_table([(attack, evaluation.join(results)) for attack, results in found.items()])
    final = table[table["step"] == checkpoint.config.steps].drop(columns="step")
    if arguments.json:
        return _print_json(
            {
                "file": arguments.file,
                "dataset": arguments.dataset or checkpoint.dataset,
                "attack": arguments.attack,
                "samples": len(pixels),
                "seed": arguments.seed,
                "results": final.rename(columns={"strength": "eps"}).to_dict("records"),
                "steps": table.rename(columns={"strength": "eps"}).to_dict("records"),
            }
        )
    print(final.to_string(index=False, float_format="%.4g"))


def _open(arguments: Namespace) -> Checkpoint:
    given = {name: getattr(arguments, name, None) for name in ("leak", "threshold", "image_size", "dataset")}
    try:
        return load_checkpoint(arguments.file, **{name: value for name, value in given.items() if value is not None})
    except CheckpointError as error:
        raise UserError(error) from None


def _open_network(arguments: Namespace) -> Checkpoint:
    if arguments.dataset is not None:
        try:
            get(arguments.dataset)
        except ValueError as error:
            raise UserError(error) from None
    checkpoint = _open(arguments)
    if checkpoint.model is None:
        raise UserError(f"{arguments.file}: {checkpoint.missing}")
    return checkpoint


def _test_images(checkpoint: Checkpoint, dataset: str | None, count: int | None):
    try:
        data = get(dataset or checkpoint.dataset)
    except ValueError as error:
        raise UserError(error) from None
    if count is not None and count < 1:
        raise UserError(f"--samples must be 1 or more, not {count}")
    if len(data.classes) != checkpoint.config.classes:
        raise UserError(
            f"{checkpoint.name} tells {checkpoint.config.classes} classes apart and {data.title} has {len(data.classes)}: "
            "choose the data set it was trained on with --dataset"
        )
    pixels, labels = data.load("test")
    return fit(pixels[:count], checkpoint.config.in_shape), labels[:count]


def _evaluate(checkpoint: Checkpoint, dataset: str | None, count: int | None, seed: int, precision: str):
    pixels, labels = _test_images(checkpoint, dataset, count)
    size = max(1, min(evaluation.chunk_size(checkpoint.config), len(pixels) // 20 or 1))
    return evaluation.join(
        [
            evaluation.evaluate_rows(
                start,
                min(start + size, len(pixels)),
                model=checkpoint.model,
                pixels=pixels,
                labels=labels,
                mean=checkpoint.mean,
                std=checkpoint.std,
                seed=seed,
                precision=precision,
            )
            for start in tqdm(range(0, len(pixels), size), unit="batch", file=sys.stderr, disable=None)
        ]
    )


def _print_json(value: dict) -> None:
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
