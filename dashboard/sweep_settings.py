"""The controls that say what a robustness sweep does; the pages that have them share what was chosen."""

from __future__ import annotations

import re

import streamlit as st

from engine.analysis.robustness import ATTACKS, Attack


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


def settings(available: int, about: str) -> tuple[list[Attack], int, int]:
    """The sweep a person asks for: attacks (clean first), samples, seed. Raises ValueError with one sentence.

    available: how many test samples there are. about: what the number of samples says, in a sentence.
    """
    kinds = st.pills(
        "Disturb the image by",
        list(ATTACKS),
        default=list(ATTACKS)[:2],
        selection_mode="multi",
        format_func=ATTACKS.get,
        key="attacks",
        bind="query-params",
        help="FGSM (fast gradient sign method) takes one step along the gradient's sign, PGD (projected gradient descent) several small ones; both see through the random coding.",
    )
    *columns, five, six = st.columns([3, 3, 2, 2, 2, 2])
    strengths = _strengths(columns, kinds)
    samples = five.number_input(
        "Samples", 1, available, min(100, available), 50, key="samples", bind="query-params", help=about
    )
    seed = six.number_input(
        "Seed", 0, 10**6, 0, key="seed", bind="query-params", help="Of the noise, the attacks and the input spikes."
    )
    return _attacks(kinds, *strengths), samples, seed


def _strengths(columns: list, kinds: list[str]) -> tuple[str, str, int, float]:
    """What stands in the fields: σ, ε, steps of PGD and their size; fields that no chosen attack needs are grey."""
    one, two, three, four = columns
    sigmas = one.text_input(
        "Gaussian σ",
        "0.1, 0.2, 0.3, 0.4",
        key="sigma",
        bind="query-params",
        disabled="gaussian" not in kinds,
        help="Standard deviation of the noise; pixels run from 0 to 1.",
    )
    epsilons = two.text_input(
        "ε in 1/255",
        "2, 4, 8, 16",
        key="epsilon",
        bind="query-params",
        disabled=not {"fgsm", "pgd"} & set(kinds),
        help="Largest change of any pixel, in steps of 1/255.",
    )
    off = "pgd" not in kinds
    steps = three.number_input("PGD steps", 1, 200, 10, key="pgd_steps", bind="query-params", disabled=off)
    size = four.number_input(
        "PGD step in 1/255",
        0.0,
        255.0,
        0.0,
        0.5,
        key="pgd_size",
        bind="query-params",
        disabled=off,
        help="0 chooses 2.5·ε/steps.",
    )
    return sigmas, epsilons, steps, size


def _attacks(kinds: list[str], sigmas: str, epsilons: str, steps: int, size: float) -> list[Attack]:
    attacks = [Attack("gaussian", 0.0)]
    if "gaussian" in kinds:
        attacks += [Attack("gaussian", sigma) for sigma in numbers("Gaussian σ", sigmas, 10)]
    for kind in ("fgsm", "pgd"):
        if kind in kinds:
            attacks += [
                Attack(kind, eps / 255, steps, size / 255 or None) if kind == "pgd" else Attack(kind, eps / 255)
                for eps in numbers("ε", epsilons, 255)
            ]
    return attacks
