"""The settings of a new training: preset and data set fill them in, and every one can be changed."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import streamlit as st

from engine import datasets
from engine.datasets import DataSet
from engine.presets import PRESETS
from engine.recipe import Recipe
from engine.snn import ENCODINGS, LAYOUTS, NORMS, ModelConfig, sequence_steps

from . import data, recipe_form
from .knobs import Knobs, Number

KIND_TITLES = {"snn": "spiking network", "ann": "ordinary network (ANN)"}
NORM_TITLES = {"bntt": "BNTT", "bn": "BatchNorm", "tdbn": "tdBN", "none": "none"}
# What a person calls each setting.
SAID = {
    **{"dataset": "data set", "kind": "kind", "arch": "network", "layout": "layers", "in_shape": "side of the images"},
    **{"steps": "T", "norm": "normalisation", "encoding": "input coding", "leak": "λ", "threshold": "θ"},
    **{"epochs": "epochs", "batch": "batch", "lr": "learning rate", "validation": "validation samples", "seed": "seed"},
    **{"optimizer": "optimiser", "schedule": "how the learning rate falls", "milestones": "milestones"},
    **{"momentum": "momentum", "weight_decay": "weight decay", "gamma_decay": "γ decay", "patience": "patience"},
    **{"clip": "clipping", "precision": "precision", "augment": "augmentation"},
}
STEPS = Number("T", 1, 10_000, 1, "Timesteps for one sample. Time and memory grow with it.")
LEAK = Number("Leak λ", 0.0, 1.0, 0.01, "How much of the membrane potential is left after one timestep.")
THETA = Number(
    "Threshold θ", 0.01, 100.0, 0.1, "A neuron fires when its membrane potential exceeds θ; θ is then subtracted."
)
SIDE = Number("Side of the images", 2, 1024, 1, "In pixels; images of another size are brought to it.")


@dataclass(frozen=True)
class Start:
    """Where a person starts from. missing: why the data set cannot be trained on, or "". network, recipe: the values of
    ModelConfig and Recipe that are filled in."""

    preset: str
    data: DataSet
    missing: str
    network: dict
    recipe: dict

    @property
    def own(self) -> bool:
        """Whether the data set is the preset's."""
        return self.data.name == PRESETS[self.preset].recipe.dataset


def begin(presets, sets) -> Start:
    """Preset and data set, drawn into these two places."""
    preset = presets.selectbox(
        "Preset",
        list(PRESETS),
        format_func=lambda name: PRESETS[name].title,
        key="preset",
        bind="query-params",
        help="Fills in everything below. Change what you like after that.",
    )
    own, known = PRESETS[preset], data.known()
    name = sets.selectbox(
        "Data set",
        list(known),
        list(known).index(own.recipe.dataset),
        key=f"on_{preset}",
        bind="query-params",
        help=f"Looked for in {datasets.folder()}; those that are here come first. With another than the preset's, the "
        "network is filled in as usual for it.",
    )
    chosen, missing = known[name]
    network = asdict(own.config)
    if name != own.recipe.dataset:
        usual = {"arch": chosen.arch, "layout": None, "leak": chosen.leak, "encoding": chosen.encoding}
        steps = sequence_steps(chosen.encoding, chosen.shape) or chosen.steps
        network |= {**usual, "in_shape": chosen.shape, "steps": steps, "kind": "snn"}
    return Start(preset, chosen, missing, network, asdict(own.recipe) | {"dataset": name})


def settings(start: Start) -> tuple[dict, dict, Knobs]:
    """Every other setting as a person left it: values of ModelConfig and of Recipe, for `build`."""
    knobs = Knobs(start.preset) if start.own else Knobs(start.preset, start.data.name)
    top, middle = st.columns([2, 4, 1.5, 2]), st.columns(5)
    with st.expander("All settings"):
        rows = [st.columns(5, vertical_alignment="bottom") for _ in range(3)]
    network = _network(knobs, start, top, rows[0])
    return network, recipe_form.recipe(knobs, start.recipe, middle, rows[1] + rows[2]), knobs


def build(network: dict, recipe: dict) -> tuple[ModelConfig, Recipe]:
    """Raises ValueError with one sentence for values that make no training."""
    milestones = recipe_form.milestones(recipe["milestones"])
    return ModelConfig(**network), Recipe(**recipe | {"milestones": milestones})


