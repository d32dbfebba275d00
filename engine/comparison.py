"""BNTT beside its baselines: the same layers, data and recipe, trained one after the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from . import conversion
from .analysis import early_exit
from .analysis.evaluation import normalised
from .checkpoint import load_checkpoint, save_checkpoint
from .datasets import fit, get
from .measuring import evaluated
from .snn import ModelConfig
from .training import Recipe, train

BASELINES = {
    "bntt": "BNTT",
    "tdbn": "tdBN",
    "bn": "one BatchNorm",
    "none": "no normalisation",
    "converted": "converted ANN",
    "ann": "ANN",
}
CALIBRATION = 512  # training images that set the scales of the conversion


def config_of(name: str, config: ModelConfig) -> ModelConfig:
    """The configuration of one of BASELINES with the layers of `config`; "converted" gives that of its ANN.

    The ANN sees at once what the others are shown over time: the whole image of a sequence, all events in one frame.
    """
    if name in ("ann", "converted"):
        encoding = "events" if config.encoding == "events" else "direct"
        return replace(config, kind="ann", norm="bn", steps=1, encoding=encoding)
    return replace(config, kind="snn", norm=name)


def recipe_of(name: str, recipe: Recipe) -> Recipe:
    """`recipe` as it is used for one of BASELINES.

    A weight decay of γ's own is about the timesteps of BNTT: other norms get the ordinary one. A network without
    normalisation does better at a tenth of the learning rate that suits the others, and gets that.
    """
    if name == "bntt":
        return recipe
    return replace(recipe, gamma_decay=None, lr=recipe.lr / 10 if name == "none" else recipe.lr)


def is_twin(config: ModelConfig, of: ModelConfig) -> bool:
    """Whether `config` is of an ordinary network with the layers of the spiking network `of`."""
    shapes = [
        [(spec.name, spec.kind, spec.in_shape, spec.out_shape, spec.pool) for spec in one.layers()]
        for one in (config, of)
    ]
    return config.kind == "ann" and of.kind != "ann" and shapes[0] == shapes[1]


def compare(
    config: ModelConfig,
    recipe: Recipe,
    out: Path,
    *,
    converted_steps: int,
    seed: int = 0,
    threads: int | None = None,
    command: str = "",
    on_epoch: Callable[[str, dict], None] = lambda name, row: None,
) -> pd.DataFrame:
    """Train every baseline into `out`/<name>, convert the ANN, and measure all on the test split.

    Returns name, step, correct, samples, accuracy, low, high, spikes, energy_nj, a row per exit step. Runs in `out` that
    are finished already are only measured again; unfinished ones go on. Raises as `train` does.
    """
    encoding = config.encoding if config.encoding in ("poisson", "events") else "direct"
    conversion.converted_config(config_of("ann", config), converted_steps, encoding)  # told before hours of training
    tables = []
    for name in BASELINES:
        if name == "converted":
            continue
        run = out / name
        train(
            config_of(name, config),
            recipe_of(name, recipe),
            run,
            resume=(run / "config.json").exists(),
            threads=threads,
            command=command,
            on_epoch=lambda row, name=name: on_epoch(name, row),
        )
        tables.append(_measured(name, run / "model.safetensors", recipe.dataset, seed))
    file = out / "converted" / "model.safetensors"
    convert_file(out / "ann" / "model.safetensors", file, recipe.dataset, converted_steps, encoding)
    tables.append(_measured("converted", file, recipe.dataset, seed))
    found = pd.concat(tables, ignore_index=True)
    return found.assign(name=pd.Categorical(found["name"], list(BASELINES), ordered=True)).sort_values(["name", "step"])


def convert_file(
    source: str | Path,
    target: str | Path,
    dataset: str,
    steps: int,
    encoding: str,
    percentile: float = conversion.PERCENTILE,
) -> None:
    """Convert the ANN in the file `source`, with scales from the first training images, and save it as `target`.

    Raises CheckpointError, DataError, and ValueError where the network cannot be converted.
    """
    checkpoint = load_checkpoint(source)
    conversion.converted_config(checkpoint.config, steps, encoding)
    pixels, _ = get(dataset, paths=True).load("train", steps=1, side=checkpoint.config.in_shape[1])
    images = fit(pixels[:CALIBRATION], checkpoint.config.in_shape)
    model = conversion.convert(
        checkpoint.model,
        normalised(images, checkpoint.mean, checkpoint.std),
        steps=steps,
        encoding=encoding,
        percentile=percentile,
    )
    said = {"dataset": checkpoint.dataset, "mean": checkpoint.mean, "std": checkpoint.std}
    save_checkpoint(target, model, **said, converted_from=checkpoint.digest, percentile=percentile)


def _measured(name: str, file: Path, dataset: str, seed: int) -> pd.DataFrame:
    checkpoint = load_checkpoint(file)
    config = checkpoint.config
    data = get(dataset, paths=True)
    pixels, labels = data.load("test", steps=config.steps, side=config.in_shape[1])
    result = evaluated(checkpoint, data, fit(pixels, config.in_shape), labels, seed=seed)
    return early_exit.exit_table(config, result).assign(name=name)


def at_steps(table: pd.DataFrame, steps: list[int]) -> pd.DataFrame:
    """Accuracy (0 … 1) of each baseline when leaving after t of `steps`: a row a baseline, a column a timestep.

    The ANN, which has one pass and no timesteps, stands in a column of its own, "one pass". NaN where a network has no
    such step.
    """
    spiking = table[table["name"] != "ann"]
    wide = spiking[spiking["step"].isin(steps)].pivot(index="name", columns="step", values="accuracy")
    wide = wide.reindex([name for name in BASELINES if name in set(table["name"])])
    wide["one pass"] = table[table["name"] == "ann"].set_index("name")["accuracy"]
    return wide.rename(index=BASELINES)
