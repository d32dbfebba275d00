"""What a person should know first about a network, in plain words and computed from it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from ..checkpoint import Checkpoint
from . import early_exit, energy, gamma
from .evaluation import Evaluation


FLAT = 0.25  # of its largest value; a mean γ that varies less than that over time has no peak worth naming


@dataclass(frozen=True)
class Finding:
    """page: where it can be looked at ("gamma", "spikes", "early_exit", "robustness"). headline: a few words. text: one or
    two sentences."""

    page: str
    headline: str
    text: str


def from_weights(checkpoint: Checkpoint, threshold: float = 0.1) -> list[Finding]:
    """What γ alone says: when the layers work, and whether the paper's rule leaves early; nothing without BNTT."""
    if not checkpoint.stacks:
        return []
    return [_peaks(checkpoint), _rule(checkpoint, threshold)]


def from_evaluation(checkpoint: Checkpoint, evaluation: Evaluation, threshold: float = 0.1) -> list[Finding]:
    """What the test samples add: how early the answer is good, and how many spikes it takes."""
    table = early_exit.exit_table(checkpoint.config, evaluation)
    guessing = early_exit.near_chance(checkpoint.config, table)
    answer = _guessing(checkpoint, table) if guessing else _earliest(table)
    if checkpoint.config.kind == "ann":
        return [answer if guessing else _one_pass(table)]
    return [answer, _cost(checkpoint, table), *_rule_cost(checkpoint, table, threshold)]


def _peaks(checkpoint: Checkpoint) -> Finding:
    by_layer = gamma.layer_means(checkpoint).groupby("layer", sort=False)["value"]
    spread = ((by_layer.max() - by_layer.min()) / by_layer.max().abs()).max()
    if spread < FLAT:
        return Finding(
            "gamma",
            "γ is flat over time",
            f"Mean γ varies by at most {spread:.0%} over the timesteps of any layer: no timestep stands out.",
        )
    peaks = gamma.peaks(checkpoint)
    first, last = peaks["step"].min(), peaks["step"].max()
    if len(peaks) == 1 or first == last:
        return Finding("gamma", f"γ peaks at t = {first}", f"γ is largest at t = {first} in every layer.")
    early = peaks.loc[peaks["step"].idxmin()]
    late = peaks.loc[peaks["step"].idxmax()]
    return Finding(
        "gamma",
        f"Work moves from t = {first} to t = {last}",
        f"γ is largest at t = {first} in {early['layer']} and at t = {last} in {late['layer']}: "
        "a layer matters most at the timestep where its γ peaks.",
    )


def _rule(checkpoint: Checkpoint, threshold: float) -> Finding:
    step = gamma.exit_rule(checkpoint, threshold)
    total = max(len(stack.gamma) for stack in checkpoint.stacks.values())
    if step is None:
        means = gamma.layer_means(checkpoint)
        lowest = means.groupby("step")["value"].max()
        return Finding(
            "gamma",
            "γ never fades",
            f"Mean γ stays at {lowest.min():.2f} or more in at least one layer at every timestep, above the threshold of "
            f"{threshold:g}: the paper's rule never leaves early.",
        )
    if step == total:
        return Finding(
            "gamma", "γ fades at the very end", f"γ falls below {threshold:g} in every layer only at t = T = {total}."
        )
    return Finding(
        "gamma",
        f"γ has faded at t = {step}",
        f"Mean γ is below {threshold:g} in every layer at t = {step} of {total} for the first time: "
        "timesteps after that hardly count.",
    )


def _guessing(checkpoint: Checkpoint, table: pd.DataFrame) -> Finding:
    settings = "the" if checkpoint.config.kind == "ann" else "λ, θ, the"
    return Finding(
        "early_exit",
        "It only guesses",
        f"{table['accuracy'].iloc[-1]:.1%} of the test samples are right, and guessing gives "
        f"{1 / checkpoint.config.classes:.1%}: {settings} normalisation or the data set may not be those of the training, "
        "or it needs more training.",
    )


def _earliest(table: pd.DataFrame) -> Finding:
    final = table["accuracy"].iloc[-1]
    good = table[table["accuracy"] >= final - 0.01].iloc[0]
    step, total = int(good["step"]), int(table["step"].iloc[-1])
    if step == total:
        text = f"{final:.1%} of the test samples are right at t = T = {total}; no earlier exit comes within one point of it."
        return Finding("early_exit", "Every timestep counts", text)
    saved = 1 - good["energy_nj"] / table["energy_nj"].iloc[-1]
    return Finding(
        "early_exit",
        f"{step} timesteps are nearly enough",
        f"{good['accuracy']:.1%} right when leaving at t = {step}, {final:.1%} at T = {total}: "
        f"within one point, for {saved:.0%} less energy.",
    )


def _one_pass(table: pd.DataFrame) -> Finding:
    last = table.iloc[-1]
    return Finding(
        "robustness",
        f"{last['accuracy']:.1%} in one pass",
        f"An ordinary network fires no spikes and has no timesteps: {last['accuracy']:.1%} of the test samples are right, "
        f"for an estimated {last['energy_nj'] / 1e3:.3g} µJ each.",
    )


def _cost(checkpoint: Checkpoint, table: pd.DataFrame) -> Finding:
    last = table.iloc[-1]
    neurons = sum(spec.neurons for spec in checkpoint.config.hidden_layers())
    ratio = energy.ann_energy_nj(checkpoint.config) / last["energy_nj"] if last["energy_nj"] else float("inf")
    compared = f"{ratio:.1f} times less" if ratio >= 1 else f"{1 / ratio:.1f} times more"
    return Finding(
        "spikes",
        f"{last['spikes']:,.0f} spikes a sample",
        f"{last['spikes'] / neurons:.2f} per neuron over all timesteps, at an estimated {last['energy_nj'] / 1e3:.3g} µJ: "
        f"{compared} than the same layers as an ordinary network.",
    )


def _rule_cost(checkpoint: Checkpoint, table: pd.DataFrame, threshold: float) -> list[Finding]:
    step = gamma.exit_rule(checkpoint, threshold)
    if step is None or step == len(table):
        return []
    lost = table["accuracy"].iloc[-1] - table["accuracy"].iloc[step - 1]
    saved = 1 - table["energy_nj"].iloc[step - 1] / table["energy_nj"].iloc[-1]
    change = (
        "costs no accuracy"
        if abs(lost) < 0.0005
        else f"{'costs' if lost > 0 else 'gains'} {abs(lost) * 100:.1f} points"
    )
    return [
        Finding(
            "early_exit",
            f"The γ rule leaves at t = {step}",
            f"Leaving where γ has fallen below {threshold:g} in every layer {change} and saves {saved:.0%} of the energy.",
        )
    ]