def changes(start: Start, config: ModelConfig, recipe: Recipe) -> list[str]:
    """What differs from the preset, in a person's words."""
    own = PRESETS[start.preset]
    now, then = asdict(config) | asdict(recipe), asdict(own.config) | asdict(own.recipe)
    return [said for name, said in SAID.items() if now[name] != then[name]]


def _network(knobs: Knobs, start: Start, top: list, more: list) -> dict:
    """Values of ModelConfig. top: four places for the settings that matter most; more: five for the rest."""
    usual = start.network
    kind, coding = _kind(knobs, start, more)
    side = knobs.number(more[4], "side", SIDE, usual["in_shape"][1])
    shape = usual["in_shape"] if side == usual["in_shape"][1] else (start.data.shape[0], side, side)
    arch, layers = _layers(knobs, usual, top)
    return {
        "kind": kind,
        "arch": arch,
        "layout": None if layers == LAYOUTS[arch] else layers,
        "classes": len(start.data.classes),
        "in_shape": shape,
        "encoding": coding,
        "steps": _steps(knobs, start, top[2], kind, coding, shape),
        "norm": knobs.select(
            top[3],
            "norm",
            "Normalisation",
            NORM_TITLES,
            usual["norm"] if kind == usual["kind"] else "bn" if kind == "ann" else "bntt",
            "  \n".join(NORMS[name] for name in NORM_TITLES) + ".  \nOnly BNTT has a γ for each timestep.",
            titles=NORM_TITLES,
            also=_apart((kind, usual["kind"])),
        ),
        "leak": knobs.number(more[2], "leak", LEAK, usual["leak"], off=kind == "ann"),
        "threshold": knobs.number(more[3], "theta", THETA, usual["threshold"], off=kind == "ann"),
    }


def _kind(knobs: Knobs, start: Start, places: list) -> tuple[str, str]:
    """Kind of network and input coding."""
    kind = knobs.select(
        places[0],
        "kind",
        "Kind",
        KIND_TITLES,
        start.network["kind"],
        "An ordinary network has ReLU instead of spiking neurons, no timesteps and no γ over time: to compare with.",
        titles=KIND_TITLES,
    )
    codings = [name for name in ENCODINGS if start.data.suits(name)]
    usual = "direct" if kind == "ann" else start.data.encoding
    first = start.network["encoding"] if kind == start.network["kind"] else usual
    coding = knobs.select(
        places[1],
        "coding",
        "Input coding",
        codings,
        first if first in codings else codings[0],
        "How a sample enters the network.  \n" + "  \n".join(f"{name}: {ENCODINGS[name]}" for name in codings),
        also=_apart((kind, start.network["kind"])),
    )
    return kind, coding


def _layers(knobs: Knobs, usual: dict, places: list) -> tuple[str, str]:
    """Architecture, and its layers, which can be written over."""
    arch = knobs.select(
        places[0],
        "network",
        "Network",
        LAYOUTS,
        usual["arch"],
        "vgg9 and vgg11 are the paper's; vgg-small trains in minutes on a laptop; cnn7 suits events, mlp sequences.",
    )
    layers = knobs.text(
        places[1],
        "layers",
        "Layers",
        usual["layout"] if usual["layout"] and arch == usual["arch"] else LAYOUTS[arch],
        "Write your own if you like.  \nC16: 3×3 convolution with 16 channels  \nP: 2×2 average pool  \nG: average over "
        "the whole image  \nF128: 128 fully connected neurons  \nThe read-out follows by itself.",
        also=_apart((arch, usual["arch"])),
    )
    return arch, " ".join(layers.split())


def _steps(knobs: Knobs, start: Start, place, kind: str, coding: str, shape: tuple) -> int:
    """T, where an ordinary network and a sequence leave no choice."""
    usual = start.network
    fixed = 1 if kind == "ann" else sequence_steps(coding, shape)
    if fixed:
        return knobs.number(place, "T", STEPS, min(fixed, STEPS.high), also=["of", str(fixed)], off=True)
    if kind == usual["kind"] and not sequence_steps(usual["encoding"], usual["in_shape"]):
        return knobs.number(place, "T", STEPS, usual["steps"])
    return knobs.number(place, "T", STEPS, start.data.steps, also=["usual"])


def _apart(*pairs: tuple) -> list[str]:
    """The first of each pair that differs from its second."""
    return [str(one) for one, other in pairs if one != other]
