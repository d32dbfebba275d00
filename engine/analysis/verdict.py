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

from ..attacks import FOLLOWING, Attack, Attacker, Victim
from ..datasets import to_unit
from ..device import device
from .evaluation import normalised

ZERO_SHARE = 0.1  # of exactly-zero gradients, above which an attacker is blind
TOLERANCE = 0.02  # of accuracy: what random encodings may turn around
QUERIES = 200


@dataclass(frozen=True)
class Check:
    """One question. passed: None where it was not measured, or what was measured cannot tell. found: the evidence, in a
    sentence; "" where nothing was measured. advice: what to try where it did not pass."""

    name: str
    passed: bool | None
    found: str
    advice: str = ""


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


WIDE = "Take a wider surrogate, an adaptive width, and the rate code's gradient straight through."
Curve = Sequence[tuple[str, float]]  # (title, accuracy 0 … 1), weakest disturbance first


def of_sweep(
    accuracy: Mapping[Attack, float], eps: float, attacker: Attacker
) -> tuple[dict[str, float], dict[str, Curve]]:
    """What a sweep has measured already of what `verdict` needs at ε: accuracies by name, and the curve of each attack
    that follows the network. accuracy: at T, 0 … 1, of every attack of the sweep, the clean images among them."""
    known = {name: accuracy[attack] for name, attack in attacks(eps, attacker).items() if attack in accuracy}
    clean = [("clean", value) for attack, value in accuracy.items() if not attack.strength]
    curves = {}
    for attack in sorted(accuracy, key=lambda attack: attack.strength):
        if attack.kind in FOLLOWING and attack.strength:
            curves.setdefault(attack.does.label, [*clean]).append((attack.amount, accuracy[attack]))
    return known, curves


def verdict(
    accuracy: Mapping[str, float],
    zeros: pd.DataFrame | None,
    eps: float,
    classes: int,
    *,
    curves: Mapping[str, Curve] | None = None,
    twin: bool = True,
) -> list[Check]:
    """The checks, each with its evidence, as far as it was measured.

    accuracy: of `attacks(eps, …)`, by name, 0 … 1, all on the same samples, as many as there are; "twin" of the images
    that PGD at ε makes with the gradient of an ordinary network with the same layers. zeros: as zero_gradients, or
    None. eps in [0, 1]. curves: of a sweep, as of_sweep; they are judged beside what is in `accuracy`. twin: False for
    an ordinary network, which needs none.
    """
    every = {**(curves or {}), **_curve(accuracy, eps)}
    checks = [
        _seen(zeros),
        _falls(every),
        _bounded(accuracy.get("full"), classes),
        _order(
            "Several steps beat one",
            accuracy,
            {"fgsm": "FGSM", "pgd": "PGD"},
            "The gradient points the wrong way after a step: " + WIDE[0].lower() + WIDE[1:],
        ),
        _order(
            "More steps are no weaker",
            accuracy,
            {"pgd": "10 steps", "long": "20 steps"},
            "Average more encodings, or take smaller steps.",
        ),
        _order(
            "The gradient beats blind search", accuracy, {"square": f"Square, {QUERIES} queries", "pgd": "PGD"}, WIDE
        ),
        _beats_noise(accuracy),
    ]
    if not twin:
        return checks
    name = "Images made on an ordinary network fool it no better"
    names = {"twin": "PGD images made on the ANN of the same layers", "pgd": "PGD"}
    return [*checks, _order(name, accuracy, names, "The direct attack misses what the ANN's gradient finds. " + WIDE)]


def _curve(accuracy: Mapping[str, float], eps: float) -> dict[str, Curve]:
    titles = {
        "clean": "clean",
        "half": f"ε = {127.5 * eps:.3g}/255",
        "pgd": f"ε = {255 * eps:.3g}/255",
        "full": "ε = 1",
    }
    if not titles.keys() <= accuracy.keys():
        return {}
    return {"PGD to ε = 1": [(title, accuracy[name]) for name, title in titles.items()]}


def _seen(zeros: pd.DataFrame | None) -> Check:
    name = "The attacker sees a gradient"
    if zeros is None:
        return Check(name, None, "")
    share = float(zeros["zero"].sum() / max(1, zeros["open"].sum()))
    found = f"{100 * share:.1f} % of the gradient's values are exactly zero (up to {100 * ZERO_SHARE:.0f} % passes)"
    return Check(name, share <= ZERO_SHARE, found, WIDE)


def _falls(curves: Mapping[str, Curve]) -> Check:
    """Passes while no attack leaves more right at a larger ε, by more than TOLERANCE."""
    name, advice = (
        "Accuracy does not rise with ε",
        "Give the attack more steps or smaller ones: it gets lost in the larger ball.",
    )
    if not curves:
        return Check(name, None, "")
    passed = {title: _descends([value for _, value in curve]) for title, curve in curves.items()}
    # the evidence against it first
    said = [f"{title}: {_listed(curves[title])}" for title in sorted(curves, key=passed.get)]
    return Check(name, all(passed.values()), "; ".join(said), advice)


def _order(name: str, accuracy: Mapping[str, float], titles: Mapping[str, str], advice: str) -> Check:
    """Passes while the later of these accuracies is not above the earlier by more than TOLERANCE."""
    if not titles.keys() <= accuracy.keys():
        return Check(name, None, "")
    found = [(title, accuracy[one]) for one, title in titles.items()]
    return Check(name, _descends([value for _, value in found]), _listed(found), advice)


def _descends(values: Sequence[float]) -> bool:
    return all(later <= min(values[:place]) + TOLERANCE for place, later in enumerate(values) if place)


def _listed(curve: Curve) -> str:
    return ", ".join(f"{title} {100 * value:.1f} %" for title, value in curve)


def _bounded(full: float | None, classes: int) -> Check:
    """With ε = 1 any image can be made of any other: what is still right then was not attacked."""
    name = "Without bounds nothing is left"
    if full is None:
        return Check(name, None, "")
    found = f"PGD at ε = 1 leaves {100 * full:.1f} % right; guessing gets {100 / classes:.1f} %"
    return Check(name, full <= 1 / classes + TOLERANCE, found, WIDE)


def _beats_noise(accuracy: Mapping[str, float]) -> Check:
    name, names = "The attack beats random noise of the same size", ("clean", "uniform", "pgd")
    if not set(names) <= accuracy.keys():
        return Check(name, None, "")
    clean, noise, pgd = (accuracy[one] for one in names)
    found = _listed([("clean", clean), ("uniform noise", noise), ("PGD", pgd)])
    if pgd >= noise and clean - pgd <= TOLERANCE:
        return Check(name, None, found, "Nothing is lost at this ε: choose a larger one.")
    return Check(name, pgd < noise, found, WIDE)


def artefact(checks: list[Check]) -> bool:
    """Whether the robustness that was measured is probably none: a check failed."""
    return any(check.passed is False for check in checks)
