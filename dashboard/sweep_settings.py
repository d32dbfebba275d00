"""The controls that say what a robustness sweep does; the pages that have them share what was chosen."""

from __future__ import annotations

import re
from dataclasses import dataclass

import streamlit as st

from engine.attacks import CLEAN, FOLLOWING, KINDS, Attack, Attacker
from engine.snn import SHAPES, ModelConfig, Surrogate

OWN_STEPS = ("cw", "deepfool", "square", "fgsm", "autoattack")  # the field of steps is not theirs
AXES = {
    "σ": "σ (pixels run from 0 to 1)",
    "L∞": "ε in 1/255",
    "L2": "ε, length of the change (L2)",
    "share": "share of the events",
    "frames": "σ in frames",
}
GRADIENTS = {"straight-through": "straight through", "literal": "literal (zero)"}


@dataclass(frozen=True)
class Sweep:
    """What a person asks for: attacks, the clean images first; of how many samples; in how many random encodings."""

    attacks: list[Attack]
    samples: int
    seed: int
    encodings: int

    def passes(self, random: bool) -> int:
        """Forward passes it costs on one network, a backward pass counted as two. random: whether its input is."""
        encodings = self.encodings if random else 1
        return sum(attack.passes(random) - 1 + encodings for attack in self.attacks) * self.samples


def numbers(field: str, text: str, top: float) -> list[float]:
    """Numbers from "2, 4, 8", sorted, each above 0 and at most `top`. Raises ValueError with one sentence."""
    found = []
    for part in filter(None, re.split(r"[,;\s]+", text)):
        try:
            found.append(float(part))
        except ValueError:
            raise ValueError(
                f"{field}: “{part}” is not a number; separate numbers by commas, with a point for decimals"
            ) from None
        if not 0 < found[-1] <= top:
            raise ValueError(f"{field}: {part} must be above 0 and at most {top:g} (decimals are written with a point)")
    return sorted(set(found))


def settings(available: int, about: str, configs: list[ModelConfig]) -> Sweep:
    """The sweep a person asks for. Raises ValueError with one sentence.

    available: how many test samples there are. about: what the number of samples says, in a sentence. configs: of the
    networks that are swept.
    """
    events = all(config.encoding == "events" for config in configs)
    random = any(config.random_input for config in configs)
    offered = [name for name, kind in KINDS.items() if events or kind.family != "events"]
    kinds = st.pills(
        "Disturb the image by",
        offered,
        default=["gaussian", "fgsm"],
        selection_mode="multi",
        format_func=lambda name: KINDS[name].label,
        key="attacks",
        bind="query-params",
        help="Noise does not look at the network. "
        + " ".join(f"**{KINDS[name].label}**: {KINDS[name].about}" for name in offered if name in FOLLOWING),
    )
    *columns, samples_at, encodings_at, seed_at = st.columns([3, 3, 3, 3, 2, 2, 2] if events else [3, 3, 3, 2, 2, 2])
    strengths = _strengths(columns, kinds)
    samples = samples_at.number_input(
        "Samples", 1, available, min(100, available), 50, key="samples", bind="query-params", help=about
    )
    encodings = encodings_at.number_input(
        "Encodings",
        1,
        20,
        3,
        key="encodings",
        bind="query-params",
        disabled=not random,
        help="In how many random encodings each image is tested. One alone says little: the answer depends on its spikes.",
    )
    seed = seed_at.number_input(
        "Seed", 0, 10**6, 0, key="seed", bind="query-params", help="Of the noise, the attacks and the input spikes."
    )
    following = any(kind in FOLLOWING for kind in kinds)
    with st.expander("The attacker: steps, and the gradient it follows", expanded=False):
        attacker = _attacker(following, random, min(config.steps for config in configs))
        chosen = _attacks(kinds, strengths, attacker)
    return Sweep(chosen, samples, seed, encodings if random else 1)


def _strengths(columns: list, kinds: list[str]) -> dict[str, tuple[str, str, float, float]]:
    """norm → (name of the field, its text, largest number, units in 1); fields that no chosen attack needs are grey."""
    norms = {KINDS[kind].norm for kind in kinds}
    fields = [
        ("σ", "Gaussian σ", "0.1, 0.2, 0.3, 0.4", "sigma", 10, 1, "Standard deviation; pixels run from 0 to 1."),
        ("L∞", "ε in 1/255", "2, 4, 8, 16", "epsilon", 255, 255, "Largest change of any pixel, in steps of 1/255."),
        (
            *("L2", "ε of L2 attacks", "0.25, 0.5, 1, 2", "epsilon_l2", 1000, 1),
            "Length √Σδ² of the whole change, where a pixel runs from 0 to 1: for PGD L2, CW and DeepFool.",
        ),
    ]
    if len(columns) > 3:
        fields.append(
            (
                *("share", "Events: share, frames", "0.1, 0.2, 0.5", "share", 10, 1),
                "Of the events deleted (at most 1) or inserted; of jitter the deviation in frames.",
            )
        )
    found = {}
    for column, (norm, name, first, key, top, scale, said) in zip(columns, fields):
        used = norm in norms or (norm == "share" and "frames" in norms)
        text = column.text_input(name, first, key=key, bind="query-params", disabled=not used, help=said)
        found[norm] = (name, text, top, scale)
    found["frames"] = found.get("share", ("", "", 0, 1))
    return found


