"""Whether robustness that was measured is real, or an attacker who was led astray by the gradient.

The checks are those of Athalye et al., arXiv 1802.00420, and Carlini et al., arXiv 1902.06705, for gradients that are
masked; a network whose robustness is real passes all of them.  Attacks are compared on the same samples, one by one: one
counts as weaker where it leaves more right by over TOLERANCE, and by more than the 95 % interval of the mean difference
(normal, paired), so that neither a few samples nor the random encodings decide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from ..attacks import CLEAN, FOLLOWING, Attack, Attacker, Victim
from ..datasets import to_unit
from ..device import device
from .evaluation import normalised

ZERO_SHARE = 0.1  # of exactly-zero gradients, above which an attacker is blind
TOLERANCE = 0.02  # of accuracy: less than this is nothing lost, or nothing gained
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
        "clean": CLEAN,
        "uniform": Attack("uniform", eps),
        "fgsm": Attack("fgsm", eps, **follow),
        "half": Attack("pgd", eps / 2, 10, **follow),
        "pgd": Attack("pgd", eps, 10, **follow),
        "long": Attack("pgd", eps, 20, **follow),
        # from the image itself: random starts of this size fool by themselves
        "full": Attack("bim", 1.0, 10, **follow),
        "square": Attack("square", eps, QUERIES, attacker=replace(attacker, draws=1)),
    }


def zero_gradients(
    attacker: Attacker, start: int, stop: int, *, model, pixels, labels, mean, std, seed
) -> pd.DataFrame:
    """sample, zero, open: of each row start … stop − 1, how many values of the gradient of the cross-entropy with respect
    to the image are exactly 0, or no number, of the `open` ones, where the expected input changes with the pixel (in the
    rate code those with |x| ≤ 2; else all).
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
    zero = (((gradient == 0) | ~gradient.isfinite()) & moves).flatten(1).sum(1)
    return pd.DataFrame(
        {"sample": rows.numpy(), "zero": zero.cpu().numpy(), "open": moves.flatten(1).sum(1).cpu().numpy()}
    )


WIDE = (
    "Take a wider surrogate, an adaptive width, the rate code's gradient straight through, and attack the scores at T."
)
UNTOUCHED = "Nothing is lost at this ε: choose a larger one."
FEW = "Too few samples to tell: take more."
Curve = Sequence[tuple[str, np.ndarray]]  # (title, answers), weakest disturbance first


def of_sweep(
    answers: Mapping[Attack, np.ndarray], eps: float, attacker: Attacker
) -> tuple[dict[str, np.ndarray], dict[str, Curve]]:
    """What a sweep has measured already of what `verdict` needs at ε: answers by name, and the curve of each attack that
    follows the network. answers: as robustness.answers, of every attack of the sweep, the clean images among them."""
    known = {name: answers[attack] for name, attack in attacks(eps, attacker).items() if attack in answers}
    clean = [("clean", answers[CLEAN])] if CLEAN in answers else []
    curves = {}
    for attack in sorted(answers, key=lambda attack: attack.strength):
        if attack.kind in FOLLOWING and attack.strength:
            curves.setdefault(attack.does.label, [*clean]).append((attack.amount, answers[attack]))
    return known, curves


def verdict(
    answers: Mapping[str, np.ndarray],
    zeros: pd.DataFrame | None,
    eps: float,
    classes: int,
    *,
    curves: Mapping[str, Curve] | None = None,
    twin: bool = True,
) -> list[Check]:
    """The checks, each with its evidence, as far as it was measured.

    answers: float [N] of `attacks(eps, …)`, by name, as many as there are: the share of encodings in which each sample is
    answered rightly, in one order of samples. "twin" is of the images that PGD at ε makes with the gradient of an
    ordinary network with the same layers, "twin itself" that network's own answers to them. zeros: as zero_gradients, or
    None. eps in [0, 1]. curves: of a sweep, as of_sweep; they are judged beside what is in `answers`. twin: False where
    there can be no such network.
    """
    checks = [
        _seen(zeros),
        _falls({**(curves or {}), **_curve(answers, eps)}, classes),
        _bounded(answers.get("full"), classes),
        _order(
            "Several steps are no weaker than one",
            answers,
            {"fgsm": "FGSM", "pgd": "PGD"},
            "The gradient points the wrong way after a step: " + WIDE[0].lower() + WIDE[1:],
        ),
        _order(
            "More steps are no weaker",
            answers,
            {"pgd": "10 steps", "long": "20 steps"},
            "Average more encodings, or take smaller steps.",
        ),
        _order(
            "The gradient beats blind search", answers, {"square": f"Square, {QUERIES} queries", "pgd": "PGD"}, WIDE
        ),
        _beats_noise(answers),
    ]
    return [*checks, _twin(answers)] if twin else checks


def _curve(answers: Mapping[str, np.ndarray], eps: float) -> dict[str, Curve]:
    titles = {"clean": "clean", "half": f"ε = {127.5 * eps:.3g}/255", "pgd": f"ε = {255 * eps:.3g}/255"}
    if not titles.keys() <= answers.keys():
        return {}
    return {"PGD, 10 steps": [(title, answers[name]) for name, title in titles.items()]}


