"""Whether robustness that was measured is real, or an attacker who was led astray by the gradient.

The checks are those of Athalye et al., arXiv 1802.00420, and Carlini et al., arXiv 1902.06705, for gradients that are
masked; a network whose robustness is real passes all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
import torch.nn.functional as F

from ..attacks import Attack, Attacker, Victim
from ..datasets import to_unit
from ..device import device
from .evaluation import normalised

ZERO_SHARE = 0.1  # of exactly-zero gradients, above which an attacker is blind
TOLERANCE = 0.02  # of accuracy: what random encodings may turn around
QUERIES = 200


@dataclass(frozen=True)
class Check:
    """One question. passed: None where what was measured cannot tell. found: the evidence, in a sentence. advice: what to
    try where it failed."""

    name: str
    passed: bool | None
    found: str
    advice: str


def attacks(eps: float, attacker: Attacker) -> dict[str, Attack]:
    """What `verdict` needs to be measured at ε, by name."""
    follow = {"attacker": attacker}
    return {
        "clean": Attack("gaussian", 0.0),
        "uniform": Attack("uniform", eps),
        "fgsm": Attack("fgsm", eps, **follow),
        "half": Attack("pgd", eps / 2, 10, **follow),
        "pgd": Attack("pgd", eps, 10, **follow),
        "long": Attack("pgd", eps, 20, **follow),
        "full": Attack("pgd", 1.0, 10, **follow),
        "square": Attack("square", eps, QUERIES, attacker=replace(attacker, draws=1)),
    }


def zero_gradients(
    attacker: Attacker, start: int, stop: int, *, model, pixels, labels, mean, std, seed
) -> pd.DataFrame:
    """sample, zero, open: of each row start … stop − 1, how many values of the gradient of the cross-entropy with respect
    to the image are exactly 0, of the `open` ones, where the expected input changes with the pixel (in the rate code those
    with |x| ≤ 2; else all).
    """
    rows = torch.arange(start, stop)
    unit = to_unit(pixels[rows]).to(device())
    flat = (unit.flatten(1, 2) if unit.dim() == 5 else unit).requires_grad_()
    victim = Victim(model, mean, std, attacker, seed)
    with torch.enable_grad():
        loss = F.cross_entropy(victim(flat), labels[rows].to(device()), reduction="sum")
        (gradient,) = torch.autograd.grad(loss, flat)
    moves = torch.ones_like(flat, dtype=torch.bool)
    if victim.random:
        moves = normalised(flat.detach(), mean, std).abs() <= 2.0
    zero = ((gradient == 0) & moves).flatten(1).sum(1)
    return pd.DataFrame(
        {"sample": rows.numpy(), "zero": zero.cpu().numpy(), "open": moves.flatten(1).sum(1).cpu().numpy()}
    )


def verdict(accuracy: Mapping[str, float], zeros: pd.DataFrame, eps: float, classes: int) -> list[Check]:
    """The checks, each with its evidence.

    accuracy: of `attacks(eps, …)`, by name, 0 … 1, all on the same samples. zeros: as zero_gradients. eps in [0, 1].
    """
    wide = "Take a wider surrogate, an adaptive width, and the rate code's gradient straight through."
    return [
        _seen(zeros, wide),
        _order(
            "Accuracy does not rise with ε",
            [
                ("clean", accuracy["clean"]),
                (f"ε = {127.5 * eps:.3g}/255", accuracy["half"]),
                (f"ε = {255 * eps:.3g}/255", accuracy["pgd"]),
                ("ε = 1", accuracy["full"]),
            ],
            "Give the attack more steps or smaller ones: it gets lost in the larger ball.",
        ),
        _bounded(accuracy["full"], classes, wide),
        _order(
            "Several steps beat one",
            [("FGSM", accuracy["fgsm"]), ("PGD", accuracy["pgd"])],
            "The gradient points the wrong way after a step: " + wide[0].lower() + wide[1:],
        ),
        _order(
            "More steps are no weaker",
            [("10 steps", accuracy["pgd"]), ("20 steps", accuracy["long"])],
            "Average more encodings, or take smaller steps.",
        ),
        _order(
            "The gradient beats blind search",
            [(f"Square, {QUERIES} queries", accuracy["square"]), ("PGD", accuracy["pgd"])],
            wide,
        ),
        _beats_noise(accuracy, wide),
    ]


def _seen(zeros: pd.DataFrame, advice: str) -> Check:
    share = float(zeros["zero"].sum() / max(1, zeros["open"].sum()))
    found = f"{100 * share:.1f} % of the gradient's values are exactly zero (up to {100 * ZERO_SHARE:.0f} % passes)"
    return Check("The attacker sees a gradient", share <= ZERO_SHARE, found, advice)


def _order(name: str, accuracy: Sequence[tuple[str, float]], advice: str) -> Check:
    """Passes while no accuracy is above one before it by more than TOLERANCE. accuracy: (title, share)."""
    values = [value for _, value in accuracy]
    passed = all(later <= min(values[:place]) + TOLERANCE for place, later in enumerate(values) if place)
    found = ", ".join(f"{title}: {100 * value:.1f} %" for title, value in accuracy)
    return Check(name, passed, found, advice)


def _bounded(full: float, classes: int, advice: str) -> Check:
    """With ε = 1 any image can be made of any other: what is still right then was not attacked."""
    found = f"PGD at ε = 1 leaves {100 * full:.1f} % right; guessing gets {100 / classes:.1f} %"
    return Check("Without bounds nothing is left", full <= 1 / classes + TOLERANCE, found, advice)


def _beats_noise(accuracy: Mapping[str, float], advice: str) -> Check:
    clean, noise, pgd = (accuracy[name] for name in ("clean", "uniform", "pgd"))
    found = f"uniform noise: {100 * noise:.1f} %, PGD: {100 * pgd:.1f} %, clean: {100 * clean:.1f} %"
    name = "The attack beats random noise of the same size"
    if pgd >= noise and clean - pgd <= TOLERANCE:
        return Check(name, None, found, "Nothing is lost at this ε: choose a larger one.")
    return Check(name, pgd < noise, found, advice)


def artefact(checks: list[Check]) -> bool:
    """Whether the robustness that was measured is probably none: a check failed."""
    return any(check.passed is False for check in checks)
