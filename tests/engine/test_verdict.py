"""The verdict on a sweep: on accuracies made up for each check, and on the bundled network, whole and broken."""

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

from engine import bundled, load_checkpoint
from engine.analysis import verdict
from engine.analysis.robustness import attack_rows
from engine.attacks import Attack, Attacker
from engine.datasets import get
from engine.snn import Surrogate
from engine.snn.encoding import sample_keys

HONEST = {
    "clean": 0.99,
    "uniform": 0.98,
    "fgsm": 0.5,
    "half": 0.7,
    "pgd": 0.3,
    "long": 0.29,
    "full": 0.0,
    "square": 0.9,
    "twin": 0.8,
}
SEEN = pd.DataFrame({"sample": [0, 1], "zero": [0, 5], "open": [64, 60]})


def results(**change):
    checks = verdict.verdict(HONEST | change, SEEN, 8 / 255, 10)
    return {check.name: check.passed for check in checks}


def test_an_honest_sweep_passes_every_check():
    assert set(results().values()) == {True} and len(results()) == 8


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"half": 0.2}, "Accuracy does not rise with ε"),
        ({"full": 0.3}, "Without bounds nothing is left"),
        ({"fgsm": 0.2}, "Several steps beat one"),
        ({"long": 0.4}, "More steps are no weaker"),
        ({"square": 0.1}, "The gradient beats blind search"),
        ({"uniform": 0.25}, "The attack beats random noise of the same size"),
        ({"twin": 0.2}, "Images made on an ordinary network fool it no better"),
    ],
)
def test_each_check_fails_alone(change, failed):
    found = results(**change)
    assert [name for name, passed in found.items() if passed is False] == [failed]
    checks = verdict.verdict(HONEST | change, SEEN, 8 / 255, 10)
    assert verdict.artefact(checks)
    (check,) = (check for check in checks if check.passed is False)
    assert check.advice and f"{100 * next(iter(change.values())):.1f} %" in check.found


def test_vanished_gradients_fail():
    blind = pd.DataFrame({"sample": [0], "zero": [7], "open": [64]})
    (check,) = (check for check in verdict.verdict(HONEST, blind, 8 / 255, 10) if check.passed is False)
    assert check.name == "The attacker sees a gradient" and check.found.startswith("10.9 %")


def test_what_an_attack_does_not_touch_says_nothing():
    found = results(uniform=0.99, fgsm=0.99, half=0.99, pgd=0.99, long=0.99, square=0.99)
    assert found["The attack beats random noise of the same size"] is None


@pytest.mark.parametrize("missing", HONEST)
def test_what_was_not_measured_is_not_judged(missing):
    known = {name: value for name, value in HONEST.items() if name != missing}
    checks = verdict.verdict(known, None, 8 / 255, 10)
    assert len(checks) == 8 and not verdict.artefact(checks)
    assert [check.passed for check in checks] == [True if check.found else None for check in checks]
    assert sum(not check.found for check in checks) >= 2, "the gradients, and what needs the missing accuracy"


def test_an_ordinary_network_needs_no_twin():
    assert len(verdict.verdict(HONEST, SEEN, 8 / 255, 10, twin=False)) == 7


def test_points_of_a_sweep_tell_what_they_can():
    follow = Attacker(draws=3)
    swept = {
        Attack("gaussian", 0.0): 0.9,
        Attack("gaussian", 0.3): 0.5,
        Attack("fgsm", 16 / 255, attacker=follow): 0.5,
        Attack("fgsm", 8 / 255, attacker=follow): 0.4,
        Attack("pgd", 8 / 255, 10, attacker=follow): 0.3,
        Attack("pgd", 16 / 255, 5, attacker=follow): 0.2,
        Attack("uniform", 8 / 255): 0.85,
    }
    known, curves = verdict.of_sweep(swept, 8 / 255, follow)
    assert known == {"clean": 0.9, "uniform": 0.85, "fgsm": 0.4, "pgd": 0.3}
    assert curves == {
        "FGSM": [("clean", 0.9), ("ε = 8/255", 0.4), ("ε = 16/255", 0.5)],
        "PGD": [("clean", 0.9), ("ε = 8/255", 0.3), ("ε = 16/255", 0.2)],
    }
    found = {check.name: check for check in verdict.verdict(known, None, 8 / 255, 10, curves=curves)}
    rising = found["Accuracy does not rise with ε"]
    assert rising.passed is False and rising.found.startswith("FGSM: clean 90.0 %, ε = 8/255 40.0 %, ε = 16/255 50.0 %")
    assert found["Several steps beat one"].passed and found["Without bounds nothing is left"].passed is None
    other = verdict.of_sweep(swept, 8 / 255, Attacker())
    assert other[0] == {"clean": 0.9, "uniform": 0.85}, "other gradients tell nothing about this one"


@pytest.fixture(scope="module")
def digits():
    checkpoint = load_checkpoint(bundled.path("digits"))
    pixels, labels = get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    return {"model": checkpoint.model, **shared}


def checked(digits, attacker, samples=16, eps=40 / 255):
    accuracy = {
        name: attack_rows(attack, 0, samples, **digits).accuracy()["accuracy"].iloc[-1]
        for name, attack in verdict.attacks(eps, attacker).items()
    }
    zeros = verdict.zero_gradients(attacker, 0, samples, **digits)
    checks = verdict.verdict(accuracy, zeros, eps, 10)
    return {check.name: check.passed for check in checks if check.found}


def test_the_bundled_network_passes(digits):
    assert set(checked(digits, Attacker(draws=1)).values()) == {True}


@pytest.mark.parametrize(
    ("attacker", "failing"),
    [
        (
            Attacker(straight_through=False, draws=1),
            {"The attacker sees a gradient", "The gradient beats blind search"},
        ),
        (
            Attacker(Surrogate(width=0.001), draws=1),
            {"The attacker sees a gradient", "The gradient beats blind search"},
        ),
    ],
    ids=["literal", "tiny width"],
)
def test_a_broken_attacker_is_found_out(attacker, failing, digits):
    found = checked(digits, attacker)
    assert failing <= {name for name, passed in found.items() if passed is False}


def test_zero_gradients_are_counted(digits):
    """Against a gradient taken here by hand, and pixels beyond |x| = 2 left out one at a time."""
    width = Attacker(Surrogate(width=0.001), draws=1)
    found = verdict.zero_gradients(width, 2, 6, **digits)
    assert found["sample"].tolist() == [2, 3, 4, 5]
    x = (digits["pixels"][2:6].float() / 255).requires_grad_()
    model = digits["model"]
    model.surrogate = width.surrogate
    try:
        shown = (x - digits["mean"][0]) / digits["std"][0]
        scores = model(shown, seed=(1 << 20) + 1, samples=sample_keys(x))
        (gradient,) = torch.autograd.grad(F.cross_entropy(scores, digits["labels"][2:6], reduction="sum"), x)
    finally:
        model.surrogate = Surrogate()
    for row, told in zip(range(4), found.itertuples()):
        values = list(zip(shown[row].flatten().tolist(), gradient[row].flatten().tolist()))
        assert told.open == sum(abs(value) <= 2 for value, _ in values)
        assert told.zero == sum(abs(value) <= 2 and slope == 0 for value, slope in values)
    literal = verdict.zero_gradients(Attacker(straight_through=False), 0, 3, **digits)
    assert (literal["zero"] == literal["open"]).all() and (literal["open"] > 0).all()
