"""What was said on the command line → a network and a recipe."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields, replace
from pathlib import Path

from .commands import UserError, absent, data_set
from .datasets import DataError, DataSet, get
from .presets import PRESETS
from .recipe import Recipe
from .runs import TrainingError, read_setup
from .snn import ModelConfig, sequence_steps

RECIPE = tuple(field.name for field in fields(Recipe))
NETWORK = ("arch", "steps", "leak", "threshold", "norm", "encoding", "layout", "kind")


def setup(arguments: Namespace) -> tuple[ModelConfig, Recipe]:
    """Network and recipe that the arguments ask for, the rest as usual for the data set. Raises UserError."""
    if not arguments.out:
        raise UserError("--out must name a folder")
    data = data_set(arguments.dataset or "digits", paths=True)
    found = wanted(arguments, data)
    if missing := data.missing():
        raise UserError(absent(data, DataError(missing)))
    return found


def wanted(arguments: Namespace, data: DataSet) -> tuple[ModelConfig, Recipe]:
    """The same, whether the data set is here or not. Raises UserError."""
    try:
        config, recipe = _config(arguments, data), Recipe(**_given(arguments, RECIPE))
    except ValueError as error:
        raise UserError(error) from None
    if not data.suits(config.encoding):
        needed = "encoding events" if data.events else "another encoding than events"
        raise UserError(f"{data.title} holds {'events' if data.events else 'images'}: it needs {needed}")
    return config, recipe


def _given(arguments: Namespace, names: tuple[str, ...]) -> dict:
    """The settings among `names` that were said."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name, None) is not None}


def _config(arguments: Namespace, data: DataSet) -> ModelConfig:
    ann = arguments.kind == "ann"
    side = arguments.image_size
    in_shape = data.shape if side is None else (data.shape[0], side, side)
    encoding = arguments.encoding or ("direct" if ann and not data.events else data.encoding)
    usual = {
        "arch": data.arch,
        "steps": 1 if ann else sequence_steps(encoding, in_shape) or data.steps,
        "leak": data.leak,
        "norm": "bn" if ann else "bntt",
        "encoding": encoding,
    }
    return ModelConfig(classes=len(data.classes), in_shape=in_shape, **usual | _given(arguments, NETWORK))


def recorded(arguments: Namespace) -> tuple[ModelConfig, Recipe]:
    """Network and recipe of the run to resume, with which everything that was said must agree. Raises UserError."""
    if not arguments.out:
        raise UserError("--out must name a folder")
    try:
        found = read_setup(Path(arguments.out))
    except TrainingError as error:
        raise UserError(error) from None
    network, recipe = _given(arguments, NETWORK), _given(arguments, RECIPE)
    if arguments.image_size is not None:
        network["in_shape"] = (found.config.in_shape[0], arguments.image_size, arguments.image_size)
    try:
        same = (replace(found.config, **network), replace(found.recipe, **recipe)) == (found.config, found.recipe)
    except ValueError:  # what no run can have, this one has not
        same = False
    if not same:
        raise UserError(f"{arguments.out} holds a run with other settings than these; see its config.json")
    data = _data_of(found.recipe.dataset, arguments)
    if missing := data.missing():
        raise UserError(absent(data, DataError(missing)))
    return found.config, found.recipe


def _data_of(name: str, arguments: Namespace) -> DataSet:
    """A path is only believed when a person repeats it. Raises UserError."""
    try:
        return get(name, paths=bool(arguments.dataset))
    except (ValueError, DataError) as error:
        if arguments.dataset is None and Path(name).name != name:
            said = f"{arguments.out} names a path as its data: repeat it with --dataset if it is to be read"
            raise UserError(said) from None
        raise UserError(error) from None


def fill_from_preset(arguments: Namespace) -> None:
    """What was not said is the preset's. Raises UserError."""
    if arguments.preset is None:
        return
    if arguments.preset not in PRESETS:
        raise UserError(f"preset {arguments.preset!r} is not known; there is: {', '.join(PRESETS)}")
    preset = PRESETS[arguments.preset]
    for names, values in ((NETWORK, preset.config), (RECIPE, preset.recipe)):
        for name in names:
            if getattr(arguments, name, None) is None:
                setattr(arguments, name, getattr(values, name))
