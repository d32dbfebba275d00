"""The page Baselines on small networks: every number is the engine's own, computed here in one piece."""

import numpy as np
import pandas as pd
import pytest
import torch
from streamlit.testing.v1 import AppTest

from dashboard import family, show, transfer_panel, verdict_panel, work
from dashboard.baseline_panels import STRENGTHS
from engine import ModelConfig, build_model, conversion, load_checkpoint, save_checkpoint
from engine.analysis import robustness, transfer, verdict
from engine.analysis.evaluation import evaluate_rows, normalised
from engine.analysis.robustness import attack_rows, sweep_table
from engine.analysis.transfer import Target, transfer_rows
from engine.attacks import Attack, Attacker
from engine.comparison import BASELINES, config_of
from engine.datasets import get
from tests.dashboard.apps import APP, WAIT, assert_drawn, figure, finished, healthy, said, serving

CONFIG = ModelConfig(arch="vgg-small", steps=4, in_shape=(1, 16, 16), layout="C4 P F8")
SAMPLES = 4


@pytest.fixture(scope="module", autouse=True)
def runs(tmp_path_factory):
    """A set of networks as `compare` leaves them, untrained, and one alone; the work queue is closed at the end."""
    folder = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    mean, std = (list(values) for values in get("digits").moments(1))
    described = {"dataset": "digits", "mean": mean, "std": std}

    def save(name, model):
        save_checkpoint(folder / name / "model.safetensors", model, **described)

    for name in ("bntt", "none", "ann"):
        model = build_model(config_of(name, CONFIG)).eval()
        for key, tensor in model.state_dict().items():
            if key.endswith("running_var"):
                tensor.fill_(0.2)
        save(f"set/{name}", model)
    pixels, _ = get("digits").load("train")
    images = normalised(pixels[:64], mean, std)
    save("set/converted", conversion.convert(model, images, steps=6, encoding="poisson"))
    save("alone", build_model(ModelConfig(arch="vgg-small", steps=3, in_shape=(1, 16, 16), layout="C6 P F8")).eval())
    with serving(folder):
        yield folder


def opened(model="runs/set/bntt", **query) -> AppTest:
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update({"model": model, "baseline_samples": str(SAMPLES), "baseline_encodings": "2", **query})
    return finished(app.run().switch_page("../pages/baselines.py").run())


def pressed(key, **query) -> AppTest:
    app = opened(**query)
    button = app.button(key=key)
    if not button.disabled:  # a test before may have asked for the same
        button.click().run()
    return finished(app)


def network(runs, name):
    checkpoint = load_checkpoint(runs / "set" / name / "model.safetensors")
    pixels, labels = get("digits").load("test")
    return checkpoint, {"pixels": pixels, "labels": labels, "mean": checkpoint.mean, "std": checkpoint.std, "seed": 0}


def table_with(app, column) -> pd.DataFrame:
    (found,) = (table.value for table in app.main.dataframe if column in table.value)
    return found


def test_a_set_of_runs_stands_side_by_side(runs):
    app = opened()
    table = table_with(app, "Accuracy at T").set_index("Network")
    assert table.index.tolist() == ["BNTT", "no normalisation", "converted ANN", "ANN"]
    shown = {trace["name"] for trace in figure(app, "baseline_exits")["data"] if trace.get("name")}
    assert shown == {"BNTT", "no normalisation", "converted ANN"}, "an ordinary network has no exit steps"
    for key in ("bntt", "none", "converted", "ann"):
        checkpoint, shared = network(runs, key)
        result = evaluate_rows(0, 399, model=checkpoint.model, **shared)
        final = result.accuracy().iloc[-1]
        assert table.loc[BASELINES[key], "Right"] == f"{final['correct']:.0f} of 399"
        if key != "ann":
            assert_drawn(app, "baseline_exits", 100 * result.accuracy()["accuracy"])
            place = ["bntt", "none", "converted"].index(key)
            counts = result.spikes[:, 1:].mean(2)
            for layer in range(counts.shape[1]):
                assert_drawn(app, f"baseline_spikes_{place}", counts[:, layer])
            assert f"{BASELINES[key]}, T = {len(counts)}: {show.amount(counts.sum())} spikes" in said(app)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_one_button_for_each_disturbance(kind, runs):
    app = pressed(f"measure_{kind}")
    attacks = [Attack("gaussian", 0.0), *(Attack(kind, strength) for strength in STRENGTHS[kind])]
    for key in ("bntt", "ann"):
        checkpoint, shared = network(runs, key)
        encodings = 2 if key == "bntt" else 1
        results = [
            (a, attack_rows(a, 0, SAMPLES, model=checkpoint.model, encodings=encodings, **shared)) for a in attacks
        ]
        table = sweep_table(results, encodings)
        assert_drawn(
            app, f"baseline_{kind}", 100 * table[table["step"] == checkpoint.config.steps]["accuracy"].astype(float)
        )
    assert f"first {SAMPLES} test samples of" in said(app) and "mean over 2 random encodings" in said(app)


