"""The commands of `python -m engine` that make networks: train, convert, compare."""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from . import comparison, cost, parallel, training
from .checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from .commands import UserError, data_set, measured, open_network, print_json, require_gpu_for
from .datasets import DataError, DataSet
from .device import device
from .presets import PRESETS
from .runs import computing_on
from .snn import ModelConfig
from .training_arguments import fill_from_preset, recorded, setup, wanted


def train(arguments: Namespace) -> None:
    """Train into a folder, then measure on the test split once. Under torchrun --batch is that of each process."""
    if parallel.world() > 1 and (arguments.preset == "list" or arguments.dry_run):
        raise UserError("torchrun is for training: ask without it for presets and costs")
    if arguments.preset == "list":
        return _list_presets(arguments)
    fill_from_preset(arguments)
    _check_machine(arguments)
    if arguments.dry_run:
        return _estimate(arguments)
    main = parallel.is_main()
    with _told(arguments.out), parallel.watched():
        with parallel.together():
            plan = _planned(arguments) if main else None
        config, recipe, command = parallel.broadcast(plan)
    with tqdm(total=recipe.epochs, unit="epoch", file=sys.stderr, disable=None if main else True) as bar:

        def on_epoch(row: dict):
            if bar.disable:  # no terminal: a line an epoch, so that a log shows life
                said = f"loss {row['loss']:.4f}, train accuracy {row['train_accuracy']:.1%}, {row['seconds']:.0f} s"
                if "validation_accuracy" in row:
                    said += f", validation accuracy {row['validation_accuracy'][-1]:.1%}"
                print(f"epoch {row['epoch']} of {recipe.epochs}: {said}", file=sys.stderr, flush=True)
            bar.n = row["epoch"]
            bar.set_postfix(loss=f"{row['loss']:.3f}", train=f"{row['train_accuracy']:.1%}")

        def on_batch(_epoch: int, _step: int, loss: float):
            bar.set_postfix_str(f"loss {loss:.3f}")

        found = {}

        def on_trained(report):
            found.update(_tested(Path(arguments.out) / "model.safetensors", recipe, report))
            return found

        with _told(arguments.out):
            training.train(
                config,
                recipe,
                arguments.out,
                resume=arguments.resume,
                on_batch=on_batch,
                on_epoch=on_epoch,
                command=command,
                threads=arguments.threads,
                on_trained=on_trained,
            )
    if not main:
        return
    if arguments.json:
        return print_json({"out": arguments.out, **found})
    said = f"test accuracy at T = {config.steps}"
    print(f"{said}: {found['test_accuracy']:.2%} ({found['test_correct']} of {found['test_samples']})")
    if recipe.precision != "float32":
        print(f"{said}, computed in {recipe.precision}: {found[f'test_accuracy_{recipe.precision}']:.2%}")


def _check_machine(arguments: Namespace) -> None:
    """What is asked of the machine. Raises UserError."""
    if arguments.threads is not None and not 1 <= arguments.threads <= 1024:
        raise UserError(f"--threads must be from 1 to 1024, not {arguments.threads}")
    require_gpu_for(arguments.precision)


def _planned(arguments: Namespace) -> tuple[ModelConfig, training.Recipe, str]:
    """Network, recipe and the command to record. Raises UserError."""
    processes = parallel.world()
    if processes > 1 and not (arguments.resume and arguments.batch is None):
        arguments.batch = processes * (training.Recipe.batch if arguments.batch is None else arguments.batch)
    config, recipe = recorded(arguments) if arguments.resume else setup(arguments)
    launcher = "python"
    if processes > 1:
        each = int(os.environ.get("LOCAL_WORLD_SIZE", processes))
        machines = f"--nnodes {processes // each} " if processes > each else ""
        launcher = f"torchrun {machines}--nproc-per-node {each}"
    return config, recipe, _command(launcher)


def _command(launcher: str) -> str:
    """As it was typed, to be recorded with what it makes."""
    return f"{launcher} -m engine " + shlex.join(sys.argv[1:]).replace(" --resume", "")


def _list_presets(arguments: Namespace) -> None:
    if arguments.json:
        return print_json({name: asdict(preset) for name, preset in PRESETS.items()})
    for preset in PRESETS.values():
        print(f"{preset.name}: {preset.title}. {preset.about}")


def _estimate(arguments: Namespace) -> None:
    """Say what a training would cost."""
    if arguments.resume:
        config, recipe = recorded(arguments)
    else:
        config, recipe = wanted(arguments, data_set(arguments.dataset or "digits", paths=True))
    with _told("the estimate"), computing_on(arguments.threads or torch.get_num_threads()):
        found = cost.measure(config, recipe, cost.training_samples(recipe.dataset))
    if arguments.json:
        return print_json(asdict(found))
    print(
        f"about {_duration(found.seconds_epoch)} an epoch, {_duration(found.seconds)} in all, "
        f"from {found.steps_measured} steps of {found.batch_measured} samples"
    )
    has = f"; the {device().type.upper()} has {found.machine / 2**30:.1f} GiB" if found.machine else ""
    print(f"about {found.memory / 2**30:.2f} GiB of memory{has}")


