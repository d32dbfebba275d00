"""How a network is trained: every setting of a run beside the network itself."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from .snn import PRECISIONS

OPTIMIZERS = ("sgd", "adam", "adamw")
MOST = 1_000_000  # epochs, samples of a batch, and the largest decay or clip: beyond anything that trains
MOST_MILESTONES = 100
SCHEDULES = ("steps", "cosine", "constant")


@dataclass(frozen=True)
class Recipe:
    """How to train. The defaults are the paper's for CIFAR-10 (Kim & Panda 2021; decay as in the published code).

    optimizer: one of OPTIMIZERS; of Adam and AdamW momentum is β₁, and weight decay is part of the gradient (Adam) or
    apart from it (AdamW). schedule: one of SCHEDULES, see `learning_rate`. milestones: for the schedule "steps", shares
    of the epochs after which the learning rate falls tenfold. gamma_decay: weight decay on the norm's parameters alone;
    None = weight_decay. On a small data set γ of an idle timestep fades only if this is raised (a step of SGD shrinks
    it by about lr·decay/(1 − momentum)). validation: share of the training samples that is held out to judge epochs
    by; the test set is never looked at. patience: stop after so many epochs without a better validation accuracy.
    clip: largest norm of the whole gradient; a longer one is shortened to it. Raises ValueError with one sentence for
    values that cannot train.
    """

    dataset: str = "digits"
    epochs: int = 100
    batch: int = 256
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 1e-4
    gamma_decay: float | None = None
    milestones: tuple[float, ...] = (0.5, 0.7, 0.9)
    augment: bool = True
    seed: int = 0
    precision: str = "float32"
    validation: float = 0.0
    patience: int | None = None
    clip: float | None = None
    optimizer: str = "sgd"
    schedule: str = "steps"

    def __post_init__(self):
        object.__setattr__(self, "milestones", tuple(self.milestones))
        for holds, sentence in (
            (self.epochs >= 1, "epochs must be 1 or more"),
            (self.epochs <= MOST, f"epochs must be at most {MOST:,}"),
            (self.batch >= 2, "batch must be 2 or more: batch statistics need two images"),
            (self.batch <= MOST, f"batch must be at most {MOST:,}"),
            (0 < self.lr < 1e3, "the learning rate (lr) must be above 0 and below 1000"),
            (0 <= self.momentum < 1, "momentum must be at least 0 and below 1"),
            (self.weight_decay >= 0 and (self.gamma_decay or 0) >= 0, "weight decay must not be negative"),
            (self.weight_decay <= MOST and (self.gamma_decay or 0) <= MOST, f"weight decay must be at most {MOST:,}"),
            (len(self.milestones) <= MOST_MILESTONES, f"there may be at most {MOST_MILESTONES} milestones"),
            (all(0 < m < 1 for m in self.milestones), "milestones are shares of the epochs, between 0 and 1"),
            (0 <= self.seed < 2**31, "seed must be from 0 to 2^31 − 1"),
            (0 <= self.validation <= 0.5, "validation must be a share of the training samples, from 0 to 0.5"),
            (self.patience is None or self.patience >= 1, "patience must be 1 epoch or more"),
            (self.patience is None or self.patience <= MOST, f"patience must be at most {MOST:,} epochs"),
            (self.patience is None or self.validation > 0, "patience needs validation samples: set a share of them"),
            (self.clip is None or self.clip > 0, "the norm to clip at (clip) must be above 0"),
            (self.clip is None or self.clip <= MOST, f"the norm to clip at (clip) must be at most {MOST:,}"),
            (self.precision in PRECISIONS, f"precision must be one of {', '.join(PRECISIONS)}"),
            (self.optimizer in OPTIMIZERS, f"optimizer must be one of {', '.join(OPTIMIZERS)}"),
            (self.schedule in SCHEDULES, f"schedule must be one of {', '.join(SCHEDULES)}"),
        ):
            if not holds:
                raise ValueError(sentence)

    @classmethod
    def from_dict(cls, values: Any) -> Recipe:
        """The recipe in a config.json; what an older one lacks has its default. Raises ValueError for anything else."""
        if not isinstance(values, dict):
            raise ValueError("the recipe is not a table of names and values")
        kinds = {field.name: field.type for field in fields(cls)}
        if unknown := set(values) - set(kinds):
            raise ValueError(f"the recipe has unknown entries: {', '.join(sorted(map(str, unknown)))}")
        for name, value in values.items():
            if not _is_a(kinds[name], value):
                raise ValueError(f"the recipe's {name} is of the wrong kind")
        return cls(**values)


def _is_a(kind: str, value: Any) -> bool:
    """Whether a JSON value is of the kind that an annotation names; a whole number may stand for a float."""
    if kind.endswith(" | None"):
        return value is None or _is_a(kind.removesuffix(" | None"), value)
    if kind == "tuple[float, ...]":
        return isinstance(value, (list, tuple)) and all(_is_a("float", item) for item in value)
    kinds = {"str": str, "bool": bool, "int": int, "float": (int, float)}[kind]
    return isinstance(value, kinds) and (kind == "bool" or not isinstance(value, bool))


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """The step size during `epoch` (from 1), which is lr in the first.

    steps: a tenth after each milestone. cosine: lr·(1 + cos(π·(epoch − 1)/epochs))/2, 0 after the last epoch
    (Loshchilov & Hutter 2017, arXiv 1608.03983, without restarts). constant: lr.
    """
    if recipe.schedule == "cosine":
        return recipe.lr * (1 + math.cos(math.pi * (epoch - 1) / recipe.epochs)) / 2
    if recipe.schedule == "constant":
        return recipe.lr
    passed = sum(epoch > max(1, round(share * recipe.epochs)) for share in recipe.milestones)
    return recipe.lr * 0.1**passed