def test_transfer_matrix_is_the_engines(runs):
    app = pressed("measure_transfer", transfer="FGSM", transfer_eps="30.0")
    names = ["bntt", "none", "converted", "ann"]
    opened_networks = {name: network(runs, name) for name in names}
    targets = [
        Target(checkpoint.model, checkpoint.mean, checkpoint.std, 1 if name == "ann" else 2)
        for name, (checkpoint, _) in opened_networks.items()
    ]
    clean = [
        attack_rows(Attack("gaussian", 0.0), 0, SAMPLES, model=c.model, encodings=target.encodings, **shared)
        for (c, shared), target in zip(opened_networks.values(), targets)
    ]
    expected = [[100 * result.accuracy()["accuracy"].iloc[-1] for result in clean]]
    for checkpoint, shared in opened_networks.values():
        answers = transfer_rows(Attack("fgsm", 30 / 255), 0, SAMPLES, model=checkpoint.model, targets=targets, **shared)
        expected.append(100 * transfer.accuracies(answers)["accuracy"])
    assert_drawn(app, "baseline_transfer", np.array(expected))
    (heatmap,) = figure(app, "baseline_transfer")["data"]
    assert heatmap["type"] == "heatmap" and "the diagonal is the direct attack" in said(app)


def test_verdict_on_every_network(runs):
    app = pressed("measure_trust")
    marks, evidence = (table.value for table in app.main.table)
    evidence = evidence.set_index("Check", append=True)
    assert list(marks) == ["BNTT", "no normalisation", "converted ANN", "ANN"] and len(marks) == 8
    (twin, _), eps = network(runs, "ann"), 16 / 255
    for key in ("bntt", "ann"):
        checkpoint, shared = network(runs, key)
        encodings = 2 if key == "bntt" else 1
        found = {
            name: robustness.answers(
                attack_rows(attack, 0, SAMPLES, model=checkpoint.model, encodings=encodings, **shared), encodings
            )
            for name, attack in verdict.attacks(eps, Attacker()).items()
        }
        targets = [Target(c.model, c.mean, c.std, n) for c, n in ((checkpoint, encodings), (twin, 1))]
        table = transfer_rows(Attack("pgd", eps), 0, SAMPLES, model=twin.model, targets=targets, **shared)
        found |= {"twin": transfer.answers(table, 0), "twin itself": transfer.answers(table, 1)}
        zeros = verdict.zero_gradients(Attacker(), 0, SAMPLES, model=checkpoint.model, **shared)
        for check in verdict.verdict(found, zeros, eps, 10, twin=key == "bntt"):
            assert evidence.loc[(BASELINES[key], check.name), "Measured"] == check.found
            assert marks.loc[check.name, BASELINES[key]] == {True: "✓", False: "✗", None: "?"}[check.passed]
    assert marks["ANN"].iloc[-1] == "–"


def test_verdicts_that_know_nothing_yet_are_drawn():
    def page():
        from dashboard.transfer_panel import _verdicts
        from engine.analysis.verdict import verdict

        _verdicts({"BNTT": verdict({}, None, 0.1, 10)})

    app = healthy(AppTest.from_function(page).run())
    (marks,) = app.table
    assert marks.value["BNTT"].tolist() == 8 * ["–"]