def _duration(seconds: float) -> str:
    """75 → "1 min"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _tested(file: Path, recipe: training.Recipe, report) -> dict:
    """What a trained network answers of the test samples; written into its file too."""
    checkpoint = load_checkpoint(file)
    final = measured(checkpoint, recipe.dataset, None, 0, "float32", report).accuracy().iloc[-1]
    found = {
        "test_accuracy": float(final["accuracy"]),
        "test_correct": int(final["correct"]),
        "test_samples": int(final["samples"]),
        "evaluation_seed": 0,
    }
    if recipe.precision != "float32":
        rough = measured(checkpoint, recipe.dataset, None, 0, recipe.precision, report).accuracy().iloc[-1]
        found[f"test_accuracy_{recipe.precision}"] = float(rough["accuracy"])
    save_checkpoint(file, checkpoint.model.cpu(), **{**checkpoint.metadata, **found})
    return found


class _told:
    """What can go wrong in a run, as a UserError."""

    def __init__(self, out: str):
        self.out = out

    def __enter__(self):
        return self

    def __exit__(self, _kind, error, _trace):
        if isinstance(error, (training.TrainingError, CheckpointError, DataError, ValueError)):
            raise UserError(error) from None
        if isinstance(error, OSError):
            raise UserError(f"{self.out} cannot be written: {error.strerror}") from None


def convert(arguments: Namespace) -> None:
    """Make a spiking network from a trained ANN."""
    checkpoint = open_network(arguments)
    dataset = arguments.dataset or checkpoint.dataset
    _check_fits(checkpoint, data_set(dataset, paths=bool(arguments.dataset)))
    with _told(arguments.out):
        comparison.convert_file(
            arguments.file, arguments.out, dataset, arguments.steps, arguments.encoding, arguments.percentile
        )
    final = measured(load_checkpoint(arguments.out), dataset, None, 0, "float32").accuracy().iloc[-1]
    if arguments.json:
        return print_json({"out": arguments.out, "steps": arguments.steps, "test_accuracy": float(final["accuracy"])})
    print(f"test accuracy at T = {arguments.steps}: {final['accuracy']:.2%}")


def _check_fits(checkpoint: Checkpoint, data: DataSet) -> None:
    """Before anything is written."""
    if len(data.classes) != checkpoint.config.classes or not data.suits(checkpoint.config.encoding):
        raise UserError(f"{checkpoint.name} is no network for {data.title}: choose the data it was trained on")


def compare(arguments: Namespace) -> None:
    """Train BNTT and every baseline alike, and print accuracy against timestep."""
    _check_machine(arguments)
    config, recipe = setup(arguments)
    total = recipe.epochs * (len(comparison.BASELINES) - 1)  # the conversion trains nothing
    with tqdm(total=total, unit="epoch", file=sys.stderr, disable=None) as bar:

        def on_epoch(name: str, row: dict):
            if bar.disable:
                print(
                    f"{name}, epoch {row['epoch']} of {recipe.epochs}: loss {row['loss']:.4f}",
                    file=sys.stderr,
                    flush=True,
                )
            bar.update()
            bar.set_postfix_str(f"{comparison.BASELINES[name]}, loss {row['loss']:.3f}")

        with _told(arguments.out):
            table = comparison.compare(
                config,
                recipe,
                Path(arguments.out),
                converted_steps=arguments.converted_steps,
                threads=arguments.threads,
                command=_command("python"),
                on_epoch=on_epoch,
            )
    if arguments.json:
        return print_json({"out": arguments.out, "results": table.astype({"name": str}).to_dict("records")})
    last = sorted({config.steps, arguments.converted_steps})
    shown = [t for t in (1, 2, 3, 5, 10, 15, 20, 25, 50, 100, 200, 500, 1000) if t < last[-1]]
    print(_markdown(comparison.at_steps(table, sorted({*shown, *last}))))


def _markdown(wide: pd.DataFrame) -> str:
    """Accuracies as a Markdown table."""
    heads = [f"t = {column}" if isinstance(column, int) else column for column in wide.columns]
    lines = [["accuracy leaving at", *heads], ["---", *["---:"] * len(heads)]]
    lines += [
        [name, *("" if pd.isna(v) else f"{v:.1%}" for v in row)] for name, row in zip(wide.index, wide.to_numpy())
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
