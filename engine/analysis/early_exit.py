"""What leaving after t of T timesteps costs and saves."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import torch

from ..device import device
from ..snn import ModelConfig, SpikingNetwork
from .energy import PAPER, Constants, energy
from .evaluation import Evaluation


def exit_table(config: ModelConfig, evaluation: Evaluation, constants: Constants = PAPER) -> pd.DataFrame:
    """One row per exit step: step, correct, samples, accuracy, low, high, spikes, energy_nj.

    spikes: mean number fired by the hidden layers of one sample up to and including that step. energy_nj likewise, in nJ,
    at what an operation costs by `constants`.
    """
    mean = evaluation.mean_spikes()
    by_step = energy(config, mean, constants).groupby("step")["energy_nj"].sum().cumsum().to_numpy()
    return evaluation.accuracy().assign(spikes=mean[:, 1:].sum(1).cumsum(), energy_nj=by_step)


def near_chance(config: ModelConfig, table: pd.DataFrame) -> bool:
    """Whether the accuracy at T (of an exit_table) cannot be told from guessing: its 95 % interval reaches 1/classes."""
    return bool(table["low"].iloc[-1] <= 1 / config.classes)


def changed_answers(evaluation: Evaluation, step: int) -> pd.DataFrame:
    """The samples that answer differently at `step` and at T: row, label, here, at_end, effect.

    effect: "lost" (right here, wrong at T), "gained" (wrong here, right at T) or "other" (wrong both times).
    """
    here, end, labels = evaluation.predictions[step - 1], evaluation.predictions[-1], evaluation.labels
    rows = np.flatnonzero(here != end)
    effect = np.where(here[rows] == labels[rows], "lost", np.where(end[rows] == labels[rows], "gained", "other"))
    return pd.DataFrame({"row": rows, "label": labels[rows], "here": here[rows], "at_end": end[rows], "effect": effect})


@torch.no_grad()
def latency(model: SpikingNetwork, repeats: int = 9) -> pd.DataFrame:
    """Time to classify one image on this machine when stopping after t timesteps: step, latency_ms, measured.

    The fastest of `repeats` interleaved runs, which other work on the machine disturbs least, at up to nine values of t;
    straight lines between them (measured = False there).
    """
    model = model.to(device()).eval()
    total = model.config.steps
    events = model.config.encoding == "events"
    image = torch.rand(*((total,) if events else ()), 1, *model.config.in_shape, device=device())
    points = sorted({int(t) for t in np.linspace(1, total, min(total, 9)).round()})
    times = np.empty((repeats, len(points)))
    for repeat in range(-1, repeats):  # the first round warms up
        for column, steps in enumerate(points):
            started = _now()
            model.forward_steps(image, seed=0, steps=steps)
            times[max(repeat, 0), column] = _now() - started
    steps = np.arange(1, total + 1)
    fastest = np.interp(steps, points, times.min(0) * 1e3)
    return pd.DataFrame({"step": steps, "latency_ms": fastest, "measured": np.isin(steps, points)})


def _now() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()