def _seen(zeros: pd.DataFrame | None) -> Check:
    name = "The attacker sees a gradient"
    if zeros is None:
        return Check(name, None, "")
    if not zeros["open"].sum():
        return Check(name, None, "no pixel changes the expected input", "Is this the right normalisation?")
    share = float(zeros["zero"].sum() / zeros["open"].sum())
    found = f"{100 * share:.1f} % of the gradient's values are exactly zero (up to {100 * ZERO_SHARE:.0f} % passes)"
    return Check(name, share <= ZERO_SHARE, found, WIDE)


def _falls(curves: Mapping[str, Curve], classes: int) -> Check:
    """Passes while no attack leaves more right at a larger ε; what stays at guessing is not told apart."""
    name = "Accuracy does not rise with ε"
    if not curves:
        return Check(name, None, "")
    passed = {title: _descends([share for _, share in curve], 1 / classes) for title, curve in curves.items()}
    # the evidence against it first
    first = sorted(curves, key=lambda title: [False, None, True].index(passed[title]))
    found = "; ".join(f"{title}: {_listed(curves[title])}" for title in first)
    advice = "Give the attack more steps or smaller ones: it gets lost in the larger ball."
    worst = passed[first[0]]
    return Check(name, worst, found, FEW if worst is None else advice)


def _order(name: str, answers: Mapping[str, np.ndarray], titles: Mapping[str, str], advice: str) -> Check:
    """Passes while the later of these is not weaker than the earlier; cannot tell where neither took anything."""
    if not {"clean", *titles} <= answers.keys():
        return Check(name, None, "")
    found = [(title, answers[one]) for one, title in titles.items()]
    if all(_untouched(answers, one) for one in titles):
        return Check(name, None, _listed([("clean", answers["clean"]), *found]), UNTOUCHED)
    passed = _descends([share for _, share in found])
    return Check(name, passed, _listed(found), FEW if passed is None else advice)


def _descends(curve: Sequence[np.ndarray], chance: float = -1.0) -> bool | None:
    """Whether no answers are better than the worst before them, unless they are no better than chance."""
    told = []
    for place, later in enumerate(curve[1:], 1):
        if later.mean() > chance + TOLERANCE:
            told.append(_above(later, min(curve[:place], key=np.mean)))
    return None if None in told and True not in told else True not in told


def _above(more: np.ndarray, less: np.ndarray) -> bool | None:
    """Whether a sample is more often right in the first than in the second; None where these samples cannot tell."""
    difference = more - less
    if difference.mean() <= TOLERANCE:
        return False
    if len(difference) < 2:
        return None
    spread = 1.96 * difference.std(ddof=1) / np.sqrt(len(difference))
    return True if difference.mean() > spread else None


def _untouched(answers: Mapping[str, np.ndarray], name: str) -> bool:
    return answers["clean"].mean() - answers[name].mean() <= TOLERANCE


def _listed(curve: Curve) -> str:
    return ", ".join(f"{title} {100 * share.mean():.1f} %" for title, share in curve)


def _bounded(full: np.ndarray | None, classes: int) -> Check:
    """With ε = 1 any image can be made of any other: what is still right then was not attacked."""
    name = "Without bounds nothing is left"
    if full is None:
        return Check(name, None, "")
    found = f"BIM at ε = 1 leaves {100 * full.mean():.1f} % right; guessing gets {100 / classes:.1f} %"
    return Check(name, bool(full.mean() <= 1 / classes + TOLERANCE), found, WIDE)


def _beats_noise(answers: Mapping[str, np.ndarray]) -> Check:
    name, names = "The attack beats random noise of the same size", ("clean", "uniform", "pgd")
    if not set(names) <= answers.keys():
        return Check(name, None, "")
    found = _listed([("clean", answers["clean"]), ("uniform noise", answers["uniform"]), ("PGD", answers["pgd"])])
    if _untouched(answers, "pgd") and _untouched(answers, "uniform"):
        return Check(name, None, found, UNTOUCHED)
    if answers["pgd"].mean() >= answers["uniform"].mean():
        return Check(name, False, found, WIDE)
    passed = _above(answers["uniform"], answers["pgd"])
    return Check(name, passed or None, found, FEW)


def _twin(answers: Mapping[str, np.ndarray]) -> Check:
    name = "Images made on an ordinary network fool it no better"
    check = _order(
        name,
        answers,
        {"twin": "PGD images made on the ANN of the same layers", "pgd": "PGD"},
        "The direct attack misses what the ANN's gradient finds. " + WIDE,
    )
    if check.found and "twin itself" in answers and _untouched(answers, "twin itself"):
        return Check(name, None, check.found, "These images do not fool the ANN itself: it tells nothing at this ε.")
    return check


def artefact(checks: list[Check]) -> bool:
    """Whether the robustness that was measured is probably none: a check failed."""
    return any(check.passed is False for check in checks)
