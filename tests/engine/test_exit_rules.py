"""Exit rules against plain loops in Python, sample by sample and step by step, with sums in float64."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from engine.analysis import energy, exit_rules
from engine.analysis.exit_rules import RULES
from engine.snn import ModelConfig
from tests.engine.evaluations import drawn, made_up

CONFIG = ModelConfig(arch="vgg-small", steps=6, in_shape=(1, 2, 2), classes=4, layout="F3 F2")


def leaves(evaluation, rule, threshold, sample) -> int:
    """The rule in words, for one sample."""
    total = len(evaluation.predictions)
    answers = [int(evaluation.predictions[t, sample]) for t in range(total)]
    for t in range(1, total + 1):
        if rule == "fixed":
            ready = t == threshold
        elif rule == "stability":
            ready = t >= threshold and len(set(answers[t - int(threshold) : t])) == 1
        elif rule == "entropy":
            ready = float(evaluation.entropy[t - 1, sample]) <= float(np.float32(threshold))
        else:
            ready = float(getattr(evaluation, rule)[t - 1, sample]) >= float(np.float32(threshold))
        if ready:
            return t
    return total


def worked_out(evaluation, steps, costs_of) -> dict:
    """Outcome by loops. costs_of(sample, t): (spikes, energy) of one sample at one timestep."""
    correct, spikes, spent = 0, 0.0, 0.0
    for sample, step in enumerate(steps):
        correct += int(evaluation.predictions[step - 1, sample] == evaluation.labels[sample])
        for t in range(step):
            fired, used = costs_of(sample, t)
            spikes, spent = spikes + fired, spent + used
    count = len(steps)
    interval = binomtest(correct, count).proportion_ci(0.95, method="wilson")
    return {
        "samples": count,
        "correct": correct,
        "accuracy": correct / count,
        "low": interval.low,
        "high": interval.high,
        "mean_step": sum(map(int, steps)) / count,
        "spikes": spikes / count,
        "energy_nj": spent / count,
    }


def costs_of(evaluation):
    """Rate code: 0.9 pJ for each connection of each spike; layers 4→3, 3→2, 2→4."""

    def of(sample, t):
        fired = [int(evaluation.spikes[t, layer, sample]) for layer in range(3)]
        return sum(fired[1:]), 0.9e-3 * (3 * fired[0] + 2 * fired[1] + 4 * fired[2])

    return of


def some_thresholds(rule):
    return {"fixed": [1, 4, 6], "stability": [1, 2, 5, 6], "entropy": [0.0, 0.3, 0.9, 2.0]}.get(rule, [0, 0.4, 0.9, 1])


@pytest.mark.parametrize("rule", RULES)
def test_exit_steps_are_those_of_a_loop(rule):
    evaluation = drawn(0)
    for threshold in some_thresholds(rule):
        expected = [leaves(evaluation, rule, threshold, sample) for sample in range(40)]
        found = exit_rules.exit_steps(evaluation, rule, threshold)
        assert found.tolist() == expected and found.dtype == np.int64


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), rule=st.sampled_from([*RULES]), place=st.floats(0, 1))
def test_exit_steps_at_any_threshold(seed, rule, place):
    evaluation = drawn(seed, samples=5)
    threshold = 1 + round(5 * place) if rule in exit_rules.WHOLE else place * (math.log(4) if rule == "entropy" else 1)
    expected = [leaves(evaluation, rule, threshold, sample) for sample in range(5)]
    assert exit_rules.exit_steps(evaluation, rule, threshold).tolist() == expected


def test_what_is_no_number_stays_to_the_end():
    shape = (3, 2)
    lost = np.full(shape, np.nan, np.float32)
    evaluation = made_up(
        np.zeros(shape, np.int32),
        np.zeros(2, int),
        np.zeros((3, 2, 2), int),
        confidence=lost,
        margin=lost,
        entropy=lost,
    )
    for rule in ("confidence", "margin", "entropy"):
        assert exit_rules.exit_steps(evaluation, rule, 0.0).tolist() == [3, 3]
        assert np.isfinite(exit_rules.thresholds(evaluation, rule)).all()


@pytest.mark.parametrize(
    ("rule", "threshold"),
    [
        *[("fixed", value) for value in (0, 7, 2.5, math.nan, math.inf)],
        *[("stability", value) for value in (0, 7, 1.5, math.nan)],
        *[(rule, value) for rule in ("confidence", "margin") for value in (-0.1, 1.1, math.nan)],
        *[("entropy", value) for value in (-0.1, math.nan)],
        ("guess", 0.5),
    ],
)
def test_a_threshold_that_means_nothing_is_told_in_a_sentence(rule, threshold):
    with pytest.raises(ValueError, match="threshold|exit rule") as told:
        exit_rules.exit_steps(drawn(0), rule, threshold)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("rule", RULES)
def test_what_a_rule_yields_is_what_loops_sum_up(rule):
    evaluation = drawn(2)
    costs = energy.costs(CONFIG, evaluation)
    for threshold in some_thresholds(rule):
        steps = exit_rules.exit_steps(evaluation, rule, threshold)
        found = vars(exit_rules.outcome(evaluation, steps, costs))
        assert found == pytest.approx(worked_out(evaluation, steps, costs_of(evaluation)), rel=1e-12)


def test_the_histogram_counts_every_sample_once():
    evaluation = drawn(3)
    steps = exit_rules.exit_steps(evaluation, "confidence", 0.8)
    counted = {}
    for sample, step in enumerate(steps):
        place = counted.setdefault((int(evaluation.labels[sample]), int(step)), [0, 0])
        place[0] += 1
        place[1] += int(evaluation.predictions[step - 1, sample] == evaluation.labels[sample])
    table = exit_rules.histogram(evaluation, steps)
    found = {(row.label, row.step): [row.samples, row.correct] for row in table.itertuples()}
    assert found == counted and table["samples"].sum() == 40


def test_shares_count_the_exits_of_each_step():
    table = exit_rules.shares(np.array([2, 2, 4, 5, 2]), 5)
    assert table.to_dict("list") == {"step": [1, 2, 3, 4, 5], "share": [0, 3 / 5, 0, 1 / 5, 1 / 5]}


def test_mean_latency_is_that_of_each_sample_at_its_own_exit():
    timed = pd.DataFrame({"step": [1, 2, 3], "latency_ms": [0.5, 2.0, 7.0], "measured": True})
    assert exit_rules.mean_latency(np.array([3, 1, 1, 2]), timed) == (7.0 + 0.5 + 0.5 + 2.0) / 4


def test_the_fixed_step_as_good_is_the_first_that_is():
    evaluation = drawn(7)
    table = exit_rules.front(evaluation, energy.costs(CONFIG, evaluation))
    for right in (0, 10, 20, 40):
        steps = [t for t in range(1, 7) if sum(evaluation.predictions[t - 1] == evaluation.labels) >= right]
        found = exit_rules.as_good(table, right / 40)
        assert (None if found is None else found["threshold"]) == (steps[0] if steps else None)


def test_the_front_is_every_rule_at_every_threshold():
    evaluation = drawn(4)
    table = exit_rules.front(evaluation, energy.costs(CONFIG, evaluation), points=12)
    assert list(table["rule"].unique()) == list(RULES)
    for row in table.itertuples():
        steps = [leaves(evaluation, row.rule, row.threshold, sample) for sample in range(40)]
        expected = worked_out(evaluation, steps, costs_of(evaluation))
        assert {name: getattr(row, name) for name in expected} == pytest.approx(expected, rel=1e-12)
    for rule, part in table.groupby("rule"):
        assert part["threshold"].is_monotonic_increasing and part["threshold"].is_unique
        assert len(part) <= 14
        later = part["mean_step"].diff().dropna()
        assert ((later <= 0) if rule == "entropy" else (later >= 0)).all(), "a stricter threshold leaves later"
        assert part["mean_step"].min() == 1, "the curve begins at the first step"
    assert table[table["rule"] == "fixed"]["threshold"].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("rule", ["confidence", "margin", "entropy"])
def test_the_curve_has_its_points_at_even_mean_steps(rule):
    """Also where the first steps look surer than later ones, as scores that are means over time may."""
    evaluation = drawn(8, steps=20, samples=300)
    restless = np.random.default_rng(0).random(20 * 300, np.float32).reshape(20, 300)
    for found in (evaluation, type(evaluation)(**{**vars(evaluation), rule: restless})):
        found_steps = sorted(
            np.mean(exit_rules.exit_steps(found, rule, threshold))
            for threshold in exit_rules.thresholds(found, rule, 50)
        )
        assert max(np.diff(found_steps)) < 2 * 19 / 49 + 0.01


def test_long_runs_are_thinned_out_but_keep_their_ends():
    evaluation = drawn(0, steps=200, samples=2)
    assert exit_rules.thresholds(evaluation, "fixed").tolist() == list(range(1, 201)), "the earliest step is exact"
    found = exit_rules.thresholds(evaluation, "stability")
    assert len(found) == 100 and found[0] == 1 and found[-1] == 200 and (found == found.round()).all()


@settings(max_examples=80, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=2, max_size=40), st.integers(0, 100))
def test_halves_share_no_sample_and_every_class(labels, seed):
    labels = np.array(labels)
    one, other = exit_rules.halves(labels, seed)
    assert sorted([*one, *other]) == list(range(len(labels)))
    assert 0 <= len(one) - len(other) <= 1
    for label in range(4):
        assert abs((labels[one] == label).sum() - (labels[other] == label).sum()) <= 1
    again = exit_rules.halves(labels, seed)
    assert np.array_equal(one, again[0]) and np.array_equal(other, again[1])


def test_another_seed_gives_other_halves():
    labels = np.zeros(40, int)
    assert not np.array_equal(exit_rules.halves(labels, 0)[0], exit_rules.halves(labels, 1)[0])


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_the_choice_is_made_on_one_half_and_reported_on_the_other(loss):
    """Every threshold is tried by loops on the first half alone; the second is only looked at to report."""
    evaluation = drawn(5, samples=81)
    costs = energy.costs(CONFIG, evaluation)
    table = exit_rules.chosen(evaluation, costs, loss, seed=3, rule_step=4).set_index("rule")
    assert list(table.index) == ["full", *RULES, "gamma"]
    seen, kept = exit_rules.halves(evaluation.labels, 3)
    half = evaluation.select(seen)

    def share(rows, steps):
        return sum(evaluation.predictions[t - 1, n] == evaluation.labels[n] for n, t in zip(rows, steps)) / len(rows)

    allowed = share(seen, [6] * len(seen)) - loss
    for rule in RULES:
        best = None
        for threshold in exit_rules.thresholds(half, rule):
            steps = [leaves(evaluation, rule, threshold, n) for n in seen]
            found = (sum(steps) / len(steps), -share(seen, steps), threshold)
            if share(seen, steps) >= allowed - 1e-9 and (best is None or found[:2] < best[:2]):
                best = found
        assert best is not None, "this made-up network has a threshold for every rule"
        assert table.loc[rule, "threshold"] == best[2]
        assert table.loc[rule, "chosen_step"] == pytest.approx(best[0])
        assert table.loc[rule, "chosen_accuracy"] == pytest.approx(-best[1])
        steps = [leaves(evaluation, rule, best[2], n) for n in kept]
        assert table.loc[rule, "accuracy"] == pytest.approx(share(kept, steps))
        assert table.loc[rule, "mean_step"] == pytest.approx(sum(steps) / len(steps))
        assert table.loc[rule, "lost"] == pytest.approx(share(kept, [6] * len(kept)) - share(kept, steps))
    assert table.loc["full", "mean_step"] == 6 and table.loc["full", "lost"] == 0
    assert table.loc["gamma", "mean_step"] == 4 and table.loc["gamma", "threshold"] == 4
    assert (table["samples"] == len(kept)).all()


def test_other_reporting_samples_change_no_choice():
    """The labels of the reporting half are all made wrong: what was chosen stays."""
    evaluation = drawn(6, samples=60)
    costs = energy.costs(CONFIG, evaluation)
    before = exit_rules.chosen(evaluation, costs, 0.02, seed=0)
    _, kept = exit_rules.halves(evaluation.labels, 0)
    predictions = evaluation.predictions.copy()
    predictions[:, kept] = -1
    values = {**vars(evaluation), "predictions": predictions}
    after = exit_rules.chosen(type(evaluation)(**values), costs, 0.02, seed=0)
    for name in ("threshold", "chosen_accuracy", "chosen_step"):
        assert after[name].tolist() == before[name].tolist()
    assert (after["accuracy"] == 0).all()


def test_a_rule_that_always_loses_too_much_stays_to_the_end():
    """Certain from the start and wrong until the end: no threshold of these rules waits for the right answer."""
    predictions = np.zeros((3, 8), np.int32)
    predictions[2] = 1
    sure = np.ones((3, 8), np.float32)
    evaluation = made_up(
        predictions, np.ones(8, int), np.ones((3, 4, 8), int), confidence=sure, margin=sure, entropy=0 * sure
    )
    table = exit_rules.chosen(evaluation, energy.costs(CONFIG, evaluation), 0.0, seed=0).set_index("rule")
    for rule in ("confidence", "margin", "entropy"):
        assert math.isnan(table.loc[rule, "threshold"]) and table.loc[rule, "mean_step"] == 3
    assert table.loc["fixed", "threshold"] == 3 and (table["lost"] == 0).all()


@pytest.mark.parametrize("loss", [-0.1, 1.5, math.nan])
def test_a_loss_out_of_bounds_is_told(loss):
    evaluation = drawn(0)
    with pytest.raises(ValueError, match="loss"):
        exit_rules.chosen(evaluation, energy.costs(CONFIG, evaluation), loss, seed=0)


def test_too_few_samples_are_told():
    evaluation = drawn(0, samples=1)
    with pytest.raises(ValueError, match="two samples"):
        exit_rules.chosen(evaluation, energy.costs(CONFIG, evaluation), 0.0, seed=0)
    none = evaluation.select(np.array([], int))
    with pytest.raises(ValueError, match="no samples"):
        exit_rules.outcome(none, np.array([], int), energy.costs(CONFIG, none))
