"""A training as the command that repeats it."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

from . import datasets
from .__main__ import parser
from .commands import UserError
from .datasets import DataError, DataSet
from .recipe import Recipe
from .snn import ModelConfig
from .training_arguments import wanted

NETWORK = ("kind", "arch", "layout", "steps", "norm", "encoding", "leak", "threshold")
RECIPE = (
    *("epochs", "batch", "optimizer", "lr", "schedule", "milestones", "momentum", "weight_decay", "gamma_decay"),
    *("validation", "patience", "clip", "seed", "precision"),
)


def train_command(
    config: ModelConfig,
    recipe: Recipe,
    out: str | Path,
    *,
    data: str | Path | None = None,
    threads: int | None = None,
) -> str:
    """`python -m engine train …` for a shell, without the options that go without saying.

    out: folder of the run. data: folder of the data sets, None for the usual one. threads: on which rounding depends,
    None for torch's own number. Where the data set is not known here, every option is named.
    """
    if not recipe.milestones:  # without any, the learning rate is constant
        recipe = replace(recipe, schedule="constant", milestones=Recipe.milestones)
    options = _options(config, recipe)
    try:
        options = _needed(options, (config, recipe), datasets.get(recipe.dataset))
    except (ValueError, DataError):
        pass
    also = {"--threads": threads, "--out": out, "--data": data}
    options |= {name: [str(value)] for name, value in also.items() if value is not None}
    return "python -m engine " + shlex.join(_words(options))


def _options(config: ModelConfig, recipe: Recipe) -> dict[str, list[str]]:
    """Option → its values, for every setting that has one."""
    found = {"--dataset": [recipe.dataset], "--image-size": [str(config.in_shape[1])]}
    for names, settings in ((NETWORK, config), (RECIPE, recipe)):
        for name in names:
            value = getattr(settings, name)
            if value is not None:
                values = value if isinstance(value, tuple) else (value,)
                found["--" + name.replace("_", "-")] = [str(one) for one in values]
    return found if recipe.augment else found | {"--no-augment": []}


def _needed(options: dict[str, list[str]], meant: tuple[ModelConfig, Recipe], data: DataSet) -> dict[str, list[str]]:
    """The options without those that change nothing."""
    for name in tuple(options):
        fewer = {other: values for other, values in options.items() if other != name}
        if (name != "--dataset" or data.name == Recipe.dataset) and _meaning(fewer, data) == meant:
            options = fewer
    return options


def _meaning(options: dict[str, list[str]], data: DataSet) -> tuple[ModelConfig, Recipe] | None:
    """What `train` makes of these options; None where that is nothing."""
    try:
        return wanted(parser().parse_args(_words(options | {"--out": ["run"]})), data)
    except (UserError, ValueError):
        return None


def _words(options: dict[str, list[str]]) -> list[str]:
    return ["train", *(word for name, values in options.items() for word in (name, *values))]