def test_who_is_fooled_better_by_others():
    """The sentence under the matrix, on numbers made up."""
    rows = [("a", "a", 0.5), ("b", "a", 0.2), ("a", "b", 0.4), ("b", "b", 0.39)]
    table = pd.DataFrame(rows, columns=["made_on", "tried_on", "accuracy"])
    told = transfer_panel.fooled_by_others(table)
    assert "a (images made on b: 20.0 %, own: 50.0 %)" in told and "b (images" not in told
    assert "No network" in transfer_panel.fooled_by_others(table[table["tried_on"] == "b"])


# ------------------------------------------------------------------------------------------------- what is chosen


def test_a_network_alone_says_what_to_do():
    app = opened("runs/alone")
    assert "python -m engine compare --dataset digits" in said(app)
    assert table_with(app, "Accuracy at T")["Network"].tolist() == ["runs/alone"]
    (chosen,) = app.main.multiselect
    healthy(chosen.set_value(["runs/alone", "runs/set/ann"]).run())
    assert table_with(finished(app), "Accuracy at T")["Network"].tolist() == ["runs/alone", "runs/set/ann"]
    healthy(app.main.multiselect[0].set_value([]).run())
    assert not app.main.dataframe


def test_what_the_sidebar_sets_counts_here():
    before = table_with(opened(), "Accuracy at T")["Spikes a sample"].tolist()
    app = opened()
    (threshold,) = (field for field in app.sidebar.number_input if field.key.startswith("threshold"))
    threshold.set_value(1.6).run()
    after = table_with(finished(app), "Accuracy at T")["Spikes a sample"].tolist()
    assert after[0] != before[0] and after[1:] == before[1:]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("bundled/digits", {"bntt": "bundled/digits", "ann": "bundled/digits-ann"}),
        ("bundled/digits-ann", {"bntt": "bundled/digits", "ann": "bundled/digits-ann"}),
        ("runs/a/b/none", {"none": "runs/a/b/none", "bntt": "runs/a/b/bntt"}),
        ("runs/bntt", {}),
        ("runs/mine", {}),
        ("uploads/bntt", {}),
        ("bundled/sequential-mnist", {"bntt": "bundled/sequential-mnist"}),
    ],
)
def test_family_by_name(name, found):
    available = [
        *("bundled/digits", "bundled/digits-ann", "bundled/sequential-mnist", "runs/a/b/none", "runs/a/b/bntt"),
        *("runs/a/ann", "runs/bntt", "runs/ann", "runs/mine", "uploads/bntt"),
    ]
    assert family.of(name, available) == found


def test_verdict_without_a_twin_says_so():
    app = AppTest.from_file(APP, default_timeout=WAIT)
    app.query_params.update(
        {"model": "runs/alone", "attacks": "FGSM", "epsilon": "8", "samples": "2", "encodings": "1"}
    )
    app = healthy(app.run().switch_page("../pages/robustness.py").run())
    app.button(key="run_sweep").click().run()
    finished(app)  # the sweep; its verdict begins now
    table = finished(app).main.table[0].value
    last = table.iloc[-1]
    assert last["Result"] == "– not measured" and last["What to try"] == verdict_panel.NO_TWIN
    assert (table["Measured"].iloc[:-1] != "").all(), "the rest came unasked"


def test_a_part_that_failed_can_be_tried_again():
    """The one button of several jobs forgets all that were cancelled."""
    app = opened(baseline_seed="9")
    app.button(key="measure_gaussian").click().run()
    running = [job for job in work.jobs().all() if job.title.startswith("Disturbing")]
    for job in running:
        job.cancel()
    finished(app)
    table = pressed("measure_gaussian", baseline_seed="9")
    assert table.button(key="measure_gaussian").disabled, "all of them are done"


def test_settings_stand_in_the_link():
    app = opened(baseline_seed="3")
    assert app.number_input(key="baseline_seed").value == 3
    assert app.number_input(key="baseline_samples").value == SAMPLES
