"""When each sample leaves: rules that read the answer as it forms, what they yield, and which threshold to choose.

A rule looks at one sample at a time and leaves at the first timestep t at which

    fixed       t = threshold                                            the same t for every sample
    confidence  largest p ≥ threshold                                    p = softmax of the scores at exit t
    margin      largest p − second largest p ≥ threshold
    entropy     −Σ p ln p ≤ threshold, in nats
    stability   the same class was the answer for `threshold` timesteps in a row, t itself included

and at T where that never happens. A rule of a threshold on p needs no second network and no further training:
Teerapittayanon et al., "BranchyNet", ICPR 2016 (entropy), Kaya et al., "Shallow-deep networks", ICML 2019 (confidence).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

from .energy import Costs
from .evaluation import Evaluation, wilson

# Name → what people read. The order is that of charts and tables.
RULES = {
    "fixed": "fixed step",
    "confidence": "confidence",
    "margin": "margin",
    "entropy": "entropy",
    "stability": "stability",
}
WHOLE = ("fixed", "stability")  # whose threshold is a number of timesteps


@dataclass(frozen=True)
class Outcome:
    """What a rule yields on `samples` samples.

    correct: how many are right where they leave; accuracy = correct/samples with its 95 % Wilson interval low … high.
    mean_step: mean exit step, 1 … T. spikes, energy_nj: mean cost of a sample up to its own exit.
    """

    samples: int
    correct: int
    accuracy: float
    low: float
    high: float
    mean_step: float
    spikes: float
    energy_nj: float


def exit_steps(evaluation: Evaluation, rule: str, threshold: float) -> np.ndarray:
    """The step, 1 … T, at which each sample leaves: int64 [N]. The rules are the module's.

    threshold: of fixed and stability a whole number 1 … T; of confidence and margin 0 … 1; of entropy 0 or more. It is
    compared in float32, as what it is compared with. Raises ValueError with one sentence for anything else.
    """
    total, samples = evaluation.predictions.shape
    if rule not in RULES:
        raise ValueError(f"exit rule {rule!r} is not one of {', '.join(RULES)}")
    if rule in WHOLE and not (1 <= threshold <= total and threshold == int(threshold)):
        raise ValueError(f"the threshold of {RULES[rule]} must be a whole number of timesteps, 1 to {total}")
    if rule in ("confidence", "margin") and not 0 <= threshold <= 1:
        raise ValueError(f"the threshold of {rule} must lie between 0 and 1, not {threshold!r}")
    if rule == "entropy" and not threshold >= 0:
        raise ValueError(f"the threshold of entropy must be 0 or more, not {threshold!r}")
    if rule == "fixed":
        return np.full(samples, int(threshold), np.int64)
    if rule == "stability":
        ready = _run_lengths(evaluation.predictions) >= threshold
    elif rule == "entropy":
        ready = evaluation.entropy <= np.float32(threshold)
    else:
        ready = getattr(evaluation, rule) >= np.float32(threshold)
    return np.where(ready.any(0), ready.argmax(0) + 1, total).astype(np.int64)


def _run_lengths(predictions: np.ndarray) -> np.ndarray:
    """For how many steps in a row, up to t, each sample's answer has been that of t: int64 [T, N]."""
    lengths = np.ones(predictions.shape, np.int64)
    for t in range(1, len(predictions)):
        lengths[t] += np.where(predictions[t] == predictions[t - 1], lengths[t - 1], 0)
    return lengths


def right(evaluation: Evaluation, steps: np.ndarray) -> np.ndarray:
    """Whether each sample is answered rightly when it leaves at its own step: bool [N]. steps: int64 [N], 1 … T."""
    return evaluation.predictions[steps - 1, np.arange(evaluation.samples)] == evaluation.labels


def outcome(evaluation: Evaluation, steps: np.ndarray, costs: Costs) -> Outcome:
    """What leaving at these steps (int64 [N], 1 … T) yields. Raises ValueError where there are no samples."""
    if not evaluation.samples:
        raise ValueError("no samples to leave early")
    columns = np.arange(evaluation.samples)
    correct = int(right(evaluation, steps).sum())
    low, high = wilson(correct, evaluation.samples)
    return Outcome(
        samples=evaluation.samples,
        correct=correct,
        accuracy=correct / evaluation.samples,
        low=float(low),
        high=float(high),
        mean_step=float(steps.mean()),
        spikes=float(costs.spikes[steps - 1, columns].mean()),
        energy_nj=float(costs.energy_nj[steps - 1, columns].mean()),
    )


def histogram(evaluation: Evaluation, steps: np.ndarray) -> pd.DataFrame:
    """How many samples of each class leave at each step: label, step, samples, correct; only pairs that occur."""
    table = pd.DataFrame({"label": evaluation.labels, "step": steps, "correct": right(evaluation, steps)})
    return table.groupby(["label", "step"])["correct"].agg(samples="size", correct="sum").reset_index()


def shares(steps: np.ndarray, total: int) -> pd.DataFrame:
    """Share of the samples that leave at each step: step (1 … T = total), share (0 … 1). steps: int64 [N]."""
    counted = np.bincount(steps, minlength=total + 1)[1:]
    return pd.DataFrame({"step": np.arange(1, total + 1), "share": counted / len(steps)})


