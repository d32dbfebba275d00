"""How to train: the settings of a recipe."""

from __future__ import annotations

import re

from engine.recipe import OPTIMIZERS, SCHEDULES
from engine.snn import PRECISIONS

from . import work
from .knobs import Knobs, Number

OPTIMIZER_TITLES = {"sgd": "SGD", "adam": "Adam", "adamw": "AdamW"}
SCHEDULE_TITLES = {"steps": "a tenth at milestones", "cosine": "cosine to 0", "constant": "constant"}
EPOCHS = Number("Epochs", 1, 100_000, 1, "How often the network sees all training samples.")
BATCH = Number("Batch", 2, 65_536, 16, "Samples for one step of the optimiser. Memory grows with it.")
RATE = Number(
    "Learning rate", 0.0, 999.0, 0.01, "Size of a step at the start. Too large and the loss never falls, or overflows."
)
VALIDATION = Number(
    "Validation samples (%)",
    0.0,
    50.0,
    5.0,
    "Share of the training samples that is held out to judge each epoch by; the best one is kept. The test samples are "
    "never used for that. 0 keeps the last epoch.",
)
SEED = Number("Seed", 0, 2**31 - 1, 1, "Of the first weights, the order of samples, augmentation and input spikes.")
MOMENTUM = Number("Momentum", 0.0, 0.999, 0.05, "How much of the last step is carried on; β₁ of Adam.")
DECAY = Number("Weight decay", 0.0, 10.0, 0.0001, "Pull of all weights towards 0, on γ too unless set apart.")
GAMMA_DECAY = Number(
    "γ decay",
    0.0,
    10.0,
    0.001,
    "Weight decay on γ alone. On a small data set it has to be larger, or γ of timesteps that do nothing does not fade.",
    empty="as weight decay",
)
PATIENCE = Number(
    "Patience",
    1,
    100_000,
    1,
    "Stop after so many epochs without a better validation accuracy; needs validation samples.",
    empty="train all epochs",
)
CLIP = Number("Clip the gradient at", 0.0, 1e6, 1.0, "Longest gradient; longer ones are shortened to it.", empty="off")


def recipe(knobs: Knobs, first: dict, sight: list, more: list) -> dict:
    """Values of Recipe as a person left them, from what `first` stands there; milestones are still text.

    sight: five places for the settings that matter most; more: ten for the rest.
    """
    return {
        "dataset": first["dataset"],
        "epochs": knobs.number(sight[0], "epochs", EPOCHS, first["epochs"]),
        "batch": knobs.number(sight[1], "batch", BATCH, first["batch"]),
        "lr": knobs.number(sight[2], "lr", RATE, first["lr"]),
        "validation": _share(knobs.number(sight[3], "validation", VALIDATION, round(100 * first["validation"], 6))),
        "seed": knobs.number(sight[4], "init", SEED, first["seed"]),
        **_descent(knobs, first, more[:3]),
        "momentum": knobs.number(more[3], "momentum", MOMENTUM, first["momentum"]),
        "weight_decay": knobs.number(more[4], "decay", DECAY, first["weight_decay"]),
        "gamma_decay": knobs.number(more[5], "gamma_decay", GAMMA_DECAY, first["gamma_decay"]),
        "patience": knobs.number(more[6], "patience", PATIENCE, first["patience"]),
        "clip": knobs.number(more[7], "clip", CLIP, first["clip"]),
        "precision": knobs.select(
            more[8],
            "computed_in",
            "Precision",
            [one for one in PRECISIONS if one in ("float32", "bfloat16", first["precision"]) or work.may_have_gpu()],
            first["precision"],
            "float32 is exact. bfloat16 and, where there is a GPU, tf32 make convolutions and matrix products faster and change "
            "a few spikes.",
        ),
        "augment": knobs.toggle(
            more[9],
            "augment",
            "Augmentation",
            first["augment"],
            "Each epoch sees every image shifted a little, and mirrored where that makes sense for the data set.",
        ),
    }


def _descent(knobs: Knobs, first: dict, places: list) -> dict:
    """Optimiser and schedule; milestones as usual where the schedule has none."""
    optimizer = knobs.select(
        places[0],
        "optimiser",
        "Optimiser",
        OPTIMIZERS,
        first["optimizer"],
        "SGD with momentum is the paper's. Adam and AdamW want a much smaller learning rate, such as 0.001.",
        titles=OPTIMIZER_TITLES,
    )
    schedule = knobs.select(
        places[1],
        "schedule",
        "Learning rate falls",
        SCHEDULES,
        first["schedule"],
        "a tenth at milestones: as in the paper. cosine: slowly at first and at the end, to 0 after the last epoch.",
        titles=SCHEDULE_TITLES,
    )
    usual, steps = ", ".join(f"{100 * share:.6g}" for share in first["milestones"]), schedule == "steps"
    about = "After these shares of the epochs the learning rate falls to a tenth."
    written = knobs.text(places[2], "milestones", "Milestones (% of epochs)", usual, about, off=not steps)
    return {"optimizer": optimizer, "schedule": schedule, "milestones": written if steps else usual}


def _share(percent: float) -> float:
    return round(percent / 100, 8)


def milestones(text: str) -> tuple[float, ...]:
    """Shares of the epochs from percentages such as "50, 70, 90", at least one. Raises ValueError with one sentence."""
    shares: list[float] = []
    for part in filter(None, re.split(r"[,;\s]+", text)):
        try:
            percent = float(part)
        except ValueError:
            raise ValueError(f"milestones are percentages such as 50, 70, 90; “{part}” is not a number") from None
        if not 1 <= percent < 100:  # below 1 stands most likely a share
            raise ValueError(f"milestones are percentages of the epochs, from 1 to below 100, and “{part}” is not")
        shares.append(_share(percent))
    if not shares:
        raise ValueError("name at least one milestone, or let the learning rate be constant")
    return tuple(sorted(shares))
