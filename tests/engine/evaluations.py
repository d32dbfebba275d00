"""Evaluations made up for tests."""

import numpy as np

from engine.analysis.evaluation import Evaluation


def made_up(predictions, labels, spikes, **certainty) -> Evaluation:
    """An Evaluation of these answers; how certain they are is drawn at random where it is not said."""
    draw = np.random.default_rng(1)
    for name in ("confidence", "margin", "entropy"):
        certainty.setdefault(name, draw.random(np.shape(predictions), np.float32))
    return Evaluation(predictions, labels, spikes, **certainty)


def drawn(seed: int, steps=6, samples=40, classes=4, layers=2) -> Evaluation:
    """Answers of chance that become right and certain over time, with the certainty of real softmax scores (float64)."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, samples)
    scores = draw.normal(size=(steps, samples, classes)).cumsum(0)
    scores[:, np.arange(samples), labels] += 0.5 * np.arange(1, steps + 1)[:, None]
    shares = np.exp(scores) / np.exp(scores).sum(2, keepdims=True)
    ordered = np.sort(shares, 2)
    return Evaluation(
        shares.argmax(2).astype(np.int32),
        labels,
        draw.integers(0, 30, (steps, layers + 1, samples)),
        ordered[:, :, -1].astype(np.float32),
        (ordered[:, :, -1] - ordered[:, :, -2]).astype(np.float32),
        -(shares * np.log(shares)).sum(2).astype(np.float32),
    )