def mean_latency(steps: np.ndarray, timed: pd.DataFrame) -> float:
    """Mean time until a sample has left, ms. steps: int64 [N], 1 … T. timed: of `early_exit.latency`, a row a step."""
    at = np.empty(len(timed))
    at[timed["step"].to_numpy() - 1] = timed["latency_ms"]
    return float(at[steps - 1].mean())


def thresholds(evaluation: Evaluation, rule: str, points: int = 100) -> np.ndarray:
    """Thresholds to try, ascending, about `points` of them: float64.

    Of fixed every step 1 … T; of stability too, thinned out evenly where T is larger. Of the others the ends of what
    the rule reads, and quantiles of the surest value up to t over all samples and t < T: with F its distribution, the
    mean exit step of confidence ≥ c is 1 + (T − 1)·F(c), so that even quantiles are even steps along a curve.
    """
    total = len(evaluation.predictions)
    if rule == "fixed":
        return np.arange(1.0, total + 1)
    if rule in WHOLE:
        return np.unique(np.linspace(1, total, min(total, points)).round())
    surest = np.fmin if rule == "entropy" else np.fmax  # which pass over what is no number
    values = surest.accumulate(getattr(evaluation, rule), axis=0)
    values = values[: max(1, total - 1)]
    values = values[np.isfinite(values)]
    ends = [0.0, 1.0] if rule != "entropy" else [0.0, float(values.max(initial=0.0))]
    if not values.size:
        return np.array(ends)
    inner = np.quantile(values, np.linspace(0, 1, points), method="nearest").astype(np.float64)
    return np.unique(np.clip(np.append(inner, ends), 0.0, None if rule == "entropy" else 1.0))


def front(evaluation: Evaluation, costs: Costs, points: int = 100) -> pd.DataFrame:
    """Every rule at every one of its `thresholds`: rule, threshold, and the fields of Outcome; by rule, ascending."""
    rows = []
    for rule in RULES:
        for threshold in thresholds(evaluation, rule, points):
            steps = exit_steps(evaluation, rule, threshold)
            rows.append({"rule": rule, "threshold": threshold, **asdict(outcome(evaluation, steps, costs))})
    return pd.DataFrame(rows)


def as_good(table: pd.DataFrame, accuracy: float) -> pd.Series | None:
    """Of a `front` the fixed step that is first at least as accurate (a share, 0 … 1); None where none is."""
    good = table[(table["rule"].to_numpy() == "fixed") & (table["accuracy"].to_numpy() >= accuracy)]
    return None if good.empty else good.loc[good["threshold"].idxmin()]


def halves(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The samples in two halves, drawn at random and stratified: positions, int64, ascending.

    Each half holds as many samples of every class as the other, up to one; the first holds at most one sample more than
    the second. The same labels and seed give the same halves. Raises ValueError for fewer than two samples.
    """
    if len(labels) < 2:
        raise ValueError("choosing on one half and reporting on the other needs at least two samples")
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    return np.sort(by_class[::2]), np.sort(by_class[1::2])


def chosen(evaluation: Evaluation, costs: Costs, loss: float, seed: int, rule_step: int | None = None) -> pd.DataFrame:
    """Of each rule the threshold that leaves earliest within a given loss of accuracy, and what it yields elsewhere.

    One of the `halves` of the samples (which are drawn with `seed`) chooses: of the `thresholds` it knows whose accuracy
    there is at least that at T less `loss` (a share, 0 … 1), the one with the smallest mean exit step, then the highest
    accuracy. The other half reports it. No sample does both.

    Columns: rule, threshold; the fields of Outcome as the other half has them; lost: how much less accurate than leaving
    at T that half is, a share; chosen_accuracy, chosen_step: what the choosing half saw. Rows: "full" (leaving at T),
    the rules, and "gamma" where rule_step is given (the step of the paper's γ rule, which no sample has chosen). A rule
    none of whose thresholds loses that little stays to T: its threshold is NaN. Raises ValueError for a loss out of
    bounds and for fewer than two samples.
    """
    if not 0 <= loss <= 1:
        raise ValueError(f"the loss in accuracy must lie between 0 and 1, not {loss!r}")
    total = len(evaluation.predictions)
    (seen, seen_costs), (kept, kept_costs) = (
        (evaluation.select(rows), costs.select(rows)) for rows in halves(evaluation.labels, seed)
    )
    tried = front(seen, seen_costs)
    allowed = outcome(seen, exit_steps(seen, "fixed", total), seen_costs).accuracy - loss - 1e-12
    picks = [("full", "fixed", float(total))]
    for rule in RULES:
        good = tried[(tried["rule"] == rule) & (tried["accuracy"] >= allowed)]
        best = good.sort_values(["mean_step", "accuracy"], ascending=[True, False], kind="stable").head(1)
        picks.append((rule, rule, float(best["threshold"].iloc[0]) if len(best) else float("nan")))
    if rule_step is not None:
        picks.append(("gamma", "fixed", float(rule_step)))
    rows = []
    for name, rule, threshold in picks:
        rule_on = ("fixed", total) if np.isnan(threshold) else (rule, threshold)
        there = outcome(seen, exit_steps(seen, *rule_on), seen_costs)
        here = outcome(kept, exit_steps(kept, *rule_on), kept_costs)
        rows.append(
            {
                "rule": name,
                "threshold": threshold,
                **asdict(here),
                "chosen_accuracy": there.accuracy,
                "chosen_step": there.mean_step,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(lost=table["accuracy"].iloc[0] - table["accuracy"])
