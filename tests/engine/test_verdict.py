"""The verdict on a sweep: on accuracies made up for each check, and on the bundled network, whole and broken."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.stats import norm, sem

from engine import bundled, load_checkpoint
from engine.analysis import robustness, transfer, verdict
from engine.analysis.robustness import attack_rows
from engine.analysis.transfer import Target
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
    "twin itself": 0.1,
}
SEEN = pd.DataFrame({"sample": [0, 1], "zero": [0, 5], "open": [64, 60]})


def answers(accuracy, samples=200):
    """So many right answers, those of lower accuracies among them."""
    return {name: (np.arange(samples) < round(share * samples)).astype(float) for name, share in accuracy.items()}


def judged(change=(), samples=200):
    return verdict.verdict(answers(HONEST | dict(change), samples), SEEN, 8 / 255, 10)


def results(**change):
    return {check.name: check.passed for check in judged(change)}


def test_an_honest_sweep_passes_every_check():
    assert set(results().values()) == {True} and len(results()) == 8


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({"half": 0.2}, "Accuracy does not rise with ε"),
        ({"full": 0.3}, "Without bounds nothing is left"),
        ({"fgsm": 0.2}, "Several steps are no weaker than one"),
        ({"long": 0.4}, "More steps are no weaker"),
        ({"square": 0.1}, "The gradient beats blind search"),
        ({"uniform": 0.25}, "The attack beats random noise of the same size"),
        ({"twin": 0.2}, "Images made on an ordinary network fool it no better"),
    ],
)
def test_each_check_fails_alone(change, failed):
    found = results(**change)
    assert [name for name, passed in found.items() if passed is False] == [failed]
    checks = judged(change)
    assert verdict.artefact(checks)
    (check,) = (check for check in checks if check.passed is False)
    assert check.advice and f"{100 * next(iter(change.values())):.1f} %" in check.found


def test_vanished_gradients_fail():
    blind = pd.DataFrame({"sample": [0], "zero": [7], "open": [64]})
    (check,) = (check for check in verdict.verdict(answers(HONEST), blind, 8 / 255, 10) if check.passed is False)
    assert check.name == "The attacker sees a gradient" and check.found.startswith("10.9 %")


def test_no_number_is_no_gradient(digits):
    """A network whose weights are infinite."""
    model = copy.deepcopy(digits["model"])
    with torch.no_grad():
        model.fc2.weight.fill_(torch.inf)
    found = verdict.zero_gradients(Attacker(draws=1), 0, 2, **digits | {"model": model})
    assert (found["zero"] == found["open"]).all()
    closed = pd.DataFrame({"sample": [0], "zero": [0], "open": [0]})
    assert verdict.verdict({}, closed, 8 / 255, 10)[0].passed is None


@pytest.mark.parametrize(("samples", "passed"), [(6, None), (50, False)])
def test_few_samples_do_not_decide(samples, passed):
    """One more right answer of six is chance, ten of fifty are not: the interval of the paired difference, by SciPy."""
    checks = {check.name: check for check in judged({"long": 0.5}, samples)}
    check = checks["More steps are no weaker"]
    assert check.passed is passed and (check.advice == verdict.FEW) == (passed is None)
    more, less = (answers(HONEST | {"long": 0.5}, samples)[name] for name in ("long", "pgd"))
    difference = more - less
    interval = norm.interval(0.95, difference.mean(), sem(difference))
    assert (interval[0] > 0) == (passed is False)


def test_what_overshoots_below_guessing_is_no_rise():
    curve = [(title, answers({"": share})[""]) for title, share in (("clean", 1), ("8", 0.02), ("16", 0.11))]
    (check,) = (c for c in verdict.verdict({}, None, 8 / 255, 10, curves={"FGSM": curve}) if c.found)
    assert check.passed
    curve[2] = ("16", answers({"": 0.3})[""])
    assert verdict.verdict({}, None, 8 / 255, 10, curves={"FGSM": curve})[1].passed is False


def test_a_twin_that_is_not_fooled_tells_nothing():
    found = results(**{"twin itself": 0.99})
    assert found["Images made on an ordinary network fool it no better"] is None


def test_what_an_attack_does_not_touch_says_nothing():
    found = results(uniform=0.99, fgsm=0.99, half=0.99, pgd=0.99, long=0.99, square=0.99)
    assert found["The attack beats random noise of the same size"] is None
    assert found["Several steps are no weaker than one"] is found["More steps are no weaker"] is None
    assert found["The gradient beats blind search"] is None
    twin = results(pgd=0.99, twin=0.8)["Images made on an ordinary network fool it no better"]
    assert twin is False, "those fool it"


@pytest.mark.parametrize("missing", HONEST)
def test_what_was_not_measured_is_not_judged(missing):
    known = {name: share for name, share in answers(HONEST).items() if name != missing}
    checks = verdict.verdict(known, None, 8 / 255, 10)
    assert len(checks) == 8 and not verdict.artefact(checks)
    assert [check.passed for check in checks] == [True if check.found else None for check in checks]
    assert sum(not check.found for check in checks) >= 1 + (missing not in ("half", "twin itself")), (
        "the gradients, too"
    )


def test_an_ordinary_network_needs_no_twin():
    assert len(verdict.verdict(answers(HONEST), SEEN, 8 / 255, 10, twin=False)) == 7


def test_points_of_a_sweep_tell_what_they_can():
    follow = Attacker(draws=3)
    shares = {
        Attack("gaussian", 0.0): 0.9,
        Attack("gaussian", 0.3): 0.5,
        Attack("fgsm", 16 / 255, attacker=follow): 0.5,
        Attack("fgsm", 8 / 255, attacker=follow): 0.4,
        Attack("pgd", 8 / 255, attacker=follow): 0.3,
        Attack("pgd", 16 / 255, 5, attacker=follow): 0.2,
        Attack("uniform", 8 / 255): 0.85,
    }
    known, curves = verdict.of_sweep(answers(shares), 8 / 255, follow)
    assert {name: share.mean() for name, share in known.items()} == pytest.approx(
        {"clean": 0.9, "uniform": 0.85, "fgsm": 0.4, "pgd": 0.3}
    )
    titles = {name: [title for title, _ in curve] for name, curve in curves.items()}
    assert titles == {name: ["clean", "ε = 8/255", "ε = 16/255"] for name in ("FGSM", "PGD")}
    found = {check.name: check for check in verdict.verdict(known, None, 8 / 255, 10, curves=curves)}
    rising = found["Accuracy does not rise with ε"]
    assert rising.passed is False and rising.found.startswith("FGSM: clean 90.0 %, ε = 8/255 40.0 %, ε = 16/255 50.0 %")
    assert (
        found["Several steps are no weaker than one"].passed and found["Without bounds nothing is left"].passed is None
    )
    other, _ = verdict.of_sweep(answers(shares), 8 / 255, Attacker())
    assert set(other) == {"clean", "uniform"}, "other gradients tell nothing about this one"


@pytest.fixture(scope="module")
def digits():
    checkpoint = load_checkpoint(bundled.path("digits"))
    pixels, labels = get("digits").load("test")
    shared = {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}
    return {"model": checkpoint.model, **shared}


def checked(digits, attacker, samples=16, eps=40 / 255, model="digits", encodings=1):
    """Name → passed, of what could be told about a bundled network."""
    checkpoint, twin = (load_checkpoint(bundled.path(name)) for name in (model, "digits-ann"))
    own = digits | {"model": checkpoint.model, "mean": checkpoint.mean, "std": checkpoint.std}
    found = {
        name: robustness.answers(attack_rows(attack, 0, samples, encodings=encodings, **own), encodings)
        for name, attack in verdict.attacks(eps, attacker).items()
    }
    targets = [Target(c.model, c.mean, c.std, n) for c, n in ((checkpoint, encodings), (twin, 1))]
    attack = verdict.attacks(eps, attacker)["pgd"]
    shown = transfer.transfer_rows(attack, 0, samples, targets=targets, **digits | {"model": twin.model})
    found |= {"twin": transfer.answers(shown, 0), "twin itself": transfer.answers(shown, 1)}
    zeros = verdict.zero_gradients(attacker, 0, samples, **own)
    return {check.name: check.passed for check in verdict.verdict(found, zeros, eps, 10)}


def test_the_bundled_network_passes(digits):
    assert set(checked(digits, Attacker(draws=1)).values()) == {True}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    "name", ["digits", "digits-tdbn", "digits-bn", "digits-none", "digits-converted", "digits-ann"]
)
def test_every_baseline_passes(name, digits):
    """With the default attacker, where the attack takes something from all of them."""
    random = load_checkpoint(bundled.path(name)).config.random_input
    found = checked(digits, Attacker(), 50, 24 / 255, name, 3 if random else 1)
    assert set(found.values()) == {True}, found


@pytest.mark.parametrize(
    "attacker",
    [Attacker(straight_through=False, draws=1), Attacker(Surrogate(width=0.001), draws=1)],
    ids=["literal", "tiny width"],
)
def test_a_broken_attacker_is_found_out(attacker, digits):
    found = checked(digits, attacker, 24, 64 / 255)
    assert {name for name, passed in found.items() if passed is False} == {
        "The attacker sees a gradient",
        "Without bounds nothing is left",
        "The gradient beats blind search",
        "The attack beats random noise of the same size",
        "Images made on an ordinary network fool it no better",
    }


def test_a_gradient_smoothed_away_is_found_out(digits):
    """A surrogate thirty thresholds wide is nearly constant: one long step fools more than ten."""
    found = checked(digits, Attacker(Surrogate(width=30.0), draws=1), 32, 48 / 255)
    assert found["Several steps are no weaker than one"] is False and found["The attacker sees a gradient"]


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