def _attacker(following: bool, random: bool, steps: int) -> tuple[int, float, int, Attacker]:
    """Steps, their size in 1/255 (0: chosen), queries of Square, and the gradient that is followed."""
    st.caption(
        "The gradient chosen at first, the triangle the network was trained with, straight through the code, averaged over "
        "two encodings, was the strongest affordable one on the bundled digits network at ε = 8/255: wider, smoother and "
        "adaptive surrogates left as many or more answers right, and more encodings cost more than they found. On another "
        "network another may win: try them."
    )
    off = not following
    one, two, three, four = st.columns(4)
    taken = one.number_input(
        "Steps", 1, 1000, 10, key="pgd_steps", bind="query-params", disabled=off, help="Of PGD and its relatives."
    )
    size = two.number_input(
        *("Step in 1/255", 0.0, 255.0, 0.0, 0.5),
        key="pgd_size",
        bind="query-params",
        disabled=off,
        help="0 chooses 2.5·ε/steps.",
    )
    queries = three.number_input(
        *("Queries of Square", 1, 5000, 200, 100),
        key="queries",
        bind="query-params",
        disabled=off,
        help="How often Square, which sees scores alone, may ask the network about an image.",
    )
    draws = four.number_input(
        *("Encodings averaged", 1, 64, 2),
        key="draws",
        bind="query-params",
        disabled=off or not random,
        help="Expectation over the random code: each look at the network averages the scores of so many encodings.",
    )
    return taken, size, queries, _gradient(off, random, steps, draws)


def _gradient(off: bool, random: bool, steps: int, draws: int) -> Attacker:
    one, two, three, four, five = st.columns(5)
    shape = one.selectbox(
        *("Surrogate", SHAPES),
        key="surrogate",
        bind="query-params",
        disabled=off,
        help="What stands for the derivative of a spike. The network was trained with the triangle of width 1.",
    )
    adaptive = two.selectbox(
        *("Kind of width", ("fixed", "adaptive")),
        key="width_kind",
        bind="query-params",
        disabled=off,
        help="Adaptive: times the mean distance of a layer's membrane potentials from the threshold, at each timestep.",
    )
    width = three.number_input(
        *("Width", 0.0001, 1000.0, 1.0, 0.25),
        key="width",
        bind="query-params",
        disabled=off,
        format="%g",
        help="In units of the threshold θ. A tiny width hides the gradient: the sweep then says little.",
    )
    code = four.selectbox(
        *("Gradient of the rate code", GRADIENTS),
        format_func=GRADIENTS.get,
        key="code",
        bind="query-params",
        disabled=off or not random,
        help="Straight through: that of the expected spikes. Taken literally it is zero, and no gradient attack moves.",
    )
    targets = ["final", "average", *map(str, range(1, steps))] if steps > 1 else ["final"]
    target = five.selectbox(
        *("Attacked scores", targets),
        format_func=lambda name: {"final": "at T", "average": "mean of all exits"}.get(name, f"at t = {name}"),
        key="target",
        bind="query-params",
        disabled=off,
        help="Which class scores the attack is to make wrong. What is reported is always the accuracy at T.",
    )
    surrogate = Surrogate(shape, width, adaptive == "adaptive")
    return Attacker(surrogate, code != "literal", draws, int(target) if target.isdecimal() else target)


def _attacks(kinds: list[str], strengths: dict, how: tuple[int, float, int, Attacker]) -> list[Attack]:
    taken, size, queries, attacker = how
    attacks = [CLEAN]
    for kind in kinds:
        name, text, top, scale = strengths[KINDS[kind].norm]
        steps = queries if kind == "square" else taken if kind in FOLLOWING and kind not in OWN_STEPS else None
        sized = size / 255 if KINDS[kind].sized and size else None
        follows = {"attacker": attacker} if kind in FOLLOWING else {}
        attacks += [Attack(kind, strength / scale, steps, sized, **follows) for strength in numbers(name, text, top)]
    return attacks
