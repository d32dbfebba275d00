"""Early exit under AppTest: each number is worked out again in plain Python from the engine's evaluation."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from dashboard import show, work
from engine import ModelConfig, build_model, save_checkpoint
from engine.analysis import exit_rules, gamma
from engine.analysis.robustness import Attack, attack_rows
from engine.datasets import fit, get
from tests.dashboard.apps import assert_drawn, figure, finished, healthy, said
from tests.dashboard.test_pages import (
    checkpoint_of,
    control,
    evaluated,
    metrics,
    opened,
    runs,  # noqa: F401  the fixture, for this module
    turned,
)


@pytest.fixture
def digits(runs):  # noqa: F811
    return checkpoint_of("bundled/digits", runs)


def metric(app, label) -> str:
    (found,) = [one.value for one in app.metric if one.label == label]
    return found


def leaves(evaluation, rule, threshold) -> list[int]:
    """The exit step of each sample, by the rule in words."""
    total, samples = evaluation.predictions.shape
    steps = []
    for n in range(samples):
        answers = [int(evaluation.predictions[t, n]) for t in range(total)]
        ready = {
            "confidence": lambda t: evaluation.confidence[t, n] >= threshold,
            "margin": lambda t: evaluation.margin[t, n] >= threshold,
            "entropy": lambda t: evaluation.entropy[t, n] <= threshold,
            "stability": lambda t: t + 1 >= threshold and len(set(answers[t + 1 - threshold : t + 1])) == 1,
        }[rule]
        steps.append(next((t + 1 for t in range(total) if ready(t)), total))
    return steps


def right(evaluation, steps) -> float:
    return sum(int(evaluation.predictions[t - 1, n] == evaluation.labels[n]) for n, t in enumerate(steps)) / len(steps)


def energy_nj(config, evaluation, steps, mac=4.6, ac=0.9) -> float:
    """Mean over the samples; the neurons that feed a layer are those of the layer before."""
    shown = {"rows": config.in_shape[2], "pixels": 1}.get(config.encoding, math.prod(config.in_shape))
    feeding = [shown, *(spec.neurons for spec in config.hidden_layers())]
    spent = 0.0
    for n, step in enumerate(steps):
        for place, spec in enumerate(config.layers()):
            fired = int(evaluation.spikes[:step, place, n].sum())
            real = config.kind == "ann" or (place == 0 and config.encoding in ("direct", "rows", "pixels"))
            spent += spec.macs * (mac * step if real else ac * fired / feeding[place]) / 1000
    return spent / len(steps)


@pytest.mark.parametrize(
    ("rule", "threshold"), [("confidence", 0.9), ("margin", 0.35), ("entropy", 1.2), ("stability", 4)]
)
def test_each_rule_tells_what_a_loop_finds(digits, rule, threshold):
    app = finished(opened("early_exit", "bundled/digits"))
    app.button_group(key="exit_rule").set_value(rule).run()
    control(app, "slider", f"exit_{rule}").set_value(threshold).run()
    healthy(app)
    evaluation = evaluated(digits)
    steps = leaves(evaluation, rule, threshold)
    assert metric(app, "Right when ready") == show.share(right(evaluation, steps))
    assert metric(app, "Mean exit step") == f"{np.mean(steps):.2f}"
    fired = np.mean([evaluation.spikes[:t, 1:, n].sum() for n, t in enumerate(steps)])
    assert metric(app, "Mean spikes") == show.amount(fired)
    assert metric(app, "Mean energy") == show.energy(energy_nj(digits.config, evaluation, steps))
    (timed,) = [job.results[0] for job in work.jobs().all() if "latency" in job.title and len(job.results[0]) == 25]
    waits = dict(zip(timed["step"], timed["latency_ms"]))
    assert metric(app, "Mean latency") == f"{np.mean([waits[t] for t in steps]):.2f} ms"
    sevens = [sum(evaluation.labels[n] == 7 and steps[n] == t for n in range(399)) for t in range(1, 26)]
    assert_drawn(app, "exit_histogram", sevens)
    fixed = [t for t in range(1, 26) if right(evaluation, [t] * 399) >= right(evaluation, steps)]
    assert (f"**t = {fixed[0]}** at the earliest" if fixed else "No fixed step") in said(app)


def test_a_link_opens_with_rule_and_threshold(digits):
    app = finished(opened("early_exit", "bundled/digits", exit_rule="Margin", exit_margin="0.4"))
    evaluation = evaluated(digits)
    assert metric(app, "Mean exit step") == f"{np.mean(leaves(evaluation, 'margin', 0.4)):.2f}"


@pytest.mark.parametrize(
    ("cost", "title"), [("mean_step", "Mean steps"), ("spikes", "Spikes"), ("energy_nj", "Energy")]
)
def test_the_front_shows_every_rule_the_gamma_rule_and_the_choice(digits, cost, title):
    app = finished(opened("early_exit", "bundled/digits", front=title))
    evaluation, step = evaluated(digits), gamma.exit_rule(digits)
    names = [trace["name"] for trace in figure(app, "exit_front")["data"]]
    assert names == ["fixed step", "confidence", "margin", "entropy", "stability", f"γ rule, t = {step}", "your choice"]
    marks = {trace["name"]: trace for trace in figure(app, "exit_front")["data"][-2:]}
    for name, steps in ((names[-2], [step] * 399), (names[-1], leaves(evaluation, "confidence", 0.9))):
        place = {
            "mean_step": np.mean(steps),
            "spikes": np.mean([evaluation.spikes[:t, 1:, n].sum() for n, t in enumerate(steps)]),
            "energy_nj": energy_nj(digits.config, evaluation, steps) / 1000,
        }[cost]
        assert marks[name]["x"] == pytest.approx([place])
        assert marks[name]["y"] == pytest.approx([100 * right(evaluation, steps)])
    accuracies = [100 * right(evaluation, [t] * 399) for t in range(1, 26)]
    assert_drawn(app, "exit_front", sorted(accuracies) if accuracies == sorted(accuracies) else accuracies)


def test_the_threshold_of_the_gamma_rule_is_shared_with_the_gamma_page(digits):
    app = finished(opened("gamma", "bundled/digits"))
    app.slider(key="threshold_gamma").set_value(0.4).run()
    turned(app, "early_exit")
    finished(app)
    assert app.slider(key="threshold_gamma").value == 0.4
    rule = gamma.exit_rule(digits, 0.4)
    assert rule != gamma.exit_rule(digits), "or this would show nothing"
    assert f"leaves at **t = {rule}**, where mean γ is below 0.4" in said(app)
    app.slider(key="threshold_gamma").set_value(0.0).run()
    assert "never falls below 0 in every layer" in said(healthy(app))
    assert "γ rule" not in str([trace["name"] for trace in figure(app, "exit_front")["data"]])
    linked = finished(opened("early_exit", "bundled/digits", threshold_gamma="0.4"))
    assert f"leaves at **t = {rule}**" in said(linked)
    assert f"γ rule, t = {rule}" in str(figure(linked, "exit_front")["data"][-2]["name"])


def test_other_constants_count_everywhere(digits):
    app = finished(opened("early_exit", "bundled/digits"))
    ran = len(work.jobs().all())
    app.selectbox(key="technology").select("7 nm, 32-bit float").run()
    evaluation, config = evaluated(digits), digits.config
    exit_at = [gamma.exit_rule(digits)] * 399
    ready = leaves(evaluation, "confidence", 0.9)
    assert metric(app, "Energy a sample") == show.energy(energy_nj(config, evaluation, exit_at, 1.69, 0.38))
    assert metric(app, "Mean energy") == show.energy(energy_nj(config, evaluation, ready, 1.69, 0.38))
    app.number_input(key="ac_7nm32bitfloat").set_value(0.5).run()
    assert metric(app, "Energy a sample") == show.energy(energy_nj(config, evaluation, exit_at, 1.69, 0.5))
    twin = 1.69 * sum(spec.macs for spec in config.layers()) / 1000
    assert f"**{show.energy(twin)}**" in said(app) and "**0.5 pJ** × connections" in said(app)
    assert len(work.jobs().all()) == ran, "nothing is run again"


def test_multiplications_are_counted_where_the_image_is_the_current(runs):  # noqa: F811
    app = finished(opened("early_exit", "runs/direct", technology="45 nm, 8-bit integer"))
    checkpoint = checkpoint_of("runs/direct", runs)
    evaluation = evaluated(checkpoint)
    spent = energy_nj(checkpoint.config, evaluation, [5] * 399, 0.23, 0.03)
    assert metric(app, "Energy a sample") == show.energy(spent)
    assert "first layer gets real numbers" in said(app)
    by_step = [trace for trace in figure(app, "energy_steps")["data"] if trace["name"] == "conv1"]
    assert len(by_step) == 1
    assert_drawn(app, "energy_steps", [0.23 * checkpoint.config.layers()[0].macs / 1000] * 5)


OTHERS = {
    "ann": (dict(encoding="direct", kind="ann", norm="bn", steps=1), "in one pass"),
    "converted": (dict(encoding="direct", kind="converted", norm="folded", steps=4), "first layer gets real numbers"),
    "rows": (dict(encoding="rows", arch="mlp", layout="F8 F4", steps=16), "same layers, for each row"),
    "pixels": (dict(encoding="pixels", arch="mlp", layout="F4", steps=256), "same layers, for each pixel"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_networks_of_every_kind_pay_what_is_counted_by_hand(name, runs):  # noqa: F811
    values, told = OTHERS[name]
    torch.manual_seed(0)
    model = build_model(ModelConfig(**{"arch": "vgg-small", "in_shape": (1, 16, 16), "layout": "C4 P F8", **values}))
    mean, std = get("digits").moments(1)
    save_checkpoint(runs / f"kind-{name}" / "model.safetensors", model, dataset="digits", mean=mean, std=std)
    app = finished(opened("early_exit", f"runs/kind-{name}"))
    checkpoint = checkpoint_of(f"runs/kind-{name}", runs)
    evaluation = evaluated(checkpoint)
    last = checkpoint.config.steps
    spent = energy_nj(checkpoint.config, evaluation, [last] * 399)
    assert metric(app, "Energy a sample") == show.energy(spent) and told in said(app)
    if last > 1:
        steps = leaves(evaluation, "confidence", 0.9)
        assert metric(app, "Mean energy") == show.energy(energy_nj(checkpoint.config, evaluation, steps))
        assert metric(app, "Mean exit step") == f"{np.mean(steps):.2f}"
    assert not app.error


@pytest.mark.parametrize("value", [0.0, -3.0, 2e6])
def test_a_constant_out_of_bounds_is_told_and_does_not_count(value):
    app = finished(opened("early_exit"))
    before = metrics(app)[:3]
    app.number_input(key="mac_45nm32bitfloat").set_value(value).run()
    assert "Multiply-accumulate (pJ) must be from 0.0001 to 100,000" in app.error[0].value
    assert metrics(healthy(app))[:3] == before


def test_the_table_is_what_the_other_half_reports(digits):
    app = finished(opened("early_exit", "bundled/digits", loss="3"))
    evaluation = evaluated(digits)
    seen, kept = exit_rules.halves(evaluation.labels, 0)
    (table,) = [one.value for one in app.main.dataframe if "Rule" in one.value]
    table = table.set_index("Rule")
    assert list(table.index)[:2] == ["stay to T", "fixed step"]

    def share(rows, steps):
        return np.mean([evaluation.predictions[t - 1, n] == evaluation.labels[n] for n, t in zip(rows, steps)])

    step = next(t for t in range(1, 26) if share(seen, [t] * 400) >= share(seen, [25] * 400) - 0.03)
    assert table.loc["fixed step", "Threshold"] == f"t = {step}"
    assert table.loc["fixed step", "Accuracy (95 % interval)"].startswith(show.share(share(kept, [step] * 400)) + " (")
    threshold = float(table.loc["confidence", "Threshold"].removeprefix("≥ "))
    steps = leaves(evaluation.select(kept), "confidence", threshold - 5e-5)
    assert float(table.loc["confidence", "Mean exit step"]) == pytest.approx(np.mean(steps), abs=0.02)
    assert "**3** points" in said(app) and f"{len(seen)} samples chose" in said(app)
    app.number_input(key="loss").set_value(101.0).run()
    assert "Accuracy that may be lost (points) must be from 0 to 100" in healthy(app).error[0].value


def test_a_disturbance_is_run_when_asked_and_compared(digits):
    app = finished(opened("early_exit", "bundled/digits", exit_disturbance="FGSM"))
    assert not [one for one in app.metric if "disturbed" in one.label], "nothing is run unasked"
    app.number_input(key="exit_strength_fgsm").set_value(16.0).run()
    app.number_input(key="exit_samples").set_value(20).run()
    app.button(key="run_disturbed").click().run()
    finished(app)
    pixels, labels = get("digits").load("test")
    shared = {"pixels": fit(pixels, digits.config.in_shape), "labels": labels}
    shared |= {"model": digits.model, "mean": digits.mean, "std": digits.std, "seed": work.SEED}
    told = {}
    for name, attack in (("clean", Attack("gaussian", 0.0)), ("hit", Attack("fgsm", 16 / 255))):
        evaluation = attack_rows(attack, 0, 20, **shared)
        steps = leaves(evaluation, "confidence", 0.9)
        told[name] = (right(evaluation, steps), np.mean(steps), energy_nj(digits.config, evaluation, steps))
        assert_drawn(app, "exit_disturbed", [100 * steps.count(t) / 20 for t in range(1, 26)])
        for share in (right(evaluation, steps), right(evaluation, [25] * 20)):
            interval = binomtest(round(20 * share), 20).proportion_ci(method="wilson")
            assert f"{show.share(share)} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" in said(app)
    assert metric(app, "Right, disturbed") == show.share(told["hit"][0])
    assert metric(app, "Mean exit step, disturbed") == f"{told['hit'][1]:.2f}"
    assert metric(app, "Mean energy, disturbed") == show.energy(told["hit"][2])
    deltas = {one.label: one.delta for one in app.metric}
    assert f"clean {show.share(told['clean'][0])}" in deltas["Right, disturbed"]
    assert f"clean {told['clean'][1]:.2f}" in deltas["Mean exit step, disturbed"]


@pytest.mark.parametrize(
    ("key", "value"), [("exit_strength_gaussian", 0.0), ("exit_samples", 400), ("exit_samples", 0)]
)
def test_a_disturbance_out_of_bounds_is_told(key, value):
    app = finished(opened("early_exit"))
    app.number_input(key=key).set_value(value).run()
    (told,) = [error.value for error in healthy(app).error]
    assert "must be from" in told and "\n" not in told
    assert not [button for button in app.button if button.key == "run_disturbed"]


def test_a_single_timestep_leaves_nothing_to_decide():
    app = finished(opened("early_exit", "runs/single"))
    assert not [one for one in app.metric if one.label == "Mean exit step"]
    assert not [one for one in app.slider if one.key == "threshold_gamma"]
