"""The command that repeats a training: the command line's own parser reads network and recipe back from it."""

import shlex
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.__main__ import parser
from engine.command_line import train_command
from engine.datasets import get
from engine.presets import PRESETS
from engine.recipe import OPTIMIZERS, SCHEDULES, Recipe
from engine.snn import PRECISIONS, ModelConfig
from engine.training_arguments import wanted

DIGITS = PRESETS["digits"]


def read_back(command, dataset):
    """Arguments after `python -m engine`, and what `train` makes of them."""
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "engine"]
    arguments = parser().parse_args(words[3:])
    return arguments, wanted(arguments, get(dataset))


@pytest.mark.parametrize("name", PRESETS)
def test_presets(name):
    preset = PRESETS[name]
    command = train_command(preset.config, preset.recipe, f"runs/{name}")
    arguments, found = read_back(command, preset.recipe.dataset)
    assert found == (preset.config, preset.recipe)
    assert (arguments.command, arguments.out, arguments.data) == ("train", f"runs/{name}", None)


@pytest.mark.parametrize(
    "change",
    [
        {"layout": "C8 P F32", "steps": 3},
        {"steps": 1, "kind": "ann", "norm": "bn", "encoding": "direct"},
        {"norm": "none", "leak": 0.1, "threshold": 2.5},
        {"in_shape": (1, 12, 12)},
        {"encoding": "rows", "steps": 16, "arch": "mlp"},
        {"encoding": "pixels", "steps": 256, "arch": "mlp", "norm": "tdbn"},
        {"layout": "C16 C16 P C32 C32 P F128"},  # written out, though it is the architecture's own
    ],
    ids=str,
)
def test_networks(change):
    config = replace(DIGITS.config, **change)
    command = train_command(config, DIGITS.recipe, "a folder/with 'quotes'", data="data of $HOME", threads=3)
    arguments, found = read_back(command, "digits")
    assert found == (config, DIGITS.recipe)
    told = arguments.out, arguments.data, arguments.threads
    assert told == ("a folder/with 'quotes'", "data of $HOME", 3)


shares = st.floats(0.01, 0.99)
decays = st.floats(0, 1, allow_subnormal=False)
recipes = st.builds(
    Recipe,
    epochs=st.integers(1, 1000),
    batch=st.integers(2, 1000),
    lr=st.floats(1e-9, 999),
    momentum=st.floats(0, 0.999),
    weight_decay=decays,
    gamma_decay=st.none() | decays,
    milestones=st.lists(shares, min_size=1, max_size=4),
    augment=st.booleans(),
    seed=st.integers(0, 2**31 - 1),
    precision=st.sampled_from(PRECISIONS),
    validation=st.floats(0.01, 0.5),
    patience=st.none() | st.integers(1, 100),
    clip=st.none() | st.floats(1e-6, 1e6),
    optimizer=st.sampled_from(OPTIMIZERS),
    schedule=st.sampled_from(SCHEDULES),
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(recipes)
def test_any_recipe(recipe):
    assert read_back(train_command(DIGITS.config, recipe, "out"), "digits")[1] == (DIGITS.config, recipe)


def test_only_what_differs_is_said():
    config = ModelConfig(arch="vgg-small", in_shape=(1, 16, 16))
    assert train_command(config, Recipe(), "o") == "python -m engine train --out o"
    command = train_command(replace(config, steps=3), Recipe(clip=1.0), "o")
    assert command == "python -m engine train --steps 3 --clip 1.0 --out o"


def test_no_milestones_are_a_constant_rate():
    recipe = Recipe(milestones=())
    _, (_, found) = read_back(train_command(DIGITS.config, recipe, "o"), "digits")
    assert found == replace(recipe, schedule="constant", milestones=Recipe.milestones)


def test_everything_is_named_where_the_data_set_is_unknown():
    command = train_command(DIGITS.config, replace(DIGITS.recipe, dataset="elsewhere"), "o")
    arguments = vars(parser().parse_args(shlex.split(command)[3:]))
    assert arguments["dataset"] == "elsewhere"
    assert {name: arguments[name] for name in ("arch", "steps", "leak")} == {
        "arch": "vgg-small",
        "steps": 25,
        "leak": 0.95,
    }
    assert (arguments["epochs"], arguments["lr"], arguments["image_size"]) == (60, 0.1, 16)
