"""Test samples through a network, plain or attacked: what was found before, here or in the app, is not computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor

from .analysis import evaluation, robustness
from .analysis.evaluation import Evaluation
from .analysis.robustness import Attack
from .checkpoint import Checkpoint
from .datasets import DataSet
from .store import answered, question

Progress = Callable[[list], Iterable]


def evaluated(
    checkpoint: Checkpoint,
    data: DataSet,
    pixels: Tensor,
    labels: Tensor,
    *,
    seed: int,
    precision: str = "float32",
    keep: bool = True,
    progress: Progress = iter,
) -> Evaluation:
    """Evaluation of the first test samples of `data`: pixels, uint8 as the network takes them, and labels.

    keep, progress: as engine.store.answered. Raises DataError.
    """
    asked = question(checkpoint, data, evaluation.evaluate_rows, seed=seed, precision=precision)
    compute = partial(
        evaluation.evaluate_rows, **_network(checkpoint), pixels=pixels, labels=labels, seed=seed, precision=precision
    )
    parts = evaluation.evaluation_parts(checkpoint.config, len(pixels))
    return evaluation.join(answered(asked, parts, compute, keep=keep, progress=progress))


def swept(
    checkpoint: Checkpoint,
    data: DataSet,
    pixels: Tensor,
    labels: Tensor,
    attacks: Sequence[Attack],
    *,
    seed: int,
    encodings: int = 1,
    keep: bool = True,
    progress: Progress = iter,
) -> list[tuple[Attack, Evaluation]]:
    """The same under each of the attacks, an attack named twice once; each sample in so many random encodings, as
    robustness.attack_rows has it."""
    settings = {"seed": seed, "encodings": encodings}
    asked = question(checkpoint, data, robustness.attack_rows, **settings)
    compute = partial(robustness.attack_rows, **_network(checkpoint), pixels=pixels, labels=labels, **settings)
    found: dict[Attack, list[Evaluation]] = {attack: [] for attack in attacks}
    parts = robustness.sweep_parts(checkpoint.config, list(found), len(pixels), encodings)
    for (attack, *_), result in zip(parts, answered(asked, parts, compute, keep=keep, progress=progress)):
        found[attack].append(result)
    return [(attack, evaluation.join(results)) for attack, results in found.items()]


def _network(checkpoint: Checkpoint) -> dict:
    return {"model": checkpoint.model, "mean": checkpoint.mean, "std": checkpoint.std}
